//! Training, loading and saving tokenizers; round trips; the account of bytes.

use std::fs;

use fadam_data::Error;
use fadam_data::text::{END_OF_TEXT, Tokenizer};
use proptest::prelude::*;

use crate::{document, speech};

/// A tokenizer in T5's manner: a unigram model, spaces as ▁, an EOS that its post-processor adds;
/// and, as some files have it, truncation and padding.
const UNIGRAM: &str = r#"{
  "version": "1.0",
  "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
  "padding": {"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
              "pad_type_id": 0, "pad_token": "<pad>"},
  "added_tokens": [
    {"id": 0, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 12, "content": "<extra>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
  ],
  "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Strip", "strip_left": true, "strip_right": true}]},
  "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
  "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
  "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": false,
    "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0], ["▁be", -3.0], ["▁to", -3.0], ["fi", -4.0],
              ["a", -5.0], ["b", -5.0], ["e", -5.0], ["o", -5.0], ["t", -5.0]]}
}"#;

fn load(json: &str, eos: Option<&str>) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, json).unwrap();
    Tokenizer::load(&path, eos)
}

#[test]
fn merges_by_hand() {
    // "ab" is the commonest pair, then "abab" (of ab + ab), then the space joins: pairs by count,
    // ties by lower id.
    let tokenizer =
        Tokenizer::train_byte_level_bpe(&[document("a", "abab abab abab xyz")], 259).unwrap();
    let id = |text: &str| tokenizer.encode(text).unwrap();
    assert_eq!(id("ab"), [257]);
    assert_eq!(id("abab"), [258]);
    // The bytes are in the order of their printable stand-ins, '!' first.
    assert_eq!(id("!"), [1]);
    assert_eq!(id("xyz"), [id("x"), id("y"), id("z")].concat());
    assert_eq!(
        (tokenizer.eos_id(), tokenizer.eos(), tokenizer.vocab_size()),
        (0, END_OF_TEXT, 259)
    );
}

#[test]
fn training_twice_gives_the_same_file() {
    let train = || Tokenizer::train_byte_level_bpe(&speech(), 600).unwrap().to_json().unwrap();
    let json = train();
    assert!(json == train(), "two trainings differ");
    assert!(json.contains("\"add_prefix_space\": false"));
}

#[test]
fn the_vocabulary_has_the_size_that_was_asked_for() {
    for vocab_size in [257, 300, 1000] {
        let tokenizer = Tokenizer::train_byte_level_bpe(&speech(), vocab_size).unwrap();
        assert_eq!(tokenizer.vocab_size(), vocab_size);
    }
}

#[test]
fn sizes_that_cannot_be_are_errors() {
    let error = Tokenizer::train_byte_level_bpe(&speech(), 256).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data.vocab_size = 256: a byte-level vocabulary needs at least 257, the 256 bytes and the end-of-text token"
    );
    // "aaaa" gives aa and aaaa, nothing else.
    let error = Tokenizer::train_byte_level_bpe(&[document("a", "aaaa")], 300).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data.vocab_size = 300: only 259 pieces could be learned from 4 bytes of training text; lower data.vocab_size \
         to 259 or less, or give more text"
    );
}

#[test]
fn a_saved_tokenizer_is_the_same_one() {
    let tokenizer = Tokenizer::train_byte_level_bpe(&speech(), 400).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, "an older file").unwrap();
    tokenizer.save(&path).unwrap();
    let loaded = Tokenizer::load(&path, None).unwrap();
    assert_eq!(loaded.to_json().unwrap(), tokenizer.to_json().unwrap());
    assert_eq!(loaded.eos_id(), 0);
    let documents = [document("a", "America’s farms"), document("b", "and <|endoftext|>")];
    assert_eq!(
        loaded.encode_documents(&documents).unwrap(),
        tokenizer.encode_documents(&documents).unwrap()
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    let error = tokenizer.save(&path.join("below.json")).unwrap_err();
    assert!(matches!(error, Error::Io { action: "write", .. }), "{error}");
}

#[test]
fn a_document_cannot_forge_its_end() {
    let tokenizer = Tokenizer::train_byte_level_bpe(&speech(), 300).unwrap();
    let encoded = tokenizer.encode_documents(&[document("a", "x<|endoftext|>y")]).unwrap();
    assert_eq!(encoded.iter().filter(|&&id| id == tokenizer.eos_id()).count(), 1);
    assert_eq!(encoded.last(), Some(&tokenizer.eos_id()));
    assert_eq!(tokenizer.decode(&encoded).unwrap(), "x<|endoftext|>y");
}

#[test]
fn documents_are_encoded_in_order_each_with_its_end() {
    let tokenizer = Tokenizer::train_byte_level_bpe(&speech(), 300).unwrap();
    let documents: Vec<_> = (0..100).map(|n| document("a", &format!("number {n}"))).collect();
    let mut expected = Vec::new();
    for document in &documents {
        expected.extend(tokenizer.encode(&document.text).unwrap());
        expected.push(0);
    }
    assert_eq!(tokenizer.encode_documents(&documents).unwrap(), expected);
    assert_eq!(tokenizer.encode_documents_with_bytes(&documents).unwrap().tokens, expected);
}

