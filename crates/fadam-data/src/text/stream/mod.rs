//! Training batches from more text than fits in memory: files of the hub or of a disk, read one after
//! the other while training goes on.
//!
//! ```text
//! thread 1, for each shard in the order of the epoch: download → decompress → documents → tokens,
//!           EOS behind each → cache file, mapped into memory
//! thread 2: the shards' tokens in a row → blocks of T + 1 → shuffled in groups → batches
//! ```
//!
//! Each thread works ahead by a bounded number of items, so that a step waits only where reading is
//! slower than training ([`StreamReport::wait`]). Batches do not depend on the threads or on what the
//! cache holds.

mod blocks;
mod prefetch;
mod shards;
mod token_file;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use shards::Shards;

use self::prefetch::Feed;
use super::batches::same;
use super::{SourceReport, TokenBatch};
use crate::{Error, Result};

/// What the batches of a stream look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSpec {
    /// Sequences a batch, B.
    pub batch: usize,
    /// Targets a sequence, T.
    pub seq_len: usize,
    /// Of the order of shards and of sequences.
    pub seed: u64,
    /// Consecutive sequences that are shuffled together; 1 for none. They are not held in memory.
    pub shuffle: usize,
}

/// A token in the row that the shards make up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    epoch: u64,
    /// In the order of the epoch.
    place: usize,
    /// In the shard.
    offset: u64,
    /// Tokens of the shard, to see that it is the same; not known before the first batch.
    shard_tokens: Option<u64>,
}

/// A position in a stream, to be saved with a checkpoint.
///
/// It says where the present group of shuffled sequences begins and how many of them were given out;
/// the group's order is drawn again from the seed. Nothing that was shuffled has to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamCursor {
    batch_index: u64,
    spec: StreamSpec,
    shards: usize,
    shard_names: u32,
    group: u64,
    group_start: Position,
    given: usize,
}

/// What a stream has read, and how long training waited for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamReport {
    /// The text of all shards read so far; those of later epochs count again.
    pub text: SourceReport,
    /// Its tokens.
    pub tokens: u64,
    /// Shards whose tokens were made in this run, not found in the cache.
    pub encoded_shards: usize,
    /// The epoch of the last batch, from 0.
    pub epoch: u64,
    /// The time until the first batch was there.
    pub first_wait: Duration,
    /// The time that later batches were waited for.
    pub wait: Duration,
}

/// The endless sequence of batches of a stream, made on background threads.
///
/// A pure function of the shards' text, the tokenizer and the [`StreamSpec`]. Sequences go across the
/// ends of documents, shards and epochs: no token is left out.
///
/// ```
/// use fadam_data::hub::Hub;
/// use fadam_data::text::{Shards, StreamBatches, StreamSpec, TextSource, Tokenizer};
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("shard-0.txt");
/// std::fs::write(&file, "to be, or not to be ".repeat(40))?;
/// let (documents, _) = TextSource::Paths(vec![file.clone()]).read()?;
/// let tokenizer = Tokenizer::train_byte_level_bpe(&documents, 262)?;
///
/// let shards = Shards::find(&[file], &tokenizer, folder.path().join("cache"), Hub::from_env())?;
/// let spec = StreamSpec { batch: 4, seq_len: 16, seed: 0, shuffle: 100 };
/// let mut batches = StreamBatches::new(shards.into(), spec)?;
/// let (inputs, targets) = batches.next_batch()?.tensors(&candle_core::Device::Cpu)?;
/// assert_eq!(inputs.dims(), [4, 16]);
/// assert_eq!(targets.dims(), [4, 16]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StreamBatches {
    shards: Arc<Shards>,
    cursor: StreamCursor,
    feed: Option<Feed>,
    report: StreamReport,
    notes: Vec<String>,
}

/// Epochs, groups and batches that no run reaches.
const NEVER: u64 = 1 << 48;

