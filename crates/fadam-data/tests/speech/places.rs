//! Manifests and LibriSpeech folders: what is read, in which order, and every kind of bad input.

use std::fs;
use std::path::{Path, PathBuf};

use fadam_data::speech::{Audio, SpeechSource, check_held_out};
use fadam_data::{Error, Result};

use super::{flac, noise, read, write};

fn file(audio: &Audio) -> &Path {
    match audio {
        Audio::File(path) => path,
        other => panic!("not a file: {other}"),
    }
}

/// The message, which begins with the path; returned without it.
fn message(path: &Path) -> String {
    let error = read(path).unwrap_err().to_string();
    error.strip_prefix(&path.display().to_string()).expect(&error).to_owned()
}

fn both(places: &[&Path]) -> Result<Vec<String>> {
    let places = places.iter().map(|path| path.to_path_buf()).collect();
    let (utterances, _) = SpeechSource::Places(places).read()?;
    Ok(utterances.into_iter().map(|utterance| utterance.id).collect())
}

#[test]
fn a_manifest_is_read_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let text = "\u{feff}path\ttext\tspeaker\r\n\
                a/b.wav\tIt’s “me”, Ζωή.\tjoe\r\n\
                \r\n\
                /elsewhere/c.flac\t\t \r\n";
    let manifest = write(folder.path(), "sub/train.tsv", text);
    let utterances = read(&manifest).unwrap();
    assert_eq!(utterances.len(), 2);
    let [first, second] = &utterances[..] else { unreachable!() };
    assert_eq!((&*first.id, &*first.text), ("a/b.wav", "It’s “me”, Ζωή."));
    assert_eq!(first.speaker.as_deref(), Some("joe"));
    assert_eq!(file(&first.audio), folder.path().join("sub/a/b.wav"));
    assert_eq!((&*second.text, second.speaker.as_deref()), ("", None));
    assert_eq!(file(&second.audio), Path::new("/elsewhere/c.flac"));
    assert_eq!((first.confidence, first.weight), (None, None));
}

#[test]
fn columns_come_in_any_order_and_the_known_ones_only() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = write(
        folder.path(),
        "labelled.tsv",
        "confidence\ttext\tweight\tpath\n0.75\thello\t2.5\ta.wav\n1\tbye\t\tb.wav\n",
    );
    let utterances = read(&manifest).unwrap();
    assert_eq!((utterances[0].confidence, utterances[0].weight), (Some(0.75), Some(2.5)));
    assert_eq!((utterances[1].confidence, utterances[1].weight), (Some(1.0), None));
    assert_eq!((&*utterances[1].text, &*utterances[1].id), ("bye", "b.wav"));
    assert!(utterances[0].speaker.is_none());

    let unknown = "no header: unknown column \"lang\"; expected path and text, and perhaps speaker, \
                   confidence and weight, divided by tabs";
    for (text, expected) in [
        ("path\ttext\tlang\na.wav\tx\ten\n", format!(":1: {unknown}")),
        ("path\ttext\tpath\n", ":1: the column path is there twice".to_owned()),
        ("path\tspeaker\n", ":1: the header has no column text".to_owned()),
        ("text\tspeaker\n", ":1: the header has no column path".to_owned()),
        ("a.wav\thello\n", format!(":1: {}", unknown.replace("lang", "a.wav"))),
        ("", format!(":1: {}", unknown.replace("lang", ""))),
        (
            "path\ttext\na.wav\tx\nb.wav\ty\tz\n",
            ":3: 3 fields, and the header has 2 columns; a transcript cannot hold a tab".to_owned(),
        ),
        (
            "path\ttext\n\nb.wav\n",
            ":3: 1 fields, and the header has 2 columns; a transcript cannot hold a tab".to_owned(),
        ),
        ("path\ttext\n \tx\n", ":2: the path is empty".to_owned()),
        (
            "path\ttext\tconfidence\na\tx\t1.5\n",
            ":2: confidence \"1.5\": expected a number from 0 to 1".to_owned(),
        ),
        (
            "path\ttext\tconfidence\na\tx\tNaN\n",
            ":2: confidence \"NaN\": expected a number from 0 to 1".to_owned(),
        ),
        (
            "path\ttext\tweight\na\tx\t-1\n",
            ":2: weight \"-1\": expected a number of at least 0".to_owned(),
        ),
        (
            "path\ttext\tweight\na\tx\tinf\n",
            ":2: weight \"inf\": expected a number of at least 0".to_owned(),
        ),
    ] {
        let manifest = write(folder.path(), "bad.tsv", text);
        assert_eq!(message(&manifest), expected, "{text:?}");
    }
    let latin1 = write(folder.path(), "latin1.tsv", b"path\ttext\na.wav\tcaf\xe9\n");
    assert!(message(&latin1).starts_with(": byte 19 (line 2) is not UTF-8"));
}

