//! Checkpoints are whole or passed over, the best is kept, and one process at a time trains in a run folder.

mod common;

use std::fs;
use std::path::Path;

use common::{
    Faults, Regression, assert_same_run, checkpoint, checkpoints, config, json_file, metrics,
    snapshot, train, train_with,
};
use fadam_train::checkpoint::{best, last_whole};
use fadam_train::{Outcome, RunFolder, RunOptions, SavedRun, Trainer, describe, exit_code};

/// A run of 20 of 40 steps in a new folder, with checkpoints of steps 15 and 20.
fn half_a_run() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), false, Some(20)).unwrap();
    assert_eq!(checkpoints(folder.path()), ["step-00000015", "step-00000020"]);
    folder
}

/// Ways for a file to be damaged: gone, cut short, a flipped bit (which no look at its form shows), more at its end.
const DAMAGES: [&str; 4] = ["removed", "cut", "flipped", "longer"];

fn damage(path: &Path, how: &str) {
    let mut bytes = fs::read(path).unwrap();
    match how {
        "cut" => bytes.truncate(bytes.len() / 2),
        "flipped" => *bytes.last_mut().unwrap() ^= 1,
        "longer" => bytes.push(b' '),
        _ => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before_whatever_is_wrong_with_it() {
    let reference = tempfile::tempdir().unwrap();
    train(reference.path(), false, None).unwrap();
    let of_file = |file: &'static str| DAMAGES.map(|how| (file, how)).to_vec();
    let cases = ["model.safetensors", "optimizer.safetensors", "state.json"].map(of_file).concat();
    for (file, how) in [cases, vec![("SHA256SUMS", "cut")]].concat() {
        let folder = half_a_run();
        let path = checkpoint(folder.path(), 20).join(file);
        damage(&path, how);
        let bytes = fs::read(&path).ok();
        let found = last_whole(&folder.path().join("checkpoints")).unwrap().unwrap();
        assert_eq!(found.path, checkpoint(folder.path(), 15), "{file} {how}");
        assert_eq!(found.damaged, [checkpoint(folder.path(), 20)]);
        let [note] = &found.notes[..] else { panic!("{:?}", found.notes) };
        let reason = if how == "removed" { "cannot be read" } else { "is damaged" };
        for part in [path.to_str().unwrap(), reason, "step-00000015 is used"] {
            assert!(note.contains(part), "{part} is not in {note}");
        }
        let read = SavedRun::open(folder.path(), None).unwrap();
        assert_eq!(read.checkpoint(), checkpoint(folder.path(), 15));
        let refused = SavedRun::open(folder.path(), Some(&checkpoint(folder.path(), 20)));
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains(if file == "state.json" { "state.json" } else { reason }),
            "{refused}"
        );

        train(folder.path(), true, None).unwrap();
        assert_same_run(reference.path(), folder.path(), 40);
        // It is out of the way, and still there for a person.
        let aside = checkpoint(folder.path(), 20).with_extension("damaged");
        assert_eq!(fs::read(aside.join(file)).ok(), bytes);
    }
}

#[test]
fn a_damaged_checkpoint_is_written_anew_when_the_run_comes_by_again() {
    let folder = half_a_run();
    fs::remove_file(checkpoint(folder.path(), 20).join("optimizer.safetensors")).unwrap();
    train(folder.path(), true, Some(20)).unwrap();
    let found = last_whole(&folder.path().join("checkpoints")).unwrap().unwrap();
    assert_eq!((found.path, found.notes), (checkpoint(folder.path(), 20), Vec::new()));
}

#[test]
fn a_checkpoint_without_checksums_is_resumed_with_a_note() {
    let reference = tempfile::tempdir().unwrap();
    train(reference.path(), false, None).unwrap();
    let folder = half_a_run();
    for step in [15, 20] {
        fs::remove_file(checkpoint(folder.path(), step).join("SHA256SUMS")).unwrap();
        // As format 1 had it: without what this version adds.
        let path = checkpoint(folder.path(), step).join("state.json");
        let mut state = json_file(&path);
        state["format"] = 1.into();
        state.as_object_mut().unwrap().retain(|key, _| key != "stability" && key != "phase_secs");
        fs::write(&path, state.to_string()).unwrap();
    }
    // An older configuration does not know the newer keys.
    let config = fs::read_to_string(folder.path().join("config.toml")).unwrap();
    let old: String = config
        .split_inclusive('\n')
        .filter(|line| {
            !["divergence", "keep_best", "tensorboard"].iter().any(|new| line.contains(new))
        })
        .collect();
    assert!(old.len() < config.len());
    fs::write(folder.path().join("config.toml"), old).unwrap();

    let found = last_whole(&folder.path().join("checkpoints")).unwrap().unwrap();
    assert_eq!(found.path, checkpoint(folder.path(), 20));
    assert!(found.notes[0].contains("step-00000020 has no SHA256SUMS"), "{:?}", found.notes);
    train(folder.path(), true, None).unwrap();
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let at = |out: &Path| common::tensors(&checkpoint(out, 40).join(file));
        assert!(at(reference.path()) == at(folder.path()), "{file}");
    }
}

