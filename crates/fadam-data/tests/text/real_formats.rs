//! The three kinds of `tokenizer.json` that language models come with, small but of the true
//! structure: T5 (SentencePiece unigram), GPT-2 (byte-level BPE), Llama (SentencePiece BPE).

use std::fs;

use fadam_data::text::Tokenizer;
use serde_json::{Value, json};
use tokenizers::normalizers::Precompiled;

use crate::document;

fn special(id: usize, content: &str) -> Value {
    json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
}

fn load(json: &Value) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, json.to_string()).unwrap();
    Tokenizer::load(&path, None).unwrap()
}

/// Adds `token` around the text, as the post-processor `template` of a file does.
fn template(before: Option<(&str, u32)>, after: Option<(&str, u32)>) -> Value {
    let piece = |token: Option<(&str, u32)>| {
        token.map(|(token, _)| json!({ "SpecialToken": { "id": token, "type_id": 0 } }))
    };
    let text = Some(json!({ "Sequence": { "id": "A", "type_id": 0 } }));
    let single: Vec<Value> = [piece(before), text, piece(after)].into_iter().flatten().collect();
    let tokens = before.into_iter().chain(after);
    let tokens = tokens.map(|(token, id)| {
        (token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }))
    });
    let tokens: serde_json::Map<String, Value> = tokens.collect();
    json!({ "type": "TemplateProcessing", "single": single,
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": tokens })
}

/// A SentencePiece character map that writes `ﬁ` as `fi` and a tab as a space: the length of a double
/// array of 32-bit units (label, leaf bit 8, offset from bit 10 on), the array, the texts.
fn character_map() -> Value {
    let mut trie = vec![0u32; 768];
    let node = |label: u32, offset: u32| label | offset << 10;
    let leaf = 1 << 8;
    // ﬁ is EF AC 81: the children of EF begin at 256, those of AC at 512; leaves are at 16 and 32.
    trie[0xef] = node(0xef, 0xef ^ 256);
    trie[256 ^ 0xac] = node(0xac, 256 ^ 0xac ^ 512);
    trie[512 ^ 0x81] = node(0x81, 512 ^ 0x81 ^ 16) | leaf;
    trie[0x09] = node(0x09, 0x09 ^ 32) | leaf;
    (trie[16], trie[32]) = (1 << 31, 1 << 31 | 3);
    let mut bytes = (4 * trie.len() as u32).to_le_bytes().to_vec();
    bytes.extend(trie.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend(b"fi\0 \0");
    serde_json::to_value(Precompiled::from(&bytes).unwrap()).unwrap()
}

/// As `google-t5/t5-base`: pad, EOS and unknown first, extra ids last.
fn t5() -> Tokenizer {
    let mut vocab = vec![json!(["<pad>", 0.0]), json!(["</s>", 0.0]), json!(["<unk>", 0.0])];
    let words = [
        ("▁", -2.0),
        ("▁the", -3.0),
        ("▁peo", -4.0),
        ("ple", -4.0),
        ("▁of", -3.5),
        ("fi", -5.0),
        ("ve", -5.5),
    ];
    vocab.extend(words.map(|(word, score)| json!([word, score])));
    vocab.extend("abcdefghilmnoprstuvy.".chars().map(|c| json!([c.to_string(), -9.0])));
    let extra = vocab.len();
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "add_prefix_space": true });
    load(&json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<pad>"), special(1, "</s>"), special(2, "<unk>"), special(extra, "<extra_id_0>")],
        "normalizer": character_map(),
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, metaspace] },
        "post_processor": template(None, Some(("</s>", 1))),
        "decoder": metaspace,
        "model": { "type": "Unigram", "unk_id": 2, "vocab": vocab },
    }))
}

/// As `openai-community/gpt2`: the 256 bytes as printable characters, merges, EOS last.
fn gpt2() -> Tokenizer {
    let mut alphabet: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut pieces: Vec<String> = alphabet.into_iter().map(String::from).collect();
    let merges = ["t h", "Ġ th", "Ġth e", "p e", "o p", "pe op", "l e", "peop le"];
    pieces.extend(merges.map(|merge| merge.replace(' ', "")));
    let eos = pieces.len();
    pieces.push("<|endoftext|>".to_owned());
    let vocab: serde_json::Map<String, Value> =
        pieces.into_iter().enumerate().map(|(id, piece)| (piece, id.into())).collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true });
    load(&json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(eos, "<|endoftext|>")],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": { "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                   "fuse_unk": false, "vocab": vocab, "merges": merges },
    }))
}

