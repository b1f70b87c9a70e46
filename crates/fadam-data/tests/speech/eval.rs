//! Evaluation batches: every clip once, from short to long.

use std::fs;

use fadam_data::Error;
use fadam_data::speech::{EvalBatches, SpeechBatch};

use super::{corpus, set_of};

fn all(batches: &EvalBatches) -> Vec<SpeechBatch> {
    batches.batches().collect::<Result<_, _>>().unwrap()
}

#[test]
fn every_clip_is_there_once_from_short_to_long() {
    let (_folder, manifest) = corpus(23);
    let set = set_of(&manifest, 0);
    let eval = EvalBatches::new(set.clone(), 5).unwrap();
    let batches = all(&eval);
    assert_eq!(batches.iter().map(SpeechBatch::batch).collect::<Vec<_>>(), [5, 5, 5, 5, 3]);
    let order: Vec<usize> = batches.iter().flat_map(|b| b.utterances.clone()).collect();
    let lengths: Vec<usize> = order.iter().map(|&clip| set.clips()[clip].samples).collect();
    assert!(lengths.is_sorted());
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..23).collect::<Vec<_>>());
    assert_eq!(all(&eval), batches, "the same at every call");

    let mut iter = eval.batches();
    let secs: f64 = iter.by_ref().map(|batch| batch.unwrap().seconds).sum();
    let report = iter.report();
    assert_eq!((report.batches, report.clips, report.skipped), (5, 23, 0));
    assert!((secs - set.report().seconds).abs() < 1e-6);
    assert!(iter.next().is_none() && iter.next().is_none());
}

#[test]
fn limits_of_count_and_of_seconds() {
    let (_folder, manifest) = corpus(23);
    let set = set_of(&manifest, 1024);
    let eval = EvalBatches::new(set.clone(), 50).unwrap().within(4.0).first(10);
    let batches = all(&eval);
    let mut clips: Vec<usize> = batches.iter().flat_map(|b| b.utterances.clone()).collect();
    clips.sort_unstable();
    assert_eq!((clips, eval.count()), ((0..10).collect(), 10));
    for batch in &batches {
        let longest = batch.utterances.iter().map(|&clip| set.clips()[clip].samples).max().unwrap();
        assert!(batch.batch() * longest <= 4 * 16_000);
    }
    assert!(batches.len() > 2);
    // A longer clip is alone.
    let alone = all(&EvalBatches::new(set.clone(), 50).unwrap().within(0.01));
    assert!(alone.len() == 23 && alone.iter().all(|batch| batch.batch() == 1));
    assert_eq!(EvalBatches::new(set.clone(), 5).unwrap().first(99).count(), 23);
    let error = EvalBatches::new(set, 0).unwrap_err().to_string();
    assert_eq!(error, "the evaluation batch = 0: expected at least 1");
}

#[test]
fn a_clip_that_vanished_is_counted_and_named() {
    let (folder, manifest) = corpus(6);
    let set = set_of(&manifest, 0);
    fs::remove_file(folder.path().join("clips/2.wav")).unwrap();
    let eval = EvalBatches::new(set.clone(), 2).unwrap();
    let mut batches = eval.batches();
    let clips: usize = batches.by_ref().map(|batch| batch.unwrap().batch()).sum();
    assert_eq!((clips, batches.report().skipped), (5, 1));
    let notes = batches.take_notes();
    assert!(notes.len() == 1 && notes[0].starts_with("utterance clips/2.wav is left out: "));
    // None at all is an error, and an end.
    fs::remove_dir_all(folder.path().join("clips")).unwrap();
    let mut batches = eval.batches();
    let error = batches.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::SpeechGone { clips: 6, .. }), "{error}");
    assert!(batches.next().is_none());
    assert_eq!((batches.report().skipped, batches.take_notes().len()), (6, 6));
}
