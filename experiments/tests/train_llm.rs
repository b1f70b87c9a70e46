//! The `train-llm` binary from outside: a run and what it leaves, resuming bit for bit, and every kind of
//! bad input.

mod common;
#[path = "train_llm/stream.rs"]
mod stream;

use std::fs;
use std::process::Command;

use common::{Bench, SMALL, assert_same_run, json, metrics, string, sum_again, tensors};

#[test]
fn a_run_and_what_it_leaves() {
    let bench = Bench::new();
    let text = bench.train(&["--out", "run"]);
    assert!(text.contains("unigram entropy"), "{text}");
    let run = bench.path("run");
    let summary = json(&run.join("summary.json"));
    for key in [
        "experiment",
        "optimizer",
        "seed",
        "steps",
        "params",
        "eval_loss",
        "bits_per_byte",
        "tokens_per_s",
        "wall_s",
        "unigram_nats",
    ] {
        assert!(!summary[key].is_null(), "summary.json has no {key}: {summary}");
    }
    assert_eq!(summary["experiment"], "train-llm");
    assert_eq!(summary["optimizer"], "fadafactor");
    assert_eq!(summary["steps"], 40);

    let metrics = metrics(&run);
    let eval: Vec<f64> = metrics
        .iter()
        .filter(|line| line["split"] == "eval")
        .map(|line| line["loss"].as_f64().unwrap())
        .collect();
    assert_eq!(eval.len(), 5); // steps 0, 10, 20, 30, 40
    assert!(eval[4] < eval[0] - 0.5, "it learned nothing: {eval:?}");
    assert_eq!(summary["eval_loss"], eval[4]);
    let lr: Vec<f64> = metrics.iter().filter_map(|line| line["lr"].as_f64()).collect();
    assert!((lr[0] - 3e-3).abs() < 1e-12, "the warm-up ends at step 5: {lr:?}");
    assert!((lr.last().unwrap() - 3e-4).abs() < 1e-12, "{lr:?}");

    assert!(fs::read_to_string(run.join("loss.svg")).unwrap().contains("<svg"));
    assert!(run.join("tokenizer.json").exists());
    assert!(run.join("checkpoints/step-00000040/model.safetensors").exists());
    // The resolved config, given back, is the same run.
    let again = bench.run(&["--config", "run/config.toml", "--out", "again", "--quiet"]);
    assert!(again.status.success(), "{}", string(&again.stderr));
    assert_same_run(&run, &bench.path("again"), "step-00000040");
}

#[test]
fn forty_steps_are_twenty_and_twenty() {
    for algorithm in ["fadam", "fadafactor", "adam", "adafactor"] {
        for sampling in ["packed", "windows"] {
            let bench = Bench::new();
            let algorithm = format!("optimizer.algorithm={algorithm}");
            let sampling = format!("data.sampling={sampling}");
            let with = |more: &[&str]| {
                let common = ["--set", &algorithm, "--set", &sampling, "--quiet"];
                bench.train(&[&common[..], more].concat())
            };
            with(&["--out", "whole"]);
            with(&["--out", "halves", "--steps", "20"]);
            assert_eq!(json(&bench.path("halves/summary.json"))["steps"], 20);
            let resumed = bench.run(&["--out", "halves", "--resume", "--quiet"]);
            assert!(resumed.status.success(), "{}", string(&resumed.stderr));
            assert_same_run(&bench.path("whole"), &bench.path("halves"), "step-00000040");
        }
    }
}

