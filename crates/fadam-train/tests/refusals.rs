//! Bad input is one clear paragraph and exit code 2, a failed step exit code 1; nothing is overwritten.

mod common;

use std::fs;
use std::path::Path;

use common::{Faults, checkpoint, config, json_file, metrics, snapshot, train, train_with};
use fadam_train::config::RunConfig;
use fadam_train::{Outcome, describe, exit_code};

/// The one paragraph of a failure, whose exit code must be `code`.
fn message(result: anyhow::Result<Outcome>, code: u8) -> String {
    let error = result.expect_err("must be refused");
    let text = describe(&error);
    assert_eq!(exit_code(&error), code, "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// A run of 20 of 40 steps.
fn half_a_run() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), false, Some(20)).unwrap();
    folder
}

#[test]
fn a_folder_that_is_not_empty_is_refused_without_resume() {
    let folder = half_a_run();
    let before = snapshot(folder.path());
    let text = message(train(folder.path(), false, None), 2);
    assert_contains(&text, &["is not empty", "--resume", folder.path().to_str().unwrap()]);
    assert_eq!(snapshot(folder.path()), before);
}

#[test]
fn an_output_path_at_or_below_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file.txt");
    fs::write(&file, "precious").unwrap();
    for resume in [false, true] {
        let text = message(train(&file.join("a/b"), resume, None), 2);
        assert_contains(&text, &["a/b", "file.txt is a file, not a folder"]);
        let text = message(train(&file, resume, None), 2);
        assert_contains(&text, &["file.txt: is a file, not a folder"]);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn there_must_be_something_to_resume() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    assert_contains(&message(train(&absent, true, None), 2), &["absent", "does not exist"]);
    let text = message(train(folder.path(), true, None), 2);
    assert_contains(&text, &["holds no config.toml"]);
    fs::write(folder.path().join("config.toml"), config(&[]).to_toml()).unwrap();
    let err = fadam_train::SavedRun::open(folder.path(), None).unwrap_err().to_string();
    assert_contains(&err, &["holds no checkpoint"]);
    let other = config(&["train.batch=4"]);
    let text = message(train_with(&other, folder.path(), true, None, Faults::default()), 2);
    assert_contains(&text, &["train.batch is 8 there and 4 here"]);
}

#[test]
fn another_configuration_is_not_resumed() {
    let folder = half_a_run();
    let before = snapshot(folder.path());
    let other = config(&["train.batch=4", "optimizer.rho=0.7", "checkpoint.keep=9"]);
    let text = message(train_with(&other, folder.path(), true, None, Faults::default()), 2);
    assert_contains(
        &text,
        &["train.batch is 8 there and 4 here", "optimizer.rho is 0.5 there and 0.7 here"],
    );
    assert!(!text.contains("keep"), "{text}");
    assert_eq!(snapshot(folder.path()), before);
}

/// A run of 20 steps with the checkpoint of step 20 alone.
fn half_a_run_with_one_checkpoint() -> tempfile::TempDir {
    let folder = half_a_run();
    fs::remove_dir_all(checkpoint(folder.path(), 15)).unwrap();
    folder
}

#[test]
fn a_truncated_or_absent_file_of_the_only_checkpoint_is_named() {
    for with_sums in [true, false] {
        for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
            let folder = half_a_run_with_one_checkpoint();
            let path = checkpoint(folder.path(), 20).join(file);
            if !with_sums {
                fs::remove_file(path.with_file_name("SHA256SUMS")).unwrap();
            }
            let whole = fs::read(&path).unwrap();
            for length in [0, 4, whole.len() / 2, whole.len() - 1] {
                fs::write(&path, &whole[..length]).unwrap();
                let before = snapshot(folder.path());
                let text = message(train(folder.path(), true, None), 2);
                assert_contains(&text, &["checkpoint ", path.to_str().unwrap()]);
                assert_eq!(snapshot(folder.path()), before, "{file} cut to {length} bytes");
            }
            fs::remove_file(&path).unwrap();
            let text = message(train(folder.path(), true, None), 2);
            assert_contains(&text, &[path.to_str().unwrap()]);
        }
    }
}

#[test]
fn a_checkpoint_of_another_model_lists_what_differs() {
    let folder = half_a_run();
    let faults = Faults { features: Some(5), ..Faults::default() };
    let text = message(train_with(&config(&[]), folder.path(), true, None, faults), 2);
    assert_contains(
        &text,
        &["model.safetensors", "another model", "weight is F32 [3, 1], in this model F32 [5, 1]"],
    );
}

#[test]
fn a_model_with_other_names_lists_both_sides_and_sets_nothing() {
    use candle_core::{DType, Device, Var};
    let folder = half_a_run();
    let mut vars = fadam_core::NamedVars::new();
    for name in ["bias", "head.weight", "running"] {
        vars.insert(name, Var::zeros(1, DType::F64, &Device::Cpu).unwrap()).unwrap();
    }
    let last = checkpoint(folder.path(), 20);
    let err = fadam_train::checkpoint::load_model(&last, &vars).unwrap_err().to_string();
    assert_contains(
        &err,
        &[
            "weight is not in this model",
            "head.weight is missing",
            "bias is F32 [1], in this model F64 [1]",
        ],
    );
    for (name, var) in vars.iter() {
        assert_eq!(var.to_vec1::<f64>().unwrap(), [0.0], "{name}");
    }
}

