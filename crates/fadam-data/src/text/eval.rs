//! Evaluation: each held-out token predicted once, in windows of T = `seq_len` targets.

use std::sync::Arc;

use super::TokenBatch;
use super::batches::check_length;
use crate::{Error, Result};

/// The windows of T + 1 tokens that begin at 0, T, 2T, …: in Python, `x[i : i + T + 1]` for i in
/// `range(0, len(x) - T, T)`. The tokens behind the last whole window are left out.
#[derive(Debug, Clone)]
pub struct EvalWindows {
    tokens: Arc<[u32]>,
    bytes: Arc<[u32]>,
    seq_len: usize,
    count: usize,
}

impl EvalWindows {
    /// Windows over `tokens`, of which each stands for so many `bytes` of text.
    ///
    /// # Errors
    /// Fewer than T + 1 tokens; a `seq_len` of 0.
    ///
    /// # Panics
    /// When `bytes` has not one number for each token.
    pub fn new(tokens: Arc<[u32]>, bytes: Arc<[u32]>, seq_len: usize) -> Result<Self> {
        assert_eq!(tokens.len(), bytes.len(), "one byte count for each token");
        check_length("held-out", tokens.len(), seq_len)?;
        let count = (tokens.len() - 1) / seq_len;
        Ok(Self { tokens, bytes, seq_len, count })
    }

    /// The first `count` windows only, if there are more.
    #[must_use]
    pub fn first(mut self, count: usize) -> Self {
        self.count = self.count.min(count);
        self
    }

    /// How many windows there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Tokens that are predicted: T in each window.
    pub fn target_tokens(&self) -> usize {
        self.count * self.seq_len
    }

    /// Bytes of text that the predicted tokens stand for.
    pub fn target_bytes(&self) -> u64 {
        self.bytes[1..=self.target_tokens()].iter().map(|&bytes| u64::from(bytes)).sum()
    }

    /// A mean loss over all targets, in nats a token, as bits a byte: loss · tokens / (ln 2 ·
    /// bytes). Unlike the loss it can be compared between tokenizers. NaN without bytes.
    pub fn bits_per_byte(&self, loss_nats: f64) -> f64 {
        let bits = loss_nats * self.target_tokens() as f64 / std::f64::consts::LN_2;
        bits / self.target_bytes() as f64
    }

    /// The windows in order, `batch` at a time; the last batch has the rest, so a mean over all
    /// targets weighs each batch by its size.
    ///
    /// # Errors
    /// A `batch` of 0.
    pub fn batches(&self, batch: usize) -> Result<impl ExactSizeIterator<Item = TokenBatch>> {
        if batch == 0 {
            return Err(Error::Zero { field: "the evaluation batch" });
        }
        let groups = self.count.div_ceil(batch);
        Ok((0..groups).map(move |group| {
            let windows = group * batch..self.count.min((group + 1) * batch);
            let starts: Vec<usize> = windows.map(|window| window * self.seq_len).collect();
            TokenBatch::gather(&self.tokens, &starts, self.seq_len)
        }))
    }
}