impl StreamBatches {
    /// Begins with batch 0.
    ///
    /// # Errors
    /// A number of 0 in `spec`.
    pub fn new(shards: Arc<Shards>, spec: StreamSpec) -> Result<Self> {
        let StreamSpec { batch, seq_len, seed: _, shuffle } = spec;
        for (field, value) in
            [("train.batch", batch), ("model.seq_len", seq_len), ("data.shuffle", shuffle)]
        {
            if value == 0 {
                return Err(Error::Zero { field });
            }
        }
        let cursor = StreamCursor {
            batch_index: 0,
            spec,
            shards: shards.len(),
            shard_names: shards.names_crc(),
            group: 0,
            group_start: Position::default(),
            given: 0,
        };
        Ok(Self { shards, cursor, feed: None, report: StreamReport::default(), notes: Vec::new() })
    }

    /// Begins to work ahead, if that has not begun: otherwise the first batch does.
    pub fn start(&mut self) {
        self.feed.get_or_insert_with(|| Feed::start(self.shards.clone(), self.cursor));
    }

    /// The next batch, of the full size.
    ///
    /// # Errors
    /// A file that cannot be had or read, or is damaged; less text than one sequence; a position of
    /// other data. The next call tries again from the same position.
    pub fn next_batch(&mut self) -> Result<TokenBatch> {
        let first = self.feed.is_none() || self.report.first_wait.is_zero();
        let started = Instant::now();
        self.start();
        let item = self.feed.as_mut().map_or(Err(Error::Stopped), Feed::next);
        let waited = started.elapsed();
        if first {
            self.report.first_wait += waited;
        } else {
            self.report.wait += waited;
        }
        match item {
            Ok((batch, cursor)) => {
                self.cursor = cursor;
                Ok(batch)
            }
            Err(error) => {
                self.stop();
                Err(error)
            }
        }
    }

    /// Where the next batch is.
    pub fn cursor(&self) -> StreamCursor {
        self.cursor
    }

    /// Goes on from a position that [`StreamBatches::cursor`] gave, with the very batches that would
    /// have followed there.
    ///
    /// # Errors
    /// A position made with other settings or other files; nothing has changed then. That a file has
    /// other text is seen by the next batch.
    pub fn restore(&mut self, cursor: StreamCursor) -> Result<()> {
        let here = self.cursor;
        let (saved, spec) = (cursor.spec, here.spec);
        same("train.batch", &saved.batch, &spec.batch)?;
        same("model.seq_len", &saved.seq_len, &spec.seq_len)?;
        same("train.seed", &saved.seed, &spec.seed)?;
        same("data.shuffle", &saved.shuffle, &spec.shuffle)?;
        same("the number of training files", &cursor.shards, &here.shards)?;
        same("the checksum of the training files' names", &cursor.shard_names, &here.shard_names)?;
        let Position { epoch, place, offset, shard_tokens } = cursor.group_start;
        let within = place < cursor.shards && shard_tokens.is_none_or(|tokens| offset < tokens);
        let reached = epoch.max(cursor.group).max(cursor.batch_index).max(offset) < NEVER;
        if !within || !reached || cursor.given > spec.shuffle {
            return Err(Error::CursorOutOfRange { batch_index: cursor.batch_index });
        }
        self.stop();
        self.cursor = cursor;
        Ok(())
    }

    /// Ends the threads; what they did stays in the report.
    fn stop(&mut self) {
        if let Some(feed) = self.feed.take() {
            feed.add_to(&mut self.report);
            self.notes.extend(feed.take_notes());
        }
    }

    /// What was read so far. Threads work ahead: it may be more than was given out.
    pub fn report(&self) -> StreamReport {
        let mut report = self.report.clone();
        if let Some(feed) = &self.feed {
            feed.add_to(&mut report);
        }
        report.epoch = self.cursor.group_start.epoch;
        report
    }

    /// What happened since the last call, in lines for a person: shards that were encoded, damaged
    /// cache files that were made anew.
    pub fn take_notes(&mut self) -> Vec<String> {
        let new = self.feed.as_ref().map(Feed::take_notes);
        self.notes.extend(new.unwrap_or_default());
        std::mem::take(&mut self.notes)
    }
}
