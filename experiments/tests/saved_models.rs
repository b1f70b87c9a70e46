//! What `train-llm` does with weights that exist: `--eval-only`, `--export`, `--init`.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors as files};
use common::{Bench, assert_same_run, json, metrics, snapshot, string, tensors};
use serde_json::Value;

const LAST: &str = "run/checkpoints/step-00000040";

/// A whole run in `run`, with checkpoints at 20 and 40.
fn trained() -> Bench {
    let bench = Bench::new();
    bench.train(&["--out", "run", "--quiet", "--set", "checkpoint.every=20"]);
    bench
}

/// The evaluation of that step, as the run wrote it.
fn eval_line(run: &Path, step: u64) -> String {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let start = format!("{{\"step\":{step},\"split\":\"eval\",");
    text.lines().find(|line| line.starts_with(&start)).unwrap().to_owned()
}

fn load(file: &Path) -> HashMap<String, Tensor> {
    files::load(file, &Device::Cpu).unwrap()
}

#[test]
fn eval_only_gives_the_numbers_of_the_run_and_writes_nothing() {
    let bench = trained();
    let run = bench.path("run");
    let before = snapshot(bench.0.path());
    for (args, step) in [
        (&["--out", "run"][..], 40),
        (&["--out", "run", "--config", "run/config.toml"], 40),
        (&["--checkpoint", "run/checkpoints/step-00000020"], 20),
        (&["--checkpoint", LAST, "--out", "run"], 40),
    ] {
        let ended = bench.run(&[&["--eval-only", "--json"], args].concat());
        assert!(ended.status.success(), "{}", string(&ended.stderr));
        assert_eq!(string(&ended.stdout).trim_end(), eval_line(&run, step), "{args:?}");
        assert_eq!(string(&ended.stderr), "", "{args:?}");
    }
    let shown = string(&bench.run(&["--eval-only", "--out", "run"]).stdout);
    let loss = json(&run.join("summary.json"))["eval_loss"].as_f64().unwrap();
    assert!(shown.contains(&format!("step 40  eval loss {loss:.4}  bits_per_byte")), "{shown}");
    assert!(shown.contains("step-00000040") && shown.contains("    | "), "{shown}");
    let quiet = string(&bench.run(&["--eval-only", "--out", "run", "--quiet"]).stdout);
    assert_eq!(quiet.lines().count(), 1, "{quiet}");
    assert!(snapshot(bench.0.path()) == before, "a file was touched");
}

#[test]
fn other_held_out_text_than_the_runs_is_said() {
    let bench = Bench::new();
    fs::write(bench.path("held.txt"), "ask not the people of peace ".repeat(60)).unwrap();
    bench.train(&["--out", "run", "--quiet", "--set", "data.eval_paths=[\"held.txt\"]"]);
    let evaluate = ["--eval-only", "--out", "run"];
    assert_eq!(string(&bench.run(&evaluate).stderr), "");
    fs::write(bench.path("held.txt"), "the people ask not of peace ".repeat(60)).unwrap();
    let loss = json(&bench.path("run/summary.json"))["eval_loss"].to_string();
    let said = string(&bench.run(&evaluate).stderr);
    assert!(said.contains("note: at step 40") && said.contains(&loss), "{said}");
}

