//! Tables on a disk and on a hub.

use std::fs;
use std::time::Duration;

use fadam_data::Error;
use fadam_data::hub::Hub;
use fadam_data::speech::{Reason, SetSpec, SpeechSet, SpeechSource, Utterance};
use parquet::basic::{Compression, GzipLevel};

use super::server::Server;
use super::table::{self, Row};
use super::{characters, noise, read, wav, write};

/// Seven utterances in two row groups: one without bytes, one whose bytes are no sound.
fn groups() -> Vec<Vec<Row>> {
    let row = |n: usize| Row {
        sound: (n != 3).then(|| match n {
            5 => b"no sound at all".to_vec(),
            _ => wav(16_000, 1, &noise(8_000 + 100 * n, n as u32)),
        }),
        name: (n != 1).then(|| format!("84-121123-{n:04}.wav")),
        text: (n != 4).then(|| format!("LINE {}", ["A", "B", "C", "D", "E", "F", "G"][n])),
        speaker: 84 + (n / 4).cast_signed() as i64,
        id: format!("84-121123-{n:04}"),
    };
    vec![(0..4).map(row).collect(), (4..7).map(row).collect()]
}

fn samples(utterance: &Utterance) -> Vec<i16> {
    let decoded = utterance.audio.decode().unwrap();
    decoded.sound.samples().iter().map(|x| (x * 32768.0).round() as i16).collect()
}

#[test]
fn each_row_has_its_own_sound_whatever_the_order() {
    let folder = tempfile::tempdir().unwrap();
    for compression in
        [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(GzipLevel::default())]
    {
        let table = write(folder.path(), "0.parquet", table::librispeech(&groups(), compression));
        let utterances = read(&table).unwrap();
        assert_eq!(utterances.len(), 7);
        for n in [6, 0, 2, 1, 4] {
            let utterance = &utterances[n];
            assert_eq!(samples(utterance), noise(8_000 + 100 * n, n as u32), "row {n}");
            assert_eq!(utterance.id, format!("84-121123-{n:04}"));
            assert_eq!(utterance.speaker.as_deref(), Some(["84", "85"][n / 4]));
        }
        assert_eq!(utterances[6].text, "LINE G");
        assert_eq!(utterances[4].text, "", "null");
        let name = utterances[2].audio.to_string();
        assert!(name.ends_with("0.parquet:2/84-121123-0002.wav"), "{name}");
        assert!(utterances[1].audio.to_string().ends_with("0.parquet:1"));
    }
}

#[test]
fn rows_without_sound_are_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let table =
        write(folder.path(), "0.parquet", table::librispeech(&groups(), Compression::SNAPPY));
    let utterances = read(&table).unwrap();
    let units = characters(&utterances);
    let set = SpeechSet::build(utterances, &units, &SetSpec::default(), &|_, _| {}).unwrap();
    let report = set.report();
    assert_eq!((report.given, report.kept), (7, 4));
    assert_eq!((report.count(Reason::Unreadable), report.count(Reason::NoSymbol)), (2, 1));
    let what = &report.left_out[&Reason::Unreadable].first;
    assert!(what[0].ends_with("not a table of speech: row 3: audio.bytes is null"), "{what:?}");
    assert!(what[1].contains("0.parquet:5/84-121123-0005.wav"), "{what:?}");
}

#[test]
fn threads_may_read_one_table() {
    let folder = tempfile::tempdir().unwrap();
    let row = |n: usize| Row {
        sound: Some(wav(16_000, 1, &noise(3_000 + n, n as u32))),
        name: None,
        text: Some("x".to_owned()),
        speaker: 1,
        id: n.to_string(),
    };
    let groups = [(0..40).map(row).collect(), (40..60).map(row).collect::<Vec<_>>()];
    let bytes = table::librispeech(&groups, Compression::SNAPPY);
    let utterances = read(&write(folder.path(), "0.parquet", bytes)).unwrap();
    std::thread::scope(|scope| {
        for start in 0..4 {
            let utterances = &utterances;
            scope.spawn(move || {
                for n in (start..60).step_by(4).rev() {
                    assert_eq!(samples(&utterances[n]), noise(3_000 + n, n as u32));
                }
            });
        }
    });
}

