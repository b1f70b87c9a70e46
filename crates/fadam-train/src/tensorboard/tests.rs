//! The bytes of records, and the order of files.

use super::messages::Histogram;
use super::record::{append, messages};
use super::*;
use crate::Picture;

/// What TensorBoard's library in Python writes for the same events: `scripts/check-tensorboard.py --golden`.
const GOLDEN: &[u8] = include_bytes!("golden.tfevents");

fn event(wall_time: f64, step: i64, what: What) -> Event {
    Event { wall_time, step, what: Some(what) }
}

#[test]
fn records_are_those_of_tensorboards_own_library_byte_by_byte() {
    let histogram = Histogram {
        min: -11.75,
        max: -11.125,
        num: 3.0,
        sum: -34.5,
        sum_squares: 397.0,
        limits: vec![-11.5, -11.25, -11.0],
        counts: vec![2.0, 0.0, 1.0],
    };
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x03\0\0\0\x02".to_vec();
    let values = vec![
        scalar("train/loss", 0.25),
        scalar("train/spikes", 0.0),
        scalar("eval/loss", f64::NAN),
        value::histogram("fim/log10_f/w", histogram),
        image(&Picture::new("look", png).unwrap()),
        text("sample", "a\n\nb ▸ *c*"),
    ];
    let events = [
        event(1.5, 0, What::FileVersion("brain.Event:2".to_owned())),
        event(2.25, 0, start()),
        event(1_700_000_000.125, 7, What::Summary(Summary { values })),
        event(1_700_000_001.0, 21, start()),
    ];
    let mut bytes = Vec::new();
    for event in &events {
        append(event, &mut bytes);
    }
    assert_eq!(bytes, GOLDEN);
    let read: Vec<Event> = messages(GOLDEN);
    assert_eq!(format!("{read:?}"), format!("{events:?}"), "NaN is not equal to itself");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn nothing_is_made_before_there_is_something_to_show_and_each_event_is_in_the_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = EventFile::new(folder.path(), 0);
    file.write(0, Vec::new()).unwrap();
    file.go_back(3).unwrap();
    file.sync().unwrap();
    assert!(files(folder.path()).is_empty());
    for step in 0..3 {
        file.write(step, vec![scalar("a", step as f64)]).unwrap();
        let [path] = &files(folder.path())[..] else { panic!() };
        let events: Vec<Event> = messages(&fs::read(path).unwrap());
        assert_eq!(events.len() as u64, 2 + 1 + step);
        assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".to_owned())));
    }
}

#[test]
fn names_are_in_the_order_of_time_even_where_the_clock_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let future = folder.path().join("events.out.tfevents.4000000000.fadam.1");
    fs::write(&future, "").unwrap();
    fs::write(folder.path().join("events.out.tfevents.nonsense"), "").unwrap();
    for _ in 0..2 {
        EventFile::new(folder.path(), 0).write(0, vec![scalar("a", 1.0)]).unwrap();
    }
    let process = std::process::id();
    let name = |seconds: u64| folder.path().join(format!("{PREFIX}{seconds}.fadam.{process}"));
    assert_eq!(files(folder.path())[..3], [future, name(4_000_000_001), name(4_000_000_002)]);
}

#[test]
fn an_error_names_the_file_or_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone");
    let error = EventFile::new(&gone, 0).write(0, vec![scalar("a", 1.0)]).unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
}
