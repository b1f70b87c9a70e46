//! Training batches and evaluation windows: by hand, and the laws of resuming.

use std::collections::HashSet;
use std::sync::Arc;

use candle_core::Device;
use fadam_data::Error;
use fadam_data::text::{BatchSpec, Cursor, EvalWindows, Sampling, TokenBatch, TrainBatches};
use proptest::prelude::*;

/// Tokens that are their own places.
fn places(count: usize) -> Arc<[u32]> {
    (0..count as u32).collect()
}

fn spec(sampling: Sampling, batch: usize, seq_len: usize, seed: u64) -> BatchSpec {
    BatchSpec { sampling, batch, seq_len, seed }
}

/// The first token of each sequence; the rest must follow it.
fn starts(batch: &TokenBatch) -> Vec<u32> {
    let rows = batch.tokens().chunks(batch.seq_len() + 1);
    rows.map(|row| {
        assert!(row.windows(2).all(|pair| pair[1] == pair[0] + 1), "{row:?} is no window");
        row[0]
    })
    .collect()
}

fn sampling() -> impl Strategy<Value = Sampling> {
    prop_oneof![Just(Sampling::Windows), Just(Sampling::Packed)]
}

#[test]
fn inputs_and_targets_are_one_apart() {
    let spec = spec(Sampling::Packed, 2, 3, 1);
    let batch = TrainBatches::new(places(7), spec).unwrap().next_batch();
    let (inputs, targets) = batch.tensors(&Device::Cpu).unwrap();
    let inputs = inputs.to_vec2::<u32>().unwrap();
    let mut sorted = inputs.clone();
    sorted.sort();
    assert_eq!(sorted, [[0, 1, 2], [3, 4, 5]]);
    let next: Vec<Vec<u32>> =
        inputs.iter().map(|row| row.iter().map(|token| token + 1).collect()).collect();
    assert_eq!(targets.to_vec2::<u32>().unwrap(), next);
}

#[test]
fn window_starts_are_uniform() {
    // 14 tokens, T = 4: the starts are 0..10, as torch.randint(len − T) gives them.
    let mut batches = TrainBatches::new(places(14), spec(Sampling::Windows, 100, 4, 5)).unwrap();
    let mut counts = [0u32; 10];
    for _ in 0..100 {
        for start in starts(&batches.next_batch()) {
            counts[start as usize] += 1;
        }
    }
    // 10,000 draws: 1,000 each with a standard deviation of 30.
    assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    assert_eq!(batches.dropped_tokens(), 0);
}

#[test]
fn every_block_comes_once_an_epoch_in_a_new_order() {
    // 6 blocks of 3 targets in 20 tokens; the last token is left out. 4 sequences a batch: 3
    // batches are 2 epochs.
    let mut batches = TrainBatches::new(places(20), spec(Sampling::Packed, 4, 3, 9)).unwrap();
    assert_eq!(batches.dropped_tokens(), 1);
    let all: Vec<u32> = (0..3).flat_map(|_| starts(&batches.next_batch())).collect();
    let (first, second) = all.split_at(6);
    for epoch in [first, second] {
        assert_eq!(
            epoch.iter().copied().collect::<HashSet<_>>(),
            HashSet::from([0, 3, 6, 9, 12, 15])
        );
    }
    assert_ne!(first, second);
}

#[test]
fn the_same_seed_gives_these_very_batches() {
    // Pinned so that a change of generator, which would break resuming, is seen.
    let first_two = |tokens, spec| {
        let mut batches = TrainBatches::new(places(tokens), spec).unwrap();
        [starts(&batches.next_batch()), starts(&batches.next_batch())]
    };
    let windows = first_two(1000, spec(Sampling::Windows, 4, 8, 42));
    let packed = first_two(33, spec(Sampling::Packed, 4, 8, 42));
    assert_eq!(windows, [[222, 676, 145, 942], [549, 711, 640, 165]]);
    assert_eq!(packed, [[16, 8, 0, 24], [0, 16, 8, 24]]);
}