/// `<split>/<speaker>/<chapter>` with two utterances each.
fn librispeech(root: &Path) {
    for (speaker, chapter, sentence) in [
        ("1272", "128104", "MISTER QUILTER"),
        ("1272", "135031", "BECAUSE YOU WERE SLEEPING"),
        ("84", "121123", "GO DO YOU HEAR"),
    ] {
        let folder = format!("dev-clean/{speaker}/{chapter}");
        let id = |n: usize| format!("{speaker}-{chapter}-{n:04}");
        let lines = format!("{} {sentence}\n{} IT'S {sentence} TOO\n", id(0), id(1));
        write(root, &format!("{folder}/{speaker}-{chapter}.trans.txt"), lines);
        for n in 0..2 {
            let sound = flac(16_000, &noise(16_000 + 1600 * n, n as u32));
            write(root, &format!("{folder}/{}.flac", id(n)), sound);
        }
    }
    write(root, "SPEAKERS.TXT", "84 | F | dev-clean");
}

#[test]
fn a_librispeech_folder_is_read_from_any_level() {
    let root = tempfile::tempdir().unwrap();
    librispeech(root.path());
    let ids = |below: &str| {
        let utterances = read(&root.path().join(below)).unwrap();
        utterances.into_iter().map(|utterance| utterance.id).collect::<Vec<_>>()
    };
    let all = [
        "1272-128104-0000",
        "1272-128104-0001",
        "1272-135031-0000",
        "1272-135031-0001",
        "84-121123-0000",
        "84-121123-0001",
    ];
    assert_eq!(ids(""), all);
    assert_eq!(ids("dev-clean"), all);
    assert_eq!(ids("dev-clean/1272"), all[..4]);
    assert_eq!(ids("dev-clean/84/121123"), all[4..]);

    let (utterances, report) = SpeechSource::Places(vec![root.path().into()]).read().unwrap();
    let last = &utterances[5];
    assert_eq!((&*last.text, last.speaker.as_deref()), ("IT'S GO DO YOU HEAR TOO", Some("84")));
    let folder = root.path().join("dev-clean/84/121123");
    assert_eq!(file(&last.audio), folder.join("84-121123-0001.flac"));
    let ignored = root.path().join("SPEAKERS.TXT");
    assert_eq!(
        report.to_string(),
        format!("6 utterances from 3 files; 1 other file ignored, first {}", ignored.display())
    );
}

#[test]
fn its_sounds_decode() {
    let root = tempfile::tempdir().unwrap();
    librispeech(root.path());
    for (n, utterance) in read(root.path()).unwrap().iter().enumerate() {
        let decoded = utterance.audio.decode().unwrap();
        let samples: Vec<i16> =
            decoded.sound.samples().iter().map(|x| (x * 32768.0).round() as i16).collect();
        assert_eq!(samples, noise(16_000 + 1600 * (n % 2), n as u32 % 2), "{}", utterance.id);
    }
}

#[test]
fn sounds_of_other_kinds_and_without_a_transcript() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "1/2/1-2.trans.txt", "1-2-0000 A\n\n1-2-0001 B\n1-2-0002\n");
    let wav_only = write(root.path(), "1/2/1-2-0000.wav", b"x");
    write(root.path(), "1/2/1-2-0001.wav", b"x");
    let flac_first = write(root.path(), "1/2/1-2-0001.flac", b"x");
    let extra = write(root.path(), "1/2/1-2-0009.flac", b"x");
    let (utterances, report) = SpeechSource::Places(vec![root.path().into()]).read().unwrap();
    assert_eq!(file(&utterances[0].audio), wav_only);
    assert_eq!(file(&utterances[1].audio), flac_first);
    // Neither there: it is FLAC that is missing.
    assert_eq!(file(&utterances[2].audio), root.path().join("1/2/1-2-0002.flac"));
    assert_eq!(utterances[2].text, "");
    assert_eq!(report.untranscribed, [root.path().join("1/2/1-2-0001.wav"), extra]);
    assert!(report.to_string().contains("; 2 sounds without a transcript, first "), "{report}");

    for bad in [" A", "../../x A", "a\\b A"] {
        let path = write(root.path(), "1/2/1-2.trans.txt", format!("1-2-0000 A\n{bad}\n"));
        let error = read(root.path()).unwrap_err().to_string();
        let expected =
            format!("{}:2: expected an ID, one space and the transcript", path.display());
        assert_eq!(error, expected);
    }
}

