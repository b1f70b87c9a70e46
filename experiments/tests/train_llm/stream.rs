//! Training on a stream: C4 and T5's tokenizer of a hub on loopback, its mirror on a disk, resuming, and
//! bad shards.

#[allow(dead_code)] // all of it is used by the tests of fadam-data
#[path = "../../../crates/fadam-data/tests/hub/server.rs"]
mod server;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use fadam_data::text::{Document, Origin, Tokenizer};
use flate2::Compression;
use flate2::write::GzEncoder;

use self::server::{Fault, Server};
use super::{Bench, assert_same_run, json, string};

const SECRET: &str = "hf_TheSecretOfThisTest";
const C4: &str = "datasets/allenai/c4";

const STREAM: &str = r#"
[model]
layers = 1
d_model = 16
heads = 2
d_ff = 32
seq_len = 16

[data]
paths = ["hub:allenai/c4/en/c4-train.{00000..00002}-of-00003.json.gz"]
eval_paths = ["hub:allenai/c4/en/c4-validation.{00000..00001}-of-00002.json.gz"]
eval_windows = 8
tokenizer = "hub:google-t5/t5-base"
stream = true
shuffle = 20
sample_tokens = 8

[optimizer]
algorithm = "fadafactor"
lr = 3e-3

[train]
steps = 40
batch = 4
eval_every = 10
log_every = 5
"#;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// No file has the secret: runs, the hub's cache, tokens, whatever is left of a failure.
fn assert_nowhere(secret: &str, folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_nowhere(secret, &path);
        } else {
            let bytes = fs::read(&path).unwrap();
            let tells = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!tells, "{} has the token", path.display());
        }
    }
}

/// JSON lines as C4 has them, with an empty document.
fn lines(shard: usize, count: usize) -> String {
    let words = ["we", "the", "people", "of", "this", "great", "nation", "ask", "not", "peace"];
    let text = |n: usize| -> String {
        let word = |i: usize| words[(i * i + 7 * n + shard + i / 3) % words.len()].to_owned() + " ";
        if n == 3 { String::new() } else { (0..10 + (n * 5) % 17).map(word).collect() }
    };
    let line = |n: usize| {
        let (time, url) = ("2019-04-25T12:57:54Z", "https://example.org/page");
        serde_json::json!({ "text": text(n), "timestamp": time, "url": url }).to_string() + "\n"
    };
    (0..count).map(line).collect()
}

fn train(shard: usize) -> String {
    format!("en/c4-train.{shard:05}-of-00003.json.gz")
}

/// `stream.toml`, and a hub with what it names.
struct Streamed {
    bench: Bench,
    server: Server,
}

impl Streamed {
    fn new() -> Self {
        let (bench, server) = (Bench::new(), Server::start());
        fs::write(bench.path("stream.toml"), STREAM).unwrap();
        for shard in 0..3 {
            server.put_large(C4, &train(shard), gzip(&lines(shard, 20)));
        }
        // The second is not there: an evaluation on 8 windows does not need it.
        let held_out = "en/c4-validation.00000-of-00002.json.gz";
        server.put_large(C4, held_out, gzip(&lines(7, 20)));
        let origin = Origin { file: Path::new("a").into(), line: None };
        let text = Document { text: lines(1, 20), origin };
        let tokenizer = Tokenizer::train_byte_level_bpe(&[text], 280).unwrap();
        server.put("google-t5/t5-base", "tokenizer.json", tokenizer.to_json().unwrap());
        Self { bench, server }
    }

    fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train-llm"));
        for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "RAYON_NUM_THREADS"] {
            command.env_remove(name);
        }
        let output = command
            .current_dir(self.bench.path(""))
            .args(["--config", "stream.toml"])
            .args(args)
            .env("HF_ENDPOINT", self.server.endpoint())
            .env("HF_HOME", self.bench.path("hf"))
            .env("HF_TOKEN", SECRET)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let text = format!("{}{}", string(&output.stdout), string(&output.stderr));
        assert!(!text.contains(SECRET), "the token is told: {text}");
        assert_nowhere(SECRET, &self.bench.path(""));
        output
    }

    fn train(&self, args: &[&str], variables: &[(&str, &str)]) -> String {
        let run = self.run(args, variables);
        let text = format!("{}{}", string(&run.stdout), string(&run.stderr));
        assert!(run.status.success(), "{args:?}: {text}");
        text
    }

    /// Exit code 2 and one paragraph with all of `expected`.
    fn refuses(&self, args: &[&str], expected: &[&str]) {
        let run = self.run(args, &[]);
        let message = string(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{args:?}: {message}");
        assert!(!message.contains("panicked") && !message.trim().contains("\n\n"), "{message}");
        for part in expected {
            assert!(message.contains(part), "{args:?}: {part:?} is not in: {message}");
        }
    }
}

