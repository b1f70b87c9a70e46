//! Characters and pieces: any script, files, and unknown characters.

use std::path::Path;

use fadam_data::speech::{BLANK, Normalisation, Units};
use proptest::prelude::*;

/// Greek, Chinese, Hindi with combining marks, a letter that has no composed form, and an emoji that is
/// none of them.
const WORLD: [&str; 5] = [
    "Ὁ ΣΟΦΌΣ, ξένε!",
    "你好，世界。你好！",
    "नमस्ते दुनिया",
    "x\u{304}x\u{304} cafe\u{301}",
    "yes 🙂 yes",
];

fn world() -> Vec<String> {
    WORLD.iter().map(|text| Normalisation::Standard.apply(text)).collect()
}

fn message(path: &Path) -> String {
    Units::load(path).unwrap_err().to_string()
}

#[test]
fn every_transcript_of_the_world_comes_back() {
    let transcripts = world();
    let characters = Units::characters(&transcripts).unwrap();
    let distinct: std::collections::BTreeSet<char> =
        transcripts.iter().flat_map(|text| text.chars()).collect();
    assert_eq!(characters.size(), 1 + distinct.len());
    let pieces = Units::pieces(&transcripts, 60).unwrap();
    assert_eq!(pieces.size(), 60);
    for text in &transcripts {
        for units in [&characters, &pieces] {
            let numbers = units.encode(text).unwrap();
            assert!(!numbers.is_empty() && !numbers.contains(&BLANK));
            assert!(numbers.iter().all(|&n| (n as usize) < units.size()));
            assert_eq!(units.decode(&numbers).unwrap(), *text);
            assert!(units.unknown(text).is_empty());
        }
        assert_eq!(characters.encode(text).unwrap().len(), text.chars().count());
        assert!(pieces.encode(text).unwrap().len() <= text.chars().count() + 1);
    }
    assert_eq!(transcripts[1], "你好 世界 你好");
    assert_eq!(transcripts[4], "yes yes");
}

#[test]
fn characters_are_numbered_in_their_order() {
    let units = Units::characters(&["ba", "", "á a"]).unwrap();
    let symbols: Vec<_> = (0..6).map(|n| units.symbol(n)).collect();
    let text = |c: &str| Some(c.to_owned());
    assert_eq!(symbols, [None, text(" "), text("a"), text("b"), text("á"), None]);
    // The blank has no text; a number that there is not is an error.
    assert_eq!(units.decode(&[3, BLANK, 2]).unwrap(), "ba");
    let error = units.decode(&[1, 5]).unwrap_err().to_string();
    assert_eq!(error, "token 5 cannot be decoded: the vocabulary of 5 ids has no such token");
}

#[test]
fn pieces_are_whole_words_where_words_are_frequent() {
    let transcripts = vec!["the cat and the dog and the end".to_owned(); 3];
    let units = Units::pieces(&transcripts, 18).unwrap();
    let numbers = units.encode("the and the").unwrap();
    let symbols: Vec<_> = numbers.iter().map(|&n| units.symbol(n).unwrap()).collect();
    assert_eq!(symbols, ["▁the", "▁and", "▁the"]);
    assert_eq!(units.decode(&numbers).unwrap(), "the and the");
    // The same transcripts, the same pieces.
    let again = Units::pieces(&transcripts, 18).unwrap();
    assert_eq!(again.encode("the dog and").unwrap(), units.encode("the dog and").unwrap());
}

#[test]
fn unknown_characters_are_left_out_and_named() {
    let transcripts = ["the cat", "a hat"];
    for units in [Units::characters(&transcripts).unwrap(), Units::pieces(&transcripts, 8).unwrap()]
    {
        assert_eq!(units.unknown("the fat ▁bat"), ['f', '▁', 'b']);
        let numbers = units.encode("the fat ▁bat").unwrap();
        assert_eq!(units.decode(&numbers).unwrap(), "the at at");
        assert!(units.encode("xyz").unwrap().is_empty() && units.encode("").unwrap().is_empty());
    }
}

#[test]
fn spaces_of_unnormalised_text_come_back() {
    let transcripts = [" two  spaces ", "a\tb\nc"];
    for units in
        [Units::characters(&transcripts).unwrap(), Units::pieces(&transcripts, 16).unwrap()]
    {
        for text in transcripts {
            assert_eq!(units.decode(&units.encode(text).unwrap()).unwrap(), text);
        }
    }
}