#[test]
fn too_few_tokens_and_zeros_are_errors() {
    for sampling in [Sampling::Windows, Sampling::Packed] {
        assert!(TrainBatches::new(places(9), spec(sampling, 1, 8, 0)).is_ok());
        let error = TrainBatches::new(places(8), spec(sampling, 1, 8, 0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the training split has 8 tokens, and one sequence of model.seq_len = 8 needs 9 (the target is one token \
             ahead); give more text or shorter sequences"
        );
        let error = TrainBatches::new(places(9), spec(sampling, 0, 8, 0)).unwrap_err();
        assert_eq!(error.to_string(), "train.batch = 0: expected at least 1");
        let error = TrainBatches::new(places(9), spec(sampling, 1, 0, 0)).unwrap_err();
        assert_eq!(error.to_string(), "model.seq_len = 0: expected at least 1");
        assert!(TrainBatches::new(places(9), spec(sampling, 1, usize::MAX, 0)).is_err());
    }
    let error = EvalWindows::new(places(0), places(0), 8).unwrap_err();
    assert!(error.to_string().starts_with("the held-out split has 0 tokens"), "{error}");
}

#[test]
fn a_cursor_of_other_data_or_settings_is_refused() {
    let right = spec(Sampling::Packed, 2, 8, 3);
    let mut batches = TrainBatches::new(places(100), right).unwrap();
    batches.next_batch();
    let here = batches.cursor();
    let other = |change: &dyn Fn(&mut Cursor)| {
        let mut cursor = here;
        change(&mut cursor);
        cursor
    };
    for (cursor, field) in [
        (other(&|c| c.spec.sampling = Sampling::Windows), "the sampling"),
        (other(&|c| c.spec.batch = 4), "train.batch"),
        (other(&|c| c.spec.seq_len = 9), "model.seq_len"),
        (other(&|c| c.spec.seed = 4), "train.seed"),
        (other(&|c| c.tokens = 101), "the number of training tokens"),
    ] {
        match batches.restore(cursor).unwrap_err() {
            Error::CursorMismatch { field: named, .. } => assert_eq!(named, field),
            error => panic!("{error}"),
        }
    }
    let error = batches.restore(other(&|c| c.batch_index = u64::MAX / 2 + 1)).unwrap_err();
    assert!(matches!(error, Error::CursorOutOfRange { .. }), "{error}");
    assert_eq!(batches.cursor(), here, "nothing has changed");
    let error = batches.restore(other(&|c| c.spec.batch = 4)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the saved data position was made with train.batch = 4, this run has train.batch = 2; resume with the settings \
         and the data of the run that saved it"
    );
}

#[test]
fn evaluation_windows_by_hand() {
    // range(0, 11 − 4, 4) is 0, 4; token 9 and 10 would need a window to 12.
    let bytes: Arc<[u32]> = [9, 1, 2, 3, 4, 5, 6, 7, 8, 100, 100].into();
    let windows = EvalWindows::new(places(11), bytes, 4).unwrap();
    assert_eq!(windows.count(), 2);
    let all: Vec<_> = windows.batches(1).unwrap().map(|batch| batch.tokens().to_vec()).collect();
    assert_eq!(all, [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]);
    assert_eq!(windows.target_tokens(), 8);
    assert_eq!(windows.target_bytes(), 36);
    // 4.5 bytes a token: ln 2 nats a token is 1/4.5 bits a byte.
    assert!((windows.bits_per_byte(2f64.ln()) - 1.0 / 4.5).abs() < 1e-15);
    assert!(windows.batches(0).is_err());
    let first = windows.first(1);
    assert_eq!((first.count(), first.target_bytes()), (1, 10));
}

proptest! {
    #[test]
    fn resuming_is_exact(
        seq_len in 1usize..12,
        extra in 0usize..60,
        batch in 1usize..9,
        seed: u64,
        sampling in sampling(),
        before in 0usize..12,
    ) {
        let spec = spec(sampling, batch, seq_len, seed);
        let mut straight = TrainBatches::new(places(seq_len + 1 + extra), spec).unwrap();
        (0..before).for_each(|_| drop(straight.next_batch()));
        let saved = serde_json::to_string(&straight.cursor()).unwrap();
        let following: Vec<_> = (0..6).map(|_| straight.next_batch()).collect();

        let mut resumed = TrainBatches::new(places(seq_len + 1 + extra), spec).unwrap();
        resumed.restore(serde_json::from_str(&saved).unwrap()).unwrap();
        let again: Vec<_> = (0..6).map(|_| resumed.next_batch()).collect();
        prop_assert_eq!(following, again);
        prop_assert_eq!(straight.cursor(), resumed.cursor());
    }

    #[test]
    fn an_epoch_has_every_target_once(
        seq_len in 1usize..9,
        extra in 0usize..80,
        batch in 1usize..9,
        seed: u64,
    ) {
        let tokens = seq_len + 1 + extra;
        let spec = spec(Sampling::Packed, batch, seq_len, seed);
        let mut batches = TrainBatches::new(places(tokens), spec).unwrap();
        let blocks = (tokens - 1) / seq_len;
        // Two epochs, and what the last batch has beyond them.
        let all: Vec<u32> =
            (0..(2 * blocks).div_ceil(batch)).flat_map(|_| starts(&batches.next_batch())).collect();
        for epoch in all.chunks(blocks).take(2) {
            let of_block = |&start: &u32| start as usize + 1..=start as usize + seq_len;
            let mut targets: Vec<usize> = epoch.iter().flat_map(of_block).collect();
            targets.sort_unstable();
            let expected: Vec<usize> = (1..tokens - batches.dropped_tokens()).collect();
            prop_assert_eq!(targets, expected);
        }
    }

    #[test]
    fn evaluation_is_the_peer_scripts(
        tokens in 2usize..200,
        seq_len in 1usize..30,
        batch in 1usize..7,
    ) {
        prop_assume!(tokens > seq_len);
        let windows = EvalWindows::new(places(tokens), places(tokens), seq_len).unwrap();
        let batches: Vec<_> = windows.batches(batch).unwrap().collect();
        let all: Vec<u32> = batches.iter().flat_map(starts).collect();
        // for i in range(0, len − seq_len, seq_len)
        let expected: Vec<u32> = (0..tokens - seq_len).step_by(seq_len).map(|i| i as u32).collect();
        prop_assert_eq!(&all, &expected);
        prop_assert!(batches.iter().rev().skip(1).all(|full| full.batch() == batch));
        // The targets are 1 ..= count·T, and each token has its place as its byte count.
        let last = (windows.count() * seq_len) as u64;
        prop_assert_eq!(windows.target_bytes(), last * (last + 1) / 2);
    }
}
