//! A step that is not finite: the run stops, skips it or goes back, and each of these is exact when it is resumed.

mod common;

use std::fs;
use std::path::Path;

use common::{
    Faults, assert_same_run, checkpoint, config, json_file, metrics, tensors, train_with,
};
use fadam_train::{Outcome, describe, exit_code};
use serde_json::Value;

/// Lines of one kind.
fn lines(out: &Path, split: &str) -> Vec<Value> {
    metrics(out).into_iter().filter(|line| line["split"] == split).collect()
}

fn nan_at(step: u64) -> Faults {
    Faults { nan_at: Some(step), ..Faults::default() }
}

#[test]
fn a_skipped_step_changes_nothing_but_the_place_in_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, skipped) = (folder.path().join("plain"), folder.path().join("skipped"));
    // One step fewer of a constant learning rate on the same batches but the last; the other drops the last instead.
    let constant =
        ["schedule={kind=\"constant\"}", "train.eval_every=100", "train.on_divergence=skip"];
    let steps = |steps: &str| config(&[&constant[..], &[steps]].concat());
    train_with(&steps("train.steps=19"), &plain, false, None, Faults::default()).unwrap();
    train_with(&steps("train.steps=20"), &skipped, false, None, nan_at(20)).unwrap();
    let model = |out: &Path, step| tensors(&checkpoint(out, step).join("model.safetensors"));
    assert_eq!(model(&plain, 19), model(&skipped, 20), "weights and running statistics");
    let optimizer =
        |out: &Path, step| tensors(&checkpoint(out, step).join("optimizer.safetensors"));
    assert_eq!(optimizer(&plain, 19), optimizer(&skipped, 20));
    let state = |out: &Path, step| json_file(&checkpoint(out, step).join("state.json"));
    let (one, two) = (state(&plain, 19), state(&skipped, 20));
    assert_eq!(one["units"], two["units"], "a skipped batch is not trained on");
    assert_eq!((&one["cursor"]["drawn"], &two["cursor"]["drawn"]), (&19.into(), &20.into()));
    assert_eq!(two["stability"]["skipped"], 1);

    let [line] = &lines(&skipped, "divergence")[..] else { panic!() };
    assert_eq!((&line["step"], &line["action"]), (&20.into(), &"skip".into()));
    assert_eq!((&line["loss"], &line["cursor"]["drawn"]), (&Value::Null, &19.into()));
    assert_eq!(line["gradients"][1]["name"], "weight");
    assert_eq!(line["gradients"][1]["nan"], 3);
    assert_eq!(lines(&skipped, "train").last().unwrap()["skipped"], 1);
    assert_eq!(json_file(&skipped.join("summary.json"))["skipped_steps"], 1);
}

#[test]
fn a_run_that_skips_resumes_to_the_last_bit_with_one_batch_a_step_or_several() {
    for accumulate in ["train.accumulate=1", "train.accumulate=3"] {
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        let config = config(&["train.on_divergence=skip", accumulate]);
        let run = |out: &Path, resume, stop| train_with(&config, out, resume, stop, nan_at(17));
        assert_eq!(run(&whole, false, None).unwrap(), Outcome::Completed);
        let at = lines(&whole, "divergence")[0]["step"].as_u64().unwrap();
        for (resume, stop) in [(false, at - 1), (true, at), (true, at + 1)] {
            run(&parts, resume, Some(stop)).unwrap();
        }
        run(&parts, true, None).unwrap();
        assert_same_run(&whole, &parts, 40);
        assert_eq!(json_file(&parts.join("summary.json"))["skipped_steps"], 1);
    }
}

#[test]
fn a_run_that_skips_everything_stops_at_the_limit_with_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&["train.on_divergence=skip", "train.divergence_limit=3"]);
    let faults = Faults { nan_from: Some(17), ..Faults::default() };
    let error = train_with(&config, folder.path(), false, None, faults).unwrap_err();
    let text = describe(&error);
    assert_eq!(exit_code(&error), 1);
    for part in ["step 20 ", "3 steps in a row were skipped", "step-00000019", "divergence_limit=N"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // It goes on where it was, if the batches from there are good.
    train_with(&config, folder.path(), true, None, Faults::default()).unwrap();
    assert_eq!(json_file(&folder.path().join("summary.json"))["skipped_steps"], 3);
}

#[test]
fn a_run_that_stopped_goes_on_by_skipping() {
    let folder = tempfile::tempdir().unwrap();
    let (stopped, skips) = (folder.path().join("stopped"), folder.path().join("skips"));
    let skip = config(&["train.on_divergence=skip"]);
    train_with(&skip, &skips, false, None, nan_at(17)).unwrap();
    train_with(&config(&[]), &stopped, false, None, nan_at(17)).unwrap_err();
    train_with(&skip, &stopped, true, None, nan_at(17)).unwrap();
    assert_same_run(&skips, &stopped, 40);
}