#[test]
fn a_checkpoint_that_is_read_stays_until_it_has_been_read() {
    let folder = half_a_run();
    let read = SavedRun::open(folder.path(), None).unwrap();
    let also = SavedRun::open(folder.path(), Some(&checkpoint(folder.path(), 15))).unwrap();
    assert_eq!(read.checkpoint(), checkpoint(folder.path(), 20));
    train(folder.path(), true, Some(35)).unwrap();
    let four = ["step-00000015", "step-00000020", "step-00000030", "step-00000035"];
    assert_eq!(checkpoints(folder.path()), four);
    let again = read.clone();
    drop((read, also));
    train(folder.path(), true, Some(36)).unwrap();
    // That of step 30 is the best.
    let four = ["step-00000020", "step-00000030", "step-00000035", "step-00000036"];
    assert_eq!(checkpoints(folder.path()), four);
    drop(again);
    train(folder.path(), true, None).unwrap();
    assert_eq!(checkpoints(folder.path()), ["step-00000036", "step-00000040"]);
}

#[test]
fn when_none_is_whole_each_is_named_and_nothing_is_touched() {
    let folder = half_a_run();
    for step in [15, 20] {
        fs::write(checkpoint(folder.path(), step).join("model.safetensors"), "torn").unwrap();
    }
    let before = snapshot(folder.path());
    let error = train(folder.path(), true, None).unwrap_err();
    let text = describe(&error);
    assert_eq!(exit_code(&error), 2, "{text}");
    for part in ["no whole checkpoint", "step-00000020/model.safetensors", "step-00000015/model"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(snapshot(folder.path()), before);
}

#[test]
fn the_best_checkpoint_stays_beside_the_last() {
    let run = |overrides: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let common = ["checkpoint.every=5", "train.eval_every=5", "checkpoint.keep=2"];
        // So high a learning rate that the loss goes up again.
        let config =
            config(&[&common[..], &["optimizer.lr=3.0", "schedule.warmup=40"], overrides].concat());
        train_with(&config, folder.path(), false, None, Faults::default()).unwrap();
        folder
    };
    let folder = run(&[]);
    let summary = json_file(&folder.path().join("summary.json"));
    let step = summary["best_eval_step"].as_u64().unwrap();
    assert!((5..=30).contains(&step), "the test is about a run that gets worse: {step}");
    let name = format!("step-{step:08}");
    assert_eq!(checkpoints(folder.path()), [&name, "step-00000035", "step-00000040"]);
    assert_eq!(summary["best_checkpoint"], format!("checkpoints/{name}"));
    let found = best(&folder.path().join("checkpoints")).unwrap();
    assert_eq!(found, Some(checkpoint(folder.path(), step)));
    let loss = json_file(&checkpoint(folder.path(), step).join("state.json"));
    assert_eq!(loss["last_eval"]["loss"], summary["best_eval_loss"]);

    let folder = run(&["checkpoint.keep_best=false"]);
    assert_eq!(checkpoints(folder.path()), ["step-00000035", "step-00000040"]);
}

