//! Several ranks (here threads) train the model that one process trains, take every decision together, and go on in
//! any number.

mod common;

use std::path::Path;

use common::{
    Faults, Regression, Toy, assert_same_run, checkpoint, checkpoints, config, json_file, metrics,
    tensors, train_with,
};
use fadam_train::config::RunConfig;
use fadam_train::parallel::Threads;
use fadam_train::{Interrupt, Outcome, RunFolder, RunOptions, Trainer, describe, exit_code};
use serde_json::Value;

/// Four batches a step, so that one, two and four ranks can share them; a line for every step.
const FOUR: [&str; 3] = ["train.accumulate=4", "train.log_every=1", "parallel.check_every=1"];

fn four(more: &[&str]) -> RunConfig<Toy> {
    config(&[&FOUR[..], more].concat())
}

/// Runs a team in threads; rank r has the faults that `faults` gives it. What each rank returned.
fn team(
    world: usize,
    config: &RunConfig<Toy>,
    out: &Path,
    stop_at: Option<u64>,
    faults: impl Fn(usize) -> Faults + Sync,
) -> Vec<anyhow::Result<Outcome>> {
    let faults = &faults;
    // All look at the folder before rank 0 makes it.
    let folder = if out.join("config.toml").exists() {
        RunFolder::to_resume(out).unwrap()
    } else {
        RunFolder::new_run(out).unwrap()
    };
    let folder = &folder;
    std::thread::scope(|scope| {
        let run = |rank: Threads| {
            scope.spawn(move || {
                use fadam_train::parallel::Collective;
                let faults = faults(rank.rank());
                let interrupt =
                    faults.interrupt_at.as_ref().map(|(_, interrupt)| interrupt.clone());
                let options = RunOptions {
                    stop_at,
                    quiet: true,
                    interrupt: interrupt.unwrap_or_default(),
                    team: std::sync::Arc::new(rank),
                    ..RunOptions::new(folder.clone())
                };
                let task = Regression::new(config, faults);
                Trainer::new(task, config, options.commit(Some("abc123")))?.run()
            })
        };
        let ranks: Vec<_> = Threads::team(world).into_iter().map(run).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn completes(world: usize, config: &RunConfig<Toy>, out: &Path, stop_at: Option<u64>) {
    let expected = if stop_at.is_some() { Outcome::Stopped } else { Outcome::Completed };
    for outcome in team(world, config, out, stop_at, |_| Faults::default()) {
        assert_eq!(outcome.unwrap(), expected);
    }
}

/// The numbers of the last checkpoint, parameters and buffers.
fn model(out: &Path, step: u64) -> Vec<f32> {
    let tensors = tensors(&checkpoint(out, step).join("model.safetensors"));
    let numbers = tensors.into_values().flat_map(|(_, bytes)| {
        bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect::<Vec<_>>()
    });
    numbers.collect()
}

fn losses(out: &Path) -> Vec<f64> {
    metrics(out).iter().filter_map(|line| line["loss"].as_f64()).collect()
}

/// The largest difference between two lists of numbers, as a share of the largest number.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    a.iter().zip(b).fold(0f64, |most, (a, b)| most.max((a - b).abs())) / largest
}

/// What rounding may change. A step's gradient differs by at most A roundings of 2⁻²⁴ of the batches' gradients (their mean
/// is 4 additions and as many products, in another order), so a weight's update, whose RMS is at most 1 lr, by about as much;
/// 40 updates of lr 0.05 add up to at most 2 · 4 · 2⁻²⁴ = 5e-7 of weights around 2, and the loss is a square of that.
const BOUND: f64 = 2e-6;

/// Whether a run is the one of a single process, but for rounding.
fn assert_same_but_for_rounding(one: &Path, other: &Path) {
    let (a, b) = (losses(one), losses(other));
    // Before the first sum over ranks there is nothing to round: evaluation and loss of the first step.
    assert_eq!(a[..2], b[..2]);
    let off = difference(&a, &b);
    let widen = |out| model(out, 40).iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let weights = difference(&widen(one), &widen(other));
    println!("losses differ by {off:.1e}, weights and statistics by {weights:.1e}");
    assert!(off <= BOUND && weights <= BOUND, "{off:e} {weights:e}");
    let state = |out| {
        let state = json_file(&checkpoint(out, 40).join("state.json"));
        (state["cursor"].clone(), state["units"].clone(), state["step"].clone())
    };
    assert_eq!(state(one), state(other));
}

#[test]
fn a_team_of_one_is_one_process_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (one, alone) = (folder.path().join("one"), folder.path().join("alone"));
    train_with(&four(&[]), &alone, false, None, Faults::default()).unwrap();
    completes(1, &four(&["parallel.zero=true"]), &one, None);
    assert_same_run(&alone, &one, 40);
}

#[test]
fn two_and_four_ranks_are_one_process_but_for_rounding() {
    let folder = tempfile::tempdir().unwrap();
    for algorithm in ["fadam", "fadafactor"] {
        let config = four(&[&format!("optimizer.algorithm={algorithm}"), "optimizer.lr=0.2"]);
        let one = folder.path().join(format!("{algorithm}-1"));
        completes(1, &config, &one, None);
        for world in [2, 4] {
            let out = folder.path().join(format!("{algorithm}-{world}"));
            completes(world, &config, &out, None);
            assert_same_but_for_rounding(&one, &out);
            assert_eq!(json_file(&out.join("summary.json"))["processes"], world);
        }
    }
}

#[test]
fn an_auxiliary_loss_and_the_micro_batch_estimate_are_summed_over_ranks_too() {
    let folder = tempfile::tempdir().unwrap();
    let faults = |_| Faults { auxiliary: Some(0.3), ..Faults::default() };
    let run = |world: usize, fisher: &str| {
        let out = folder.path().join(format!("{fisher}-{world}"));
        let config = four(&[
            &format!("train.fisher={fisher}"),
            "optimizer.algorithm=fadam",
            "optimizer.lr=0.2",
        ]);
        for outcome in team(world, &config, &out, None, faults) {
            outcome.unwrap();
        }
        out
    };
    let (one, other) = (run(1, "microbatch"), run(1, "minibatch"));
    for world in [2, 4] {
        assert_same_but_for_rounding(&one, &run(world, "microbatch"));
    }
    let apart = difference(&losses(&one), &losses(&other));
    assert!(apart > 1000.0 * BOUND, "the two estimates must not be confused: {apart:e}");
}

#[test]
fn sharded_state_changes_no_bit_and_is_saved_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, zero) = (folder.path().join("whole"), folder.path().join("zero"));
    completes(2, &four(&[]), &whole, None);
    // Sharded, then not, then sharded again; by four ranks, of which two own nothing, as well.
    completes(2, &four(&["parallel.zero=true"]), &zero, Some(15));
    completes(2, &four(&[]), &zero, Some(22));
    completes(2, &four(&["parallel.zero=true"]), &zero, None);
    // The stops have evaluated once more, and wrote so.
    let bits = |out: &Path, file: &str| tensors(&checkpoint(out, 40).join(file));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert_eq!(bits(&whole, file), bits(&zero, file), "{file}");
    }
    let (four_whole, four_zero) =
        (folder.path().join("four-whole"), folder.path().join("four-zero"));
    completes(4, &four(&[]), &four_whole, None);
    completes(4, &four(&["parallel.zero=true", "parallel.bucket_mb=1"]), &four_zero, None);
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert_eq!(bits(&four_whole, file), bits(&four_zero, file), "{file}");
    }
    assert_eq!(losses(&four_whole), losses(&four_zero));
    // What no single process has measured is not told as if it were of all.
    let told = |out: &Path| metrics(out).iter().filter(|line| line["split"] == "optimizer").count();
    assert_eq!((told(&four_whole), told(&four_zero)), (4, 0));
    assert!(metrics(&four_zero).iter().all(|line| line["grad_norm"].is_null()));
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let (one, many) = (folder.path().join("one"), folder.path().join("many"));
    completes(1, &four(&[]), &one, None);
    completes(4, &four(&[]), &many, Some(11));
    completes(1, &four(&[]), &many, Some(20));
    completes(2, &four(&["parallel.zero=true"]), &many, None);
    assert_same_but_for_rounding(&one, &many);
    // The same number of ranks: to the last bit.
    let (two, stopped) = (folder.path().join("two"), folder.path().join("stopped"));
    completes(2, &four(&[]), &two, None);
    completes(2, &four(&[]), &stopped, Some(18));
    completes(2, &four(&[]), &stopped, None);
    assert_same_run(&two, &stopped, 40);
}