#[test]
fn the_first_step_too_leaves_a_state_to_go_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, failed) = (folder.path().join("whole"), folder.path().join("failed"));
    common::train(&whole, false, None).unwrap();
    let error = train_with(&config(&[]), &failed, false, None, nan_at(1)).unwrap_err();
    assert!(describe(&error).contains("step-00000000"), "{error:#}");
    common::train(&failed, true, None).unwrap();
    assert_same_run(&whole, &failed, 40);
}

/// So high a learning rate that weights run beyond 4, where the loss is NaN.
fn too_fast(more: &[&str]) -> fadam_train::config::RunConfig<common::Toy> {
    let fast = [
        "optimizer.lr=8.0",
        "optimizer.clip=off",
        "train.on_divergence=back",
        "checkpoint.every=3",
        "checkpoint.keep=4",
    ];
    config(&[&fast[..], more].concat())
}

fn beyond() -> Faults {
    Faults { nan_beyond: Some(4.0), ..Faults::default() }
}

#[test]
fn a_run_goes_back_to_its_checkpoint_with_a_lower_rate_until_it_is_low_enough() {
    let folder = tempfile::tempdir().unwrap();
    let config = too_fast(&[]);
    assert_eq!(
        train_with(&config, folder.path(), false, None, beyond()).unwrap(),
        Outcome::Completed
    );
    let summary = json_file(&folder.path().join("summary.json"));
    let back = summary["went_back"].as_u64().unwrap();
    assert!(back >= 2, "{summary}");
    assert_eq!(summary["lr_scale"].as_f64(), Some(0.5f64.powi(back as i32)));
    let told = lines(folder.path(), "divergence");
    assert_eq!(told.len() as u64, back);
    for (i, line) in told.iter().enumerate() {
        assert_eq!(line["action"], "back");
        assert_eq!(line["lr_scale"].as_f64(), Some(0.5f64.powi(i32::try_from(i).unwrap() + 1)));
        assert_eq!(line["back_to"].as_u64().unwrap() % 3, 0, "a checkpoint");
        assert!(line["back_to"].as_u64() < line["step"].as_u64());
    }
    // Each step has one line, of the way that was kept.
    let steps: Vec<u64> =
        lines(folder.path(), "train").iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [7, 14, 21, 28, 35, 40]);
    let lr = |line: &Value| line["lr"].as_f64().unwrap();
    let last = lines(folder.path(), "train").pop().unwrap();
    let fraction = lr(&last) / (8.0 * 0.5f64.powi(back as i32));
    let plain = tempfile::tempdir().unwrap();
    common::train(plain.path(), false, None).unwrap();
    let schedule = lr(&lines(plain.path(), "train").pop().unwrap()) / 0.05;
    assert!((fraction / schedule - 1.0).abs() < 1e-12, "{fraction} {schedule}");
}

#[test]
fn a_run_that_went_back_resumes_to_the_last_bit_wherever_it_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    train_with(&too_fast(&[]), &whole, false, None, beyond()).unwrap();
    for cut in [1, 2, 3, 4, 5, 7, 8, 12, 22, 38] {
        let parts = folder.path().join(format!("cut at {cut}"));
        train_with(&too_fast(&[]), &parts, false, Some(cut), beyond()).unwrap();
        // As if it was killed before this last checkpoint: the way back is gone again, to be found anew.
        let at = checkpoint(&parts, cut);
        if cut % 3 != 0 {
            fs::remove_dir_all(at).unwrap();
        }
        train_with(&too_fast(&[]), &parts, true, None, beyond()).unwrap();
        assert_same_run(&whole, &parts, 40);
        fs::remove_dir_all(parts).unwrap();
    }
}

#[test]
fn a_run_that_goes_back_for_nothing_stops_at_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        config(&["train.on_divergence=back", "train.divergence_limit=2", "checkpoint.every=4"]);
    let error = train_with(&config, folder.path(), false, None, nan_at(11)).unwrap_err();
    let text = describe(&error);
    assert_eq!(exit_code(&error), 1);
    for part in ["step 11 ", "went back 2 times already", "step-00000008", "the loss is NaN"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let actions: Vec<Value> =
        lines(folder.path(), "divergence").into_iter().map(|line| line["action"].clone()).collect();
    assert_eq!(actions, ["back", "back", "stop"]);
}

#[test]
fn a_spike_is_counted_and_survives_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let run = |out: &Path, resume, stop| {
        let faults = Faults { spike_at: Some(31), ..Faults::default() };
        train_with(&config(&[]), out, resume, stop, faults).unwrap()
    };
    run(&whole, false, None);
    run(&parts, false, Some(31));
    run(&parts, true, None);
    assert_same_run(&whole, &parts, 40);
    let lines = lines(&whole, "train");
    let at = |step: u64| lines.iter().find(|line| line["step"] == step).unwrap();
    assert_eq!((&at(28)["spikes"], &at(35)["spikes"]), (&0.into(), &1.into()));
    assert!(at(35)["loss_excess"].as_f64() > Some(100.0), "{}", at(35));
    assert!(at(14)["loss_excess"].is_null(), "too few losses to compare with");
    assert_eq!(json_file(&whole.join("summary.json"))["loss_spikes"], 1);
}