#[test]
fn a_checkpoint_of_another_experiment_or_version_is_refused() {
    let folder = half_a_run();
    let path = checkpoint(folder.path(), 20).join("state.json");
    let whole = fs::read_to_string(&path).unwrap();
    let refuse = |from: &str, to: &str| {
        assert!(whole.contains(from));
        fs::write(&path, whole.replace(from, to)).unwrap();
        common::sum_again(path.parent().unwrap());
        message(train(folder.path(), true, None), 2)
    };
    let text = refuse("\"train-toy\"", "\"train-asr\"");
    assert_contains(&text, &["state.json", "is of train-asr, this program is train-toy"]);
    let text = refuse("\"format\": 2", "\"format\": 3");
    assert_contains(&text, &["has format 3; this program reads up to format 2"]);
    let text = refuse("\"step\": 20", "\"step\": 19");
    assert_contains(&text, &["optimizer.safetensors", "of step 20", "of step 19"]);
    let text = refuse("\"drawn\": 20", "\"lost\": 20");
    assert_contains(&text, &["state.json", "its cursor: no drawn"]);
    assert_contains(&refuse("\"units\": 160", "\"units\": -1"), &["state.json", "is damaged"]);
}

#[test]
fn a_checkpoint_of_another_optimizer_is_refused() {
    let folder = half_a_run();
    let other = config(&["optimizer={algorithm=\"adam\", lr=0.05}"]);
    fs::write(folder.path().join("config.toml"), other.to_toml()).unwrap();
    let text = message(train_with(&other, folder.path(), true, None, Faults::default()), 2);
    assert_contains(&text, &["optimizer.safetensors", "fadafactor", "adam"]);
}

#[test]
fn a_parameter_cut_from_the_graph_stops_the_first_step_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Faults { cut_bias: true, ..Faults::default() };
    let text = message(train_with(&config(&[]), folder.path(), false, None, faults), 1);
    assert_contains(&text, &["step 1 ", "no gradient", "[\"bias\"]", "op without backward"]);
    assert_eq!(fs::read_dir(folder.path().join("checkpoints")).unwrap().count(), 0);
    assert_eq!(json_file(&folder.path().join("summary.json"))["outcome"], "failed");
}

#[test]
fn a_nan_names_parameter_step_and_last_checkpoint_which_stays_good() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, failed) = (folder.path().join("whole"), folder.path().join("failed"));
    train(&whole, false, None).unwrap();
    let faults = Faults { nan_at: Some(17), ..Faults::default() };
    let text = message(train_with(&config(&[]), &failed, false, None, faults), 1);
    assert_contains(
        &text,
        &[
            "step 17 ",
            "step-00000016",
            "the loss is NaN",
            "in the gradient of \"bias\" 1 of 1 numbers are NaN and 0 infinite",
            "in the gradient of \"weight\" 3 of 3 numbers are NaN and 0 infinite",
            "\"drawn\":16",
            "--resume --set train.on_divergence=skip",
        ],
    );

    let last = metrics(&failed).pop().unwrap();
    assert_eq!((&last["step"], &last["loss"]), (&17.into(), &serde_json::Value::Null));
    assert_eq!((&last["split"], &last["action"]), (&"divergence".into(), &"stop".into()));
    let summary = json_file(&failed.join("summary.json"));
    assert_eq!((&summary["completed"], &summary["steps"]), (&false.into(), &16.into()));
    assert_contains(summary["error"].as_str().unwrap(), &["the loss is NaN"]);

    train(&failed, true, None).unwrap();
    common::assert_same_run(&whole, &failed, 40);
}

#[test]
fn a_buffer_with_the_name_of_a_parameter_is_refused() {
    struct Clash(common::Regression);
    impl fadam_train::Task for Clash {
        type Batch = ();
        fn vars(&self) -> &fadam_core::NamedVars {
            self.0.vars()
        }
        fn buffers(&self) -> fadam_core::NamedVars {
            self.0.vars().clone()
        }
        fn unit(&self) -> &'static str {
            "rows"
        }
        fn next_batch(&mut self) -> anyhow::Result<()> {
            Ok(())
        }
        fn units(&self, (): &()) -> u64 {
            0
        }
        fn loss(&mut self, (): &()) -> anyhow::Result<fadam_train::Objective> {
            anyhow::bail!("not reached")
        }
        fn evaluate(&mut self, _: u64) -> anyhow::Result<fadam_train::Evaluation> {
            anyhow::bail!("not reached")
        }
        fn cursor(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
        fn restore(&mut self, _: &serde_json::Value) -> anyhow::Result<()> {
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let task = Clash(common::Regression::new(&config(&[]), Faults::default()));
    let out = fadam_train::RunFolder::new_run(folder.path()).unwrap();
    let options = fadam_train::RunOptions::new(out);
    let err = fadam_train::Trainer::new(task, &config(&[]), options).err().unwrap();
    assert_contains(&describe(&err), &["a buffer has the name of a parameter", "\"bias\""]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was written");
}

#[test]
fn a_resume_without_config_takes_the_stored_one() {
    use clap::Parser;
    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        common: fadam_train::CommonArgs,
    }
    let load = |line: &[&str]| -> Result<RunConfig<common::Toy>, _> {
        Args::parse_from([&["train-toy"], line].concat()).common.load_config()
    };
    let folder = half_a_run();
    let out = folder.path().to_str().unwrap();
    let config_of_run = load(&["--out", out, "--resume"]).unwrap();
    assert_eq!(config_of_run.to_toml(), config(&[]).to_toml());
    let seeded = load(&["--out", out, "--resume", "--seed", "3"]).unwrap();
    assert_eq!(seeded.train().seed, 3);
    let err = load(&["--seed", "9999999999999999999"]).err().unwrap().to_string();
    assert_contains(&err, &["--seed 9999999999999999999: "]);
    let err = load(&["--config", "no/such.toml"]).err().unwrap().to_string();
    assert_contains(&err, &["no/such.toml: cannot be read"]);
    assert!(Path::new(out).exists());
}