#[cfg(unix)]
#[test]
fn a_link_back_up_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    librispeech(root.path());
    std::os::unix::fs::symlink(root.path(), root.path().join("dev-clean/up")).unwrap();
    let (utterances, report) = SpeechSource::Places(vec![root.path().into()]).read().unwrap();
    assert_eq!(utterances.len(), 6);
    assert!(report.ignored_files.contains(&root.path().join("dev-clean/up")));
}

#[test]
fn places_that_hold_no_speech() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = ": no speech there; expected a LibriSpeech folder (with .trans.txt files), a manifest \
                 ending in .tsv, or a table ending in .parquet";
    assert_eq!(message(&folder.path().join("gone.tsv")), ": no such file or folder");
    assert_eq!(message(folder.path()), kinds);
    assert_eq!(message(&write(folder.path(), "a.wav", "x")), kinds);
    let of_hub = PathBuf::from("hub:some/corpus/train.tsv");
    assert_eq!(message(&of_hub), kinds);
    let empty = write(folder.path(), "empty.tsv", "path\ttext\n");
    assert_eq!(message(&empty), ": no speech to train on: 0 utterances from 1 file");
    let error = SpeechSource::Places(vec![]).read().unwrap_err().to_string();
    assert_eq!(error, "(no place given): no speech to train on: 0 utterances from 0 files");
}

#[test]
fn a_sound_is_given_once() {
    let root = tempfile::tempdir().unwrap();
    librispeech(root.path());
    let upper = root.path().join("dev-clean");
    let error = both(&[root.path(), &upper.join("84")]).unwrap_err();
    let name = upper.join("84/121123/84-121123-0000.flac").display().to_string();
    assert_eq!(error.to_string(), format!("{name}: given twice; name each sound once"));
    // Nor by another path, nor in a manifest, whether the file is there or not.
    let again = upper.join("84/../84");
    assert!(matches!(both(&[root.path(), &again]), Err(Error::DuplicateClip { .. })));
    let twice = write(root.path(), "twice.tsv", "path\ttext\na.wav\tx\na.wav\ty\n");
    assert!(matches!(both(&[&twice]), Err(Error::DuplicateClip { .. })));
    // The order is the given one.
    let ids = both(&[&upper.join("84"), &upper.join("1272")]).unwrap();
    assert_eq!((&*ids[0], &*ids[2]), ("84-121123-0000", "1272-128104-0000"));
}

#[test]
fn held_out_speech_is_not_trained_on() {
    let root = tempfile::tempdir().unwrap();
    librispeech(root.path());
    let of = |below: &str| read(&root.path().join("dev-clean").join(below)).unwrap();
    check_held_out(&of("1272"), &of("84")).unwrap();
    let line = "path\ttext\ndev-clean/84/../84/121123/84-121123-0001.flac\tx\n";
    let manifest = write(root.path(), "dev.tsv", line);
    let error = check_held_out(&of("84"), &read(&manifest).unwrap()).unwrap_err().to_string();
    assert!(error.contains("84-121123-0001.flac: both in the training and in the held-out"));
}

#[test]
fn ranges_of_names_stand_for_many_manifests() {
    let folder = tempfile::tempdir().unwrap();
    for n in 8..12 {
        write(folder.path(), &format!("part-{n:02}.tsv"), format!("path\ttext\n{n}.wav\tx\n"));
    }
    assert_eq!(both(&[&folder.path().join("part-{08..11}.tsv")]).unwrap().len(), 4);
    let error = both(&[&folder.path().join("part-{08..12}.tsv")]).unwrap_err().to_string();
    assert!(error.ends_with("part-12.tsv: no such file or folder"), "{error}");
    fs::remove_file(folder.path().join("part-09.tsv")).unwrap();
    assert!(both(&[&folder.path().join("part-{08..11}.tsv")]).is_err());
}
