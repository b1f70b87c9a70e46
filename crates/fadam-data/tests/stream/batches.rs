//! What the batches are, and that a cursor leads back to them.

use std::collections::BTreeMap;
use std::slice::from_ref;

use fadam_data::Error;
use fadam_data::text::{StreamBatches, StreamCursor, TokenBatch};
use proptest::prelude::*;
use serde_json::Value;

use super::{lines, mirror, shard_name, spec, stream, stream_of, take, texts, tokens_of};

fn rows(batches: &[TokenBatch]) -> Vec<Vec<u32>> {
    let of = |batch: &TokenBatch| -> Vec<Vec<u32>> {
        batch.tokens().chunks(batch.seq_len() + 1).map(<[u32]>::to_vec).collect()
    };
    batches.iter().flat_map(of).collect()
}

/// The shards' tokens in a row, for the order that gives the first rows: (the row of one epoch).
fn epoch_beginning_with(first: &[u32], mirror: &tempfile::TempDir) -> Vec<u32> {
    let shards: Vec<_> = (0..3).map(|n| tokens_of(&mirror.path().join(shard_name(n)))).collect();
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let row = |order: [usize; 3]| order.map(|n| shards[n].clone()).concat();
    orders
        .into_iter()
        .map(row)
        .find(|row| row.starts_with(first))
        .expect("some order of the shards")
}

#[test]
fn without_shuffling_they_are_the_shards_in_a_row() {
    let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
    let mut stream = stream(&mirror, &cache, spec(3, 11, 1));
    let all = rows(&take(&mut stream, 200));
    // Two shards and more, so that only one order of them is right.
    let tape: Vec<u32> = all.iter().flat_map(|row| &row[..11]).copied().collect();
    assert!(all.windows(2).all(|pair| pair[0][11] == pair[1][0]), "blocks overlap in one token");
    let total: usize = (0..3).map(|n| tokens_of(&mirror.path().join(shard_name(n))).len()).sum();
    let epochs = tape.chunks_exact(total);
    assert!(epochs.len() >= 2);
    for epoch in epochs {
        assert_eq!(epoch, epoch_beginning_with(epoch, &mirror));
    }
}

#[test]
fn a_shard_larger_than_is_encoded_at_once_keeps_its_order() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = folder.path().join("large.jsonl");
    // 4 MiB of documents are encoded at once: a group, and what is left.
    let text = |n: usize| texts(n, 4000).join(" ");
    std::fs::write(&file, lines(&(0..16).map(text).collect::<Vec<_>>())).unwrap();
    assert!(std::fs::metadata(&file).unwrap().len() > 5 << 20);
    let expected = tokens_of(&file);
    let mut stream = stream_of(from_ref(&file), cache.path(), spec(1, expected.len() - 1, 1));
    assert!(stream.next_batch().unwrap().tokens() == expected);
}

#[test]
fn a_shuffled_epoch_has_every_block_once() {
    for shuffle in [5, 10_000, usize::MAX] {
        let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
        let straight = rows(&take(&mut stream(&mirror, &cache, spec(1, 16, 1)), 400));
        let shuffled = rows(&take(&mut stream(&mirror, &cache, spec(1, 16, shuffle)), 400));
        assert_ne!(straight, shuffled);
        let total: usize =
            (0..3).map(|n| tokens_of(&mirror.path().join(shard_name(n))).len()).sum();
        // Blocks that begin in the first epoch, then those that begin in the second.
        let first = total.div_ceil(16);
        let second = (2 * total).div_ceil(16);
        for epoch in [0..first, first..second] {
            let count = |rows: &[Vec<u32>]| {
                let mut counts = BTreeMap::new();
                for row in rows {
                    *counts.entry(row.clone()).or_insert(0) += 1;
                }
                counts
            };
            assert_eq!(count(&straight[epoch.clone()]), count(&shuffled[epoch]), "{shuffle}");
        }
    }
}

#[test]
fn a_seed_is_an_order() {
    let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
    let with = |seed| {
        let mut spec = spec(4, 16, 50);
        spec.seed = seed;
        take(&mut stream(&mirror, &cache, spec), 20)
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

#[test]
fn files_are_counted_and_waits_measured() {
    let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
    let mut stream = stream(&mirror, &cache, spec(4, 16, 1000));
    // A group of 1000 blocks is all of an epoch: the first batch needs every shard.
    take(&mut stream, 1);
    let (report, notes) = (stream.report(), stream.take_notes());
    assert!(report.text.files >= 3 && report.encoded_shards == 3, "{report:?}");
    // Two empty documents a shard; more only where a thread has begun the next epoch.
    assert!(
        report.text.documents >= 20 + 25 + 30 && report.text.empty_documents >= 6,
        "{report:?}"
    );
    assert!(report.text.files > 3 || report.text.documents == 75, "{report:?}");
    assert!(!report.first_wait.is_zero());
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].contains("empty documents skipped") && notes[0].contains(" tokens in "));
    assert!(stream.take_notes().is_empty(), "each is told once");
}

