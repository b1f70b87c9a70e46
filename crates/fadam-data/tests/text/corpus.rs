//! Tokens in a row, their entropy, and their export.

use std::fs;
use std::io::Write;

use fadam_data::Error;
use fadam_data::text::{Corpus, Split, Tokenizer, unigram_entropy_nats};

use crate::document;

fn corpus() -> (Corpus, Tokenizer) {
    let text = "to be or not to be ".repeat(20);
    let train = vec![document("a", &text), document("b", "or not")];
    let eval = vec![document("c", "to be"), document("d", "né")];
    let tokenizer = Tokenizer::train_byte_level_bpe(&train, 262).unwrap();
    (Corpus::build(&Split { train, eval }, &tokenizer).unwrap(), tokenizer)
}

#[test]
fn documents_follow_each_other_behind_end_of_text() {
    let (corpus, tokenizer) = corpus();
    let tokens =
        [tokenizer.encode("to be").unwrap(), vec![0], tokenizer.encode("né").unwrap(), vec![0]];
    assert_eq!(*corpus.eval(), tokens.concat());
    assert_eq!(corpus.train().iter().filter(|&&token| token == 0).count(), 2);
    // "to" " be" EOS, then "n" and the two bytes of é, of which the first stands for both.
    assert_eq!(*corpus.eval_bytes(), [2, 3, 0, 1, 2, 0, 0]);
    assert_eq!(corpus.vocab_size(), 262);
}

#[test]
fn entropy_by_hand() {
    assert_eq!(unigram_entropy_nats(&[]), 0.0);
    assert_eq!(unigram_entropy_nats(&[7, 7, 7]), 0.0);
    // 1/2, 1/4, 1/8, 1/8: 1.75 bits.
    let tokens = [3, 3, 3, 3, 9, 9, 0, 65535];
    assert!((unigram_entropy_nats(&tokens) - 1.75 * 2f64.ln()).abs() < 1e-15);
    let (corpus, _) = corpus();
    assert_eq!(corpus.eval_unigram_nats(), unigram_entropy_nats(&corpus.eval()));
}

#[test]
fn exported_files_are_little_endian_numbers() {
    let (corpus, _) = corpus();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/tokens");
    corpus.export_u16(&out).unwrap();
    for (name, tokens) in [("train.u16", corpus.train()), ("eval.u16", corpus.eval())] {
        let bytes = fs::read(out.join(name)).unwrap();
        let read: Vec<u32> = bytes
            .chunks_exact(2)
            .map(|pair| u32::from(pair[0]) + 256 * u32::from(pair[1]))
            .collect();
        assert_eq!(*tokens, read);
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2, "no partial file is left");
}

#[test]
fn an_export_below_a_file_is_an_error() {
    let (corpus, _) = corpus();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "kept").unwrap();
    let error = corpus.export_u16(&file.join("tokens")).unwrap_err();
    assert!(matches!(error, Error::Io { action: "create", .. }), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
}

#[test]
fn a_vocabulary_above_16_bits_is_not_exported() {
    // A word-level tokenizer whose highest id is 65,536.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let model = r#"{"type": "WordLevel", "unk_token": "a", "vocab": {"</s>": 0, "a": 65536}}"#;
    let mut file = fs::File::create(&path).unwrap();
    write!(file, "{{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {model}}}").unwrap();
    let tokenizer = Tokenizer::load(&path, None).unwrap();
    let split = Split { train: vec![document("a", "a")], eval: vec![document("b", "a")] };
    let corpus = Corpus::build(&split, &tokenizer).unwrap();
    let error = corpus.export_u16(&folder.path().join("out")).unwrap_err();
    assert!(error.to_string().contains("the vocabulary has 65537 ids"), "{error}");
    assert!(!folder.path().join("out").exists());
}
