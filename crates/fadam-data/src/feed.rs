//! The thread that makes batches ahead, of whatever kind: its examples in parallel, and those left out
//! that cannot be read any more.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::{Error, Result};

/// Batches that are made ahead; one more is being made.
const BATCHES_AHEAD: usize = 2;

/// Batches that no run reaches.
const NEVER: u64 = 1 << 48;

/// How examples and batches of a kind are made.
pub(crate) trait Make: Send + Sync + 'static {
    /// What is planned for an example.
    type Planned: Sync;
    /// What becomes of it.
    type Example: Send;
    /// A batch of them.
    type Batch: Send + 'static;

    /// The number that an example has in its set.
    fn number(planned: &Self::Planned) -> usize;

    /// Its name, for notes: `utterance 84-121123-0003`.
    fn name(&self, number: usize) -> String;

    /// Reads it and makes of it what was planned.
    fn example(&self, epoch: u64, planned: &Self::Planned) -> Result<Self::Example>;

    /// A batch of at least one example.
    fn gather(&self, examples: Vec<Self::Example>) -> Self::Batch;

    /// The error when nothing can be read: so many were met, and `reason` is wrong with one of them.
    fn gone(&self, met: usize, reason: String) -> Error;
}

/// A batch to make.
#[derive(Debug)]
pub(crate) struct Job<P> {
    pub(crate) epoch: u64,
    /// The index of the batch after it.
    pub(crate) next: u64,
    pub(crate) planned: Vec<P>,
    /// After so many batches of which nothing could be read there is nothing to hope for.
    pub(crate) in_a_row: usize,
}

/// A batch that was made, and the position behind it.
#[derive(Debug)]
pub(crate) struct Made<B> {
    pub(crate) batch: B,
    pub(crate) epoch: u64,
    pub(crate) next: u64,
}

/// A batch, or the end.
type Item<B> = Result<Option<Made<B>>>;

/// The receiving end of the thread, which ends when this is dropped, at the latest with its present
/// batch.
#[derive(Debug)]
pub(crate) struct Feed<B> {
    items: Receiver<Item<B>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    met: Mutex<Met>,
}

/// Examples that could not be read.
#[derive(Debug, Default)]
struct Met {
    skipped: u64,
    told: HashSet<usize>,
    /// What was wrong with the last of them.
    last: String,
    notes: Vec<String>,
}

impl<B: Send + 'static> Feed<B> {
    /// Makes the batches that `jobs` gives on its thread.
    pub(crate) fn start<M: Make<Batch = B>, J: Iterator<Item = Job<M::Planned>>>(
        make: M,
        jobs: impl FnOnce() -> J + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let (to, items) = sync_channel(BATCHES_AHEAD);
        let worker = Worker { make, shared: shared.clone() };
        thread::spawn(move || worker.make_all(jobs(), &to));
        Self { items, shared }
    }

    pub(crate) fn next(&mut self) -> Item<B> {
        // Without an answer the thread has panicked, and has said so.
        self.items.recv().unwrap_or(Err(Error::Stopped))
    }

    /// Examples left out since the thread began; one that is met in two epochs counts twice.
    pub(crate) fn skipped(&self) -> u64 {
        self.shared.met.lock().unwrap_or_else(PoisonError::into_inner).skipped
    }

    /// A line for each of them, the first time.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        let mut met = self.shared.met.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut met.notes)
    }
}

impl<B> Drop for Feed<B> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// An endless sequence of batches that is made ahead: where it is, how long it was waited for, and what was left out. The thread begins with the
/// first batch, and again after the sequence went elsewhere.
#[derive(Debug)]
pub(crate) struct Ahead<B> {
    feed: Option<Feed<B>>,
    next: u64,
    given: u64,
    first_wait: Duration,
    wait: Duration,
    /// By threads that have ended.
    skipped: u64,
    notes: Vec<String>,
}

impl<B> Default for Ahead<B> {
    fn default() -> Self {
        let (first_wait, wait) = (Duration::ZERO, Duration::ZERO);
        Self { feed: None, next: 0, given: 0, first_wait, wait, skipped: 0, notes: Vec::new() }
    }
}

