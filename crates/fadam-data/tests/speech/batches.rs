//! Training batches: what is in them, that they are a function of seed and index, and files that vanish.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use candle_core::{Device, IndexOp};
use fadam_data::Error;
use fadam_data::speech::{
    BINS, LogMel, SpecAugment, SpeechBatch, SpeechBatches, SpeechCursor, SpeechSet, SpeechSpec,
    change_speed,
};
use proptest::prelude::*;

use super::{corpus, set_of};

fn spec(batch: usize) -> SpeechSpec {
    SpeechSpec { bucket: 3, ..SpeechSpec::plain(batch, 7) }
}

fn augmented(batch: usize) -> SpeechSpec {
    let spec_augment =
        SpecAugment { frequency_masks: 2, frequency_width: 27, time_masks: 2, time_share: 0.05 };
    let speeds = vec![0.9, 1.0, 1.1];
    SpeechSpec { speeds, spec_augment: Some(spec_augment), ..spec(batch) }
}

fn batches(set: &Arc<SpeechSet>, spec: SpeechSpec) -> SpeechBatches {
    SpeechBatches::new(set.clone(), spec).unwrap()
}

fn take(batches: &mut SpeechBatches, count: usize) -> Vec<SpeechBatch> {
    (0..count).map(|_| batches.next_batch().unwrap()).collect()
}

fn wide(samples: &[i16]) -> Vec<f32> {
    samples.iter().map(|&x| f32::from(x) / 32768.0).collect()
}

fn clips(batches: &[SpeechBatch]) -> Vec<usize> {
    batches.iter().flat_map(|batch| batch.utterances.clone()).collect()
}

#[test]
fn a_batch_is_the_features_of_its_clips_and_zeros() {
    let (_folder, manifest) = corpus(11);
    let set = set_of(&manifest, 1024);
    let batch = batches(&set, spec(4)).next_batch().unwrap();
    assert_eq!(batch.batch(), 4);
    let tensor = batch.tensor(&Device::Cpu).unwrap();
    assert_eq!(tensor.dims(), [4, batch.max_frames, BINS]);
    assert_eq!(batch.frames.iter().max(), Some(&batch.max_frames));
    let mut seconds = 0.0;
    for (row, &clip) in batch.utterances.iter().enumerate() {
        let samples = set.samples(clip).unwrap();
        let mut expected = LogMel::new().compute(&wide(&samples));
        expected.normalise();
        assert_eq!(batch.frames[row], expected.frames);
        assert_eq!(batch.targets[row], set.clips()[clip].targets);
        let values = tensor.i(row).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (real, padding) = values.split_at(expected.frames * BINS);
        assert_eq!(real, expected.values);
        assert!(padding.iter().all(|&x| x == 0.0));
        seconds += samples.len() as f64 / 16_000.0;
    }
    assert!((batch.seconds - seconds).abs() < 1e-9);
}

#[test]
fn speeds_change_sound_and_masks_features() {
    let (_folder, manifest) = corpus(9);
    let set = set_of(&manifest, 1024);
    let fast = SpeechSpec { speeds: vec![1.1], ..spec(3) };
    for batch in take(&mut batches(&set, fast), 3) {
        for (row, &clip) in batch.utterances.iter().enumerate() {
            let samples = change_speed(&wide(&set.samples(clip).unwrap()), 1.1).unwrap();
            let mut expected = LogMel::new().compute(&samples);
            expected.normalise();
            let at = row * batch.max_frames * BINS;
            assert_eq!(batch.frames[row], expected.frames);
            assert_eq!(batch.features[at..][..expected.values.len()], expected.values);
        }
    }
    // Masks: what differs is 0, and something does; other masks in the next epoch.
    let plain = take(&mut batches(&set, spec(3)), 6);
    let masks = SpeechSpec { spec_augment: augmented(3).spec_augment, ..spec(3) };
    let masked = take(&mut batches(&set, masks), 6);
    assert_eq!(clips(&plain), clips(&masked));
    let hidden = |n: usize| -> Vec<bool> {
        let pairs = plain[n].features.iter().zip(&masked[n].features);
        pairs
            .map(|(plain, masked)| {
                assert!(plain == masked || *masked == 0.0);
                plain != masked
            })
            .collect()
    };
    let share = |n| {
        hidden(n).iter().filter(|&&hidden| hidden).count() as f64 / plain[n].features.len() as f64
    };
    assert!((0..6).any(|n| share(n) > 0.05) && (0..6).all(|n| share(n) < 0.9));
    let clip = clips(&plain[..1])[0];
    let row = |batch: &SpeechBatch| {
        let row = batch.utterances.iter().position(|&other| other == clip)?;
        let values = &batch.features[row * batch.max_frames * BINS..];
        Some(values[..batch.frames[row] * BINS].to_vec())
    };
    let rows: Vec<_> = masked.iter().filter_map(row).collect();
    assert!(rows.len() == 2 && rows[0] != rows[1], "once in each of two epochs, masked otherwise");
}

