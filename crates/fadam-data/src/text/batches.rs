//! Training batches: a pure function of the settings and the batch index, so that resuming is
//! exact.
//!
//! Shapes: B sequences of T = `seq_len` tokens.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where in the training tokens the sequences of a batch begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Anywhere: each start is drawn uniformly from the places with T + 1 tokens ahead,
    /// independently.
    Windows,
    /// At the multiples of T, each once an epoch, in an order shuffled anew for each epoch. Blocks
    /// overlap in one token, so each token but the first is a target once; the tokens behind the
    /// last whole block are left out ([`TrainBatches::dropped_tokens`]). A batch may begin in one
    /// epoch and end in the next.
    Packed,
}

/// What training batches look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSpec {
    /// Where sequences begin.
    pub sampling: Sampling,
    /// Sequences a batch, B.
    pub batch: usize,
    /// Targets a sequence, T.
    pub seq_len: usize,
    /// Of the random starts or of the shuffling.
    pub seed: u64,
}

/// A position in the training data, to be saved with a checkpoint: the next batch, and what it
/// depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The batch that comes next, from 0.
    pub batch_index: u64,
    /// The settings.
    pub spec: BatchSpec,
    /// The length of the training data.
    pub tokens: u64,
}

/// B windows of T + 1 tokens: the inputs are the first T, the targets the last T.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    tokens: Vec<u32>,
    batch: usize,
    seq_len: usize,
}

impl TokenBatch {
    /// The windows of T + 1 tokens that begin at `starts`; each must lie within `tokens`.
    pub(super) fn gather(tokens: &[u32], starts: &[usize], seq_len: usize) -> Self {
        let windows = starts.iter().flat_map(|&start| &tokens[start..=start + seq_len]);
        Self { tokens: windows.copied().collect(), batch: starts.len(), seq_len }
    }

    /// From [B, T + 1] tokens, row by row.
    pub(super) fn from_rows(tokens: Vec<u32>, batch: usize, seq_len: usize) -> Self {
        Self { tokens, batch, seq_len }
    }

    /// All tokens, [B, T + 1] row by row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// B, the number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// T, the targets of each.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// (inputs, targets), both [B, T] of u32: the target of a token is the one after it.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn tensors(&self, device: &Device) -> candle_core::Result<(Tensor, Tensor)> {
        let shape = (self.batch, self.seq_len);
        let rows = || self.tokens.chunks_exact(self.seq_len + 1);
        let inputs: Vec<u32> = rows().flat_map(|row| &row[..self.seq_len]).copied().collect();
        let targets: Vec<u32> = rows().flat_map(|row| &row[1..]).copied().collect();
        Ok((Tensor::from_vec(inputs, shape, device)?, Tensor::from_vec(targets, shape, device)?))
    }
}

/// The endless sequence of training batches.
///
/// Batch i depends on the tokens, the [`BatchSpec`] and i alone: the generator is [`ChaCha8Rng`],
/// seeded with the seed, its stream the batch index (windows) or the epoch (packed).
#[derive(Debug, Clone)]
pub struct TrainBatches {
    tokens: Arc<[u32]>,
    spec: BatchSpec,
    next: u64,
    /// The order of the blocks in the epoch that was last asked for.
    order: Option<(u64, Vec<usize>)>,
}

impl TrainBatches {
    /// Begins with batch 0.
    ///
    /// # Errors
    /// `batch` or `seq_len` of 0; fewer than T + 1 tokens.
    pub fn new(tokens: Arc<[u32]>, spec: BatchSpec) -> Result<Self> {
        if spec.batch == 0 {
            return Err(Error::Zero { field: "train.batch" });
        }
        check_length("training", tokens.len(), spec.seq_len)?;
        Ok(Self { tokens, spec, next: 0, order: None })
    }

    /// The next batch, of the full size.
    pub fn next_batch(&mut self) -> TokenBatch {
        let index = self.next;
        self.next += 1;
        let starts = match self.spec.sampling {
            Sampling::Windows => self.window_starts(index),
            Sampling::Packed => self.packed_starts(index),
        };
        TokenBatch::gather(&self.tokens, &starts, self.spec.seq_len)
    }

