//! The programs on a model and a text small enough for a test.
#![allow(clippy::format_push_string, reason = "a table of a few lines, written as it reads")]
#![allow(dead_code, reason = "each test binary uses its part of this module")]
#![allow(unreachable_pub, reason = "a module of test binaries, which export nothing")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A model and a text small enough that a run takes a second or two.
pub const SMALL: &str = r#"
[model]
layers = 1
d_model = 16
heads = 2
d_ff = 32
seq_len = 16

[data]
paths = ["text"]
vocab_size = 280
sample_tokens = 8

[optimizer]
algorithm = "fadafactor"
lr = 3e-3

[schedule]
kind = "linear"
warmup = 5

[train]
steps = 40
batch = 4
eval_every = 10
log_every = 5
"#;

/// A transducer and clips small enough that a run takes a second or two. It drops activations, masks and changes speeds, so
/// that all that is random is in play.
pub const SMALL_SPEECH: &str = r#"
[model]
layers = 1
d_model = 16
heads = 2
d_ff = 32
kernel = 5
channels = 4
d_prediction = 12
d_joint = 16
dropout = 0.1

[data]
paths = ["clips/train.tsv"]
eval_paths = ["clips/dev.tsv"]
frequency_width = 10

[optimizer]
algorithm = "fadam"
lr = 3e-3
beta2 = 0.98

[schedule]
kind = "linear"
warmup = 5

[train]
steps = 20
batch = 4
eval_every = 10
log_every = 5
"#;

/// A VQ-VAE and pictures small enough that a run takes a second or two.
pub const SMALL_PICTURES: &str = r#"
[model]
image = 12
patch = 4
encoder = { layers = 1, d_model = 16, heads = 2, mlp = 32 }
decoder = { layers = 1, d_model = 16, heads = 2, mlp = 32 }
codes = 20
code_width = 8

[data]
paths = ["pictures/train"]
eval_paths = ["pictures/held-out"]
min_side = 4
show = 4

[optimizer]
algorithm = "fadam"
lr = 3e-3
beta2 = 0.99

[schedule]
kind = "linear"
warmup = 5

[train]
steps = 20
batch = 5
eval_every = 10
log_every = 5
"#;

/// A folder with `small.toml` and the data it names.
pub struct Bench(pub TempDir, &'static str);

impl Bench {
    pub fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap(), env!("CARGO_BIN_EXE_train-llm"));
        fs::create_dir(bench.path("text")).unwrap();
        let words = ["we", "the", "people", "of", "this", "great", "nation", "ask", "not", "peace"];
        for file in 0..12 {
            let text: String = (0..300)
                .map(|i| words[(i * i + 7 * file + i / 3) % words.len()].to_owned() + " ")
                .collect();
            fs::write(bench.path(&format!("text/{file:02}.txt")), text).unwrap();
        }
        fs::write(bench.path("small.toml"), SMALL).unwrap();
        bench
    }

    /// For `train-asr`: sixteen clips to train on and four more, of tones that stand for letters.
    pub fn speech() -> Self {
        let bench = Self(tempfile::tempdir().unwrap(), env!("CARGO_BIN_EXE_train-asr"));
        fs::create_dir(bench.path("clips")).unwrap();
        let words = ["abc", "cab", "bad", "dab a", "ad cab", "bac", "cc a", "dda"];
        for (manifest, clips) in [("train", 0..16), ("dev", 16..20)] {
            let mut table = "path\ttext\tspeaker\n".to_owned();
            for clip in clips {
                let text = words[(clip * 5 + clip / 8) % words.len()];
                let name = format!("{clip:02}.wav");
                fs::write(bench.path("clips").join(&name), tones(text, 16_000)).unwrap();
                table += &format!("{name}\t{text}\tspeaker {}\n", clip % 3);
            }
            fs::write(bench.path(&format!("clips/{manifest}.tsv")), table).unwrap();
        }
        fs::write(bench.path("small.toml"), SMALL_SPEECH).unwrap();
        bench
    }

    /// For `train-vqvae`: 24 pictures of stripes to train on and six more.
    pub fn pictures() -> Self {
        let bench = Self(tempfile::tempdir().unwrap(), env!("CARGO_BIN_EXE_train-vqvae"));
        for (folder, numbers) in [("train", 0..24), ("held-out", 24..30)] {
            let folder = bench.path("pictures").join(folder);
            fs::create_dir_all(&folder).unwrap();
            for n in numbers {
                fs::write(folder.join(format!("{n:02}.png")), stripes(n, 16, 12)).unwrap();
            }
        }
        fs::write(bench.path("small.toml"), SMALL_PICTURES).unwrap();
        bench
    }

    pub fn reconstruct(&self, args: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_reconstruct"));
        program.current_dir(self.0.path()).args(args).output().unwrap()
    }

    pub fn transcribe(&self, args: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_transcribe"));
        program.current_dir(self.0.path()).args(args).output().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(self.1).current_dir(self.0.path()).args(args).output().unwrap()
    }

    pub fn generate(&self, args: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_generate"));
        program.current_dir(self.0.path()).args(args).output().unwrap()
    }

    /// Runs `small.toml` and more arguments, which must succeed.
    pub fn train(&self, args: &[&str]) -> String {
        let run = self.run(&[&["--config", "small.toml"], args].concat());
        let text = format!("{}{}", string(&run.stdout), string(&run.stderr));
        assert!(run.status.success(), "{args:?}: {text}");
        text
    }

    /// Runs with these arguments: exit code 2 and one paragraph with all of `expected`.
    pub fn refuses(&self, args: &[&str], expected: &[&str]) {
        refused(&self.run(args), args, expected);
    }

    /// As [`Bench::refuses`], of `generate`.
    pub fn generate_refuses(&self, args: &[&str], expected: &[&str]) {
        refused(&self.generate(args), args, expected);
    }
}