#[test]
fn every_epoch_has_every_clip_once_in_another_order() {
    let (_folder, manifest) = corpus(22);
    let set = set_of(&manifest, 1024);
    let mut stream = batches(&set, augmented(4));
    // 22 clips: groups of 12 and 10, batches of 4, 4, 4, 4, 4, 2.
    let epochs: Vec<Vec<usize>> = (0..3).map(|_| clips(&take(&mut stream, 6))).collect();
    for epoch in &epochs {
        assert_eq!(epoch.len(), 22);
        assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 22);
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    assert_eq!(stream.report().epoch, 2);
}

#[test]
fn a_seed_is_an_order_and_memory_is_none() {
    let (_folder, manifest) = corpus(18);
    let (memory, disk) = (set_of(&manifest, 1024), set_of(&manifest, 0));
    let with = |set, seed| take(&mut batches(set, SpeechSpec { seed, ..augmented(4) }), 8);
    assert_eq!(with(&memory, 1), with(&disk, 1));
    assert_ne!(clips(&with(&memory, 1)), clips(&with(&memory, 2)));
}

#[test]
fn batches_keep_to_their_seconds() {
    let (_folder, manifest) = corpus(30);
    let set = set_of(&manifest, 1024);
    let limited = SpeechSpec { batch_secs: Some(5.0), batch: 8, ..spec(8) };
    let mut stream = batches(&set, limited);
    let mut sizes = BTreeSet::new();
    for batch in take(&mut stream, 30) {
        let longest = batch.utterances.iter().map(|&clip| set.clips()[clip].samples).max().unwrap();
        assert!(batch.batch() * longest <= 5 * 16_000);
        sizes.insert(batch.batch());
    }
    assert!(sizes.len() > 2, "short clips make larger batches: {sizes:?}");
    let report = stream.report();
    let (all, padding) = (report.frames, report.padding);
    assert!(report.batches == 30 && all > 0 && padding < all / 3, "{report:?}");
    assert!((report.padding_share() - padding as f64 / all as f64).abs() < 1e-12);
    assert!(!report.first_wait.is_zero() && report.seconds > 30.0);
}

#[test]
fn settings_that_cannot_be() {
    let (_folder, manifest) = corpus(4);
    let set = set_of(&manifest, 1024);
    let message = |spec| SpeechBatches::new(set.clone(), spec).unwrap_err().to_string();
    assert_eq!(message(spec(0)), "train.batch = 0: expected at least 1");
    let bucket = SpeechSpec { bucket: 0, ..spec(2) };
    assert_eq!(message(bucket), "data.bucket = 0: expected at least 1");
    for speeds in [vec![], vec![1.0, 0.4], vec![2.1], vec![f64::NAN]] {
        let text = message(SpeechSpec { speeds: speeds.clone(), ..spec(2) });
        let expected = "expected at least one number, each from 0.5 to 2";
        assert_eq!(text, format!("data.speeds = {speeds:?}: {expected}"));
    }
    // The longest has 10,991 samples: 0.687 s, and 0.763 s at 0.9 of the speed.
    let slow = |secs| SpeechSpec { batch_secs: Some(secs), speeds: vec![0.9, 1.0], ..spec(2) };
    let expected = "expected at least 0.763, which the longest clip takes at its slowest";
    assert_eq!(message(slow(0.75)), format!("data.batch_secs = 0.75: {expected}"));
    assert_eq!(message(slow(f64::NAN)), format!("data.batch_secs = NaN: {expected}"));
    SpeechBatches::new(set.clone(), slow(0.77)).unwrap();
}