impl<B: Send + 'static> Ahead<B> {
    /// The index of the next batch.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Begins to work ahead, if that has not begun, with `start` from the next batch on.
    pub(crate) fn start(&mut self, start: impl FnOnce(u64) -> Feed<B>) {
        let next = self.next;
        self.feed.get_or_insert_with(|| start(next));
    }

    /// The next batch; `start` as for [`Ahead::start`]. After an error the sequence stays where it is.
    pub(crate) fn take(&mut self, start: impl FnOnce(u64) -> Feed<B>) -> Result<Made<B>> {
        let started = Instant::now();
        self.start(start);
        let item = self.feed.as_mut().map_or(Err(Error::Stopped), Feed::next);
        let waited = if self.given == 0 { &mut self.first_wait } else { &mut self.wait };
        *waited += started.elapsed();
        match item.and_then(|made| made.ok_or(Error::Stopped)) {
            Ok(made) => {
                self.next = made.next;
                self.given += 1;
                Ok(made)
            }
            Err(error) => {
                self.stop();
                Err(error)
            }
        }
    }

    /// Goes to the batch of this index.
    ///
    /// # Errors
    /// For one that no run reaches.
    pub(crate) fn go_to(&mut self, next: u64) -> Result<()> {
        if next >= NEVER {
            return Err(Error::CursorOutOfRange { batch_index: next });
        }
        self.stop();
        self.next = next;
        Ok(())
    }

    /// Ends the threads; what they noted stays.
    fn stop(&mut self) {
        if let Some(feed) = self.feed.take() {
            self.skipped += feed.skipped();
            self.notes.extend(feed.take_notes());
        }
    }

    /// Examples left out so far, by threads that are ahead of what was given out.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped + self.feed.as_ref().map_or(0, Feed::skipped)
    }

    /// How long the first batch was waited for, and all later ones.
    pub(crate) fn waits(&self) -> [Duration; 2] {
        [self.first_wait, self.wait]
    }

    /// What happened since the last call, in lines for a person.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        let new = self.feed.as_ref().map(Feed::take_notes);
        self.notes.extend(new.unwrap_or_default());
        std::mem::take(&mut self.notes)
    }
}

/// What the thread works with.
struct Worker<M> {
    make: M,
    shared: Arc<Shared>,
}

impl<M: Make> Worker<M> {
    /// Sends batches until nobody takes them, or they are at an end.
    fn make_all(
        &self,
        jobs: impl Iterator<Item = Job<M::Planned>>,
        to: &SyncSender<Item<M::Batch>>,
    ) {
        let (mut empty, mut made) = (0, 0);
        for Job { epoch, next, planned, in_a_row } in jobs {
            if self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let item = match self.make(epoch, &planned) {
                Some(batch) => {
                    empty = 0;
                    made += 1;
                    Ok(Some(Made { batch, epoch, next }))
                }
                None if empty < in_a_row => {
                    empty += 1;
                    continue;
                }
                None => Err(self.nothing_left()),
            };
            let failed = item.is_err();
            if to.send(item).is_err() || failed {
                return;
            }
        }
        // Where nobody waits for the end any more, nobody need know.
        let _ = to.send(if empty > 0 && made == 0 { Err(self.nothing_left()) } else { Ok(None) });
    }

    /// The batch of those examples that can be read, if there are any.
    fn make(&self, epoch: u64, planned: &[M::Planned]) -> Option<M::Batch> {
        let made: Vec<Result<M::Example>> =
            planned.par_iter().map(|planned| self.make.example(epoch, planned)).collect();
        let mut kept = Vec::with_capacity(made.len());
        for (planned, made) in planned.iter().zip(made) {
            match made {
                Ok(example) => kept.push(example),
                Err(error) => self.skip(M::number(planned), &error),
            }
        }
        (!kept.is_empty()).then(|| self.make.gather(kept))
    }

    fn skip(&self, number: usize, error: &Error) {
        let mut met = self.shared.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.skipped += 1;
        met.last = error.to_string();
        if met.told.insert(number) {
            let name = self.make.name(number);
            met.notes.push(format!("{name} is left out: {error}"));
        }
    }

    /// Why there will be no batch.
    fn nothing_left(&self) -> Error {
        let met = self.shared.met.lock().unwrap_or_else(PoisonError::into_inner);
        self.make.gone(met.told.len(), met.last.clone())
    }
}