#[test]
fn tables_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let message = |bytes: Vec<u8>| {
        let path = write(folder.path(), "bad.parquet", bytes);
        let error = read(&path).unwrap_err().to_string();
        let place = format!("{}: not a table of speech: ", path.display());
        error.strip_prefix(&place).expect(&error).to_owned()
    };
    let good = table::librispeech(&groups(), Compression::SNAPPY);
    assert!(!message(b"PAR1 no table".to_vec()).is_empty());
    assert!(!message(Vec::new()).is_empty());
    assert!(!message(good[..good.len() - 20].to_vec()).is_empty());
    assert_eq!(
        message(table::empty("message m { REQUIRED BYTE_ARRAY text (UTF8); REQUIRED INT32 n; }")),
        "no column audio.bytes; expected audio {bytes, path}, text, and perhaps speaker_id and id, and \
         it has text, n"
    );
    let no_text = "message m { REQUIRED GROUP audio { REQUIRED BYTE_ARRAY bytes; } }";
    assert!(message(table::empty(no_text)).starts_with("no column text; "));
    // Nothing here writes zstd, so the footer is made to say it: behind the column's path, field 4 (0x15)
    // is the codec, SNAPPY (1, in zigzag 2) or ZSTD (6, in zigzag 12).
    let mut zstd = good;
    let at = zstd.windows(7).position(|bytes| bytes == b"\x04text\x15\x02").unwrap();
    zstd[at + 6] = 12;
    let message = message(zstd);
    assert!(
        message.starts_with("compressed with ZSTD") && message.contains("expected SNAPPY, GZIP")
    );
}

/// What the parquet crate panics of is caught: not worth a trace each.
fn quiet_parquet() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|at| at.file().contains("/parquet-")) {
            before(info);
        }
    }));
}

/// Whatever byte is wrong, reading is an error or a value, and never a panic.
#[test]
fn damaged_tables_do_not_panic() {
    let folder = tempfile::tempdir().unwrap();
    let whole = table::librispeech(&groups(), Compression::SNAPPY);
    quiet_parquet();
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    // The footer and the page headers are small: half of the changes are in the last 2,000 bytes.
    for n in 0..2_000 {
        let mut bytes = whole.clone();
        let range = if n % 2 == 0 { 2_000 } else { bytes.len() };
        let at = bytes.len() - 1 - next() % range;
        bytes[at] = next() as u8;
        let path = write(folder.path(), "damaged.parquet", &bytes);
        let Ok(utterances) = read(&path) else { continue };
        for utterance in utterances {
            // Bytes of a sound may be wrong as well.
            let _ = utterance.audio.decode();
        }
    }
}

#[test]
fn a_table_that_is_cut_later_is_a_clip_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = table::librispeech(&groups(), Compression::UNCOMPRESSED);
    let path = write(folder.path(), "0.parquet", &bytes);
    let utterances = read(&path).unwrap();
    fs::write(&path, &bytes[..2000]).unwrap();
    let error = utterances[6].audio.decode().unwrap_err();
    assert!(matches!(error, Error::SpeechTable { .. }), "{error}");
    assert!(error.to_string().contains("0.parquet: not a table of speech: row 6: "), "{error}");
}

#[test]
fn tables_of_a_hub_are_those_of_a_disk() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    let names = ["all/dev.clean/0000.parquet", "all/dev.clean/0001.parquet"];
    let table = |from: usize| {
        let row = |n: usize| Row {
            sound: Some(wav(16_000, 1, &noise(2_000 + n, n as u32))),
            name: Some(format!("{n}.flac")),
            text: Some(format!("NUMBER {n}")),
            speaker: 1,
            id: n.to_string(),
        };
        table::librispeech(&[(from..from + 3).map(row).collect()], Compression::SNAPPY)
    };
    for (at, name) in names.iter().enumerate() {
        server.put_large("datasets/openslr/librispeech_asr", name, table(3 * at));
    }
    let hub = Hub::from_vars(|name| match name {
        "HF_ENDPOINT" => Some(server.endpoint()),
        "HF_HOME" => Some(home.path().to_str().unwrap().to_owned()),
        _ => None,
    });
    let hub = hub.with_waits(Duration::from_millis(1), Duration::from_secs(20));
    let place = "hub:openslr/librispeech_asr/all/dev.clean/{0000..0001}.parquet";
    let source = SpeechSource::Places(vec![place.into()]);
    let told = std::cell::RefCell::new(Vec::new());
    let tell = |line: &str| told.borrow_mut().push(line.to_owned());
    let (utterances, report) = source.read_with(&hub, &tell).unwrap();
    let file = "hub:openslr/librispeech_asr/all/dev.clean/0001.parquet: file 2 of 2";
    assert_eq!((told.borrow().len(), &*told.borrow()[1]), (2, file));
    assert_eq!(report.to_string(), "6 utterances from 2 files");
    for (n, utterance) in utterances.iter().enumerate() {
        assert_eq!((&*utterance.id, &*utterance.text), (&*n.to_string(), &*format!("NUMBER {n}")));
        assert_eq!(samples(utterance), noise(2_000 + n, n as u32));
    }
    let name = utterances[4].audio.to_string();
    assert_eq!(name, "hub:openslr/librispeech_asr@main/all/dev.clean/0001.parquet:1/4.flac");

    let gone = SpeechSource::Places(vec!["hub:openslr/librispeech_asr/all/9.parquet".into()]);
    let error = gone.read_with(&hub, &|_| {}).unwrap_err().to_string();
    assert!(error.ends_with("the hub has no such repository, revision or file (404)"), "{error}");
}