#[test]
fn what_is_not_finite_on_one_rank_is_a_divergence_on_all() {
    let folder = tempfile::tempdir().unwrap();
    // Batch 50 is the second of step 13, and rank 1's.
    let faults = |_| Faults { nan_at: Some(50), ..Faults::default() };
    for zero in ["parallel.zero=false", "parallel.zero=true"] {
        let out = folder.path().join(format!("stop-{zero}"));
        let [first, second] = team(2, &four(&[zero]), &out, None, faults).map_err_texts();
        assert!(first.starts_with("step 13 (the last checkpoint is "), "{first}");
        for error in [first, second] {
            let part = "the loss is NaN; in the gradient of \"bias\" 1 of 1 numbers are NaN";
            assert!(error.starts_with("step 13 (") && error.contains(part), "{error}");
        }
        assert_eq!(checkpoints(&out), ["step-00000012"]);
        let last = metrics(&out).pop().unwrap();
        assert_eq!((&last["split"], &last["step"]), (&"divergence".into(), &13.into()));
        assert_eq!(
            last["batch_losses"].as_array().unwrap().iter().position(Value::is_null),
            Some(1)
        );

        for policy in ["skip", "back"] {
            let policy = format!("train.on_divergence={policy}");
            let (one, two) = (
                folder.path().join(format!("1-{policy}-{zero}")),
                folder.path().join(format!("2-{policy}-{zero}")),
            );
            let config = four(&[zero, &policy, "checkpoint.every=5"]);
            // Going back meets the batch again, and gives up.
            let results =
                [(1, &one), (2, &two)].map(|(world, out)| team(world, &config, out, None, faults));
            let ended: Vec<bool> = results.iter().flatten().map(Result::is_ok).collect();
            assert!(ended.iter().all(|ok| *ok == ended[0]), "{results:?}");
            let counts = |out: &Path| {
                let summary = json_file(&out.join("summary.json"));
                ["steps", "skipped_steps", "went_back", "lr_scale"].map(|key| summary[key].clone())
            };
            assert_eq!(counts(&one), counts(&two));
        }
    }
}

