//! Runs and weights that are read: a checkpoint evaluated again, a run started from given weights.

mod common;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors as files};
use common::{Faults, Regression, Toy, checkpoint, config, metrics, snapshot, train, train_with};
use fadam_train::{Outcome, SavedRun, describe, exit_code};

/// A run of 20 of 40 steps in a new folder.
fn half_a_run() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), false, Some(20)).unwrap();
    folder
}

fn message(result: anyhow::Result<Outcome>) -> String {
    let error = result.expect_err("must be refused");
    assert_eq!(exit_code(&error), 2);
    let text = describe(&error);
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// Trains a new run in `out` that starts from the weights in `file`.
fn train_from(file: &Path, out: &Path) -> anyhow::Result<Outcome> {
    let config = config(&[&format!("train.init={}", file.display())]);
    train_with(&config, out, false, None, Faults::default())
}

#[test]
fn a_checkpoint_is_evaluated_as_its_run_did() {
    let folder = half_a_run();
    let before = snapshot(folder.path());
    let run = SavedRun::open(folder.path(), None).unwrap();
    assert_eq!(run.checkpoint(), checkpoint(folder.path(), 20));
    // Weights of another seed, all of which the checkpoint must replace.
    let task = Regression::new(&config(&["train.seed=9"]), Faults::default());
    let found = run.evaluate::<Toy>(task).unwrap();
    let line = metrics(folder.path()).into_iter().rfind(|line| line["split"] == "eval").unwrap();
    assert_eq!((&line["step"], found.step), (&20.into(), 20));
    assert_eq!(line["loss"].as_f64().unwrap(), found.evaluation.loss);
    assert_eq!(line["half_loss"].as_f64().unwrap(), found.evaluation.metrics[0].1);
    assert_eq!(found.differs, None);
    assert_eq!(snapshot(folder.path()), before);

    let standing = run.standing::<Toy>().unwrap();
    assert_eq!((standing.step, standing.units, standing.seed), (20, 160, config(&[]).train().seed));
    let same = SavedRun::of_checkpoint(&checkpoint(folder.path(), 20)).unwrap();
    assert_eq!(same.folder().canonicalize().unwrap(), folder.path().canonicalize().unwrap());
    assert_eq!(same.config::<Toy>().unwrap().to_toml(), config(&[]).to_toml());
}

#[test]
fn numbers_that_are_not_the_runs_are_said() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), false, None).unwrap(); // evaluates at the step of its last checkpoint
    let run = SavedRun::open(folder.path(), None).unwrap();
    let task = || Regression::new(&config(&[]), Faults::default());
    let own = run.evaluate::<Toy>(task()).unwrap();
    assert_eq!(own.differs, None);
    // A last bit is enough.
    let state = checkpoint(folder.path(), 40).join("state.json");
    let mut json = common::json_file(&state);
    let loss = json["last_eval"]["loss"].as_f64().unwrap();
    json["last_eval"]["loss"] = f64::from_bits(loss.to_bits() + 1).into();
    std::fs::write(&state, json.to_string()).unwrap();
    common::sum_again(state.parent().unwrap());
    let found = run.evaluate::<Toy>(task()).unwrap();
    assert_eq!(found.differs, Some(f64::from_bits(loss.to_bits() + 1)));
    assert_eq!(found.evaluation, own.evaluation);
}

#[test]
fn a_run_starts_from_the_weights_and_buffers_of_a_file() {
    let folder = half_a_run();
    let model = checkpoint(folder.path(), 20).join("model.safetensors");
    let at_20 = metrics(folder.path()).into_iter().rfind(|line| line["split"] == "eval").unwrap();
    let new = folder.path().join("new");
    train_from(&model, &new).unwrap();
    assert_eq!(metrics(&new)[0]["loss"], at_20["loss"]);
    let summary = common::json_file(&new.join("summary.json"));
    assert_eq!(summary["init"], model.display().to_string());
    // The same again without the file, half of it resumed.
    let halves = folder.path().join("halves");
    let config = config(&[&format!("train.init={}", model.display())]);
    train_with(&config, &halves, false, Some(20), Faults::default()).unwrap();
    std::fs::remove_file(&model).unwrap();
    train_with(&config, &halves, true, None, Faults::default()).unwrap();
    common::assert_same_run(&new, &halves, 40);
    let gone =
        message(train_with(&config, &folder.path().join("gone"), false, None, Faults::default()));
    assert!(gone.contains("model.safetensors: cannot be read"), "{gone}");
    assert!(!folder.path().join("gone").exists());
}

#[test]
fn every_tensor_that_does_not_fit_is_named_and_none_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let save = |tensors: Vec<(String, Tensor)>| {
        let tensors: HashMap<String, Tensor> = tensors.into_iter().collect();
        files::save(&tensors, &file).unwrap();
    };
    let mut tensors: Vec<_> =
        (0..8).map(|i| (format!("other.{i}"), zeros(&[2], DType::F32))).collect();
    tensors.push(("bias".to_owned(), zeros(&[1], DType::I64)));
    tensors.push(("weight".to_owned(), zeros(&[4, 1], DType::BF16)));
    save(tensors);
    let text = message(train_from(&file, &folder.path().join("run")));
    for i in 0..8 {
        assert!(text.contains(&format!("other.{i} is not in this model")), "{text}");
    }
    for part in [
        "bias is I64 [1], in this model F32 [1]",
        "running is missing",
        "weight is BF16 [4, 1], in this model F32 [3, 1]",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }

    let good = |weight: f32| {
        vec![
            ("bias".to_owned(), zeros(&[1], DType::F16)),
            ("running".to_owned(), zeros(&[], DType::F64)),
            ("weight".to_owned(), Tensor::new(&[[0f32], [0.0], [weight]], &Device::Cpu).unwrap()),
        ]
    };
    for bad in [f32::NAN, f32::INFINITY] {
        save(good(bad));
        let text = message(train_from(&file, &folder.path().join("run")));
        assert!(text.contains("not finite: weight"), "{text}");
    }
    assert!(!folder.path().join("run").exists());
    save(good(3.0));
    train_from(&file, &folder.path().join("run")).unwrap();

    let vars = fadam_train::Task::vars(&Regression::new(&config(&[]), Faults::default())).clone();
    let before = vars.get("weight").unwrap().to_vec2::<f32>().unwrap();
    let err = fadam_train::load_weights(&file, &vars).unwrap_err().to_string();
    assert!(err.contains("running is not in this model"), "{err}");
    assert_eq!(vars.get("weight").unwrap().to_vec2::<f32>().unwrap(), before);
}
