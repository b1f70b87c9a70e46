//! Event files say what `metrics.jsonl` says, whatever a run went through, and more. The messages are declared here once more, so that
//! the reader is not the writer's; that TensorBoard itself reads them is shown by `scripts/check-tensorboard.py`.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Faults, PNG, config, json_file, train, train_with};
use fadam_train::{Outcome, describe, exit_code};
use prost::Message;
use serde_json::Value as Json;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session: Option<Session>,
}

#[derive(Clone, PartialEq, Message)]
struct Session {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    scalar: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(message, optional, tag = "5")]
    histogram: Option<Histogram>,
    #[prost(message, optional, tag = "8")]
    text: Option<Text>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(bytes = "vec", tag = "4")]
    png: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(double, tag = "3")]
    num: f64,
    #[prost(double, repeated, tag = "7")]
    counts: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, repeated, tag = "8")]
    strings: Vec<String>,
}

fn event_files(run: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    let is_events =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().contains("tfevents");
    let mut files: Vec<_> = paths.filter(is_events).collect();
    files.sort();
    files
}

/// The events of a file, without what a killed process left of its last record.
fn events_of(file: &Path) -> Vec<Event> {
    let bytes = fs::read(file).unwrap();
    let (mut rest, mut events) = (&bytes[..], Vec::new());
    while let Some((length, more)) = rest.split_at_checked(8) {
        let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
        let Some(message) = more.get(4..4 + length) else { break };
        events.push(Event::decode(message).unwrap());
        rest = &more[4 + length + 4..];
    }
    events
}

/// What TensorBoard shows of a run: by tag, the last value of each step. A session's beginning drops what was there of its first step and
/// those after it, but for the first session.
fn shown(run: &Path) -> BTreeMap<String, BTreeMap<i64, Value>> {
    let mut shown: BTreeMap<String, BTreeMap<i64, Value>> = BTreeMap::new();
    let mut sessions = 0;
    for event in event_files(run).iter().flat_map(|file| events_of(file)) {
        assert!(event.wall_time > 1.7e9, "{event:?}");
        if event.session.is_some_and(|session| session.status == 1) {
            sessions += 1;
            if sessions > 1 {
                for steps in shown.values_mut() {
                    steps.retain(|step, _| *step < event.step);
                }
            }
        }
        for value in event.summary.into_iter().flat_map(|summary| summary.values) {
            shown.entry(value.tag.clone()).or_default().insert(event.step, value);
        }
    }
    shown.retain(|_, steps| !steps.is_empty());
    shown
}

fn numbers(steps: &BTreeMap<i64, Value>) -> Vec<(i64, f32)> {
    steps.iter().map(|(step, value)| (*step, value.scalar.unwrap())).collect()
}

/// Tags and points that training lines and evaluations of `metrics.jsonl` stand for. A loss that is null is not finite; other numbers that
/// are null are not known.
fn expected(run: &Path) -> BTreeMap<String, Vec<(i64, f32)>> {
    let mut points: BTreeMap<String, Vec<(i64, f32)>> = BTreeMap::new();
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    for line in text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()) {
        let split = line["split"].as_str().unwrap();
        if split != "train" && split != "eval" {
            continue;
        }
        let mut add = |tag: String, number: &Json| {
            let unknown = tag.ends_with("/loss").then_some(f64::NAN);
            if let Some(number) = number.as_f64().or(unknown) {
                let step = line["step"].as_i64().unwrap();
                points.entry(tag).or_default().push((step, number as f32));
            }
        };
        for (name, field) in line.as_object().unwrap() {
            match name.as_str() {
                "step" | "split" => {}
                "phase_s" => {
                    let phases = field.as_object().unwrap();
                    phases.iter().for_each(|(phase, secs)| add(format!("time/{phase}_s"), secs));
                }
                "clipped" => add("clip/clipped".to_owned(), field),
                "peak_rss_mb" => add("memory/peak_rss_mb".to_owned(), field),
                name => add(format!("{split}/{name}"), field),
            }
        }
    }
    points
}

/// Every number of `metrics.jsonl` is shown, at its steps, and no other.
fn assert_as_metrics(run: &Path) {
    let (shown, expected) = (shown(run), expected(run));
    for (tag, points) in &expected {
        let text = |points: &[(i64, f32)]| format!("{points:?}"); // in which NaN is NaN
        assert_eq!(text(&numbers(&shown[tag])), text(points), "{tag}");
    }
    for (tag, steps) in shown {
        let is_line = ["train/", "eval/", "clip/clipped", "time/", "memory/"]
            .iter()
            .any(|start| tag.starts_with(start));
        assert!(!is_line || expected.contains_key(&tag), "{tag}: {steps:?}");
    }
}

