//! The checked set: what is left out, why, and how it is told.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use fadam_data::Error;
use fadam_data::speech::{
    Normalisation, Reason, SetSpec, SpeechReport, SpeechSet, Units, transcripts,
};

use super::{characters, corpus, flac, noise, read, set_of, wav, write};

fn built(manifest: &Path, spec: &SetSpec) -> fadam_data::Result<SpeechSet> {
    let utterances = read(manifest)?;
    let units = characters(&utterances);
    SpeechSet::build(utterances, &units, spec, &|_, _| {})
}

fn first(report: &SpeechReport, reason: Reason) -> &str {
    &report.left_out[&reason].first[0]
}

/// One clip of every kind that is left out, and two that are not.
fn every_kind(folder: &Path) -> std::path::PathBuf {
    let second = noise(16_000, 1);
    let whole = flac(16_000, &second);
    let clips: [(&str, Vec<u8>, &str); 11] = [
        ("good.wav", wav(16_000, 1, &second), "Good."),
        ("short.wav", wav(16_000, 1, &second[..1_500]), "short"),
        ("long.wav", wav(16_000, 1, &noise(17 * 16_000, 2)), "long"),
        ("silent.wav", wav(16_000, 1, &vec![0; 16_000]), "silent"),
        ("empty.wav", wav(16_000, 1, &[]), "empty"),
        ("cut.wav", wav(16_000, 1, &second)[..10_000].to_vec(), "cut"),
        ("cut.flac", whole[..whole.len() / 2].to_vec(), "cut"),
        ("text.wav", b"this is no sound".to_vec(), "text"),
        ("marks.wav", wav(16_000, 1, &second), "… — “!?”"),
        ("fast.wav", wav(16_000, 1, &second[..3_200]), "so many words in so little time"),
        ("stereo.wav", wav(8_000, 2, &noise(16_000, 3)), "two channels"),
    ];
    let mut manifest = "path\ttext\ngone.wav\tgone\n".to_owned();
    for (name, bytes, text) in clips {
        write(folder, name, bytes);
        manifest += &format!("{name}\t{text}\n");
    }
    write(folder, "train.tsv", manifest)
}

#[test]
fn every_reason_is_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = every_kind(folder.path());
    // 0.2 s are 21 frames, 6 of the network's: at 5 labels each, 30 for 31 characters.
    let spec = SetSpec { labels_per_frame: 5, ..SetSpec::default() };
    let set = built(&manifest, &spec).unwrap();
    let texts: Vec<&str> = set.clips().iter().map(|clip| &*clip.text).collect();
    assert_eq!(texts, ["good", "two channels"]);

    let report = set.report();
    assert_eq!((report.given, report.kept, report.labels), (12, 2, 4 + 12));
    assert_eq!((report.resampled, report.mixed_down), (1, 1));
    for (reason, count) in [
        (Reason::Missing, 1),
        (Reason::Unreadable, 4),
        (Reason::NoSymbol, 1),
        (Reason::TooShort, 1),
        (Reason::TooLong, 1),
        (Reason::Silent, 1),
        (Reason::TooManyLabels, 1),
    ] {
        assert_eq!(report.count(reason), count, "{reason:?}\n{report}");
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    assert_eq!(first(report, Reason::Missing), path("gone.wav"));
    assert_eq!(first(report, Reason::NoSymbol), format!("{}: \"… — “!?”\"", path("marks.wav")));
    assert_eq!(
        first(report, Reason::TooShort),
        format!("{}: 0.094 s, data.min_secs is 0.1", path("short.wav"))
    );
    assert_eq!(
        first(report, Reason::TooLong),
        format!("{}: 17.0 s, data.max_secs is 16.7", path("long.wav"))
    );
    assert_eq!(first(report, Reason::Silent), path("silent.wav"));
    assert_eq!(
        first(report, Reason::TooManyLabels),
        format!("{}: 31 labels in 0.2 s, at most 5 in each of 6 frames", path("fast.wav"))
    );
    let unreadable = &report.left_out[&Reason::Unreadable].first;
    for (what, name) in unreadable.iter().zip(["empty.wav", "cut.wav", "cut.flac"]) {
        assert!(what.starts_with(&path(name)), "{what}");
    }

    let told = report.to_string();
    assert!(told.starts_with("2 of 12 utterances, 0.0 min, 1.0 to 1.0 s each\n"), "{told}");
    for line in [
        "\n  1 resampled, 1 mixed down",
        "\n  1 missing: ",
        "\n  4 unreadable: ",
        "\n  1 with a transcript of no usable symbol: ",
        "\n  1 with more labels than the network can write: ",
    ] {
        assert!(told.contains(line), "{line:?} in\n{told}");
    }
}