#[test]
fn settings_and_files_must_be_those_of_the_cursor() {
    let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
    let mut stream = stream(&mirror, &cache, spec(2, 8, 20));
    take(&mut stream, 30);
    let here = stream.cursor();
    let changed = |path: &[&str], value: Value| {
        let mut cursor = serde_json::to_value(here).unwrap();
        let field = path.iter().fold(&mut cursor, |at, key| &mut at[*key]);
        assert_ne!(*field, value);
        *field = value;
        serde_json::from_value::<StreamCursor>(cursor).unwrap()
    };
    for (path, value, named) in [
        (&["spec", "batch"][..], 3, "train.batch"),
        (&["spec", "seq_len"], 9, "model.seq_len"),
        (&["spec", "seed"], 8, "train.seed"),
        (&["spec", "shuffle"], 21, "data.shuffle"),
        (&["shards"], 4, "the number of training files"),
        (&["shard_names"], 4, "the checksum of the training files' names"),
    ] {
        let error = stream.restore(changed(path, value.into())).unwrap_err();
        assert!(matches!(error, Error::CursorMismatch { field, .. } if field == named), "{error}");
    }
    for (path, value) in [
        (&["group_start", "place"][..], 3),
        (&["group_start", "offset"], 1 << 40),
        (&["group_start", "epoch"], u64::MAX),
        (&["given"], 21),
        (&["group"], u64::MAX),
    ] {
        let error = stream.restore(changed(path, value.into())).unwrap_err();
        assert!(matches!(error, Error::CursorOutOfRange { .. }), "{path:?}: {error}");
    }
    assert_eq!(stream.cursor(), here, "nothing has changed");
    // What only the text can tell.
    let tokens = serde_json::to_value(here).unwrap()["group_start"]["shard_tokens"].as_u64();
    stream
        .restore(changed(&["group_start", "shard_tokens"], (tokens.unwrap() + 1).into()))
        .unwrap();
    let error = stream.next_batch().unwrap_err().to_string();
    assert!(error.contains("the number of tokens in the present file"), "{error}");
}

#[test]
fn too_little_text_is_an_error() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = folder.path().join("short.txt");
    std::fs::write(&file, &texts(0, 1)[0]).unwrap();
    let tokens = tokens_of(&file).len();
    let of = |seq_len| stream_of(from_ref(&file), cache.path(), spec(1, seq_len, 10));
    take(&mut of(tokens - 1), 3);
    let error = of(tokens).next_batch().unwrap_err().to_string();
    assert!(error.starts_with(&format!("the training split has {tokens} tokens")), "{error}");
    std::fs::write(&file, " \n ").unwrap();
    assert!(matches!(of(1).next_batch(), Err(Error::CorpusTooShort { tokens: 0, .. })));
    for zero in [spec(0, 1, 1), spec(1, 0, 1), spec(1, 1, 0)] {
        let shards = fadam_data::text::Shards::find(
            from_ref(&file),
            &super::tokenizer(),
            cache.path().into(),
            super::offline(),
        );
        let error = StreamBatches::new(shards.unwrap().into(), zero).unwrap_err();
        assert!(matches!(error, Error::Zero { .. }), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// With the cache that the first run left, and with none.
    #[test]
    fn resuming_is_exact(
        batch in 1usize..7,
        seq_len in 1usize..40,
        shuffle in prop_oneof![Just(1), 2usize..40, Just(10_000)],
        before in 0usize..60,
        keep_cache: bool,
    ) {
        let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
        let spec = spec(batch, seq_len, shuffle);
        let mut straight = stream(&mirror, &cache, spec);
        take(&mut straight, before);
        let saved = serde_json::to_string(&straight.cursor()).unwrap();
        let following = take(&mut straight, 20);

        let fresh = tempfile::tempdir().unwrap();
        let cache = if keep_cache { &cache } else { &fresh };
        let mut resumed = stream(&mirror, cache, spec);
        resumed.start(); // as an evaluation does
        resumed.restore(serde_json::from_str(&saved).unwrap()).unwrap();
        prop_assert_eq!(following, take(&mut resumed, 20));
        prop_assert_eq!(straight.cursor(), resumed.cursor());
    }
}
