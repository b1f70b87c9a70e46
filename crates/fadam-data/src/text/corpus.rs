//! A split as two rows of tokens.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::{Encoded, EvalWindows, Split, Tokenizer};
use crate::write_aside::write_aside;
use crate::{Error, Result};

/// The tokens of the training and of the held-out documents, each document followed by EOS, one
/// after the other.
#[derive(Debug, Clone)]
pub struct Corpus {
    train: Arc<[u32]>,
    eval: Arc<[u32]>,
    eval_bytes: Arc<[u32]>,
    vocab_size: usize,
}

impl Corpus {
    /// Encodes both sides of a split.
    ///
    /// # Errors
    /// When the tokenizer cannot represent a document.
    pub fn build(split: &Split, tokenizer: &Tokenizer) -> Result<Self> {
        let eval = tokenizer.encode_documents_with_bytes(&split.eval)?;
        Ok(Self {
            train: tokenizer.encode_documents(&split.train)?.into(),
            eval: eval.tokens.into(),
            eval_bytes: eval.bytes.into(),
            vocab_size: tokenizer.vocab_size(),
        })
    }

    /// Held-out tokens alone, where the training text is a [stream](super::StreamBatches).
    pub fn held_out(eval: Encoded, tokenizer: &Tokenizer) -> Self {
        Self {
            train: Arc::new([]),
            eval: eval.tokens.into(),
            eval_bytes: eval.bytes.into(),
            vocab_size: tokenizer.vocab_size(),
        }
    }

    /// The training tokens.
    pub fn train(&self) -> Arc<[u32]> {
        self.train.clone()
    }

    /// The held-out tokens.
    pub fn eval(&self) -> Arc<[u32]> {
        self.eval.clone()
    }

    /// The bytes of text that each held-out token stands for; see [`Encoded`](super::Encoded).
    pub fn eval_bytes(&self) -> Arc<[u32]> {
        self.eval_bytes.clone()
    }

    /// One more than the highest token id that the tokenizer can give.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The held-out tokens as windows of `seq_len` targets.
    ///
    /// # Errors
    /// When they are too few for one window, or `seq_len` is 0.
    pub fn eval_windows(&self, seq_len: usize) -> Result<EvalWindows> {
        EvalWindows::new(self.eval(), self.eval_bytes(), seq_len)
    }

    /// [`unigram_entropy_nats`] of the held-out tokens.
    pub fn eval_unigram_nats(&self) -> f64 {
        unigram_entropy_nats(&self.eval)
    }

    /// Writes `train.u16` and `eval.u16` into `folder` (made if missing): one little-endian 16-bit
    /// number a token and nothing else, what `numpy.fromfile(path, "<u2")` reads. Each file appears
    /// whole or not at all.
    ///
    /// # Errors
    /// A vocabulary of more than 65,536 ids; a folder or file that cannot be written.
    pub fn export_u16(&self, folder: &Path) -> Result<()> {
        if self.vocab_size > 1 << 16 {
            return Err(Error::VocabAboveU16 { vocab_size: self.vocab_size });
        }
        std::fs::create_dir_all(folder).map_err(|cause| Error::Io {
            action: "create",
            path: folder.to_path_buf(),
            cause,
        })?;
        for (name, tokens) in [("train.u16", &self.train), ("eval.u16", &self.eval)] {
            write_aside(&folder.join(name), |file| {
                tokens.iter().try_for_each(|&token| file.write_all(&(token as u16).to_le_bytes()))
            })?;
        }
        Ok(())
    }
}

/// H = −Σ p ln p in nats a token, p the frequency of each token among `tokens`; 0 for none.
///
/// On held-out tokens this is the least loss that a model without context could have, knowing their
/// frequencies: a model that has learned anything from the context is below it.
///
/// ```
/// # use fadam_data::text::unigram_entropy_nats;
/// let fair_coin = [0, 1, 1, 0];
/// assert_eq!(unigram_entropy_nats(&fair_coin), 2f64.ln());
/// ```
pub fn unigram_entropy_nats(tokens: &[u32]) -> f64 {
    let mut counts = vec![0u64; tokens.iter().max().map_or(0, |&highest| highest as usize + 1)];
    for &token in tokens {
        counts[token as usize] += 1;
    }
    let all = tokens.len() as f64;
    let surprise = |&count: &u64| -(count as f64 / all) * (count as f64 / all).ln();
    counts.iter().filter(|&&count| count > 0).map(surprise).sum()
}
