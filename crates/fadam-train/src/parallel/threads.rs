//! A team of threads in one process: the engine that needs no other, for tests of what the ranks do.

use std::ops::{AddAssign, DivAssign};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::bail;
use candle_core::{DType, Tensor};

use super::Collective;

/// One rank of a team of threads. It is made for tests: sums go through one lock.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    board: Arc<Board>,
}

/// Where the ranks put what they give, in rounds.
#[derive(Debug)]
struct Board {
    world: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What was given in this round, by rank.
    given: Vec<Option<Vec<u8>>>,
    /// What was given in the round before, and is still to be taken so many times.
    taken: Option<(Arc<Vec<Vec<u8>>>, usize)>,
    /// A rank that is gone.
    gone: Option<usize>,
}

impl Threads {
    /// A team of `world` ranks, to be moved to as many threads.
    ///
    /// # Panics
    /// For a team of none.
    pub fn team(world: usize) -> Vec<Self> {
        assert!(world > 0, "a team has members");
        let state = State { given: vec![None; world], ..State::default() };
        let board = Board { world, state: Mutex::new(state), changed: Condvar::new() };
        let board = Arc::new(board);
        (0..world).map(|rank| Self { rank, board: board.clone() }).collect()
    }

    /// What all ranks gave in this round.
    fn exchange(&self, mine: Vec<u8>) -> anyhow::Result<Arc<Vec<Vec<u8>>>> {
        let mut state = self.board.wait(self.board.lock(), |state| state.taken.is_none())?;
        state.given[self.rank] = Some(mine);
        if state.given.iter().all(Option::is_some) {
            let all = state.given.iter_mut().filter_map(Option::take).collect();
            state.taken = Some((Arc::new(all), self.board.world));
            self.board.changed.notify_all();
        }
        let rank = self.rank;
        let mut state =
            self.board.wait(state, |state| state.taken.is_some() && state.given[rank].is_none())?;
        let Some((all, left)) = state.taken.take() else { bail!("a round without an end") };
        if left > 1 {
            state.taken = Some((all.clone(), left - 1));
        }
        self.board.changed.notify_all();
        Ok(all)
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`, or until a rank is gone before that.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        done: impl Fn(&State) -> bool,
    ) -> anyhow::Result<MutexGuard<'a, State>> {
        loop {
            if done(&state) {
                return Ok(state);
            }
            if let Some(rank) = state.gone {
                bail!("rank {rank} of {} is gone", self.world);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Threads {
    /// A rank that is dropped while others wait for it, after an error or a panic, ends their wait.
    fn drop(&mut self) {
        self.board.lock().gone.get_or_insert(self.rank);
        self.board.changed.notify_all();
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.board.world
    }

    fn engine(&self) -> &'static str {
        "threads"
    }

    fn mean(&self, numbers: Tensor) -> anyhow::Result<Tensor> {
        let device = numbers.device().clone();
        Ok(if numbers.dtype() == DType::F64 {
            let mine = numbers.to_vec1::<f64>()?.into_iter().flat_map(f64::to_le_bytes).collect();
            Tensor::new(mean_of(&self.exchange(mine)?, f64::from_le_bytes), &device)?
        } else {
            let mine = numbers.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect();
            Tensor::new(mean_of(&self.exchange(mine)?, f32::from_le_bytes), &device)?
        })
    }

    fn all_gather(&self, mine: &[u8]) -> anyhow::Result<Vec<u8>> {
        Ok(self.exchange(mine.to_vec())?.concat())
    }

    fn gather(&self, mine: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        let all = self.exchange(mine.to_vec())?;
        Ok(if self.rank == 0 { all[1..].to_vec() } else { Vec::new() })
    }

    fn broadcast(&self, mine: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mine = if self.rank == 0 { mine.to_vec() } else { Vec::new() };
        Ok(self.exchange(mine)?[0].clone())
    }

    fn barrier(&self) -> anyhow::Result<()> {
        self.exchange(Vec::new()).map(|_| ())
    }

    fn abort(&self, _: u8) {}
}

/// The mean of numbers given as bytes, added up in the order of the ranks.
fn mean_of<T: Copy + Default + AddAssign + DivAssign + From<u16>, const N: usize>(
    all: &[Vec<u8>],
    parse: fn([u8; N]) -> T,
) -> Vec<T> {
    let mut sums = vec![T::default(); all[0].len() / N];
    for bytes in all {
        for (sum, number) in sums.iter_mut().zip(bytes.as_chunks().0) {
            *sum += parse(*number);
        }
    }
    for sum in &mut sums {
        *sum /= T::from(all.len() as u16);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_follow_each_other_and_a_rank_that_is_gone_ends_the_wait() {
        let seen: Vec<Vec<Vec<u8>>> = std::thread::scope(|scope| {
            let ranks: Vec<_> = Threads::team(3)
                .into_iter()
                .map(|rank| {
                    scope.spawn(move || {
                        let round = |i: u8| rank.all_gather(&[10 * i + rank.rank() as u8]).unwrap();
                        (0..25).map(round).collect()
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        for rank in &seen {
            let expected = |i: u8| vec![10 * i, 10 * i + 1, 10 * i + 2];
            for (i, round) in rank.iter().enumerate() {
                assert_eq!(*round, expected(i as u8));
            }
            assert_eq!(rank, &seen[0]);
        }
        let mut team = Threads::team(2);
        let (second, first) = (team.pop().unwrap(), team.pop().unwrap());
        let waits = std::thread::spawn(move || first.barrier());
        drop(second);
        let error = waits.join().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "rank 1 of 2 is gone");
    }
}