#[test]
fn everything_is_shown_at_its_step() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), false, None).unwrap();
    assert_as_metrics(folder.path());
    let shown = shown(folder.path());
    for tag in [
        "train/loss",
        "train/grad_norm",
        "train/rows_per_s",
        "clip/clipped",
        "eval/half_loss",
        "time/data_s",
    ] {
        assert!(shown.contains_key(tag), "{tag}");
    }
    let steps = |tag: &str| shown[tag].keys().copied().collect::<Vec<_>>();
    let evaluated = [0, 10, 20, 30, 40];
    assert_eq!((&steps("sample")[..], &steps("look")[..]), (&evaluated[..], &evaluated[..]));
    assert_eq!(shown["sample"][&20].text.as_ref().unwrap().strings, ["    sample of step 20\n"]);
    let look = shown["look"][&20].image.clone().unwrap();
    assert_eq!(look, Image { height: 2, width: 3, png: PNG.to_vec() });
    let config = &shown["config"][&0].text.as_ref().unwrap().strings[0];
    assert!(config.contains("    algorithm = \"fadafactor\"\n"), "{config}");

    // Four parameters: a bias, and a weight of three.
    let counts = |tag: &str| -> Vec<f64> {
        let of = |value: &Value| value.histogram.clone().unwrap();
        assert!(shown[tag].values().all(|v| of(v).counts.iter().sum::<f64>() == of(v).num));
        shown[tag].values().map(|value| of(value).num).collect()
    };
    assert_eq!(counts("fim/log10_f/weight"), [3.0; 4]);
    assert_eq!(counts("fim/log10_f/bias"), [1.0; 4]);
    assert_eq!(counts("clip/log10_rms_natural"), [2.0; 4]);
    assert_eq!(steps("fim/log10_f/bias"), evaluated[1..]);
    assert_eq!(numbers(&shown["fim/zeros"]), [(10, 0.0), (20, 0.0), (30, 0.0), (40, 0.0)]);
    // The mean of one logarithm is that of the median in metrics.jsonl.
    let text = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let medians = lines.filter(|line| line["split"] == "optimizer").map(|line| {
        let tensors = line["tensors"].as_array().unwrap();
        let bias = tensors.iter().find(|tensor| tensor["name"] == "bias").unwrap();
        (line["step"].as_i64().unwrap(), bias["fim"][2].as_f64().unwrap().log10() as f32)
    });
    assert_eq!(numbers(&shown["fim/log10_f_mean/bias"]), medians.collect::<Vec<_>>());
}

/// The points of a tag that no clock measures.
fn assert_same_points(a: &Path, b: &Path) {
    let (a, b) = (shown(a), shown(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (tag, steps) in &a {
        if !tag.ends_with("_per_s") && !tag.starts_with("time/") && !tag.starts_with("memory/") {
            assert_eq!(steps, &b[tag], "{tag}");
        }
    }
}

#[test]
fn what_was_shown_after_the_checkpoint_of_a_resumed_run_is_shown_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    train(&whole, false, None).unwrap();
    // As if killed at step 35: lines and events of steps 31 to 35, and half a record, come after the last checkpoint.
    train(&killed, false, Some(35)).unwrap();
    fs::remove_dir_all(common::checkpoint(&killed, 35)).unwrap();
    let file = event_files(&killed).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes.extend_from_within(..40);
    bytes.truncate(bytes.len() - 9);
    fs::write(&file, bytes).unwrap();
    assert!(
        shown(&killed)["train/loss"].contains_key(&35)
            && shown(&killed)["eval/loss"].contains_key(&35)
    );

    train(&killed, true, None).unwrap();
    assert_eq!(event_files(&killed).len(), 2);
    let first: Vec<_> = events_of(&event_files(&killed)[1]).into_iter().take(2).collect();
    assert_eq!((first[1].step, first[1].session.clone()), (31, Some(Session { status: 1 })));
    assert_as_metrics(&killed);
    assert_same_points(&whole, &killed);

    // A run that is complete writes no more events.
    train(&killed, true, None).unwrap();
    assert_eq!(event_files(&killed).len(), 2);
}

#[test]
fn a_run_that_begins_again_is_shown_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, again) = (folder.path().join("whole"), folder.path().join("again"));
    train(&whole, false, None).unwrap();
    train(&again, false, Some(12)).unwrap();
    fs::remove_dir_all(again.join("checkpoints")).unwrap(); // as if it was killed before its first one
    train(&again, true, None).unwrap();
    assert_eq!(event_files(&again).len(), 2);
    assert_as_metrics(&again);
    assert_same_points(&whole, &again);
}

