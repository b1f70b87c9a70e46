//! A run that was stopped, interrupted or killed continues as if nothing had happened.

mod common;

use std::fs;

use common::{
    Faults, Toy, assert_same_run, checkpoint, config, json_file, metrics, train, train_with,
};
use fadam_train::config::RunConfig;
use fadam_train::{Interrupt, Outcome, RunFolder};

#[test]
fn forty_steps_are_twenty_steps_a_stop_and_twenty_more_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    assert_eq!(train(&whole, false, None).unwrap(), Outcome::Completed);
    // 18 and 23 are in the middle of every interval.
    assert_eq!(train(&parts, false, Some(18)).unwrap(), Outcome::Stopped);
    assert_eq!(train(&parts, true, Some(23)).unwrap(), Outcome::Stopped);
    assert_eq!(train(&parts, true, None).unwrap(), Outcome::Completed);
    assert_same_run(&whole, &parts, 40);
}

#[test]
fn a_run_that_was_killed_between_checkpoints_continues_from_the_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    train(&whole, false, None).unwrap();
    train(&killed, false, Some(15)).unwrap();
    // What a kill leaves behind: later lines, one of them torn, and half a checkpoint aside.
    let mut lines = fs::read_to_string(killed.join("metrics.jsonl")).unwrap();
    lines += "{\"step\":21,\"split\":\"train\",\"loss\":0.5}\n{\"step\":28,\"spl";
    fs::write(killed.join("metrics.jsonl"), lines).unwrap();
    let aside = checkpoint(&killed, 30).with_extension("tmp");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("model.safetensors"), b"half").unwrap();

    train(&killed, true, None).unwrap();
    assert_same_run(&whole, &killed, 40);
    assert!(!aside.exists());
}

#[test]
fn an_interrupt_finishes_the_step_and_leaves_a_checkpoint_to_resume() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    train(&whole, false, None).unwrap();
    let faults = Faults { interrupt_at: Some((12, Interrupt::new())), ..Faults::default() };
    let outcome = train_with(&config(&[]), &cut, false, None, faults).unwrap();
    assert_eq!(outcome, Outcome::Interrupted);
    assert!(checkpoint(&cut, 12).is_dir());
    let summary = json_file(&cut.join("summary.json"));
    assert_eq!((&summary["outcome"], &summary["steps"]), (&"interrupted".into(), &12.into()));

    train(&cut, true, None).unwrap();
    assert_same_run(&whole, &cut, 40);
}

#[test]
fn stopping_early_keeps_the_schedule_and_evaluates_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, early) = (folder.path().join("whole"), folder.path().join("early"));
    train(&whole, false, None).unwrap();
    train(&early, false, Some(18)).unwrap();
    let (whole, lines) = (metrics(&whole), metrics(&early));
    let common = lines.len() - 2;
    assert_eq!(whole[..common], lines[..common], "the same learning rates and losses");
    let (about, last) = (&lines[common], &lines[common + 1]);
    assert_eq!((&about["step"], &about["split"]), (&18.into(), &"optimizer".into()));
    assert_eq!((&last["step"], &last["split"]), (&18.into(), &"eval".into()));
    let summary = json_file(&early.join("summary.json"));
    assert_eq!(summary["eval_loss"], last["loss"]);
    assert_eq!(summary["completed"], false);
}

#[test]
fn a_finished_run_has_nothing_left_to_do_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), false, None).unwrap();
    let before = common::snapshot(folder.path());
    assert_eq!(train(folder.path(), true, None).unwrap(), Outcome::Completed);
    assert_eq!(train(folder.path(), true, Some(10)).unwrap(), Outcome::Completed);
    assert_eq!(common::snapshot(folder.path()), before);
}

#[test]
fn only_the_last_checkpoints_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&["checkpoint.every=6", "checkpoint.keep=3"]);
    train_with(&config, folder.path(), false, None, Faults::default()).unwrap();
    assert_eq!(
        common::checkpoints(folder.path()),
        ["step-00000030", "step-00000036", "step-00000040"]
    );
}

#[test]
fn a_run_is_watched_otherwise_after_a_resume_and_has_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    train(&whole, false, None).unwrap();
    train(&parts, false, Some(15)).unwrap();
    let config = config(&["train.eval_every=3", "train.log_every=1", "checkpoint.every=4"]);
    train_with(&config, &parts, true, None, Faults::default()).unwrap();
    let model = |out| common::tensors(&checkpoint(out, 40).join("model.safetensors"));
    assert_eq!(model(&whole), model(&parts));
}

#[test]
fn the_run_folder_holds_what_is_documented() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a/b");
    train(&out, false, None).unwrap();
    let stored = fs::read_to_string(out.join("config.toml")).unwrap();
    let stored = RunConfig::<Toy>::from_toml("config.toml", &stored).unwrap();
    assert_eq!(stored.to_toml(), config(&[]).to_toml());
    assert!(fs::read_to_string(out.join("loss.svg")).unwrap().contains("loss (nats per row)"));

    let summary = json_file(&out.join("summary.json"));
    for (key, value) in [
        ("experiment", "train-toy".into()),
        ("optimizer", "fadafactor".into()),
        ("seed", 0.into()),
        ("steps", 40.into()),
        ("completed", true.into()),
        ("error", serde_json::Value::Null),
        ("params", 4.into()),
        ("rows", (40 * 8).into()),
        ("commit", "abc123".into()),
        ("device", "cpu".into()),
        ("features", 3.into()),
        ("best_checkpoint", "checkpoints/step-00000040".into()),
        ("loss_spikes", 0.into()),
        ("skipped_steps", 0.into()),
        ("went_back", 0.into()),
        ("lr_scale", 1.0.into()),
    ] {
        assert_eq!(summary[key], value, "{key}");
    }
    for key in ["eval_loss", "half_loss", "best_eval_loss", "rows_per_s", "wall_s", "train_s"] {
        assert!(summary[key].is_f64(), "{key}: {}", summary[key]);
    }
    assert!(summary["threads"].as_u64() > Some(0));
    let train_s = summary["train_s"].as_f64().unwrap();
    let phase = |name: &str| summary["phase_s"][name].as_f64().unwrap();
    let of_steps = phase("data") + phase("gradients") + phase("optimizer");
    assert!(of_steps > 0.0 && of_steps <= train_s, "{of_steps} of {train_s}");
    assert!(phase("evaluation") > 0.0 && phase("checkpoint") > 0.0);
    assert!(!out.join("lock").exists(), "nobody trains here any more");

    let lines = metrics(&out);
    let steps = |split: &str| -> Vec<u64> {
        let of_split = lines.iter().filter(|line| line["split"] == split);
        of_split.map(|line| line["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(steps("train"), [7, 14, 21, 28, 35, 40]);
    assert_eq!(steps("eval"), [0, 10, 20, 30, 40]);
    assert_eq!(steps("optimizer"), [10, 20, 30, 40]);
    let first = lines.iter().find(|line| line["split"] == "train").unwrap();
    assert_eq!(first["rows"], 56);
    assert!(first["grad_norm"].as_f64() > Some(0.0), "{first}");
    assert!((0.0..=1.0).contains(&first["clipped"].as_f64().unwrap()), "{first}");
    assert!(lines[0]["loss"].as_f64() > lines.last().unwrap()["loss"].as_f64(), "it learns");
}

#[test]
fn a_folder_that_is_only_checked_is_not_created() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    RunFolder::new_run(&out).unwrap();
    assert!(!out.exists());
}