#[test]
fn what_cannot_be_evaluated_or_exported() {
    let bench = trained();
    for mode in [&["--eval-only"][..], &["--export", "model"]] {
        let refuses = |args: &[&str], expected: &[&str]| {
            bench.refuses(&[mode, args].concat(), expected);
            assert!(!bench.path("model").exists(), "{args:?}");
        };
        refuses(&["--out", "absent"], &["absent", "does not exist"]);
        refuses(&["--out", "text"], &["text", "no config.toml"]);
        refuses(&["--out", "small.toml"], &["small.toml", "is a file"]);
        refuses(&["--config", "small.toml"], &["runs/train-llm-small", "does not exist"]);
        refuses(&["--checkpoint", "absent"], &["absent", "no state.json"]);
        refuses(&["--checkpoint", "run", "--out", "run"], &["checkpoint run", "no state.json"]);
        refuses(&["--out", "run", "--set", "model.d_ff=64"], &["model.d_ff is 32 there and 64"]);
        refuses(&["--out", "run", "--seed", "1"], &["train.seed is 0 there and 1 here"]);

        let tokenizer = bench.path("run/tokenizer.json");
        let whole = fs::read(&tokenizer).unwrap();
        fs::remove_file(&tokenizer).unwrap();
        refuses(&["--out", "run"], &["run/tokenizer.json"]);
        fs::write(&tokenizer, whole).unwrap();
        for file in ["model.safetensors", "state.json"] {
            let path = bench.path(LAST).join(file);
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            refuses(&["--checkpoint", LAST], &[LAST, file, "is damaged"]);
            // Unless it is asked for, the one before is used.
            let before = bench.run(&["--eval-only", "--json", "--out", "run"]);
            let (numbers, note) = (string(&before.stdout), string(&before.stderr));
            assert!(before.status.success() && numbers.starts_with("{\"step\":20,"), "{note}");
            for part in ["note: checkpoint ", LAST, file, "step-00000020 is used"] {
                assert!(note.contains(part), "{part} is not in {note}");
            }
            fs::write(&path, whole).unwrap();
        }
    }
    // Other training text: not the run's own held-out text either.
    fs::write(bench.path("text/99.txt"), "four score and seven years ago ".repeat(50)).unwrap();
    bench.refuses(&["--eval-only", "--out", "run"], &["state.json", "training tokens"]);
    // Arguments that do not go together are clap's to refuse.
    for args in [
        &["--checkpoint", LAST][..],
        &["--json", "--out", "new"],
        &["--dtype", "bf16", "--out", "new"],
        &["--eval-only", "--export", "model", "--out", "run"],
        &["--eval-only", "--steps", "3", "--out", "run"],
        &["--export", "model", "--out", "run", "--dtype", "f8"],
    ] {
        let ended = bench.run(args);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {}", string(&ended.stderr));
    }
    assert!(!bench.path("new").exists() && !bench.path("model").exists());
}