#[test]
fn a_stream_of_the_hub_resumes_bit_for_bit_and_is_that_of_a_mirror() {
    let streamed = Streamed::new();
    let (bench, server) = (&streamed.bench, &streamed.server);
    server.gate(C4, SECRET);
    server.fail(C4, &train(1), [Fault::CutAfter(50)]);
    let text = streamed.train(&["--out", "whole"], &[]);
    assert!(text.contains("training files: 3, read in turn"), "{text}");
    assert!(text.contains("1 empty document skipped: "), "{text}");
    assert!(server.requests().iter().any(|r| r.authorization.is_some()), "nobody was asked");
    let summary = json(&bench.path("whole/summary.json"));
    assert_eq!(summary["data_encoded_files"], 3, "{summary}");
    for key in ["data_wait_s", "data_first_wait_s", "data_tokens", "data_empty_documents"] {
        assert!(summary[key].as_f64().is_some(), "{key}: {summary}");
    }
    let losses = super::metrics(&bench.path("whole"));
    let eval = losses.iter().filter(|line| line["split"] == "eval");
    let eval: Vec<f64> = eval.map(|line| line["loss"].as_f64().unwrap()).collect();
    assert!(eval[4] < eval[0] - 0.1, "it learned nothing: {eval:?}");

    // The second half makes all tokens anew, and with one thread.
    streamed.train(&["--out", "halves", "--steps", "20", "--quiet"], &[]);
    fs::remove_dir_all(bench.path("cache")).unwrap();
    let resume = ["--out", "halves", "--resume", "--quiet"];
    streamed.train(&resume, &[("RAYON_NUM_THREADS", "1")]);
    assert_same_run(&bench.path("whole"), &bench.path("halves"), "step-00000040");

    fs::create_dir(bench.path("mirror")).unwrap();
    for shard in 0..3 {
        let name = train(shard).replace("en/", "mirror/");
        fs::write(bench.path(&name), gzip(&lines(shard, 20))).unwrap();
    }
    fs::write(bench.path("held-out.json.gz"), gzip(&lines(7, 20))).unwrap();
    let local = [
        "--out",
        "mirrored",
        "--set",
        "data.paths=[\"mirror/c4-train.{00000..00002}-of-00003.json.gz\"]",
        "--set",
        "data.eval_paths=[\"held-out.json.gz\"]",
        "--set",
        "data.tokenizer=whole/tokenizer.json",
    ];
    streamed.train(&local, &[("HF_HUB_OFFLINE", "1")]);
    assert_same_run(&bench.path("whole"), &bench.path("mirrored"), "step-00000040");

    // What fits in memory can come from the hub as well.
    let held_out = "data.eval_paths=[\"hub:allenai/c4/en/c4-validation.00000-of-00002.json.gz\"]";
    let memory =
        ["--out", "memory", "--steps", "2", "--set", "data.stream=false", "--set", held_out];
    assert!(streamed.train(&memory, &[]).contains("57 documents"));
}

#[test]
fn bad_streams() {
    let streamed = Streamed::new();
    let server = &streamed.server;
    let run = ["--out", "run", "--set", "train.batch=64"]; // more than a shard in the first batch
    let on = |expected: &[&str]| {
        streamed.refuses(&run, expected);
        fs::remove_dir_all(streamed.bench.path("run")).unwrap();
        fs::remove_dir_all(streamed.bench.path("hf")).unwrap();
        let _not_yet = fs::remove_dir_all(streamed.bench.path("cache"));
    };
    let bad = |shard: &str| {
        server.put_large(C4, &train(1), gzip(shard));
    };
    bad(&(lines(1, 4) + "{\"text\": \"cut of"));
    on(&["c4-train.00001-of-00003.json.gz:5", "not JSON"]);
    let mut corrupt = [gzip(&lines(1, 9)), gzip(&lines(2, 9))].concat();
    let at = corrupt.len() - 6;
    corrupt[at] ^= 1;
    server.put_large(C4, &train(1), corrupt);
    on(&["c4-train.00001-of-00003.json.gz", "not valid gzip", "line 19"]);
    bad(&lines(1, 20));
    server.fail(C4, &train(1), [Fault::Status(404)]);
    on(&["hub:allenai/c4@main/en/c4-train.00001-of-00003.json.gz", "404"]);
    server.fail(C4, &train(1), [Fault::Status(401), Fault::Status(401)]);
    on(&["c4-train.00001", "401", "HF_TOKEN"]);
    assert!(server.requests().iter().any(|r| r.authorization.is_some()), "nobody was asked");

    let set = |set: &str, expected: &[&str]| {
        streamed.refuses(&["--out", "run", "--set", set], expected);
        assert!(!streamed.bench.path("run").exists(), "{set} left a run folder");
    };
    set("data.tokenizer=hub:google-t5/none", &["hub:google-t5/none@main/tokenizer.json", "404"]);
    set("data.tokenizer=hub:t5", &["hub:t5", "expected hub:OWNER/NAME"]);
    set("data.tokenizer=", &["data.tokenizer", "must be set for data.stream"]);
    set("data.eval_paths=[]", &["data.eval_paths", "must be set for data.stream"]);
    set("data.sampling=windows", &["data.sampling", "must be packed"]);
    set("data.shuffle=0", &["data.shuffle", "at least 1"]);
    set("data.paths=[\"hub:allenai/c4/x{3..2}.json.gz\"]", &["{3..2} must go up"]);
    let training = "data.eval_paths=[\"hub:allenai/c4/en/c4-train.00002-of-00003.json.gz\"]";
    set(training, &["c4-train.00002", "both in the training"]);
    let cache = ["--out", "run", "--set", "data.cache=stream.toml/tokens"];
    streamed.refuses(&cache, &["stream.toml/tokens", "cannot create it"]);
    streamed.refuses(&["--export-tokens", "tokens"], &["--export-tokens", "data.stream"]);
}
