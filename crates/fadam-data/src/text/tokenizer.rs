//! Text to token ids and back.

use std::fmt;
use std::io::Write;
use std::path::Path;

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Encoding};

use super::Document;
use super::pieces::pieces;
use crate::unpanicked::unpanicked;
use crate::write_aside::write_aside;
use crate::{Error, Result};

/// The end-of-text token of the tokenizers trained here, with id 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// What given tokenizers call it, in the order in which they are looked for: T5 and Llama 2, GPT-2,
/// Gemma, Llama 3.
const KNOWN_EOS: [&str; 4] = ["</s>", END_OF_TEXT, "<eos>", "<|end_of_text|>"];

/// The smallest byte-level vocabulary: the 256 bytes and [`END_OF_TEXT`].
const MIN_VOCAB: usize = 257;

/// Documents are learned from and encoded in pieces of at most this many bytes.
pub(super) const PIECE_BYTES: usize = 1 << 18;

/// A tokenizer with an end-of-text (EOS) token.
///
/// Encoding adds no special tokens but the EOS after each document, and neither pads nor truncates,
/// whatever the tokenizer's file says. The spelling of a special token inside a document is
/// ordinary text.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    eos: String,
    eos_id: u32,
    vocab_size: usize,
}

impl Tokenizer {
    /// Learns a byte-level BPE vocabulary of exactly `vocab_size` ids from `documents`, which
    /// should be the training documents only.
    ///
    /// Words are split by GPT-2's pattern; id 0 is [`END_OF_TEXT`], then come the 256 bytes and the
    /// merges. The same documents give the same vocabulary, byte for byte.
    ///
    /// # Errors
    /// `vocab_size` below 257, or above what the text gives.
    pub fn train_byte_level_bpe(documents: &[Document], vocab_size: usize) -> Result<Self> {
        if vocab_size < MIN_VOCAB {
            return Err(Error::VocabSize { vocab_size, minimum: MIN_VOCAB });
        }
        let bytes_to_chars = ByteLevel::new(false, false, true);
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        inner.with_pre_tokenizer(Some(bytes_to_chars));
        inner.with_decoder(Some(bytes_to_chars));
        let trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab_size)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .build();
        let texts = documents.iter().flat_map(|document| pieces(&document.text, PIECE_BYTES));
        inner.train(&mut TrainerWrapper::from(trainer), texts).map_err(|e| library_error(&*e))?;