    /// Passes over the next batch, which costs nothing.
    pub fn skip_batch(&mut self) {
        self.next += 1;
    }

    /// Where the next batch is.
    pub fn cursor(&self) -> Cursor {
        Cursor { batch_index: self.next, spec: self.spec, tokens: self.tokens.len() as u64 }
    }

    /// Goes on from a position that [`TrainBatches::cursor`] gave, with the very batches that would
    /// have followed there.
    ///
    /// # Errors
    /// A position made with other settings or other data, or one that cannot be; nothing has
    /// changed then.
    pub fn restore(&mut self, cursor: Cursor) -> Result<()> {
        let here = self.cursor();
        let (saved, spec) = (cursor.spec, self.spec);
        same("the sampling", &format!("{:?}", saved.sampling), &format!("{:?}", spec.sampling))?;
        same("train.batch", &saved.batch, &spec.batch)?;
        same("model.seq_len", &saved.seq_len, &spec.seq_len)?;
        same("train.seed", &saved.seed, &spec.seed)?;
        same("the number of training tokens", &cursor.tokens, &here.tokens)?;
        // The number of sequences so far must be a number.
        if cursor
            .batch_index
            .checked_add(1)
            .and_then(|n| n.checked_mul(spec.batch as u64))
            .is_none()
        {
            return Err(Error::CursorOutOfRange { batch_index: cursor.batch_index });
        }
        self.next = cursor.batch_index;
        Ok(())
    }

    /// The tokens that no batch has as a target, besides the first: those behind the last whole
    /// block when packed.
    pub fn dropped_tokens(&self) -> usize {
        match self.spec.sampling {
            Sampling::Windows => 0,
            Sampling::Packed => (self.tokens.len() - 1) % self.spec.seq_len,
        }
    }

    fn window_starts(&self, index: u64) -> Vec<usize> {
        let mut rng = self.rng(index);
        let places = self.tokens.len() - self.spec.seq_len;
        (0..self.spec.batch).map(|_| rng.random_range(0..places)).collect()
    }

    fn packed_starts(&mut self, index: u64) -> Vec<usize> {
        let blocks = ((self.tokens.len() - 1) / self.spec.seq_len) as u64;
        let first = index * self.spec.batch as u64;
        let sequences = first..first + self.spec.batch as u64;
        let block = |n| self.epoch_order(n / blocks)[(n % blocks) as usize];
        let blocks: Vec<usize> = sequences.map(block).collect();
        blocks.into_iter().map(|block| block * self.spec.seq_len).collect()
    }

    /// The order of the blocks in an epoch.
    fn epoch_order(&mut self, epoch: u64) -> &[usize] {
        let order = match self.order.take() {
            Some((known, order)) if known == epoch => order,
            _ => {
                let mut order: Vec<usize> =
                    (0..(self.tokens.len() - 1) / self.spec.seq_len).collect();
                order.shuffle(&mut self.rng(epoch));
                order
            }
        };
        &self.order.insert((epoch, order)).1
    }

    fn rng(&self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.spec.seed);
        rng.set_stream(stream);
        rng
    }
}

/// A split must hold one window.
pub(super) fn check_length(split: &'static str, tokens: usize, seq_len: usize) -> Result<()> {
    if seq_len == 0 {
        return Err(Error::Zero { field: "model.seq_len" });
    }
    let needed = seq_len.saturating_add(1);
    if tokens < needed {
        return Err(Error::CorpusTooShort { split, tokens, needed, seq_len });
    }
    Ok(())
}

/// What a cursor was made with must be what this run has.
pub(crate) fn same<T: PartialEq + ToString>(
    field: &'static str,
    saved: &T,
    here: &T,
) -> Result<()> {
    if saved == here {
        return Ok(());
    }
    Err(Error::CursorMismatch { field, saved: saved.to_string(), here: here.to_string() })
}