#[test]
fn a_run_that_goes_back_shows_the_steps_that_count_and_why() {
    let folder = tempfile::tempdir().unwrap();
    // So high a learning rate that weights run beyond 4, where the loss is NaN.
    let config = config(&[
        "optimizer.lr=8.0",
        "optimizer.clip=off",
        "train.on_divergence=back",
        "train.log_every=1",
        "checkpoint.every=3",
    ]);
    let faults = Faults { nan_beyond: Some(4.0), ..Faults::default() };
    train_with(&config, folder.path(), false, None, faults).unwrap();
    let [file] = &event_files(folder.path())[..] else { panic!("one session, one file") };
    let sessions = events_of(file).into_iter().filter(|event| event.session.is_some()).count();
    let back = json_file(&folder.path().join("summary.json"))["went_back"].as_u64().unwrap();
    assert!(back >= 2 && sessions as u64 == 1 + back, "{sessions} {back}");
    assert_as_metrics(folder.path());
    let shown = shown(folder.path());
    assert_eq!(shown["train/loss"].len(), 40);
    let why = &shown["divergence"].values().next().unwrap().text.as_ref().unwrap().strings[0];
    assert!(
        why.contains("    action: back\n") && why.contains("    cause: the loss is NaN\n"),
        "{why}"
    );
}

#[test]
fn a_step_that_was_skipped_has_no_numbers_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let config = config(&["train.on_divergence=skip", "train.log_every=1", "train.eval_every=1"]);
    let run = |out: &Path, resume: bool, stop_at: Option<u64>| {
        let faults = Faults { nan_at: Some(16), ..Faults::default() };
        train_with(&config, out, resume, stop_at, faults).unwrap()
    };
    run(&whole, false, None);
    run(&parts, false, Some(15)); // the next step, the first of the resumed run, is skipped
    assert_eq!(run(&parts, true, None), Outcome::Completed);
    common::assert_same_run(&whole, &parts, 40);
    for out in [&whole, &parts] {
        assert_as_metrics(out);
        let shown = shown(out);
        for tag in ["train/grad_norm", "clip/clipped", "fim/zeros"] {
            let steps: Vec<i64> = shown[tag].keys().copied().collect();
            assert_eq!(steps, (1..16).chain(17..41).collect::<Vec<_>>(), "{tag}");
        }
    }
}

#[test]
fn there_are_none_if_they_are_not_wanted_and_that_can_change() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    train(&whole, false, None).unwrap();
    let without = config(&["train.tensorboard=false"]);
    train_with(&without, &parts, false, Some(20), Faults::default()).unwrap();
    assert!(event_files(&parts).is_empty());
    train(&parts, true, None).unwrap();
    assert_eq!(shown(&parts)["eval/loss"].keys().copied().collect::<Vec<_>>(), [30, 40]);
    common::assert_same_run(&whole, &parts, 40);
}

#[test]
fn a_run_whose_events_cannot_be_written_ends_as_one_whose_metrics_cannot() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), false, Some(20)).unwrap();
    let before = json_file(&common::checkpoint(folder.path(), 20).join("state.json"));
    // The largest number that fits, so that no name comes after it.
    let last = folder.path().join(format!(
        "events.out.tfevents.{}.fadam.{}",
        u64::MAX,
        std::process::id()
    ));
    fs::write(&last, "").unwrap();
    let error = train(folder.path(), true, None).unwrap_err();
    let text = describe(&error);
    assert_eq!(exit_code(&error), 1, "{text}");
    for part in ["cannot write", last.to_str().unwrap(), "step-00000020; continue with: train-toy"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(json_file(&common::checkpoint(folder.path(), 20).join("state.json")), before);
    fs::remove_file(last).unwrap();
    train(folder.path(), true, None).unwrap();
    assert_as_metrics(folder.path());
}