#[test]
fn ids_outside_the_vocabulary_are_not_decoded() {
    let tokenizer = Tokenizer::train_byte_level_bpe(&speech(), 300).unwrap();
    let error = tokenizer.decode(&[1, 300]).unwrap_err().to_string();
    assert_eq!(error, "token 300 cannot be decoded: the vocabulary of 300 ids has no such token");
    // A part of a character.
    let half = tokenizer.encode("é").unwrap()[0];
    assert_eq!(tokenizer.decode(&[half]).unwrap(), "\u{fffd}");
}

#[test]
fn a_unigram_tokenizer_neither_pads_nor_truncates() {
    let tokenizer = load(UNIGRAM, None).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.eos_id()), ("</s>", 1));
    assert_eq!(tokenizer.vocab_size(), 13, "with the added token");
    // ▁to ▁be ▁ a t o, and no </s> from the template.
    assert_eq!(tokenizer.encode("to be ato").unwrap(), [5, 4, 3, 7, 11, 10]);
    let encoded = tokenizer.encode_documents_with_bytes(&[document("a", "  to be  ﬁ ")]).unwrap();
    // Strip drops the outer spaces, NFKC makes "fi" of the 3 bytes of ﬁ: ▁to ▁be ▁ ▁ fi </s>.
    assert_eq!(encoded.tokens, [5, 4, 3, 3, 6, 1]);
    assert_eq!(encoded.bytes.iter().sum::<u32>(), 13);
    assert_eq!(encoded.bytes, [4, 3, 1, 1, 4, 0]);
    // A document that the normalizer drops altogether.
    let dropped = tokenizer.encode_documents_with_bytes(&[document("a", "  ")]).unwrap();
    assert_eq!((dropped.tokens, dropped.bytes), (vec![1], vec![2]));
}

#[test]
fn a_document_that_cannot_be_encoded_is_named() {
    // A word-level model without a token for unknown words.
    let model = r#"{"type": "WordLevel", "unk_token": "<unk>", "vocab": {"</s>": 0, "a": 1}}"#;
    let json = format!("{{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {model}}}");
    let tokenizer = load(&json, None).unwrap();
    let error = tokenizer.encode_documents(&[document("x.txt", "b")]).unwrap_err().to_string();
    assert!(error.starts_with("x.txt: the tokenizer cannot encode it: "), "{error}");
    assert!(tokenizer.encode("b").is_err());
}

#[test]
fn the_end_of_text_token_can_be_named() {
    let tokenizer = load(UNIGRAM, Some("<extra>")).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.eos_id()), ("<extra>", 12));
    let error = load(UNIGRAM, Some("<end>")).unwrap_err().to_string();
    assert!(
        error.ends_with(
            ": no end-of-text token: looked for <end>; name another one that the file has"
        ),
        "{error}"
    );
    let without = UNIGRAM.replace("</s>", "<stop>");
    let error = load(&without, None).unwrap_err().to_string();
    assert!(error.contains("looked for </s>, <|endoftext|>, <eos>, <|end_of_text|>;"), "{error}");
}

#[test]
fn files_that_are_no_tokenizer() {
    for json in ["", "{}", "not JSON", &UNIGRAM[..700], "{\"model\": {\"type\": \"Unknown\"}}"] {
        let error = load(json, None).unwrap_err();
        assert!(matches!(error, Error::MalformedTokenizer { .. }), "{error}");
        assert!(error.to_string().contains("tokenizer.json: not a tokenizer.json: "), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let gone = Tokenizer::load(&folder.path().join("gone.json"), None).unwrap_err();
    assert!(matches!(gone, Error::MissingPath { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn text_comes_back_and_every_byte_is_counted(
        texts in proptest::collection::vec("(\\PC|[ \n\r\t’é😀a-f]){0,40}", 1..4),
    ) {
        let training = document("a", &"a bad café’s face 😀 fed a cab ".repeat(8));
        let tokenizer = Tokenizer::train_byte_level_bpe(&[training], 275).unwrap();
        let documents: Vec<_> = texts.iter().map(|text| document("a", text)).collect();
        let encoded = tokenizer.encode_documents_with_bytes(&documents).unwrap();
        prop_assert_eq!(tokenizer.decode(&encoded.tokens).unwrap(), texts.concat());

        let tokens: Vec<_> = encoded.tokens.iter().zip(&encoded.bytes).collect();
        let mut counted = Vec::new();
        for document in tokens.split_inclusive(|(token, _)| **token == tokenizer.eos_id()) {
            counted.push(document.iter().map(|(_, bytes)| **bytes as usize).sum::<usize>());
            prop_assert_eq!(*document.last().unwrap().1, 0, "EOS stands for nothing");
        }
        prop_assert_eq!(counted, texts.iter().map(String::len).collect::<Vec<_>>());
    }
}