#[test]
fn the_rule_of_labels_is_at_its_bound_exact() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = every_kind(folder.path());
    let spec = |labels_per_frame, subsampling| SetSpec {
        labels_per_frame,
        subsampling,
        ..SetSpec::default()
    };
    let refused = |spec| built(&manifest, &spec).unwrap().report().count(Reason::TooManyLabels);
    // 31 labels, 21 frames: 6 · 5 < 31 ≤ 6 · 6; by 3, 7 · 4 < 31 ≤ 7 · 5.
    assert_eq!((refused(spec(5, 4)), refused(spec(6, 4))), (1, 0));
    assert_eq!((refused(spec(4, 3)), refused(spec(5, 3))), (1, 0));
}

#[test]
fn nothing_left_is_an_error_with_all_the_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..5).map(|n| format!("{n}.wav\tx\n")).collect();
    let manifest = write(folder.path(), "gone.tsv", format!("path\ttext\n{lines}"));
    let error = built(&manifest, &SetSpec::default()).unwrap_err();
    assert!(matches!(error, Error::NoSpeech { .. }));
    let (error, path) = (error.to_string(), folder.path().display());
    assert_eq!(
        error,
        format!(
            "no utterance can be used: 0 of 5 utterances, 0.0 min\n  5 missing: {path}/0.wav; \
             {path}/1.wav; {path}/2.wav; …"
        )
    );
}

#[test]
fn a_file_that_is_far_too_long_is_not_decoded() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.wav", wav(16_000, 1, &noise(8_000, 1)));
    // 40 s at a limit of 1 s: larger than a second of any format would be.
    write(folder.path(), "b.wav", wav(16_000, 1, &noise(640_000, 2)));
    let manifest = write(folder.path(), "m.tsv", "path\ttext\na.wav\ta\nb.wav\tb\n");
    let set = built(&manifest, &SetSpec { max_secs: 1.0, ..SetSpec::default() }).unwrap();
    assert!(first(set.report(), Reason::TooLong).ends_with("b.wav: 40.0 s, data.max_secs is 1"));
}

#[test]
fn unknown_characters_are_counted_and_stay_in_the_reference() {
    let (folder, manifest) = corpus(6);
    let units = characters(&read(&manifest).unwrap());
    write(folder.path(), "a.wav", wav(16_000, 1, &noise(16_000, 1)));
    write(folder.path(), "b.wav", wav(16_000, 1, &noise(16_000, 2)));
    let text = "path\ttext\na.wav\tOne, 你 quiz 你?\nb.wav\t你好\n";
    let manifest = write(folder.path(), "dev.tsv", text);
    let held_out = read(&manifest).unwrap();
    let set = SpeechSet::build(held_out, &units, &SetSpec::default(), &|_, _| {}).unwrap();
    assert_eq!(set.report().count(Reason::NoSymbol), 1);
    assert_eq!(set.clips()[0].text, "one 你 quiz 你");
    // "q" and "z" are in no word of the corpus.
    assert_eq!(units.decode(&set.clips()[0].targets).unwrap(), "one  ui ");
    let told = set.report().to_string();
    assert!(told.contains("\n  4 unknown characters left out: '你' 2, 'q' 1, 'z' 1\n"), "{told}");
}

#[test]
fn any_script_is_a_set() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["ὉΔΌΣ", "你好，世界", "नमस्ते", "cafe\u{301}", "Ёж"];
    let mut manifest = "path\ttext\n".to_owned();
    for (n, text) in texts.iter().enumerate() {
        write(folder.path(), &format!("{n}.wav"), wav(16_000, 1, &noise(16_000, n as u32)));
        manifest += &format!("{n}.wav\t{text}\n");
    }
    let manifest = write(folder.path(), "m.tsv", manifest);
    let utterances = read(&manifest).unwrap();
    let texts = transcripts(&utterances, Normalisation::Standard);
    assert_eq!(texts, ["ὁδός", "你好 世界", "नमस्ते", "caf\u{e9}", "ёж"]);
    for units in [Units::characters(&texts).unwrap(), Units::pieces(&texts, 40).unwrap()] {
        let spec = SetSpec::default();
        let set = SpeechSet::build(utterances.clone(), &units, &spec, &|_, _| {}).unwrap();
        for (clip, text) in set.clips().iter().zip(&texts) {
            assert_eq!(units.decode(&clip.targets).unwrap(), *text);
        }
    }
}