#[test]
fn a_second_trainer_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let config = config(&[]);
    let trainer = |out: RunFolder| {
        let task = Regression::new(&config, Faults::default());
        Trainer::new(task, &config, RunOptions { quiet: true, ..RunOptions::new(out) })
    };
    let first = trainer(RunFolder::new_run(&out).unwrap()).unwrap();
    let before = snapshot(&out);
    let second = RunFolder::new_run(&out).unwrap_err().to_string();
    assert!(second.contains("is in use: process "), "{second}");
    let resumed = trainer(RunFolder::to_resume(&out).unwrap()).err().unwrap();
    assert_eq!(exit_code(&resumed), 2);
    assert!(describe(&resumed).contains("is in use: process "), "{resumed}");
    assert_eq!(snapshot(&out), before);

    assert_eq!(first.run().unwrap(), Outcome::Completed);
    assert_eq!(train(&out, true, None).unwrap(), Outcome::Completed);
}

#[test]
fn a_run_that_was_killed_before_its_first_checkpoint_begins_again() {
    let reference = tempfile::tempdir().unwrap();
    train(reference.path(), false, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // Killed before it wrote its configuration: a new run can be started over it.
    fs::create_dir_all(out.join("checkpoints")).unwrap();
    fs::write(out.join("lock"), "process 1\n").unwrap();
    fs::write(out.join("config.toml.tmp"), "[tra").unwrap();
    train(&out, false, Some(10)).unwrap();
    assert!(!out.join("config.toml.tmp").exists());
    // Killed before its first checkpoint, with lines of metrics and half a checkpoint.
    fs::rename(checkpoint(&out, 10), checkpoint(&out, 10).with_extension("tmp")).unwrap();
    assert!(!metrics(&out).is_empty());
    let begun = RunFolder::to_resume(&out).unwrap();
    assert!(!begun.is_resumed());
    train(&out, true, None).unwrap();
    assert_same_run(reference.path(), &out, 40);
}

#[test]
fn lost_lines_of_metrics_do_not_end_a_run() {
    let folder = half_a_run();
    let path = folder.path().join("metrics.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    let first: String = lines.split_inclusive('\n').take(1).collect();
    fs::write(&path, &first).unwrap();
    assert_eq!(train(folder.path(), true, None).unwrap(), Outcome::Completed);
    assert!(fs::read_to_string(&path).unwrap().starts_with(&first));
}

#[cfg(unix)]
#[test]
fn a_run_whose_folder_is_gone_or_another_ends_and_makes_no_new_one() {
    use fadam_train::Task;

    /// Removes the run folder while batch 12 is drawn, and perhaps makes another run's in its place.
    struct Remover(Regression, std::path::PathBuf, u64, bool);

    impl Task for Remover {
        type Batch = <Regression as Task>::Batch;
        fn vars(&self) -> &fadam_core::NamedVars {
            self.0.vars()
        }
        fn unit(&self) -> &'static str {
            "rows"
        }
        fn next_batch(&mut self) -> anyhow::Result<Self::Batch> {
            self.2 += 1;
            if self.2 == 12 {
                fs::remove_dir_all(&self.1)?;
                if self.3 {
                    train(&self.1, false, Some(1))?;
                }
            }
            self.0.next_batch()
        }
        fn units(&self, batch: &Self::Batch) -> u64 {
            self.0.units(batch)
        }
        fn loss(&mut self, batch: &Self::Batch) -> anyhow::Result<fadam_train::Objective> {
            self.0.loss(batch)
        }
        fn evaluate(&mut self, step: u64) -> anyhow::Result<fadam_train::Evaluation> {
            self.0.evaluate(step)
        }
        fn cursor(&self) -> serde_json::Value {
            self.0.cursor()
        }
        fn restore(&mut self, cursor: &serde_json::Value) -> anyhow::Result<()> {
            self.0.restore(cursor)
        }
    }

    // No evaluation between the loss of the folder and the checkpoint, which is to notice it.
    let config = config(&["train.eval_every=40"]);
    for replaced in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let regression = Regression::new(&config, Faults::default());
        let task = Remover(regression, out.clone(), 0, replaced);
        let options =
            RunOptions { quiet: true, ..RunOptions::new(RunFolder::new_run(&out).unwrap()) };
        let error = Trainer::new(task, &config, options).unwrap().run().unwrap_err();
        let text = describe(&error);
        assert_eq!(exit_code(&error), 1, "{text}");
        assert!(text.contains("run: it was removed or replaced"), "{text}");
        if replaced {
            assert_eq!(checkpoints(&out), ["step-00000001"], "another run's folder is left alone");
            assert_eq!(json_file(&out.join("summary.json"))["outcome"], "stopped");
        } else {
            assert!(!out.exists());
        }
    }
}