#[test]
fn settings_and_data_must_be_those_of_the_cursor() {
    let (_folder, manifest) = corpus(12);
    let set = set_of(&manifest, 1024);
    let mut here = batches(&set, augmented(4));
    take(&mut here, 5);
    let saved = here.cursor();
    let (_other_folder, other) = corpus(13);
    let other = set_of(&other, 1024);
    let refuse = |mut batches: SpeechBatches, named: &str| {
        let before = batches.cursor();
        let error = batches.restore(&saved).unwrap_err();
        assert!(
            matches!(&error, Error::CursorMismatch { field, .. } if *field == named),
            "{error}"
        );
        assert_eq!(batches.cursor(), before, "nothing has changed");
    };
    refuse(batches(&set, augmented(5)), "train.batch");
    refuse(batches(&set, SpeechSpec { seed: 8, ..augmented(4) }), "train.seed");
    let settings = "the batches' settings";
    refuse(batches(&set, spec(4)), settings);
    refuse(batches(&set, SpeechSpec { speeds: vec![1.0], ..augmented(4) }), settings);
    refuse(batches(&set, SpeechSpec { bucket: 4, ..augmented(4) }), settings);
    refuse(batches(&set, SpeechSpec { batch_secs: Some(9.0), ..augmented(4) }), settings);
    refuse(batches(&other, augmented(4)), "the number of training clips");
    // The same number of clips with other words.
    let text = fs::read_to_string(&manifest).unwrap().replace("three", "threes");
    fs::write(&manifest, text).unwrap();
    refuse(batches(&set_of(&manifest, 0), augmented(4)), "the checksum of the training clips");

    let mut value = serde_json::to_value(&saved).unwrap();
    value["batch_index"] = u64::MAX.into();
    let never: SpeechCursor = serde_json::from_value(value).unwrap();
    assert!(matches!(here.restore(&never), Err(Error::CursorOutOfRange { .. })));
    assert_eq!(here.cursor(), saved);
}

#[test]
fn a_clip_that_vanishes_is_left_out_and_told_once() {
    let (folder, manifest) = corpus(8);
    let set = set_of(&manifest, 0);
    let expected = take(&mut batches(&set, spec(4)), 4);
    fs::remove_file(folder.path().join("clips/3.wav")).unwrap();
    let mut stream = batches(&set, spec(4));
    let here = take(&mut stream, 4);
    for (all, left) in expected.iter().zip(&here) {
        let others: Vec<usize> = all.utterances.iter().copied().filter(|&clip| clip != 3).collect();
        assert_eq!(left.utterances, others);
        assert_eq!(left.targets.len(), others.len());
        assert_eq!(left.frames.iter().max(), Some(&left.max_frames));
        assert_eq!(left.features.len(), left.batch() * left.max_frames * BINS);
    }
    let (notes, report) = (stream.take_notes(), stream.report());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("utterance clips/3.wav is left out: "), "{notes:?}");
    assert!(notes[0].contains("3.wav"));
    // Once in each of the two epochs; the thread may be in the third.
    assert!((2..=3).contains(&report.skipped), "{report:?}");
    assert!(stream.take_notes().is_empty());
}

#[test]
fn an_empty_batch_goes_to_the_next_and_none_at_all_is_an_error() {
    let (folder, manifest) = corpus(5);
    let set = set_of(&manifest, 0);
    let order = clips(&take(&mut batches(&set, spec(1)), 10));
    let gone = |n: usize| fs::remove_file(folder.path().join(format!("clips/{n}.wav"))).unwrap();
    // The first and the third batch.
    gone(order[0]);
    gone(order[2]);
    let mut stream = batches(&set, spec(1));
    let left: Vec<usize> =
        order.iter().copied().filter(|&n| n != order[0] && n != order[2]).collect();
    assert_eq!(take(&mut stream, 1)[0].utterances, [order[1]]);
    assert_eq!(stream.cursor().batch_index, 2, "two batches are behind");
    let saved = stream.cursor();
    assert_eq!(clips(&take(&mut stream, 3)), left[1..4]);
    let mut resumed = batches(&set, spec(1));
    resumed.restore(&saved).unwrap();
    assert_eq!(clips(&take(&mut resumed, 3)), left[1..4]);

    for n in [1, 3, 4] {
        gone(order[n]);
    }
    let mut stream = batches(&set, spec(1));
    let error = stream.next_batch().unwrap_err();
    assert!(matches!(error, Error::SpeechGone { clips: 5, .. }), "{error}");
    assert!(error.to_string().starts_with("not one batch can be made any more, 5 sounds cannot"));
    assert_eq!((stream.take_notes().len(), stream.cursor().batch_index), (5, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn resuming_is_exact(
        batch in 1usize..6,
        bucket in 1usize..4,
        batch_secs in prop_oneof![Just(None), Just(Some(6.0))],
        augment: bool,
        before in 0usize..20,
        keep_mb in 0usize..2,
    ) {
        let (_folder, manifest) = corpus(14);
        let set = set_of(&manifest, keep_mb);
        let base = if augment { augmented(batch) } else { spec(batch) };
        let spec = SpeechSpec { bucket, batch_secs, ..base };
        let mut straight = batches(&set, spec.clone());
        take(&mut straight, before);
        let saved = serde_json::to_string(&straight.cursor()).unwrap();
        let following = take(&mut straight, 8);

        let mut resumed = batches(&set_of(&manifest, 1), spec);
        resumed.start();
        take(&mut resumed, 1);
        resumed.restore(&serde_json::from_str(&saved).unwrap()).unwrap();
        prop_assert_eq!(following, take(&mut resumed, 8));
        prop_assert_eq!(straight.cursor(), resumed.cursor());
    }
}
