//! MPI, by rsmpi: MPICH, Open MPI or whatever `mpicc` belonged to when this was built.
//!
//! Errors of MPI end all processes with MPI's own message: that is its default, and rsmpi looks at no return code. What can be
//! reported otherwise is reported before MPI is called.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use mpi::collective::SystemOperation;
use mpi::datatype::{Buffer, BufferMut, Equivalence};
use mpi::environment::Universe;
use mpi::request::{Request, Scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Root, Source};
use mpi::{Threading, request};

use super::Collective;
use crate::Error;

/// A wait keeps its core for this long before it begins to sleep in between.
const BUSY: Duration = Duration::from_micros(200);

/// How long it sleeps then.
const NAP: Duration = Duration::from_micros(50);

/// How long the wait at a barrier sleeps, where the others evaluate or write a checkpoint.
const LONG_NAP: Duration = Duration::from_millis(2);

/// Elements in one call: MPI counts in C's int.
const MOST: usize = 1 << 28;

/// This process as a rank of `MPI_COMM_WORLD`. MPI ends when it is dropped.
#[derive(Debug)]
pub(super) struct Mpi {
    rank: usize,
    world: usize,
    _universe: Running,
}

/// `MPI_Finalize` when it is dropped.
struct Running {
    _universe: Universe,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MPI")
    }
}

impl Mpi {
    /// Begins MPI. Sums run on a thread of their own, one call at a time.
    ///
    /// # Errors
    /// [`Error::CommandLine`] where MPI was begun already, or this MPI cannot be called from more than one thread.
    pub(super) fn start() -> Result<Self, Error> {
        let failed = |message: &str| Error::argument("MPI", message);
        let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| failed("was begun already in this process"))?;
        if threading < Threading::Serialized {
            return Err(failed(
                "this MPI supports one thread only (MPI_THREAD_SERIALIZED is needed)",
            ));
        }
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        Ok(Self { rank, world: size, _universe: Running { _universe: universe } })
    }

    /// The sum of equally many numbers of every rank, in place.
    fn sum<T: Equivalence + Copy + Default>(numbers: &mut [T])
    where
        [T]: Buffer + BufferMut,
    {
        let world = SimpleCommunicator::world();
        for part in numbers.chunks_mut(MOST) {
            let mine = part.to_vec();
            request::scope(|scope| {
                let sum = SystemOperation::sum();
                wait(world.immediate_all_reduce_into(scope, &mine[..], &mut *part, sum), NAP);
            });
        }
    }
}

/// Waits without keeping a core busy for long: ranks on one machine share its cores with each other, and with rank 0 that
/// evaluates.
fn wait<'a, D: ?Sized, S: Scope<'a>>(mut request: Request<'a, D, S>, nap: Duration) {
    let started = Instant::now();
    loop {
        request = match request.test() {
            Ok(_) => return,
            Err(unfinished) => unfinished,
        };
        if started.elapsed() > BUSY {
            std::thread::sleep(nap);
        } else {
            std::thread::yield_now();
        }
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn engine(&self) -> &'static str {
        "MPI"
    }

    fn mean(&self, numbers: Tensor) -> anyhow::Result<Tensor> {
        let device = numbers.device().clone();
        let n = numbers.elem_count();
        let mean = if numbers.dtype() == DType::F64 {
            let mut numbers = numbers.to_vec1::<f64>()?;
            Self::sum(&mut numbers);
            for x in &mut numbers {
                *x /= self.world as f64;
            }
            Tensor::from_vec(numbers, n, &Device::Cpu)?
        } else {
            let mut numbers = numbers.to_vec1::<f32>()?;
            Self::sum(&mut numbers);
            for x in &mut numbers {
                *x /= self.world as f32;
            }
            Tensor::from_vec(numbers, n, &Device::Cpu)?
        };
        Ok(mean.to_device(&device)?)
    }

    fn all_gather(&self, mine: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut all = vec![0u8; mine.len() * self.world];
        let world = SimpleCommunicator::world();
        request::scope(|scope| {
            wait(world.immediate_all_gather_into(scope, mine, &mut all[..]), NAP);
        });
        Ok(all)
    }

    fn gather(&self, mine: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        let lengths = self.all_gather(&(mine.len() as u64).to_le_bytes())?;
        let lengths =
            lengths.as_chunks().0.iter().map(|length| u64::from_le_bytes(*length) as usize);
        let world = SimpleCommunicator::world();
        if self.rank > 0 {
            for part in mine.chunks(MOST) {
                world.process_at_rank(0).send(part);
            }
            return Ok(Vec::new());
        }
        let receive = |(rank, length): (i32, usize)| {
            let mut bytes = vec![0u8; length];
            for part in bytes.chunks_mut(MOST) {
                world.process_at_rank(rank).receive_into(part);
            }
            bytes
        };
        Ok((0..).zip(lengths).skip(1).map(receive).collect())
    }

    fn broadcast(&self, mine: &[u8]) -> anyhow::Result<Vec<u8>> {
        let world = SimpleCommunicator::world();
        let root = world.process_at_rank(0);
        let mut length = mine.len() as u64;
        // Rank 0 may be a while, with the checksums of a checkpoint.
        request::scope(|scope| wait(root.immediate_broadcast_into(scope, &mut length), LONG_NAP));
        let mut bytes = mine.to_vec();
        bytes.resize(length as usize, 0);
        for part in bytes.chunks_mut(MOST) {
            request::scope(|scope| wait(root.immediate_broadcast_into(scope, part), NAP));
        }
        Ok(bytes)
    }

    fn barrier(&self) -> anyhow::Result<()> {
        wait(SimpleCommunicator::world().immediate_barrier(), LONG_NAP);
        Ok(())
    }

    fn abort(&self, code: u8) {
        SimpleCommunicator::world().abort(code.into());
    }
}