#[test]
fn ctrl_c_on_one_rank_ends_all_after_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    completes(2, &four(&[]), &whole, None);
    let faults = |rank| Faults {
        // While rank 1 draws the third batch of step 9, on which it works.
        interrupt_at: (rank == 1).then(|| (35, Interrupt::new())),
        ..Faults::default()
    };
    for outcome in team(2, &four(&[]), &cut, None, faults) {
        assert_eq!(outcome.unwrap(), Outcome::Interrupted);
    }
    let [last] = &checkpoints(&cut)[..] else { panic!("one checkpoint") };
    assert!(["step-00000009", "step-00000010"].contains(&last.as_str()), "{last}");
    completes(2, &four(&[]), &cut, None);
    assert_same_run(&whole, &cut, 40);
}

#[test]
fn a_rank_that_fails_ends_the_others_and_the_run_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, failed) = (folder.path().join("whole"), folder.path().join("failed"));
    completes(2, &four(&[]), &whole, None);
    let faults = |rank| Faults { unreadable_at: (rank == 1).then_some(90), ..Faults::default() };
    let results = team(2, &four(&[]), &failed, None, faults);
    let [first, second] = results.map_err_texts();
    assert!(second.contains("a batch cannot be read"), "{second}");
    assert!(first.contains("rank 1 of 2 is gone"), "{first}");
    assert!(first.contains("the last checkpoint is ") && first.contains("--resume"), "{first}");
    assert_eq!(checkpoints(&failed), ["step-00000015"]);
    completes(2, &four(&[]), &failed, None);
    assert_same_run(&whole, &failed, 40);
}

trait Texts {
    fn map_err_texts(self) -> [String; 2];
}

impl Texts for Vec<anyhow::Result<Outcome>> {
    fn map_err_texts(self) -> [String; 2] {
        let texts: Vec<String> =
            self.into_iter().map(|result| describe(&result.unwrap_err())).collect();
        texts.try_into().unwrap()
    }
}

#[test]
fn replicas_that_drift_apart_are_found_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let faults = |rank| Faults { drift_at: (rank == 1).then_some(7), ..Faults::default() };
    for outcome in team(2, &four(&[]), folder.path(), None, faults) {
        let error = describe(&outcome.unwrap_err());
        let expected = "after step 7 the replicas differ: rank 1 has other numbers than rank 0 in 1 of 3 variables, first [\"bias\"]";
        assert!(error.contains(expected), "{error}");
    }
    // Where nobody looks in between, the checkpoint does.
    let other = tempfile::tempdir().unwrap();
    let config = config(&["train.accumulate=2", "parallel.check_every=1000"]);
    for outcome in team(2, &config, other.path(), None, faults) {
        assert!(describe(&outcome.unwrap_err()).contains("after step 15 the replicas differ"));
    }
    assert!(checkpoints(other.path()).is_empty());
}

#[test]
fn batches_that_cannot_be_shared_evenly_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for outcome in team(3, &four(&[]), folder.path(), None, |_| Faults::default()) {
        let error = outcome.unwrap_err();
        assert_eq!(exit_code(&error), 2);
        let text = "train.accumulate must be a multiple of the 3 processes, which share the batches of a step evenly; got 4";
        assert_eq!(describe(&error), text);
    }
}
