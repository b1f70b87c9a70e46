//! The two threads that work ahead of training.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::blocks::{Blocks, Visit, shard_order};
use super::shards::{Prepared, Shards};
use super::{StreamCursor, StreamReport};
use crate::text::TokenBatch;
use crate::text::batches::check_length;
use crate::{Error, Result};

/// Batches that are made ahead.
const BATCHES_AHEAD: usize = 8;

/// Shards that wait for their turn; one more is being prepared.
const SHARDS_AHEAD: usize = 1;

/// A batch, and the position behind it.
type Item = Result<(TokenBatch, StreamCursor)>;

/// The receiving end of the threads. They end when it is dropped, at the latest with their present
/// group of documents or download.
#[derive(Debug)]
pub(super) struct Feed {
    items: Receiver<Item>,
    shared: Arc<Shared>,
}

/// What the threads and the receiver share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    done: Mutex<Done>,
}

#[derive(Debug, Default)]
struct Done {
    report: StreamReport,
    notes: Vec<String>,
}

impl Feed {
    pub(super) fn start(shards: Arc<Shards>, from: StreamCursor) -> Self {
        let shared = Arc::new(Shared::default());
        let (to_blocks, visits) = sync_channel(SHARDS_AHEAD);
        let (to_training, items) = sync_channel(BATCHES_AHEAD);
        let of_shards = shared.clone();
        thread::spawn(move || visit_shards(&shards, &from, &of_shards, &to_blocks));
        thread::spawn(move || {
            if let Err(error) = make_batches(visits, from, &to_training) {
                // Where nobody waits for it any more, nobody need know.
                let _ = to_training.send(Err(error));
            }
        });
        Self { items, shared }
    }

    pub(super) fn next(&mut self) -> Item {
        // Without an answer the thread has panicked, and has said so.
        self.items.recv().unwrap_or(Err(Error::Stopped))
    }

    /// Adds what was read.
    pub(super) fn add_to(&self, report: &mut StreamReport) {
        let done = self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        report.text.add(&done.report.text);
        report.tokens += done.report.tokens;
        report.encoded_shards += done.report.encoded_shards;
    }

    pub(super) fn take_notes(&self) -> Vec<String> {
        let mut done = self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut done.notes)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn record(&self, prepared: &Prepared) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.report.text.add(&prepared.tokens.report());
        done.report.tokens += prepared.tokens.len();
        done.report.encoded_shards += usize::from(prepared.note.is_some());
        done.notes.extend(prepared.note.clone());
    }
}

/// Sends the shards in their order, epoch after epoch, from the group of `from` on.
fn visit_shards(
    shards: &Shards,
    from: &StreamCursor,
    shared: &Shared,
    to: &SyncSender<Result<Visit>>,
) {
    let stopped = || shared.stop.load(Ordering::Relaxed);
    let start = from.group_start;
    for epoch in start.epoch.. {
        let order = shard_order(shards.len(), from.spec.seed, epoch);
        let first = if epoch == start.epoch { start.place } else { 0 };
        let mut tokens = 0;
        for (place, &shard) in order.iter().enumerate().skip(first) {
            if stopped() {
                return;
            }
            let visit = shards.prepare(shard, &stopped).map(|prepared| {
                shared.record(&prepared);
                tokens += prepared.tokens.len();
                Visit { epoch, place, tokens: prepared.tokens }
            });
            let failed = visit.is_err();
            if to.send(visit).is_err() || failed {
                return;
            }
        }
        // A sequence must not hold the same text twice.
        let enough = check_length("training", tokens as usize, from.spec.seq_len);
        if let (0, Err(short)) = (first, enough) {
            let _ = to.send(Err(short));
            return;
        }
    }
}

/// Sends batches until nobody takes them.
fn make_batches(
    visits: Receiver<Result<Visit>>,
    from: StreamCursor,
    to: &SyncSender<Item>,
) -> Result<()> {
    let StreamCursor { spec, group, group_start, given, .. } = from;
    let mut blocks = Blocks::new(visits.into_iter(), spec, group, group_start, given)?;
    let mut cursor = from;
    loop {
        let mut tokens = Vec::with_capacity(spec.batch * (spec.seq_len + 1));
        for _ in 0..spec.batch {
            blocks.next_block(&mut tokens)?;
        }
        cursor.batch_index += 1;
        (cursor.group, cursor.group_start, cursor.given) = blocks.place();
        let batch = TokenBatch::from_rows(tokens, spec.batch, spec.seq_len);
        if to.send(Ok((batch, cursor))).is_err() {
            return Ok(());
        }
    }
}
