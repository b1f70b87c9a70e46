//! The tokens that are kept: used again, shared, and made anew when they are of no use.

use std::fs;
use std::path::PathBuf;

use fadam_data::text::{Shards, StreamBatches, StreamSpec};
use tempfile::TempDir;

use super::{gzip, lines, mirror, offline, shard_name, spec, stream, take, texts};

/// The first batch needs all shards.
fn all() -> StreamSpec {
    spec(2, 8, usize::MAX)
}

fn token_files(cache: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some()).collect();
    files.sort();
    files
}

/// The same files elsewhere, where no thread of an earlier stream is still at work.
fn copy_of(cache: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in token_files(cache) {
        fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    copy
}

#[test]
fn shards_are_encoded_once() {
    let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
    let mut first = stream(&mirror, &cache, spec(2, 8, 5));
    let batches = take(&mut first, 800); // some epochs
    assert!(first.report().text.files >= 6, "{:?}", first.report());
    assert_eq!(first.report().encoded_shards, 3);
    let files = token_files(&cache);
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files[0].file_name().unwrap().to_str().unwrap().starts_with(&shard_name(0)));

    let mut second = stream(&mirror, &cache, spec(2, 8, 5));
    assert_eq!(take(&mut second, 800), batches);
    assert_eq!(second.report().encoded_shards, 0);
    assert!(second.take_notes().is_empty());
}

#[test]
fn runs_that_begin_together_share_the_work() {
    let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
    let mut runs: Vec<StreamBatches> = (0..4).map(|_| stream(&mirror, &cache, all())).collect();
    runs.iter_mut().for_each(StreamBatches::start);
    let batches: Vec<_> = runs.iter_mut().map(|run| take(run, 100)).collect();
    assert!(batches.iter().all(|of_run| *of_run == batches[0]));
    assert_eq!(runs.iter().map(|run| run.report().encoded_shards).sum::<usize>(), 3);
}

#[test]
fn what_is_damaged_is_made_anew_and_told() {
    let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
    let batches = take(&mut stream(&mirror, &cache, all()), 40);
    let files = token_files(&cache);
    let whole: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let flipped = |at: usize| {
        let mut bytes = whole[0].clone();
        bytes[at] ^= 1;
        bytes
    };
    let length = whole[0].len();
    for (damaged, reason) in [
        (flipped(5), "is damaged: the checksum is wrong"),
        (flipped(length - 20), "is damaged: it has no account at its end"),
        (flipped(length - 1), "is damaged: it has no account at its end"),
        (flipped(length - 16), "is damaged: it has no account at its end"),
        (whole[0][..length / 2].to_vec(), "is damaged: it has no account at its end"),
        (whole[0][2..].to_vec(), "is damaged: it has no account at its end"),
        (Vec::new(), "is damaged: it has no account at its end"),
        (vec![0; 16], "is damaged: it has no account at its end"),
        (whole[1].clone(), "is of another text ("),
    ] {
        let cache = copy_of(&cache);
        let file = cache.path().join(files[0].file_name().unwrap());
        fs::write(&file, damaged).unwrap();
        let mut again = stream(&mirror, &cache, all());
        assert_eq!(take(&mut again, 40), batches, "{reason}");
        let notes = again.take_notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        let told = format!("; {} {reason}", file.display());
        assert!(notes[0].contains(&told) && notes[0].ends_with("and was made anew"), "{notes:?}");
        assert_eq!(fs::read(&file).unwrap(), whole[0], "the same bytes");
    }
}

#[test]
fn another_text_under_the_same_name_is_seen() {
    let (mirror, first) = (mirror(), tempfile::tempdir().unwrap());
    take(&mut stream(&mirror, &first, all()), 40);
    let cache = copy_of(&first);
    fs::write(mirror.path().join(shard_name(1)), gzip(&lines(&texts(9, 40)))).unwrap();
    let mut changed = stream(&mirror, &cache, all());
    let batches = take(&mut changed, 40);
    assert!(changed.take_notes()[0].contains("is of another text"));
    let fresh = tempfile::tempdir().unwrap();
    assert_eq!(take(&mut stream(&mirror, &fresh, all()), 40), batches);
    assert_eq!(token_files(&cache).len(), 3, "nothing is left over");
}

#[test]
fn another_tokenizer_has_files_of_its_own_and_wide_ids_are_kept() {
    let (mirror, cache) = (mirror(), tempfile::tempdir().unwrap());
    take(&mut stream(&mirror, &cache, all()), 1);
    // Words, with one id beyond 16 bits.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let json = r#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"</s>": 0, "?": 1, "people": 70000}}}"#;
    fs::write(&path, json).unwrap();
    let tokenizer = fadam_data::text::Tokenizer::load(&path, None).unwrap();
    let shards = Shards::find(&[mirror.path().into()], &tokenizer, cache.path().into(), offline());
    let mut wide = StreamBatches::new(shards.unwrap().into(), spec(8, 32, usize::MAX)).unwrap();
    let batch = wide.next_batch().unwrap();
    assert!(batch.tokens().contains(&70_000) && batch.tokens().contains(&0), "{batch:?}");
    assert!(batch.tokens().iter().all(|id| [0, 1, 70_000].contains(id)));
    assert_eq!(token_files(&cache).len(), 6);
}