#[test]
fn an_exported_checkpoint_is_its_weights_its_dimensions_and_its_tokenizer() {
    let bench = trained();
    let before = snapshot(&bench.path("run"));
    let ended = bench.run(&["--export", "out/f32", "--out", "run"]);
    assert!(ended.status.success(), "{}", string(&ended.stderr));
    let ended = bench.run(&["--export", "out/bf16", "--out", "run", "--dtype", "bf16"]);
    assert!(ended.status.success(), "{}", string(&ended.stderr));
    assert!(snapshot(&bench.path("run")) == before, "the run was touched");

    let entries = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(bench.path(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(entries("out"), ["bf16", "f32"], "something was left beside them");
    assert_eq!(entries("out/f32"), ["config.json", "model.safetensors", "tokenizer.json"]);
    let tokenizer = |folder: &str| fs::read(bench.path(folder).join("tokenizer.json")).unwrap();
    assert!(tokenizer("out/f32") == tokenizer("run"));

    let model = bench.path(LAST).join("model.safetensors");
    assert!(tensors(&model) == tensors(&bench.path("out/f32/model.safetensors")));
    let rounded = load(&bench.path("out/bf16/model.safetensors"));
    let trained = load(&model);
    assert_eq!(rounded.len(), trained.len());
    for (name, tensor) in &rounded {
        assert_eq!(tensor.dtype(), DType::BF16, "{name}");
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let wide = values(&tensor.to_dtype(DType::F32).unwrap());
        for (half, full) in wide.iter().zip(values(&trained[name])) {
            // 8 bits of mantissa, rounded to nearest: off by at most 2⁻⁹ of the power of two below.
            assert!((half - full).abs() <= full.abs() / 256.0, "{name}: {half} for {full}");
        }
    }

    let summary = json(&bench.path("run/summary.json"));
    let config = json(&bench.path("out/bf16/config.json"));
    assert_eq!(config["dtype"], "bf16");
    assert_eq!(config["model"]["d_ff"], 32);
    assert_eq!(config["vocab_size"], summary["vocab_size"]);
    assert_eq!((&config["eos"], &config["eos_id"]), (&"<|endoftext|>".into(), &0.into()));
    assert_eq!(config["params"], summary["params"]);
    let trained = &config["trained"];
    assert_eq!(trained["experiment"], "train-llm");
    assert_eq!((&trained["step"], &trained["tokens"]), (&40.into(), &summary["tokens"]));
    assert_eq!(trained["eval_loss"], summary["eval_loss"]);
    assert_eq!(trained["optimizer"]["algorithm"], "fadafactor");
    assert_eq!(trained["data"]["paths"], serde_json::json!(["text"]));
}

#[test]
fn an_export_replaces_nothing() {
    let bench = trained();
    fs::create_dir(bench.path("empty")).unwrap();
    let before = snapshot(bench.0.path());
    let refuses = |folder: &str, expected: &[&str]| {
        bench.refuses(&["--export", folder, "--out", "run"], expected);
        assert!(snapshot(bench.0.path()) == before, "{folder}: a file was touched");
    };
    refuses("text", &["text: exists already"]);
    refuses("empty", &["empty: exists already"]);
    refuses("small.toml", &["small.toml: exists already"]);
    refuses("small.toml/model", &["small.toml/model", "cannot be made"]);
}

#[test]
fn a_run_starts_from_exported_weights_and_resumes_without_them() {
    let bench = trained();
    let run = bench.path("run");
    for (dtype, said) in [
        ("f32", "7 tensors of model/", "nothing converted"),
        ("bf16", "7 tensors of model/", "7 tensors converted from bf16"),
    ]
    .map(|(dtype, of, said)| (dtype, [of, said]))
    {
        bench.run(&["--export", "model", "--out", "run", "--dtype", dtype]);
        let init = ["--init", "model/model.safetensors", "--seed", "5"];
        let whole = format!("whole-{dtype}");
        let text = bench.train(&[&init[..], &["--out", &whole]].concat());
        for part in said {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("note: "), "{text}");

        let first = eval_line(&bench.path(&whole), 0).replace("\"step\":0", "\"step\":40");
        // In f32 the run starts exactly where the other one ended; in bf16 close to it.
        assert_eq!(first == eval_line(&run, 40), dtype == "f32", "{first}");
        let loss = |line: &str| -> f64 {
            serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap()
        };
        assert!((loss(&first) - loss(&eval_line(&run, 40))).abs() < 0.01, "{first}");
        let summary = json(&bench.path(&whole).join("summary.json"));
        assert_eq!(summary["init"], "model/model.safetensors");
        let config = fs::read_to_string(bench.path(&whole).join("config.toml")).unwrap();
        assert!(config.contains("init = \"model/model.safetensors\""), "{config}");

        let halves = format!("halves-{dtype}");
        bench.train(&[&init[..], &["--out", &halves, "--steps", "20", "--quiet"]].concat());
        bench.refuses(
            &["--out", &halves, "--resume", "--init", "run/model.safetensors"],
            &["train.init is \"model/model.safetensors\" there and \"run/model.safetensors\" here"],
        );
        fs::remove_dir_all(bench.path("model")).unwrap();
        let resumed = bench.run(&["--out", &halves, "--resume", "--quiet"]);
        assert!(resumed.status.success(), "{}", string(&resumed.stderr));
        assert_same_run(&bench.path(&whole), &bench.path(&halves), "step-00000040");
    }
    assert_eq!(json(&run.join("summary.json"))["init"], Value::Null);
}

#[test]
fn weights_that_do_not_fit_are_named_all_at_once() {
    let bench = trained();
    let whole = bench.path(LAST).join("model.safetensors");
    let with = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut tensors = load(&whole);
        change(&mut tensors);
        files::save(&tensors, bench.path("changed.safetensors")).unwrap();
    };
    let refuses = |file: &str, expected: &[&str]| {
        let start = format!("weights {file}: ");
        let expected = [&[&*start], expected].concat();
        bench.refuses(&["--config", "small.toml", "--out", "new", "--init", file], &expected);
        assert!(!bench.path("new").exists(), "{file} left a run folder");
    };
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();

    with(&|tensors| {
        for name in ["blocks.0.up.weight", "norm.weight"] {
            tensors.remove(name).unwrap();
        }
        for name in ["lm_head.weight", "blocks.1.up.weight"] {
            tensors.insert(name.to_owned(), ones(&[3, 4]));
        }
        for name in ["emb.weight", "blocks.0.down.weight"] {
            tensors.insert(name.to_owned(), ones(&[5]));
        }
        tensors.insert(
            "blocks.0.out.weight".to_owned(),
            Tensor::zeros((16, 16), DType::U32, &Device::Cpu).unwrap(),
        );
    });
    refuses(
        "changed.safetensors",
        &[
            "blocks.0.up.weight is missing",
            "norm.weight is missing",
            "lm_head.weight is not in this model",
            "blocks.1.up.weight is not in this model",
            "emb.weight is F32 [5], in this model F32 [280, 16]",
            "blocks.0.down.weight is F32 [5], in this model F32 [16, 32]",
            "blocks.0.out.weight is U32 [16, 16], in this model F32 [16, 16]",
        ],
    );
    with(&|tensors| {
        let nan = (ones(&[16]) * f64::NAN).unwrap();
        tensors.insert("norm.weight".to_owned(), nan);
    });
    refuses("changed.safetensors", &["not finite: norm.weight"]);
    refuses("absent.safetensors", &["cannot be read"]);
    refuses("text", &["is a folder", ".safetensors"]);
    refuses("small.toml", &["not a whole safetensors file"]);
    let bytes = fs::read(&whole).unwrap();
    fs::write(bench.path("cut.safetensors"), &bytes[..bytes.len() - 1]).unwrap();
    refuses("cut.safetensors", &["not a whole safetensors file"]);
}

#[test]
fn weights_of_another_tokenizer_are_refused_and_other_settings_said() {
    let bench = trained();
    bench.run(&["--export", "model", "--out", "run"]);
    // Other text gives another vocabulary of the same size: no shape shows it.
    fs::create_dir(bench.path("other")).unwrap();
    let words = "when in the course of human events it becomes necessary to dissolve bands ";
    fs::write(bench.path("other/a.txt"), words.repeat(60)).unwrap();
    fs::write(bench.path("other/b.txt"), words.repeat(20)).unwrap();
    let other = ["--config", "small.toml", "--set", "data.paths=[\"other\"]", "--steps", "1"];
    let run = |more: &[&str]| bench.run(&[&other[..], more].concat());
    for file in ["model/model.safetensors", &format!("{LAST}/model.safetensors")] {
        bench.refuses(
            &[&other[..], &["--init", file, "--out", "new"]].concat(),
            &[file, "another tokenizer", "data.tokenizer="],
        );
        assert!(!bench.path("new").exists());
    }
    let theirs = ["--set", "data.tokenizer=model/tokenizer.json"];
    let init = ["--init", "model/model.safetensors", "--quiet"];
    let ended = run(&[&theirs[..], &init, &["--out", "same"]].concat());
    assert!(ended.status.success(), "{}", string(&ended.stderr));
    assert_eq!(string(&ended.stderr), "");
    let lines = metrics(&bench.path("same"));
    let evaluations = lines.iter().filter(|line| line["split"] == "eval");
    assert_eq!(evaluations.count(), 2); // before and after the one step

    let settings = ["--set", "model.rope_base=500.0", "--set", "model.logit_scale=false"];
    let ended = run(&[&theirs[..], &init, &settings, &["--out", "changed"]].concat());
    let said = string(&ended.stderr);
    assert!(
        said.contains("model.rope_base 10000.0 (here 500.0), model.logit_scale true (here false)"),
        "{said}"
    );

    fs::copy(bench.path("model/model.safetensors"), bench.path("bare.safetensors")).unwrap();
    let ended = run(&["--init", "bare.safetensors", "--quiet", "--out", "bare"]);
    assert!(ended.status.success());
    let said = string(&ended.stderr);
    assert!(said.contains("note: no tokenizer.json was found with bare.safetensors"), "{said}");
}
