//! Sweeps from outside: the same table whatever happens on the way, what is recorded, and every kind of bad input.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{Bench, json, refused, string};

/// Two powers, searched over a learning rate that works and one at which everything diverges.
const SWEEP: &str = r#"
[sweep]
name = "small"
task = "train-llm"
config = "small.toml"
seeds = [0, 1]

[base]
train.steps = 30
checkpoint.every = 4
checkpoint.keep = 1

[axes]
optimizer.rho = [0.4, 0.5]

[search]
optimizer.lr = [1e30, 3e-3]
"#;

fn bench() -> Bench {
    let bench = Bench::new();
    fs::write(bench.path("sweep.toml"), SWEEP).unwrap();
    bench
}

fn command(bench: &Bench, args: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_ablate-rho"));
    program.current_dir(bench.0.path()).args(args);
    if !args.contains(&"--config") {
        program.args(["--config", "sweep.toml"]);
    }
    program
}

fn sweep(bench: &Bench, args: &[&str]) -> Output {
    command(bench, args).output().unwrap()
}

/// Runs a sweep that must succeed.
fn swept(bench: &Bench, args: &[&str]) -> String {
    let run = sweep(bench, args);
    let text = format!("{}{}", string(&run.stdout), string(&run.stderr));
    assert!(run.status.success(), "{args:?}: {text}");
    text
}

fn results(bench: &Bench, out: &str) -> String {
    fs::read_to_string(bench.path(out).join("results.csv")).unwrap()
}

/// The rows of a table by the names of their columns. No field of these tests has a comma in it.
fn rows(csv: &str) -> Vec<std::collections::HashMap<&str, &str>> {
    let mut lines = csv.lines().map(|line| line.split(','));
    let head: Vec<&str> = lines.next().unwrap().collect();
    lines.map(|line| head.iter().copied().zip(line).collect()).collect()
}

#[test]
fn a_sweep_and_what_it_leaves() {
    let bench = bench();
    let text = swept(&bench, &["--out", "out", "--jobs", "1"]);
    assert!(text.contains("at the best optimizer.lr"), "{text}");
    assert!(text.contains("6 of 6 runs: 4 completed, 2 diverged"), "{text}");
    let csv = results(&bench, "out");
    assert_eq!(
        csv.lines().next().unwrap(),
        "sweep,run,task,cell,phase,seed,optimizer.rho,optimizer.lr,status,steps,eval_loss,best_eval_loss,bits_per_byte,\
         unigram_nats,params,message"
    );
    let rows = rows(&csv);
    let told = |row: &std::collections::HashMap<&str, &str>| {
        ["cell", "phase", "seed", "optimizer.lr", "status"].map(|key| row[key].to_owned()).join(" ")
    };
    assert_eq!(
        rows.iter().map(told).collect::<Vec<_>>(),
        [
            "rho=0.4 search 0 1e30 diverged",
            "rho=0.4 search 0 3e-3 completed",
            "rho=0.4 final 0 3e-3 completed",
            "rho=0.4 final 1 3e-3 completed",
            "rho=0.5 search 0 1e30 diverged",
            "rho=0.5 search 0 3e-3 completed",
            "rho=0.5 final 0 3e-3 completed",
            "rho=0.5 final 1 3e-3 completed",
        ]
    );
    for row in &rows {
        let run = bench.path("out/runs").join(row["run"]);
        let summary = json(&run.join("summary.json"));
        assert_eq!(row["steps"], summary["steps"].to_string());
        assert_eq!(row["params"], summary["params"].to_string());
        if row["status"] == "diverged" {
            // Of the loss where it is at hand before the step, else of a gradient.
            let said =
                ["the loss is", "not finite"].iter().any(|words| row["message"].contains(words));
            assert!(said, "{}", row["message"]);
            assert_eq!((row["eval_loss"], row["bits_per_byte"]), ("", ""), "it has no result");
        } else {
            for key in ["eval_loss", "best_eval_loss", "bits_per_byte"] {
                let (a, b): (f64, f64) =
                    (row[key].parse().unwrap(), summary[key].as_f64().unwrap());
                assert_eq!(a, b, "{key}");
            }
            assert!(run.join("checkpoints/step-00000030").exists());
        }
    }
    // The run is that of the program itself.
    let run = rows[2]["run"];
    let config = format!("out/state/{run}.toml");
    let alone = bench.run(&["--config", &config, "--out", "alone", "--quiet"]);
    assert!(alone.status.success(), "{}", string(&alone.stderr));
    common::assert_same_run(
        &bench.path("alone"),
        &bench.path("out/runs").join(run),
        "step-00000030",
    );
    let times = fs::read_to_string(bench.path("out/times.csv")).unwrap();
    assert_eq!(times.lines().count(), 1 + 6, "a row a run: {times}");
    assert!(fs::read_to_string(bench.path("out/sweep.svg")).unwrap().contains("optimizer.rho"));

    // Nothing is left to do, and what is kept of the sweep is the sweep.
    let again = swept(&bench, &["--out", "out"]);
    assert!(again.contains("6 of them ran before"), "{again}");
    assert_eq!(results(&bench, "out"), csv);
    let kept = swept(&bench, &["--config", "out/sweep.toml", "--out", "out"]);
    assert!(kept.contains("6 of them ran before"), "{kept}");

    // Two at a time, and with other seeds added later, which must not change what there was.
    swept(&bench, &["--out", "two", "--jobs", "2", "--seeds", "0"]);
    swept(&bench, &["--out", "two", "--jobs", "2"]);
    assert_eq!(results(&bench, "two"), csv);
}

