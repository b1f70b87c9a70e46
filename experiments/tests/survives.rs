//! `train-llm` killed at random moments, on a full disk, and started twice: nothing is lost, nothing is corrupt.
//!
//! `FADAM_KILLS` sets how often it is killed (`scripts/survives.sh`: 50), `FADAM_KILL_SEED` when.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, assert_same_run, json, metrics, snapshot, string};
use fadam_train::checkpoint::{self, last_whole};

const PROGRAM: &str = env!("CARGO_BIN_EXE_train-llm");

/// A checkpoint every second step, so that a good part of the time is spent in writing them.
const OFTEN: [&str; 8] = [
    "--config",
    "small.toml",
    "--set",
    "checkpoint.every=2",
    "--set",
    "train.steps=150",
    "--set",
    "train.eval_every=50",
];

/// Steele et al.'s `SplitMix64`.
struct Moments(u64);

impl Moments {
    /// Uniform below `end`.
    fn below(&mut self, end: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        end.mul_f64((z >> 11) as f64 / (1u64 << 53) as f64)
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

fn start(bench: &Bench, args: &[&str]) -> Child {
    let mut command = Command::new(PROGRAM);
    command.current_dir(bench.path("")).args(OFTEN).args(args).arg("--quiet");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a supervisor does: a new run where there is none, else the one there goes on.
fn start_or_resume(bench: &Bench, run: &str) -> Child {
    if bench.path(run).join("config.toml").exists() {
        start(bench, &["--out", run, "--resume"])
    } else {
        start(bench, &["--out", run])
    }
}

/// Whether a checkpoint is being written, by what is in the folder.
fn is_writing(run: &Path) -> bool {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten();
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|ext| ext == "tmp"))
}

/// Waits `time`, or until a checkpoint is being written if that is wanted. Whether the process lives.
fn wait(child: &mut Child, run: &Path, time: Duration, for_write: bool) -> bool {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() >= time && (!for_write || is_writing(run)) {
            return true;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    false
}

/// Every checkpoint that has its name is whole, by the checksums and by `sha256sum` itself.
fn assert_all_whole(run: &Path) {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return };
    let paths = entries.map(|entry| entry.unwrap().path());
    let named: Vec<PathBuf> = paths.filter(|path| path.extension().is_none()).collect();
    for path in &named {
        let check = Command::new("sha256sum")
            .args(["-c", "SHA256SUMS"])
            .current_dir(path)
            .output()
            .unwrap();
        assert!(check.status.success(), "{}: {}", path.display(), string(&check.stderr));
    }
    let found = last_whole(&run.join("checkpoints")).unwrap();
    assert!(found.as_ref().is_none_or(|found| found.damaged.is_empty()), "{found:?}");
    assert_eq!(found.map(|found| found.path), named.into_iter().max());
}

/// Whether two runs ended in the same weights, optimizer state, metrics, and state but for its times.
fn assert_same_end(whole: &Path, other: &Path) {
    assert_same_run(whole, other, "step-00000150");
    let state = |run: &Path| {
        let mut state = json(&run.join("checkpoints/step-00000150/state.json"));
        state.as_object_mut().unwrap().retain(|key, _| !key.ends_with("_secs"));
        state
    };
    assert_eq!(state(whole), state(other));
}

#[test]
fn killed_at_random_moments_and_resumed_it_is_the_run_that_never_was() {
    let bench = Bench::new();
    let (kills, seed) = (number("FADAM_KILLS", 6), number("FADAM_KILL_SEED", 1));
    let started = Instant::now();
    let whole = start(&bench, &["--out", "whole"]).wait_with_output().unwrap();
    assert!(whole.status.success(), "{}", string(&whole.stderr));
    let time = started.elapsed();
    println!("undisturbed: {:.1} s; seed {seed}", time.as_secs_f64());

    let mut moments = Moments(seed);
    let (mut killed, mut amid_write, mut before_first, mut runs) = (0, 0, 0, 0);
    while killed < kills {
        let name = format!("killed-{runs}");
        let run = bench.path(&name);
        runs += 1;
        loop {
            let mut child = start_or_resume(&bench, &name);
            // Every third kill waits for a checkpoint that is being written: they are short.
            let for_write = killed % 3 == 2;
            let moment = moments.below(time / 4);
            if killed < kills && wait(&mut child, &run, moment, for_write) {
                child.kill().unwrap(); // SIGKILL
                child.wait().unwrap();
                killed += 1;
                let writing = is_writing(&run);
                amid_write += u64::from(writing);
                before_first += u64::from(last_whole(&run.join("checkpoints")).unwrap().is_none());
                assert_all_whole(&run);
                println!(
                    "kill {killed} after {:.3} s{}",
                    moment.as_secs_f64(),
                    if writing { ", amid a checkpoint" } else { "" }
                );
                continue;
            }
            let end = child.wait_with_output().unwrap();
            assert!(end.status.success(), "{}", string(&end.stderr));
            break;
        }
        assert_same_end(&bench.path("whole"), &run);
        assert_all_whole(&run);
        assert!(!is_writing(&run), "something was left aside");
        assert!(!run.join("lock").exists());
    }
    println!(
        "{killed} kills in {runs} runs, {amid_write} amid the writing of a checkpoint, {before_first} before the first; every \
         run ended as the undisturbed one, to the last bit"
    );
    assert!(amid_write > 0, "no kill hit the writing of a checkpoint");
}

/// Runs the program where no file can become larger than some blocks of 512 bytes.
fn with_file_limit(bench: &Bench, blocks: u64, args: &[&str]) -> Output {
    // XFSZ would end the process without a word; ignored, writing fails as on a full disk.
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    Command::new("sh")
        .current_dir(bench.path(""))
        .args(["-c", &script, PROGRAM])
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn without_space_the_last_checkpoint_stays_good_and_the_message_says_what_to_do() {
    let bench = Bench::new();
    bench.train(&["--out", "whole", "--quiet"]);
    bench.train(&["--out", "full", "--steps", "10", "--quiet"]);
    let run = bench.path("full");
    let checkpoint = run.join("checkpoints/step-00000010");
    let before = snapshot(&checkpoint);
    let size = |file: &str| fs::metadata(checkpoint.join(file)).unwrap().len();
    // Room for the state and the lines of metrics, not for the weights or what the optimizer keeps.
    let needed = size("model.safetensors").min(size("optimizer.safetensors"));
    let end = with_file_limit(&bench, needed / 512 - 1, &["--out", "full", "--resume", "--quiet"]);
    let message = string(&end.stderr);
    assert_eq!(end.status.code(), Some(1), "{message}");
    assert_eq!(message.trim().lines().count(), 1, "{message}");
    for part in [
        "error: after step 40 (",
        "cannot write checkpoint full/checkpoints/step-00000040",
        "File too large",
        "the last checkpoint is full/checkpoints/step-00000010",
        "continue with: train-llm --out full --resume",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert_eq!(snapshot(&checkpoint), before);
    assert!(!is_writing(&run), "half a checkpoint takes the space that is missing");
    assert_eq!(json(&run.join("summary.json"))["outcome"], "failed");

    let resumed = bench.run(&["--out", "full", "--resume", "--quiet"]);
    assert!(resumed.status.success(), "{}", string(&resumed.stderr));
    assert_same_run(&bench.path("whole"), &run, "step-00000040");
}

#[test]
fn a_full_disk_from_the_first_byte_leaves_a_folder_that_can_be_used() {
    let bench = Bench::new();
    let end = with_file_limit(&bench, 0, &["--config", "small.toml", "--out", "run", "--quiet"]);
    let message = string(&end.stderr);
    assert!(message.contains("cannot write run/config.toml: File too large"), "{message}");
    assert_eq!(end.status.code(), Some(1));
    bench.train(&["--out", "run", "--quiet"]);
}

#[test]
fn the_second_process_is_refused_while_the_first_trains() {
    let bench = Bench::new();
    let endless = ["--set", "train.steps=1000000", "--out", "run"];
    let mut first = start(&bench, &endless);
    let run = bench.path("run");
    while checkpoint::latest(&run.join("checkpoints")).unwrap().is_none() {
        assert!(wait(&mut first, &run, Duration::ZERO, true), "it ended");
    }
    let process = format!("is in use: process {} trains in it", first.id());
    bench.refuses(&["--config", "small.toml", "--out", "run"], &[&process]);
    bench.refuses(&["--out", "run", "--resume"], &[&process]);
    // Reading is free.
    let read = bench.run(&["--out", "run", "--eval-only", "--json"]);
    assert!(read.status.success(), "{}", string(&read.stderr));
    first.kill().unwrap();
    first.wait().unwrap();
    // The file of the dead process is still there, and locks nothing.
    assert!(run.join("lock").exists());
    let last = metrics(&run).len();
    let resumed = bench.run(&[
        "--out",
        "run",
        "--resume",
        "--quiet",
        "--steps",
        "1",
        "--config",
        "run/config.toml",
    ]);
    assert!(resumed.status.success(), "{}", string(&resumed.stderr));
    assert!(metrics(&run).len() <= last);
}

#[test]
fn a_run_folder_that_goes_away_ends_the_run_with_a_clear_error() {
    let bench = Bench::new();
    let mut child = start(&bench, &["--set", "train.steps=1000000", "--out", "gone"]);
    let run = bench.path("gone");
    assert!(wait(&mut child, &run, Duration::ZERO, true), "it ended");
    fs::rename(&run, bench.path("elsewhere")).unwrap();
    let end = child.wait_with_output().unwrap();
    let message = string(&end.stderr);
    assert_eq!(end.status.code(), Some(1), "{message}");
    assert!(
        message.contains("gone: it was removed or replaced while this process trained in it"),
        "{message}"
    );
    assert!(!run.exists(), "a folder was made anew");
    assert_all_whole(&bench.path("elsewhere"));
}
