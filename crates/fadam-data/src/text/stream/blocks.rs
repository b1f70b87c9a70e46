//! Shards in a row, cut into blocks, shuffled in groups: what the batches of a stream are made of.

use std::collections::VecDeque;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::token_file::TokenFile;
use super::{Position, StreamSpec};
use crate::{Error, Result};

/// A shard whose turn it is.
pub(super) struct Visit {
    pub(super) epoch: u64,
    /// Its place in the order of the epoch.
    pub(super) place: usize,
    pub(super) tokens: TokenFile,
}

/// The order of the shards in an epoch.
pub(super) fn shard_order(shards: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..shards).collect();
    order.shuffle(&mut rng(seed, epoch.wrapping_mul(2)));
    order
}

/// Even streams are for the shards of an epoch, odd ones for the blocks of a group.
fn rng(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// The endless row of tokens that the visits make up, from the first of them on: tokens are known by
/// their distance from there.
struct Tape<I> {
    visits: I,
    /// Those that are still of use, each with the place of its first token.
    loaded: VecDeque<(u64, Visit)>,
    end: u64,
}

impl<I: Iterator<Item = Result<Visit>>> Tape<I> {
    fn load_next(&mut self) -> Result<()> {
        let visit = self.visits.next().unwrap_or(Err(Error::Stopped))?;
        let start = self.end;
        self.end += visit.tokens.len();
        self.loaded.push_back((start, visit));
        Ok(())
    }

    /// The index in `loaded` of the visit that token `at` belongs to.
    fn locate(&mut self, at: u64) -> Result<usize> {
        while self.end <= at {
            self.load_next()?;
        }
        Ok(self.loaded.partition_point(|(start, _)| *start <= at) - 1)
    }

    /// The first token of the epoch after `epoch`, or `limit` if that comes first.
    fn epoch_end(&mut self, epoch: u64, limit: u64) -> Result<u64> {
        loop {
            let next = self.loaded.iter().find(|(_, visit)| visit.epoch > epoch);
            if let Some((start, _)) = next {
                return Ok(limit.min(*start));
            }
            if self.end >= limit {
                return Ok(limit);
            }
            self.load_next()?;
        }
    }

    /// Appends `len` tokens from `at` on to `to`.
    fn read(&mut self, at: u64, len: usize, to: &mut Vec<u32>) -> Result<()> {
        let full = to.len() + len;
        let mut index = self.locate(at)?;
        let mut at = at;
        while to.len() < full {
            if index == self.loaded.len() {
                self.load_next()?;
            }
            let (start, visit) = &self.loaded[index];
            let before = to.len();
            visit.tokens.read(at - start, full - before, to);
            at += (to.len() - before) as u64;
            index += 1;
        }
        Ok(())
    }

    fn forget_before(&mut self, index: usize) {
        self.loaded.drain(..index);
    }
}

/// Consecutive blocks, given out in random order.
struct Group {
    number: u64,
    start: u64,
    /// Of `start`.
    position: Position,
    order: Vec<u32>,
    /// How many were given out.
    given: usize,
}

/// Blocks of T + 1 tokens, endlessly.
///
/// Block i of the tape is its tokens iT to (i + 1)T, the last one included: blocks overlap in one
/// token, so that each token is a target once. A group is the next `shuffle` blocks, or those that
/// begin in this epoch if they are fewer. Nothing is kept but where a group begins and how many of
/// its blocks were given out: with that its order can be drawn again, which is what makes resuming
/// exact.
pub(super) struct Blocks<I> {
    tape: Tape<I>,
    spec: StreamSpec,
    group: Group,
}

impl<I: Iterator<Item = Result<Visit>>> Blocks<I> {
    /// Goes on from the group at `position`, of which `given` blocks were given out. The first of the
    /// visits must be the one that `position` names.
    ///
    /// # Errors
    /// Another number of tokens than `position` says; those of the visits.
    pub(super) fn new(
        visits: I,
        spec: StreamSpec,
        number: u64,
        position: Position,
        given: usize,
    ) -> Result<Self> {
        let tape = Tape { visits, loaded: VecDeque::new(), end: 0 };
        let order = Vec::new();
        let group = Group { number, start: position.offset, position, order, given };
        let mut blocks = Self { tape, spec, group };
        if let Some(saved) = position.shard_tokens {
            blocks.tape.load_next()?;
            let here = blocks.tape.end;
            if saved != here || position.offset >= here {
                return Err(Error::CursorMismatch {
                    field: "the number of tokens in the present file",
                    saved: saved.to_string(),
                    here: here.to_string(),
                });
            }
        }
        blocks.draw_order()?;
        if given > blocks.group.order.len() {
            return Err(Error::CursorMismatch {
                field: "the number of sequences in the present group",
                saved: format!("{given} or more"),
                here: blocks.group.order.len().to_string(),
            });
        }
        Ok(blocks)
    }

    /// Appends the next block to `to`.
    pub(super) fn next_block(&mut self, to: &mut Vec<u32>) -> Result<()> {
        let seq_len = self.spec.seq_len;
        if self.group.given == self.group.order.len() {
            self.group.start += self.group.order.len() as u64 * seq_len as u64;
            self.group.number += 1;
            self.group.given = 0;
            self.draw_order()?;
        }
        let block = u64::from(self.group.order[self.group.given]);
        self.tape.read(self.group.start + block * seq_len as u64, seq_len + 1, to)?;
        self.group.given += 1;
        Ok(())
    }

    /// The number of the present group, where it begins, and how many of its blocks were given out.
    pub(super) fn place(&self) -> (u64, Position, usize) {
        (self.group.number, self.group.position, self.group.given)
    }

    /// Settles which blocks are in the group that begins at `group.start`, and their order.
    fn draw_order(&mut self) -> Result<()> {
        let (start, seq_len) = (self.group.start, self.spec.seq_len as u64);
        let index = self.tape.locate(start)?;
        self.tape.forget_before(index);
        let (visit_start, visit) = &self.tape.loaded[0];
        let (epoch, place) = (visit.epoch, visit.place);
        let (offset, shard_tokens) = (start - visit_start, Some(visit.tokens.len()));
        self.group.position = Position { epoch, place, offset, shard_tokens };
        let most = (self.spec.shuffle as u64).saturating_mul(seq_len);
        let end = self.tape.epoch_end(epoch, start.saturating_add(most))?;
        let mut order: Vec<u32> = (0..(end - start).div_ceil(seq_len) as u32).collect();
        order.shuffle(&mut rng(self.spec.seed, self.group.number.wrapping_mul(2) | 1));
        self.group.order = order;
        Ok(())
    }
}
