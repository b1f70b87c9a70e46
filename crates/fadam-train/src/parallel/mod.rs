//! Several processes that train one model: each computes some of a step's batches, all take the same step.
//!
//! ```text
//! W processes (ranks 0 … W − 1), A = train.accumulate batches a step, A a multiple of W
//! rank r:  batches r, r + W, r + 2W, … of the step ─► g_r, the mean of their gradients
//! all:     g = Σ_r g_r / W ─► the same optimizer step everywhere
//! ```
//!
//! So a step has the batches, and a run the configuration, cursor and checkpoints, that one process has: W is in none of them, and a run
//! goes on with another W where it stood. What differs from one process is the order in which f32 numbers are added up; on a given W the
//! order is fixed. Rank 0 evaluates and writes the run folder; the others are silent.
//!
//! Sums go through a [`Collective`], which is an existing engine ([`join`]): MPI with the feature `mpi`, NCCL beside it for gradients on a
//! GPU with the feature `nccl`. [`Threads`] is a team within one process, for tests. `docs/parallel.md` has the whole story.

mod buckets;
mod exchange;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod replicas;
mod shards;
mod team;
mod threads;

use std::fmt::Debug;

use candle_core::Tensor;

pub(crate) use exchange::Told;
pub use launch::join;
pub(crate) use launch::leave;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub(crate) use team::{Moved, Team};
pub use threads::Threads;

/// What the ranks of a team need of the engine between them. Every rank makes the same calls in the same order; each
/// call waits for the others where it has to. After an error the team is of no more use.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_train::parallel::{Collective, Threads};
///
/// let means: Vec<Vec<f32>> = std::thread::scope(|scope| {
///     let ranks = Threads::team(2).into_iter().map(|rank| scope.spawn(move || {
///         let mine = Tensor::new(&[rank.rank() as f32, 5.0], &Device::Cpu).unwrap();
///         rank.mean(mine).unwrap().to_vec1().unwrap()
///     })).collect::<Vec<_>>();
///     ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
/// });
/// assert_eq!(means, [[0.5, 5.0], [0.5, 5.0]]);
/// ```
pub trait Collective: Debug + Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many there are, W.
    fn world(&self) -> usize;

    /// The engine, for people: `MPI`.
    fn engine(&self) -> &'static str;

    /// The mean over all ranks of a `[n]` tensor of f32 or f64, on its device; the same bits on every rank, and for
    /// the same tensors and W.
    ///
    /// # Errors
    /// When another rank is gone, or candle fails.
    fn mean(&self, numbers: Tensor) -> anyhow::Result<Tensor>;

    /// The bytes of all ranks one after the other, rank 0's first; each has equally many.
    ///
    /// # Errors
    /// When another rank is gone.
    fn all_gather(&self, mine: &[u8]) -> anyhow::Result<Vec<u8>>;

    /// On rank 0 the bytes of the other ranks, which may be of different lengths, rank 1's first; elsewhere nothing.
    ///
    /// # Errors
    /// When another rank is gone.
    fn gather(&self, mine: &[u8]) -> anyhow::Result<Vec<Vec<u8>>>;

    /// Rank 0's bytes, on every rank.
    ///
    /// # Errors
    /// When another rank is gone.
    fn broadcast(&self, mine: &[u8]) -> anyhow::Result<Vec<u8>>;

    /// Waits, without keeping a core busy, until every rank is here.
    ///
    /// # Errors
    /// When another rank is gone.
    fn barrier(&self) -> anyhow::Result<()>;

    /// Ends the processes of all ranks with this exit code, where they are processes; see to it that the reason was
    /// printed.
    fn abort(&self, code: u8);
}

/// One process by itself: what a program is that was started as any other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn engine(&self) -> &'static str {
        "one process"
    }

    fn mean(&self, numbers: Tensor) -> anyhow::Result<Tensor> {
        Ok(numbers)
    }

    fn all_gather(&self, mine: &[u8]) -> anyhow::Result<Vec<u8>> {
        Ok(mine.to_vec())
    }

    fn gather(&self, _: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    fn broadcast(&self, mine: &[u8]) -> anyhow::Result<Vec<u8>> {
        Ok(mine.to_vec())
    }

    fn barrier(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn abort(&self, _: u8) {}
}
