//! Byte-pair encoding of characters: a word is cut into the longest pieces that were merged in
//! training.
//!
//! As in SentencePiece, [`SPACE`] stands for the space before a word and is part of its first piece, so
//! that pieces joined are the text again.

use std::collections::HashSet;

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

use crate::{Error, Result};

/// The space within pieces, U+2581. In a transcript it is an unknown character.
const SPACE: char = '▁';

/// Pieces of words; their numbers here begin at 0.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    inner: tokenizers::Tokenizer,
    all: Vec<String>,
    alphabet: HashSet<char>,
}

impl Pieces {
    /// Learns `size` − 1 pieces.
    pub(super) fn learn<S: AsRef<str> + Sync>(transcripts: &[S], size: usize) -> Result<Self> {
        let texts = || transcripts.iter().map(AsRef::as_ref).filter(|text: &&str| !text.is_empty());
        // The space before the first word is always one of them.
        let alphabet: HashSet<char> =
            texts().flat_map(|text| marked(text).chars().collect::<Vec<_>>()).collect();
        if alphabet.len() < 2 {
            return Err(Error::NoUnits);
        }
        let minimum = 1 + alphabet.len();
        if size < minimum {
            return Err(Error::PiecesBelowAlphabet { vocab_size: size, minimum });
        }
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        inner.with_pre_tokenizer(Some(words()));
        let trainer = BpeTrainer::builder().show_progress(false).vocab_size(size - 1).build();
        inner
            .train(&mut TrainerWrapper::from(trainer), texts().map(marked))
            .map_err(|e| library_error(&*e))?;
        let learned = 1 + inner.get_vocab_size(false);
        if learned < size {
            let bytes = texts().map(|text| text.len() as u64).sum();
            return Err(Error::TooFewPieces { vocab_size: size, learned, bytes });
        }
        Self::of(inner).map_err(|reason| Error::Tokenizer { reason })
    }

    /// The other way of [`Pieces::model`].
    pub(super) fn from_model(model: &serde_json::Value) -> std::result::Result<Self, String> {
        // The library wants to borrow from the text.
        let model: BPE = serde_json::from_str(&model.to_string()).map_err(|e| e.to_string())?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(words()));
        Self::of(inner)
    }

    fn of(inner: tokenizers::Tokenizer) -> std::result::Result<Self, String> {
        let mut numbered: Vec<(u32, String)> =
            inner.get_vocab(false).into_iter().map(|(piece, id)| (id, piece)).collect();
        numbered.sort();
        if numbered.iter().zip(0..).any(|((id, _), expected)| *id != expected) {
            return Err("expected pieces with the numbers 0, 1, 2, …".to_owned());
        }
        let pieces: Vec<String> = numbered.into_iter().map(|(_, piece)| piece).collect();
        let single = |piece: &String| {
            let mut chars = piece.chars();
            chars.next().filter(|_| chars.next().is_none())
        };
        let alphabet: HashSet<char> = pieces.iter().filter_map(single).collect();
        if !alphabet.contains(&SPACE) {
            return Err(format!("expected {SPACE} among the pieces"));
        }
        Ok(Self { inner, all: pieces, alphabet })
    }

    /// What a file keeps of them: the model, in the format of the `tokenizers` library.
    pub(super) fn model(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self.inner.get_model()).map_err(|e| library_error(&e))
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn knows(&self, c: char) -> bool {
        c == ' ' || c != SPACE && self.alphabet.contains(&c)
    }

    /// Numbers from 1, since 0 is the blank.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let known: String = text.chars().filter(|&c| self.knows(c)).collect();
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let encoding = self.inner.encode_fast(marked(&known), false).map_err(|e| {
            Error::Encode { place: format!("the transcript {text:?}"), reason: e.to_string() }
        })?;
        Ok(encoding.get_ids().iter().map(|id| id + 1).collect())
    }

    /// The text of pieces.
    pub(super) fn join(&self, numbers: impl Iterator<Item = usize>) -> String {
        let text: String = numbers.map(|at| &*self.all[at]).collect();
        text.strip_prefix(SPACE).unwrap_or(&text).replace(SPACE, " ")
    }

    /// A piece as it is.
    pub(super) fn written(&self, at: usize) -> String {
        self.all[at].clone()
    }
}

/// Words, each with the space before it.
fn words() -> Metaspace {
    Metaspace::new(SPACE, PrependScheme::Never, true)
}

/// With the space before the first word.
fn marked(text: &str) -> String {
    let space = |c| if c == ' ' { SPACE } else { c };
    std::iter::once(SPACE).chain(text.chars().filter(|&c| c != SPACE).map(space)).collect()
}

fn library_error(cause: &dyn std::error::Error) -> Error {
    Error::Tokenizer { reason: cause.to_string() }
}