        let learned = inner.get_vocab_size(true);
        if learned < vocab_size {
            let bytes = documents.iter().map(|document| document.text.len() as u64).sum();
            return Err(Error::TooFewPieces { vocab_size, learned, bytes });
        }
        Self::with_eos(inner, END_OF_TEXT.to_owned(), 0)
    }

    /// Reads a `tokenizer.json` in the format of the `tokenizers` library (T5, GPT-2, Llama and
    /// others).
    ///
    /// `eos` names the end-of-text token; without it the first of `</s>`, `<|endoftext|>`, `<eos>` and
    /// `<|end_of_text|>` that the file has is taken.
    ///
    /// # Errors
    /// A file that is missing, unreadable or no tokenizer, or one without such a token.
    pub fn load(path: &Path, eos: Option<&str>) -> Result<Self> {
        let json = std::fs::read(path).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => Error::MissingPath { path: path.to_path_buf() },
            _ => Error::Io { action: "read", path: path.to_path_buf(), cause },
        })?;
        let malformed = |reason| Error::MalformedTokenizer { path: path.to_path_buf(), reason };
        // The library expects JSON of what it is given, and panics where it is none.
        let text = std::str::from_utf8(&json).map_err(|error| malformed(error.to_string()))?;
        serde_json::from_str::<serde::de::IgnoredAny>(text)
            .map_err(|error| malformed(error.to_string()))?;
        let gave_up = || malformed("the tokenizers library gave up on it".to_owned());
        let inner = unpanicked(gave_up, || {
            tokenizers::Tokenizer::from_bytes(json).map_err(|error| malformed(error.to_string()))
        })?;
        let names = eos.map_or(KNOWN_EOS.to_vec(), |name| vec![name]);
        let found = names.iter().find_map(|name| Some((*name, inner.token_to_id(name)?)));
        let Some((name, id)) = found else {
            let tried = names.into_iter().map(str::to_owned).collect();
            return Err(Error::NoEosToken { path: path.to_path_buf(), tried });
        };
        let name = name.to_owned();
        Self::with_eos(inner, name, id)
    }

    /// Settles what a tokenizer file may say otherwise.
    fn with_eos(mut inner: tokenizers::Tokenizer, eos: String, eos_id: u32) -> Result<Self> {
        inner.with_truncation(None).map_err(|e| library_error(&*e))?;
        inner.with_padding(None);
        inner
            .add_special_tokens([AddedToken::from(eos.as_str(), true)])
            .map_err(|e| library_error(&*e))?;
        inner.set_encode_special_tokens(true);
        // Not the number of tokens: a vocabulary may have holes, and an embedding needs a row for
        // the highest id.
        let highest = inner.get_vocab(true).into_values().max().unwrap_or(eos_id);
        Ok(Self { inner, eos, eos_id, vocab_size: highest as usize + 1 })
    }

    /// Writes a `tokenizer.json` that [`Tokenizer::load`] and the `tokenizers` library read. The
    /// file appears whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = self.to_json()?;
        write_aside(path, |file| file.write_all(json.as_bytes()))
    }

    /// The text of the `tokenizer.json`.
    ///
    /// # Errors
    /// When the library cannot serialise the tokenizer.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(|e| library_error(&*e))
    }

    /// What tells tokenizers apart where their tokens are kept: CRC-32 and length of
    /// [`Tokenizer::to_json`], and the EOS.
    ///
    /// # Errors
    /// As [`Tokenizer::to_json`].
    pub fn fingerprint(&self) -> Result<String> {
        let json = self.to_json()?;
        let mut crc = flate2::Crc::new();
        crc.update(json.as_bytes());
        Ok(format!("{:08x}-{}-{}", crc.sum(), json.len(), self.eos_id))
    }

    /// One more than the highest id, added tokens included: the rows of an embedding table.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of the end-of-text token.
    pub fn eos_id(&self) -> u32 {
        self.eos_id
    }

    /// The end-of-text token as it is written.
    pub fn eos(&self) -> &str {
        &self.eos
    }

    /// The tokens of one text, such as a prompt: no EOS.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, false).map_err(|e| Error::Encode {
            place: "the given text".to_owned(),
            reason: e.to_string(),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `tokens`; special tokens such as EOS have none. Bytes that are not UTF-8, as at
    /// the cut ends of a character, become U+FFFD.
    ///
    /// # Errors
    /// An id that the vocabulary does not have.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        // The library would leave such an id out.
        if let Some(&id) = tokens.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(Error::UnknownToken { id, vocab_size: self.vocab_size });
        }
        self.inner.decode(tokens, true).map_err(|e| library_error(&*e))
    }

    /// Encodes on all threads, in order; with the places of the tokens in the text only if they are
    /// wanted, since they cost time.
    pub(super) fn encode_batch(
        &self,
        texts: Vec<&str>,
        places: bool,
    ) -> tokenizers::Result<Vec<Encoding>> {
        if places {
            self.inner.encode_batch(texts, false)
        } else {
            self.inner.encode_batch_fast(texts, false)
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner: _, eos, eos_id, vocab_size } = self;
        write!(f, "Tokenizer {{ vocab_size: {vocab_size}, eos: {eos:?}, eos_id: {eos_id}, .. }}")
    }
}

/// An error of the library that no file and no text is to blame for.
fn library_error(cause: &dyn std::error::Error) -> Error {
    Error::Tokenizer { reason: cause.to_string() }
}