/// A PNG file of stripes, of one of six pairs of colours, three directions, and another place for each `n`.
pub fn stripes(n: usize, width: usize, height: usize) -> Vec<u8> {
    let pixel = |i: usize| {
        let (x, y) = (i % width, i / width);
        let along = [x, y, x + y][n % 3] + n;
        let on = (along / 3).is_multiple_of(2);
        [(n % 3 * 100) as u8, if on { 220 } else { 30 }, (n % 2 * 200) as u8]
    };
    let pixels: Vec<u8> = (0..width * height).flat_map(pixel).collect();
    experiments::vqvae::encode_png(width, height, &pixels).unwrap()
}

/// A mono WAV file of 16 bits: 120 ms a letter, each with its tone, spaces silent.
pub fn tones(text: &str, rate: u32) -> Vec<u8> {
    let each = rate as usize * 12 / 100;
    let sample = |i: usize| {
        let letter = text.as_bytes()[i / each];
        let pitch = if letter == b' ' { 0.0 } else { 300.0 + 400.0 * f64::from(letter - b'a') };
        let turn = pitch * std::f64::consts::TAU * i as f64 / f64::from(rate);
        (turn.sin() * 8000.0) as i16
    };
    wav((0..each * text.len()).map(sample), rate, 1)
}

/// A WAV file of 16 bits.
pub fn wav(samples: impl Iterator<Item = i16>, rate: u32, channels: u16) -> Vec<u8> {
    let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let len = data.len() as u32;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + len).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0");
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend((rate * u32::from(channels) * 2).to_le_bytes());
    file.extend((channels * 2).to_le_bytes());
    file.extend(b"\x10\0data");
    file.extend(len.to_le_bytes());
    file.extend(data);
    file
}

pub fn refused(run: &Output, args: &[&str], expected: &[&str]) {
    let message = string(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{args:?}: {message}");
    assert!(message.starts_with("error: "), "{args:?}: {message}");
    assert!(!message.contains("panicked") && !message.trim().contains("\n\n"), "{message}");
    for part in expected {
        assert!(message.contains(part), "{args:?}: {part:?} is not in: {message}");
    }
}

pub fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Whether a field of metrics.jsonl is of a clock, or of the system's memory.
fn is_measured(key: &str) -> bool {
    key.ends_with("_per_s") || key == "phase_s" || key == "peak_rss_mb"
}

/// metrics.jsonl without what was measured.
pub fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().retain(|key, _| !is_measured(key));
            line
        })
        .collect()
}

/// The tensors of a safetensors file (the order of its metadata is not fixed).
pub fn tensors(file: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(file).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> =
        file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
    all.sort();
    all
}

pub fn assert_same_run(a: &Path, b: &Path, step: &str) {
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let at = Path::new("checkpoints").join(step).join(file);
        assert!(tensors(&a.join(&at)) == tensors(&b.join(&at)), "{file} differs");
    }
    assert_eq!(metrics(a), metrics(b));
}

/// Writes `SHA256SUMS` of a checkpoint anew, after a test has changed a file on purpose.
pub fn sum_again(checkpoint: &Path) {
    let files = ["model.safetensors", "optimizer.safetensors", "state.json"];
    let sums = Command::new("sha256sum").args(files).current_dir(checkpoint).output().unwrap();
    assert!(sums.status.success());
    fs::write(checkpoint.join("SHA256SUMS"), sums.stdout).unwrap();
}

/// Every file below `folder` with its bytes: to show that nothing was touched.
pub fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}
