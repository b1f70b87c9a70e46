//! What decoding has shown is kept between runs, and never instead of what a file is now.

use std::fs;
use std::path::Path;

use fadam_data::speech::{Reason, SetSpec, SpeechBatches, SpeechSet, SpeechSpec};
use parquet::basic::Compression;
use tempfile::TempDir;

use super::table::{self, Row};
use super::{characters, corpus, noise, read, set_of, wav, write};

fn cached(manifest: &Path, cache: &Path) -> SpeechSet {
    let utterances = read(manifest).unwrap();
    let units = characters(&utterances);
    let spec = SetSpec { max_secs: 1.5, ..SetSpec::default() };
    SpeechSet::build_cached(utterances, &units, &spec, cache, &|_, _| {}).unwrap()
}

fn file(cache: &TempDir) -> std::path::PathBuf {
    cache.path().join("speech-checks.jsonl")
}

#[test]
fn a_sound_is_decoded_once_and_gives_the_same_set() {
    let (folder, manifest) = corpus(20);
    write(folder.path(), "silent.wav", wav(16_000, 1, &vec![0; 9_000]));
    write(folder.path(), "cut.wav", &wav(16_000, 1, &noise(9_000, 1))[..9_000]);
    let more = "silent.wav\tx\ty\ncut.wav\tx\ty\n";
    fs::write(&manifest, fs::read_to_string(&manifest).unwrap() + more).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let below = cache.path().join("made/if/missing");

    let (first, second) = (cached(&manifest, &below), cached(&manifest, &below));
    let (kept, report) = (first.clips().len(), second.report());
    assert_eq!((kept, first.report().count(Reason::TooLong)), (17, 3), "{}", first.report());
    assert_eq!((first.report().from_cache, report.from_cache), (0, kept));
    assert_eq!((first.kept_in_memory(), second.kept_in_memory()), (kept, 0));
    assert!(report.to_string().contains(&format!("\n  {kept} known from the cache of checks\n")));
    for reason in [Reason::TooLong, Reason::Silent, Reason::Unreadable] {
        assert_eq!(first.report().left_out.get(&reason), report.left_out.get(&reason));
    }
    assert_eq!((report.count(Reason::Silent), report.count(Reason::Unreadable)), (1, 1));
    let lengths = |set: &SpeechSet| set.clips().iter().map(|c| c.samples).collect::<Vec<_>>();
    assert_eq!(lengths(&first), lengths(&second));
    // Batches are the same, and bring the samples into memory.
    let second = std::sync::Arc::new(second);
    let mut of_first = SpeechBatches::new(first.into(), SpeechSpec::plain(4, 1)).unwrap();
    let mut of_second = SpeechBatches::new(second.clone(), SpeechSpec::plain(4, 1)).unwrap();
    for _ in 0..8 {
        assert_eq!(of_first.next_batch().unwrap(), of_second.next_batch().unwrap());
    }
    assert_eq!(second.kept_in_memory(), kept);
}

#[test]
fn a_file_that_changed_is_decoded_again() {
    let (folder, manifest) = corpus(4);
    let cache = tempfile::tempdir().unwrap();
    cached(&manifest, cache.path());
    let path = folder.path().join("clips/2.wav");
    fs::write(&path, wav(8_000, 1, &noise(7_000, 5))).unwrap();
    let set = cached(&manifest, cache.path());
    assert_eq!((set.report().from_cache, set.report().resampled), (3, 1));
    assert_eq!(set.clips()[2].samples, 14_000);
    // Of the same size, at another time.
    let about = fs::File::options().write(true).open(&path).unwrap();
    about.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
    assert_eq!(cached(&manifest, cache.path()).report().from_cache, 3);
    assert_eq!(cached(&manifest, cache.path()).report().from_cache, 4);
}

#[test]
fn rows_of_tables_are_known_too() {
    let folder = tempfile::tempdir().unwrap();
    let row = |n: usize| Row {
        sound: Some(wav(16_000, 1, &noise(9_000 + n, n as u32))),
        name: None,
        text: Some(format!("row {n}")),
        speaker: 1,
        id: n.to_string(),
    };
    let bytes = table::librispeech(&[(0..3).map(row).collect()], Compression::SNAPPY);
    let table = write(folder.path(), "0.parquet", bytes);
    let lengths = |set: &SpeechSet| set.clips().iter().map(|c| c.samples).collect::<Vec<_>>();
    assert_eq!(lengths(&cached(&table, folder.path())), [9_000, 9_001, 9_002]);
    let again = cached(&table, folder.path());
    assert_eq!((again.report().from_cache, lengths(&again)), (3, vec![9_000, 9_001, 9_002]));
}

#[test]
fn a_cache_that_is_damaged_is_made_anew_and_says_so() {
    let (_folder, manifest) = corpus(3);
    let cache = tempfile::tempdir().unwrap();
    cached(&manifest, cache.path());
    let good = fs::read_to_string(file(&cache)).unwrap();
    assert_eq!(good.lines().count(), 4);
    let other = good.replacen(":1,", ":0,", 1);
    for (bad, what) in [
        (&good.as_bytes()[..good.len() - 9], "is damaged"),
        (b"\xff\xfe".as_slice(), "is damaged"),
        (b"".as_slice(), "is damaged"),
        (other.as_bytes(), "is of another version"),
    ] {
        fs::write(file(&cache), bad).unwrap();
        let set = cached(&manifest, cache.path());
        let told = set.report().to_string();
        let expected = format!("\n  {} {what}, and is made anew", file(&cache).display());
        assert!(told.contains(&expected), "{told}");
        assert_eq!(set.report().from_cache, 0);
        assert_eq!(fs::read_to_string(file(&cache)).unwrap(), good);
    }
    // Nothing new, nothing written.
    let before = fs::metadata(file(&cache)).unwrap().modified().unwrap();
    let set = cached(&manifest, cache.path());
    assert!(set.report().cache_note.is_none() && set.report().from_cache == 3);
    assert_eq!(fs::metadata(file(&cache)).unwrap().modified().unwrap(), before);
    let plain = set_of(&manifest, 1);
    assert_eq!(plain.report().from_cache, 0, "without a cache there is none");
}