#[test]
fn transcripts_may_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.wav", wav(16_000, 1, &noise(16_000, 1)));
    write(folder.path(), "b.wav", wav(16_000, 1, &noise(16_000, 2)));
    let manifest = write(folder.path(), "m.tsv", "path\ttext\na.wav\tOh, No!\nb.wav\t \n");
    let utterances = read(&manifest).unwrap();
    let spec = SetSpec { normalisation: Normalisation::None, ..SetSpec::default() };
    let units = Units::characters(&transcripts(&utterances, spec.normalisation)).unwrap();
    let set = SpeechSet::build(utterances, &units, &spec, &|_, _| {}).unwrap();
    assert_eq!(units.decode(&set.clips()[0].targets).unwrap(), "Oh, No!");
    assert_eq!(set.report().count(Reason::NoSymbol), 1);
}

#[test]
fn memory_has_its_bound_and_changes_no_sample() {
    let (_folder, manifest) = corpus(20);
    let (all, none) = (set_of(&manifest, 1024), set_of(&manifest, 0));
    assert_eq!((all.kept_in_memory(), none.kept_in_memory()), (20, 0));
    for n in 0..20 {
        let expected = noise(8_000 + n * 997 % 24_000, n as u32);
        assert_eq!(*all.samples(n).unwrap(), expected);
        assert_eq!(*none.samples(n).unwrap(), expected);
    }
    assert_eq!(none.kept_in_memory(), 0);
    // A MiB is 32.8 s, of the 21 s to 60 s that they are.
    let seconds = all.report().seconds;
    let some = set_of(&manifest, 1).kept_in_memory();
    assert!(seconds > 15.0 && (some == 20) == (seconds < 32.7), "{some} of {seconds} s");
}

#[test]
fn progress_is_told_to_the_end() {
    let (_folder, manifest) = corpus(150);
    let utterances = read(&manifest).unwrap();
    let units = characters(&utterances);
    let told = RefCell::new(Vec::new());
    let progress = |done, total| told.borrow_mut().push((done, total));
    SpeechSet::build(utterances, &units, &SetSpec::default(), &progress).unwrap();
    let told = told.into_inner();
    assert!(told.len() > 1 && told.is_sorted() && told.iter().all(|&(_, total)| total == 150));
    assert_eq!(told.last(), Some(&(150, 150)));
}

#[test]
fn settings_that_cannot_be() {
    let (_folder, manifest) = corpus(1);
    let spec = SetSpec::default();
    for (spec, expected) in [
        (
            SetSpec { min_secs: 0.01, ..spec },
            "data.min_secs = 0.01: expected at least 0.05 (two windows of the front end)",
        ),
        (
            SetSpec { min_secs: f64::NAN, ..spec },
            "data.min_secs = NaN: expected at least 0.05 (two windows of the front end)",
        ),
        (
            SetSpec { min_secs: 5.0, max_secs: 5.0, ..spec },
            "data.max_secs = 5: expected more than data.min_secs",
        ),
        (
            SetSpec { max_secs: f64::NAN, ..spec },
            "data.max_secs = NaN: expected more than data.min_secs",
        ),
        (SetSpec { subsampling: 0, ..spec }, "the subsampling = 0: expected at least 1"),
        (SetSpec { labels_per_frame: 0, ..spec }, "data.labels_per_frame = 0: expected at least 1"),
    ] {
        assert_eq!(built(&manifest, &spec).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_file_that_changes_later_is_an_error_of_its_samples() {
    let (folder, manifest) = corpus(3);
    let set = set_of(&manifest, 0);
    let path = folder.path().join("clips/1.wav");
    fs::write(&path, wav(16_000, 1, &noise(12_345, 9))).unwrap();
    let error = set.samples(1).unwrap_err().to_string();
    let path = path.display();
    let expected = format!("{path}: it had 8997 samples when it was checked, and has 12345 now");
    assert_eq!(error, expected);
    assert!(set.samples(2).is_ok());
}