#[test]
fn sizes_that_cannot_be() {
    let transcripts = ["aba", "bab ab"];
    // The blank, the space, a and b.
    let error = Units::pieces(&transcripts, 3).unwrap_err().to_string();
    assert_eq!(
        error,
        "data.vocab_size = 3: the blank and the characters of the training transcripts are 4; give at \
         least that"
    );
    assert_eq!(Units::pieces(&transcripts, 4).unwrap().size(), 4);
    let error = Units::pieces(&transcripts, 100).unwrap_err().to_string();
    assert!(error.starts_with("data.vocab_size = 100: only "), "{error}");
    for none in [&[][..], &[""], &["", ""]] {
        let error = Units::characters(none).unwrap_err().to_string();
        assert!(error.starts_with("the training transcripts have no character"), "{error}");
        assert_eq!(Units::pieces(none, 10).unwrap_err().to_string(), error);
    }
}

#[test]
fn a_file_brings_them_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("units.json");
    let transcripts = world();
    for units in
        [Units::characters(&transcripts).unwrap(), Units::pieces(&transcripts, 60).unwrap()]
    {
        units.save(&path).unwrap();
        let loaded = Units::load(&path).unwrap();
        assert_eq!(loaded.size(), units.size());
        for text in &transcripts {
            assert_eq!(loaded.encode(text).unwrap(), units.encode(text).unwrap());
        }
        let all: Vec<_> = (0..units.size() as u32).map(|n| units.symbol(n)).collect();
        assert_eq!(all, (0..units.size() as u32).map(|n| loaded.symbol(n)).collect::<Vec<_>>());
        let again = folder.path().join("again.json");
        loaded.save(&again).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
    }
}

#[test]
fn files_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("units.json");
    assert!(message(&path).ends_with("units.json: no such file or folder"));
    let bpe = r#"{"type":"BPE","vocab":{"▁":0,"a":1},"merges":[]}"#;
    for (text, expected) in [
        ("{", "EOF while parsing"),
        ("[1, 2]", "invalid type"),
        (r#"{"model": 1}"#, "missing field `units`"),
        (r#"{"units":"words","blank":0}"#, "unknown variant `words`"),
        (r#"{"units":"characters","blank":0,"characters":["a"],"x":1}"#, "unknown field `x`"),
        (r#"{"units":"characters","blank":5,"characters":["a"]}"#, "the blank is 5, expected 0"),
        (r#"{"units":"characters","blank":0,"characters":[]}"#, "expected characters in the order"),
        (
            r#"{"units":"characters","blank":0,"characters":["b","a"]}"#,
            "in the order of their code",
        ),
        (r#"{"units":"characters","blank":0,"characters":["a","a"]}"#, "each once"),
        (r#"{"units":"characters","blank":0,"characters":["ab"]}"#, "\"ab\" is not one character"),
        (r#"{"units":"characters","blank":0,"characters":[""]}"#, "\"\" is not one character"),
        (r#"{"units":"pieces","blank":0,"model":{"type":"Unigram"}}"#, "Unigram"),
        (
            &format!(r#"{{"units":"pieces","blank":0,"model":{}}}"#, bpe.replace(":1", ":2")),
            "0, 1, 2",
        ),
        (
            &format!(r#"{{"units":"pieces","blank":0,"model":{}}}"#, bpe.replace('▁', "b")),
            "expected ▁",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let message = message(&path);
        assert!(message.contains("units.json: not a units.json: "), "{message}");
        assert!(message.contains(expected), "{text}: {message}");
    }
    std::fs::write(&path, format!(r#"{{"units":"pieces","blank":0,"model":{bpe}}}"#)).unwrap();
    assert_eq!(Units::load(&path).unwrap().size(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_trained_on_comes_back(
        transcripts in proptest::collection::vec("[a-cé你σ\u{301}][a-cé你σ\u{301} ]{0,14}", 1..12),
        extra in 0usize..6,
    ) {
        let characters = Units::characters(&transcripts).unwrap();
        let smallest = characters.size() + usize::from(!transcripts.concat().contains(' '));
        let units = Units::pieces(&transcripts, smallest + extra);
        for text in &transcripts {
            prop_assert_eq!(&characters.decode(&characters.encode(text).unwrap()).unwrap(), text);
            // Short transcripts do not always give that many pieces.
            if let Ok(units) = &units {
                prop_assert_eq!(&units.decode(&units.encode(text).unwrap()).unwrap(), text);
            }
        }
        prop_assert!(extra > 0 || units.is_ok());
    }
}