/// A run that failed is one that is tried again, unlike one that diverged.
#[test]
fn a_failed_run_does_not_stop_the_others_and_is_tried_again() {
    let bench = bench();
    let seed = ["--seeds", "0", "--out", "out"];
    swept(&bench, &seed);
    let whole = results(&bench, "out");
    let run = rows(&whole)[1]["run"];
    for file in [format!("out/state/{run}.json"), format!("out/state/{run}.log")] {
        fs::remove_file(bench.path(&file)).unwrap();
    }
    let folder = bench.path("out/runs").join(run);
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "in the way").unwrap();
    let failed = sweep(&bench, &seed);
    let message = string(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{message}");
    assert!(message.contains(run) && message.contains("tries them again"), "{message}");
    let csv = results(&bench, "out");
    let statuses: Vec<&str> = rows(&csv).iter().map(|row| row["status"]).collect();
    assert_eq!(statuses[..2], ["diverged", "failed"], "{csv}");
    assert!(statuses.contains(&"completed"), "{csv}");

    fs::remove_file(&folder).unwrap();
    swept(&bench, &seed);
    assert_eq!(results(&bench, "out"), whole);
}

#[cfg(unix)]
#[test]
fn a_sweep_killed_at_any_moment_has_the_same_table() {
    use std::os::unix::process::CommandExt;
    let bench = bench();
    let started = std::time::Instant::now();
    swept(&bench, &["--out", "alone", "--jobs", "2"]);
    // Of what it takes alone, so that it is killed several times on any machine.
    let alone = started.elapsed().as_millis() as u64;
    let mut random = 12345_u64;
    let mut kills = 0;
    let done = loop {
        let mut program = command(&bench, &["--out", "killed", "--jobs", "2"]);
        let mut child = program.process_group(0).spawn().unwrap();
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wait = alone / 20 + (random >> 33) % (alone / 4).max(1);
        std::thread::sleep(std::time::Duration::from_millis(wait));
        if kills == 12 {
            break child.wait().unwrap();
        }
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        // All of it, or the sweep alone: its runs then end by themselves.
        let sign = if kills % 2 == 0 { "-" } else { "" };
        let target = format!("{sign}{}", child.id());
        assert!(Command::new("kill").args(["-KILL", "--", &target]).status().unwrap().success());
        child.wait().unwrap();
        kills += 1;
    };
    assert!(done.success(), "after {kills} kills: {done}");
    assert!(kills >= 3, "it was killed {kills} times only");
    assert_eq!(results(&bench, "killed"), results(&bench, "alone"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_sweep_leaves_checkpoints_and_goes_on() {
    let bench = bench();
    let long = ["--set", "train.steps=600", "--seeds", "0"];
    swept(&bench, &[&["--out", "alone"], &long[..]].concat());
    let mut program = command(&bench, &[&["--out", "cut"], &long[..]].concat());
    let child = program.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let metrics = bench.path("cut/runs/rho=0.4_lr=3e-3_seed=0/metrics.jsonl");
    let started = std::time::Instant::now();
    while fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 {
        assert!(started.elapsed().as_secs() < 120, "no step was taken");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // The sweep alone is told; its run hears of it by the pipe.
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let end = child.wait_with_output().unwrap();
    let text = string(&end.stdout);
    assert_eq!(end.status.code(), Some(130), "{text}");
    assert!(text.contains("goes on with what is missing"), "{text}");
    let run = metrics.parent().unwrap();
    assert_eq!(json(&run.join("summary.json"))["outcome"], "interrupted");
    assert!(!bench.path("cut/state/rho=0.4_lr=3e-3_seed=0.json").exists());
    swept(&bench, &[&["--out", "cut"], &long[..]].concat());
    assert_eq!(results(&bench, "cut"), results(&bench, "alone"));
}

#[test]
fn bad_sweeps() {
    let bench = bench();
    let refuses = |args: &[&str], expected: &[&str]| {
        refused(&sweep(&bench, args), args, expected);
    };
    let with = |name: &str, from: &str, to: &str| {
        assert!(SWEEP.contains(from), "{from}");
        fs::write(bench.path(name), SWEEP.replace(from, to)).unwrap();
        name.to_owned()
    };
    let line = |of: &str| 1 + SWEEP[..SWEEP.find(of).unwrap()].matches('\n').count();
    let is_refused = |name: &str, from: &str, to: &str, expected: &[&str]| {
        let file = with(name, from, to);
        let place = format!("{name}:{}", line(from));
        let args = ["--config", &file];
        let run = sweep(&bench, &args);
        refused(&run, &args, &[expected, &[place.as_str()]].concat());
    };
    is_refused("key.toml", "seeds = [0, 1]", "sedes = [0, 1]", &["sedes"]);
    is_refused(
        "task.toml",
        "\"train-llm\"",
        "\"train-lm\"",
        &["train-lm", "train-llm", "train-asr"],
    );
    is_refused("value.toml", "optimizer.rho = [0.4, 0.5]", "optimizer.rho = [0.4, 0]", &["rho=0"]);
    is_refused(
        "twice.toml",
        "optimizer.rho = [0.4, 0.5]",
        "optimizer.rho = [0.4, 0.4]",
        &["twice"],
    );
    is_refused("unknown.toml", "train.steps = 30", "train.step = 30", &["train.step"]);
    is_refused("base.toml", "\"small.toml\"", "\"absent.toml\"", &["absent.toml"]);
    refuses(&["--set", "optimizer.rho=0.5"], &["--set optimizer.rho=0.5", "varies"]);
    refuses(&["--set", "train.batches=1"], &["--set train.batches=1", "batches"]);
    refuses(&["--set", "train"], &["--set train"]);
    refuses(&["--seeds", "1,1"], &["--seeds", "twice"]);
    refuses(&["--out", "sweep.toml"], &["sweep.toml", "file"]);
    refuses(&["--out", "text"], &["text", "not empty"]);
    assert!(!bench.path("runs").exists(), "a bad sweep left a folder");
    let usage = sweep(&bench, &["--jobs", "0"]);
    assert_eq!(usage.status.code(), Some(2));

    // Bad input of all runs: the first says so, and no other is tried.
    let missing = ["--set", "data.paths=[\"absent.txt\"]", "--out", "missing", "--jobs", "1"];
    refuses(&missing, &["absent.txt", "rho=0.4"]);
    assert_eq!(results(&bench, "missing").lines().count(), 1 + 1);

    // A folder of another sweep, of other values, or in use.
    let short = ["--seeds", "0", "--set", "train.steps=5", "--out", "out"];
    swept(&bench, &short);
    let before = results(&bench, "out");
    refuses(
        &["--seeds", "0", "--set", "train.steps=6", "--out", "out"],
        &["train.steps is 5", "6 here"],
    );
    let other = with("other.toml", "name = \"small\"", "name = \"other\"");
    refuses(&[&["--config", &other], &short[..]].concat(), &["sweep small", "other"]);
    let lock = fs::File::open(bench.path("out/lock")).unwrap();
    lock.lock().unwrap();
    refuses(&short, &["out", "another process"]);
    drop(lock);
    fs::write(bench.path("out/state/rho=0.4_lr=3e-3_seed=0.json"), "{").unwrap();
    refuses(&short, &["rho=0.4_lr=3e-3_seed=0.json", "damaged"]);
    assert_eq!(results(&bench, "out"), before);
}

/// Every sweep in the tree is one, at its place and within the programs, and has the values of the paper.
#[test]
fn the_sweeps_of_the_tree() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let list = |args: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ablate-rho"));
        let run = program.current_dir(root).arg("--list").args(args).output().unwrap();
        assert!(run.status.success(), "{args:?}: {}", string(&run.stderr));
        string(&run.stdout)
    };
    let mut files = 0;
    for entry in fs::read_dir(root.join("configs/ablate")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let shown = list(&["--config", path.to_str().unwrap()]);
        let title =
            if name.starts_with("compare") { name.clone() } else { format!("ablate-{name}") };
        assert!(shown.contains(&format!("name = \"{title}\"")), "{name}: {shown}");
        let expected: &[&str] = match name.split('-').next().unwrap() {
            "rho" => &["[0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]"],
            "epsilon" => &[
                "name = \"adaptive\"\n\"optimizer.eps\" = 1e-8\n\"optimizer.eps2\" = 0.01",
                "1e-12",
                "1e-15",
                "1e-20",
                "1e-30",
            ],
            "epsilon2" => &["[1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8]"],
            "large" => &["\"fixed-1e-3\"", "\"adaptive-1e-3\"", "\"optimizer.eps2\" = \"off\""],
            "parts" => {
                &["\"FAdam\"", "\"Adam\"", "\"FAdam-fixed-epsilon\"", "\"Adam-adaptive-epsilon\""]
            }
            "weight" if name.contains("asr") => &["[0.0, 0.001]", "\"Adam\"", "\"FAdam\""],
            "weight" => &["[1e-2, 1e-3, 1e-4, 1e-5]"],
            _ if name.contains("asr") => &["\"Adam\"", "\"FAdam\""],
            _ if name.contains("vqvae") => {
                &["\"FAdam-CE\"", "\"AdamW-CE\"", "\"FAdam-L2\"", "\"AdamW-L2\""]
            }
            _ => &["\"FAdafactor\"", "\"Adafactor\"", "1e-30"],
        };
        for part in expected {
            assert!(shown.contains(part), "{name}: {part} is not in {shown}");
        }
        files += 1;
    }
    assert_eq!(files, 29);
    for ablation in experiments::ablate::ALL {
        for (_, file) in ablation.sweeps {
            let on_disk = fs::read_to_string(root.join(file.name)).unwrap();
            assert!(on_disk == file.text, "{}", file.name);
        }
    }
    assert_eq!(list(&[]), list(&["--config", "configs/ablate/rho.toml"]));
    assert_eq!(list(&["--task", "asr"]), list(&["--config", "configs/ablate/rho-asr.toml"]));
}