#[test]
fn seeds_differ_and_repeat() {
    let bench = Bench::new();
    for (out, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        bench.train(&["--out", out, "--seed", seed, "--steps", "5", "--quiet"]);
    }
    let at = |run: &str| bench.path(run).join("checkpoints/step-00000005/model.safetensors");
    assert!(tensors(&at("a")) == tensors(&at("b")));
    assert!(tensors(&at("a")) != tensors(&at("c")));
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_and_the_run_resumes() {
    let bench = Bench::new();
    bench.train(&["--out", "whole", "--quiet", "--set", "train.steps=1500"]);
    let child = Command::new(env!("CARGO_BIN_EXE_train-llm"))
        .current_dir(bench.0.path())
        .args(["--config", "small.toml", "--out", "cut", "--set", "train.steps=1500"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Once there is a line of metrics the loop runs.
    let metrics = bench.path("cut/metrics.jsonl");
    let started = std::time::Instant::now();
    while fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 {
        assert!(started.elapsed().as_secs() < 60, "no step was taken");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let end = child.wait_with_output().unwrap();
    let text = format!("{}{}", string(&end.stdout), string(&end.stderr));
    assert_eq!(end.status.code(), Some(130), "{text}");
    assert!(text.contains("--resume"), "it does not say how to resume: {text}");
    let resumed = bench.run(&["--out", "cut", "--resume", "--quiet"]);
    assert!(resumed.status.success(), "{}", string(&resumed.stderr));
    assert_same_run(&bench.path("whole"), &bench.path("cut"), "step-00001500");
}

#[test]
fn tokens_are_exported_for_the_peers() {
    let bench = Bench::new();
    let text = bench.train(&["--export-tokens", "tokens"]);
    let train = fs::read(bench.path("tokens/train.u16")).unwrap();
    let eval = fs::read(bench.path("tokens/eval.u16")).unwrap();
    assert!(text.contains(&format!("{} training", train.len() / 2)), "{text}");
    let ids = |bytes: &[u8]| -> Vec<u16> {
        bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
    };
    assert!(ids(&train).iter().chain(&ids(&eval)).all(|&id| id < 280));
    assert!(!bench.path("runs").exists(), "an export starts no run");
}

#[test]
fn print_config_is_a_config() {
    let bench = Bench::new();
    let printed = bench.train(&["--print-config", "--set", "train.batch=7"]);
    assert!(printed.contains("batch = 7"), "{printed}");
    fs::write(bench.path("printed.toml"), &printed).unwrap();
    let again = bench.run(&["--config", "printed.toml", "--print-config"]);
    assert_eq!(string(&again.stdout), printed);
}

#[test]
fn bad_configs() {
    let bench = Bench::new();
    let with = |name: &str, from: &str, to: &str| {
        assert!(SMALL.contains(from));
        fs::write(bench.path(name), SMALL.replace(from, to)).unwrap();
        name.to_owned()
    };
    let line = |of: &str| 1 + SMALL[..SMALL.find(of).unwrap()].matches('\n').count();
    let at = |file: &str, of: &str| format!("{file}:{}", line(of));

    let key = with("key.toml", "lr = 3e-3", "lrr = 3e-3");
    bench.refuses(&["--config", &key], &[&at("key.toml", "lr ="), "lrr", "expected"]);
    let kind = with("type.toml", "batch = 4", "batch = \"four\"");
    bench.refuses(&["--config", &kind], &[&at("type.toml", "batch ="), "four"]);
    let value = with("value.toml", "lr = 3e-3", "lr = -1.0");
    bench.refuses(&["--config", &value], &[&at("value.toml", "lr ="), "optimizer.lr"]);
    let heads = with("heads.toml", "heads = 2", "heads = 3");
    bench.refuses(&["--config", &heads], &[&at("heads.toml", "heads ="), "model.heads"]);
    let batch = with("batch.toml", "batch = 4", "batch = 0");
    bench.refuses(&["--config", &batch], &[&at("batch.toml", "batch ="), "train.batch"]);
    let syntax = with("syntax.toml", "[train]", "[train");
    bench.refuses(&["--config", &syntax], &[&at("syntax.toml", "[train]")]);

    bench.refuses(&["--config", "absent.toml"], &["absent.toml"]);
    let set = |set: &str, expected: &[&str]| {
        bench.refuses(&["--config", "small.toml", "--set", set], expected);
    };
    set("train.batches=3", &["train.batches=3", "batches"]);
    set("optimizer.rho=0", &["optimizer.rho=0", "optimizer.rho"]);
    set("data.sample_top_p=nan", &["data.sample_top_p"]);
    set("train", &["--set train"]);
    assert!(!bench.path("runs").exists(), "a bad config left a run folder");
}

#[test]
fn bad_text() {
    let bench = Bench::new();
    let on = |paths: &str, expected: &[&str]| {
        let set = format!("data.paths=[\"{paths}\"]");
        bench.refuses(&["--config", "small.toml", "--set", &set, "--out", "run"], expected);
        assert!(!bench.path("run").exists(), "{paths} left a run folder");
    };
    on("absent.txt", &["absent.txt", "no such file"]);
    fs::write(bench.path("empty.txt"), "").unwrap();
    on("empty.txt", &["empty.txt", "no text"]);
    fs::create_dir(bench.path("nothing")).unwrap();
    on("nothing", &["nothing", "no text"]);
    fs::write(bench.path("latin.txt"), b"line one\nna\xefve\n").unwrap();
    on("latin.txt", &["latin.txt", "line 2", "not UTF-8"]);
    fs::write(bench.path("bad.jsonl"), "{\"text\": \"fine\"}\n{\"txt\": 1}\n").unwrap();
    on("bad.jsonl", &["bad.jsonl:2", "\"text\""]);

    // Shorter than one sequence, with a tokenizer that needs no training on it.
    bench.train(&["--out", "ready", "--steps", "1", "--quiet"]);
    fs::write(bench.path("short.txt"), "we the people of this nation").unwrap();
    let short = [
        "--config",
        "small.toml",
        "--set",
        "data.paths=[\"short.txt\"]",
        "--set",
        "data.tokenizer=ready/tokenizer.json",
        "--out",
        "run",
    ];
    bench.refuses(&short, &["tokens", "17"]);
    bench.refuses(
        &["--config", "small.toml", "--set", "data.tokenizer=small.toml", "--out", "run"],
        &["small.toml"],
    );
}

#[test]
fn bad_run_folders() {
    let bench = Bench::new();
    bench.train(&["--out", "run", "--steps", "10", "--quiet"]);
    let before = metrics(&bench.path("run"));
    bench.refuses(&["--config", "small.toml", "--out", "run"], &["run", "--resume"]);
    assert_eq!(metrics(&bench.path("run")), before, "a refused run changed the folder");

    bench.refuses(&["--config", "small.toml", "--out", "small.toml/run"], &["small.toml"]);
    bench.refuses(&["--config", "small.toml", "--out", "small.toml"], &["small.toml"]);
    bench.refuses(&["--config", "small.toml", "--out", "fresh", "--resume"], &["fresh"]);
    bench.refuses(
        &["--config", "small.toml", "--out", "run", "--resume", "--set", "model.d_ff=64"],
        &["model.d_ff"],
    );
    bench.refuses(
        &["--export-tokens", "small.toml/tokens", "--config", "small.toml"],
        &["small.toml/tokens"],
    );
}

#[test]
fn bad_checkpoints() {
    let bench = Bench::new();
    bench.train(&["--out", "run", "--steps", "10", "--quiet"]);
    let folder = bench.path("run/checkpoints/step-00000010");
    let resume = ["--out", "run", "--resume"];
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let whole = fs::read(folder.join(file)).unwrap();
        for cut in [0, whole.len() / 2, whole.len() - 1] {
            fs::write(folder.join(file), &whole[..cut]).unwrap();
            bench.refuses(&resume, &[file]);
        }
        fs::write(folder.join(file), &whole).unwrap();
    }
    // The weights of another model under this run's name.
    bench.train(&["--out", "other", "--steps", "10", "--quiet", "--set", "model.d_ff=64"]);
    let own = fs::read(folder.join("model.safetensors")).unwrap();
    let other = bench.path("other/checkpoints/step-00000010/model.safetensors");
    let sums = fs::read(folder.join("SHA256SUMS")).unwrap();
    fs::copy(other, folder.join("model.safetensors")).unwrap();
    bench.refuses(&resume, &["model.safetensors", "is damaged"]);
    sum_again(&folder);
    bench.refuses(&resume, &["model.safetensors", "blocks.0.down.weight"]);
    fs::write(folder.join("model.safetensors"), own).unwrap();
    fs::write(folder.join("SHA256SUMS"), sums).unwrap();
    // Other text: the place in it means nothing.
    fs::write(bench.path("text/99.txt"), "four score and seven years ago ".repeat(50)).unwrap();
    bench.refuses(&resume, &["training tokens"]);
}

#[test]
fn accumulated_batches_are_one_larger_batch() {
    let bench = Bench::new();
    bench.train(&["--out", "whole", "--set", "train.batch=4"]);
    let two = ["--set", "train.batch=2", "--set", "train.accumulate=2"];
    bench.train(&[&["--out", "halves"], &two[..]].concat());
    let last = |run: &str| metrics(&bench.path(run)).last().unwrap().clone();
    let (whole, halves) = (last("whole"), last("halves"));
    assert_eq!(whole["tokens"], halves["tokens"]);
    let loss = |line: &serde_json::Value| line["loss"].as_f64().unwrap();
    let off = (loss(&whole) - loss(&halves)).abs();
    assert!(off < 1e-4 * loss(&whole), "{whole} {halves}");
    let (a, b) = (metrics(&bench.path("whole")), metrics(&bench.path("halves")));
    assert!(a.iter().zip(&b).any(|(a, b)| a != b), "the runs were the same to the bit");

    bench.train(&[&["--out", "resumed", "--steps", "20"], &two[..]].concat());
    bench.train(&[&["--out", "resumed", "--resume"], &two[..]].concat());
    assert_same_run(&bench.path("halves"), &bench.path("resumed"), "step-00000040");
}