/// As Llama 2: unknown, BOS and EOS first, then the 256 bytes, merges of ▁-words, characters.
fn llama() -> Tokenizer {
    let mut pieces: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    pieces.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let merges = ["▁ t", "▁t h", "▁th e", "p e", "pe o", "▁ peo", "p l", "pl e"];
    pieces.extend(merges.map(|merge| merge.replace(' ', "")));
    pieces.extend("▁abcdefghilmnoprstuvy.".chars().map(String::from));
    let vocab: serde_json::Map<String, Value> =
        pieces.into_iter().enumerate().map(|(id, piece)| (piece, id.into())).collect();
    let space = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    load(&json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, space(" ", "▁")] },
        "pre_tokenizer": null,
        "post_processor": template(Some(("<s>", 1)), None),
        "decoder": { "type": "Sequence", "decoders": [space("▁", " "), { "type": "ByteFallback" }, { "type": "Fuse" },
                     { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges },
    }))
}

/// Tokens of a text by their spelling.
fn spelled(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let json: Value = serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
    let spelling = |id: u32| match &json["model"]["vocab"] {
        Value::Array(vocab) => vocab[id as usize][0].as_str().unwrap().to_owned(),
        vocab => {
            let mut entries = vocab.as_object().unwrap().iter();
            entries.find(|(_, value)| value.as_u64() == Some(id.into())).unwrap().0.clone()
        }
    };
    tokenizer.encode(text).unwrap().into_iter().map(spelling).collect()
}

#[test]
fn t5_is_a_unigram_with_a_character_map() {
    let t5 = t5();
    assert_eq!((t5.eos(), t5.eos_id()), ("</s>", 1));
    assert_eq!(t5.vocab_size(), 3 + 7 + 21 + 1, "with the extra id");
    assert_eq!(spelled(&t5, "the people\tof ﬁve"), ["▁the", "▁peo", "ple", "▁of", "▁", "fi", "ve"]);
    // Characters that the vocabulary has not.
    assert_eq!(spelled(&t5, "the 世"), ["▁the", "▁", "<unk>"]);
}

#[test]
fn gpt2_is_bytes() {
    let gpt2 = gpt2();
    assert_eq!((gpt2.eos(), gpt2.eos_id()), ("<|endoftext|>", 264));
    assert_eq!(gpt2.vocab_size(), 265);
    assert_eq!(spelled(&gpt2, "people the é"), ["people", "Ġthe", "Ġ", "Ã", "©"]);
}

#[test]
fn llama_falls_back_to_bytes() {
    let llama = llama();
    assert_eq!((llama.eos(), llama.eos_id()), ("</s>", 2), "and not <s>");
    // No <s> before it, a ▁ for each space, the UTF-8 of what the vocabulary has not.
    assert_eq!(
        spelled(&llama, "the people  é"),
        ["▁the", "▁peo", "ple", "▁", "▁", "<0xC3>", "<0xA9>"]
    );
}

#[test]
fn text_comes_back() {
    let plain = "the people of the five arts. the people serve the bold";
    for tokenizer in [t5(), gpt2(), llama()] {
        let tokens = tokenizer.encode(plain).unwrap();
        assert!(tokens.len() < plain.len(), "{tokenizer:?}");
        assert_eq!(tokenizer.decode(&tokens).unwrap(), plain, "{tokenizer:?}");
    }
    let any = "  two  spaces,\n\ttabs — 世界 😀 ";
    for tokenizer in [gpt2(), llama()] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(any).unwrap()).unwrap(), any);
    }
}

#[test]
fn documents_end_and_their_bytes_are_counted() {
    let texts = ["the people ", "ﬁve\tof the 世", "é  the"];
    let documents = texts.map(|text| document("a", text));
    for tokenizer in [t5(), gpt2(), llama()] {
        let encoded = tokenizer.encode_documents_with_bytes(&documents).unwrap();
        assert_eq!(tokenizer.encode_documents(&documents).unwrap(), encoded.tokens);
        let tokens: Vec<_> = encoded.tokens.iter().zip(&encoded.bytes).collect();
        let ends = |token: &(&u32, &u32)| *token.0 == tokenizer.eos_id();
        let parts: Vec<_> = tokens.split_inclusive(ends).collect();
        let bytes = parts.iter().map(|part| part.iter().map(|(_, b)| **b as usize).sum::<usize>());
        assert_eq!(bytes.collect::<Vec<_>>(), texts.map(str::len), "{tokenizer:?}");
    }
}

#[test]
fn a_saved_tokenizer_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let fingerprints = [t5(), gpt2(), llama()].map(|tokenizer| {
        tokenizer.save(&path).unwrap();
        let loaded = Tokenizer::load(&path, Some(tokenizer.eos())).unwrap();
        let text = "the people of ﬁve";
        assert_eq!(loaded.encode(text).unwrap(), tokenizer.encode(text).unwrap());
        assert_eq!(loaded.vocab_size(), tokenizer.vocab_size());
        // What was kept for the one is found for the other.
        let fingerprint = tokenizer.fingerprint().unwrap();
        assert_eq!(loaded.fingerprint().unwrap(), fingerprint);
        fingerprint
    });
    assert!(fingerprints[0] != fingerprints[1] && fingerprints[1] != fingerprints[2]);
}
