//! The held-out text: by hand, and its laws.

use std::fs;

use fadam_data::Error;
use fadam_data::text::{Document, Split, TextSource};
use proptest::prelude::*;

use crate::document;

fn bytes(documents: &[Document]) -> usize {
    documents.iter().map(|document| document.text.len()).sum()
}

fn documents(lengths: &[usize]) -> Vec<Document> {
    let text = |(n, &length): (usize, &usize)| document(&format!("{n}"), &"x".repeat(length));
    lengths.iter().enumerate().map(text).collect()
}

fn names(documents: &[Document]) -> Vec<String> {
    documents.iter().map(|document| document.origin.to_string()).collect()
}

#[test]
fn equal_documents_are_held_out_at_equal_distances() {
    let split = Split::by_fraction(documents(&[100; 20]), 0.2).unwrap();
    // f·seen − held > 50: 20, 40, 60 at the third; then 80 − 100 + 80 = 60 at the eighth, and so
    // on.
    assert_eq!(names(&split.eval), ["2", "7", "12", "17"]);
    assert_eq!(split.train.len(), 16);
}

#[test]
fn bytes_count_rather_than_documents() {
    // Nine tenths of the bytes are in document 0, which is never worth holding out for a tenth.
    let lengths: Vec<_> = std::iter::once(9_000).chain([100; 10]).collect();
    let split = Split::by_fraction(documents(&lengths), 0.1).unwrap();
    assert!(!names(&split.eval).contains(&"0".to_owned()));
    assert_eq!(bytes(&split.eval), 1_000 - bytes(&split.train[1..]));
    let held = bytes(&split.eval) as f64 / 10_000.0;
    assert!((0.05..=0.15).contains(&held), "{held}");
}

#[test]
fn one_document_gives_its_end() {
    let text = "one two three\nfour five six\nseven eight nine ten\n";
    let split = Split::by_fraction(vec![document("a", text)], 0.5).unwrap();
    // The exact place is byte 24; the tenth before it, from 22 on, has a space at 23.
    assert_eq!(split.train[0].text, "one two three\nfour five");
    assert_eq!(split.eval[0].text, " six\nseven eight nine ten\n");
    assert_eq!(split.eval[0].origin, split.train[0].origin);

    let text = format!("{}\n{}", "a ".repeat(44), "b ".repeat(5));
    let split = Split::by_fraction(vec![document("a", &text)], 0.1).unwrap();
    assert_eq!(split.eval[0].text, "b ".repeat(5), "the line break is preferred to the space");

    let split = Split::by_fraction(vec![document("a", "ééééé")], 0.5).unwrap();
    assert_eq!(split.eval[0].text, "ééé", "never within a character");
}

#[test]
fn few_or_very_unequal_documents_give_their_ends() {
    let split = Split::by_fraction(documents(&[100; 9]), 0.1).unwrap();
    assert_eq!((split.train.len(), split.eval.len()), (9, 9));
    assert_eq!(bytes(&split.eval), 90);
    // Ten documents, but the first is nearly everything and nothing else makes up a tenth of it.
    let lengths: Vec<_> = std::iter::once(100_000).chain([10; 9]).collect();
    let split = Split::by_fraction(documents(&lengths), 0.1).unwrap();
    assert_eq!(split.eval.len(), 10);
    assert_eq!(bytes(&split.eval), 10_009);
}

#[test]
fn the_embedded_text_is_split_as_asked() {
    let (documents, report) = TextSource::Embedded.read().unwrap();
    for eval_fraction in [0.02, 0.05, 0.1, 0.3] {
        let split = Split::by_fraction(documents.clone(), eval_fraction).unwrap();
        let held = bytes(&split.eval) as f64 / report.bytes as f64;
        assert!((held / eval_fraction - 1.0).abs() < 0.3, "{eval_fraction}: {held}");
        assert_eq!(split.train.len() + split.eval.len(), 62, "whole documents");
    }
}

#[test]
fn fractions_that_cannot_be_are_errors() {
    for value in [0.0, 1.0, -0.1, f64::NAN, f64::INFINITY] {
        let error = Split::by_fraction(documents(&[100; 20]), value).unwrap_err();
        assert!(matches!(error, Error::EvalFraction { .. }), "{error}");
    }
    let error = Split::by_fraction(documents(&[1]), 0.01).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data.eval_fraction = 0.01 leaves no text on one side of the split: the corpus has 1 bytes; give more text or \
         another fraction"
    );
    assert!(Split::by_fraction(Vec::new(), 0.1).is_err());
}

#[test]
fn a_held_out_file_is_never_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let train = folder.path().join("train.txt");
    let held_out = folder.path().join("held-out.txt");
    fs::write(&train, "to train on").unwrap();
    fs::write(&held_out, "held out").unwrap();
    let read = |path: &std::path::Path| TextSource::Paths(vec![path.into()]).read().unwrap().0;

    let split = Split::explicit(read(&train), read(&held_out)).unwrap();
    assert_eq!(split.eval[0].text, "held out");

    // The same file by another path.
    let detour = folder.path().join(".").join("held-out.txt");
    let error = Split::explicit(read(folder.path()), read(&detour)).unwrap_err();
    assert!(matches!(error, Error::HeldOutOverlap { .. }));
    assert!(error.to_string().contains("both in the training and in the held-out text"), "{error}");
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_is_in_both(
        texts in proptest::collection::vec("[a-z é😀\n]{0,50}", 1..25),
        eval_fraction in 0.02f64..0.98,
    ) {
        let documents: Vec<_> =
            texts.iter().enumerate().map(|(n, text)| document(&n.to_string(), text)).collect();
        let Ok(split) = Split::by_fraction(documents.clone(), eval_fraction) else {
            return Ok(());
        };
        // Every document is its training part followed by its held-out part, either of which may be
        // missing.
        for original in &documents {
            let of_it = |part: &&Document| part.origin == original.origin;
            let parts = split.train.iter().chain(&split.eval).filter(of_it);
            prop_assert_eq!(&parts.map(|part| &*part.text).collect::<String>(), &original.text);
        }
        prop_assert!(!split.train.is_empty() && !split.eval.is_empty());
        prop_assert_eq!(&split, &Split::by_fraction(documents, eval_fraction).unwrap());
    }

    #[test]
    fn the_held_out_share_is_near_the_fraction(
        lengths in proptest::collection::vec(1usize..2_000, 1..60),
        eval_fraction in 0.05f64..0.5,
    ) {
        let all: usize = lengths.iter().sum();
        if let Ok(split) = Split::by_fraction(documents(&lengths), eval_fraction) {
            let held = bytes(&split.eval) as f64;
            // Within half the fraction for whole documents; a rounding up a document for ends.
            let bound = (0.5 * eval_fraction * all as f64).max(lengths.len() as f64);
            prop_assert!((held - eval_fraction * all as f64).abs() <= bound);
        }
    }
}
