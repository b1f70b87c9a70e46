//! From the start of the processes to their end: who started them, and with how many others.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Alone, Collective};
use crate::Error;

/// What MPI's launchers tell a process in its environment: how many there are, and which it is. Hydra (MPICH, Intel MPI), Open MPI,
/// MVAPICH.
const LAUNCHERS: [[&str; 2]; 3] = [
    ["PMI_SIZE", "PMI_RANK"],
    ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"],
    ["MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"],
];

/// The team of this process, once it joined one.
static TEAM: Mutex<Option<Arc<dyn Collective>>> = Mutex::new(None);

/// How long a rank but 0 waits before it tells of an error: one that all have is told once, by rank 0, which then ends them.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the launcher has to pass on what was printed, before it hears that the job is to end.
const FORWARDING: Duration = Duration::from_millis(200);

/// The team that this process was started in: by `mpiexec -n 4`, one of 4; by itself, [`Alone`](super::Alone). The first
/// call begins MPI, on the thread that is to end the program: [`run_main`](crate::run_main) ends it.
///
/// ```
/// let team = fadam_train::parallel::join()?;
/// assert_eq!((team.rank(), team.world()), (0, 1));
/// # Ok::<(), fadam_train::Error>(())
/// ```
///
/// # Errors
/// [`Error::CommandLine`] where several processes were started of a program that was built without the feature `mpi`.
pub fn join() -> Result<Arc<dyn Collective>, Error> {
    let mut team = TEAM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(team) = &*team {
        return Ok(team.clone());
    }
    let joined = start(launched(|name| std::env::var(name).ok()))?;
    *team = Some(joined.clone());
    Ok(joined)
}

/// Rank and number of the processes, as the launcher says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Launched {
    rank: usize,
    world: usize,
    variable: &'static str,
}

fn launched(variable: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    let number = |name: &str| variable(name).and_then(|text| text.trim().parse().ok());
    LAUNCHERS.into_iter().find_map(|[size, rank]| {
        let (world, rank) = (number(size)?, number(rank)?);
        (world > 1).then_some(Launched { rank, world, variable: size })
    })
}

#[cfg(feature = "mpi")]
#[allow(clippy::unnecessary_wraps, reason = "without the feature there is an error")]
fn start(launched: Option<Launched>) -> Result<Arc<dyn Collective>, Error> {
    // Slurm's srun with PMIx says nothing but the rank; MPI itself knows the rest.
    if launched.is_none() && std::env::var_os("PMIX_RANK").is_none() {
        return Ok(Arc::new(Alone));
    }
    let team: Arc<dyn Collective> = Arc::new(super::mpi::Mpi::start()?);
    #[cfg(feature = "nccl")]
    let team: Arc<dyn Collective> = Arc::new(super::nccl::Nccl::beside(team));
    Ok(team)
}

#[cfg(not(feature = "mpi"))]
fn start(launched: Option<Launched>) -> Result<Arc<dyn Collective>, Error> {
    let Some(Launched { rank, world, variable }) = launched else { return Ok(Arc::new(Alone)) };
    let message = format!(
        "{world} processes were started together (this is number {rank}), but this program was built without MPI and \
         each would train by itself: build it with --features mpi, or start it once"
    );
    Err(Error::argument(format!("{variable}={world}"), message))
}

/// Whether this is a rank but 0, and which.
fn silent_rank() -> Option<(usize, usize)> {
    let team = TEAM.lock().unwrap_or_else(PoisonError::into_inner);
    let (rank, world) = match &*team {
        Some(team) => (team.rank(), team.world()),
        None => launched(|name| std::env::var(name).ok()).map(|l| (l.rank, l.world))?,
    };
    (rank > 0).then_some((rank, world))
}

/// Ends the membership of this process, at the end of the program. With an error (a message and an exit code) it ends those
/// of all others too, which may wait for this one; the message is printed first.
pub(crate) fn leave(error: Option<(String, u8)>) {
    let Some((message, code)) = error else {
        let team = TEAM.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(team) = team {
            // A rank that fails now ends all of them, this one included.
            let _gone = team.barrier();
        }
        return;
    };
    // Before MPI was begun here it may have been elsewhere, where it waits for this process.
    let _joined = join();
    let line = match silent_rank() {
        Some((rank, world)) => {
            std::thread::sleep(PATIENCE);
            format!("error: rank {rank} of {world}: {message}\n")
        }
        None => format!("error: {message}\n"),
    };
    // In one piece: other processes write to the same place.
    let _closed = std::io::stderr().write_all(line.as_bytes());
    let team = TEAM.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(team) = team.filter(|team| team.world() > 1) {
        std::thread::sleep(FORWARDING);
        team.abort(code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_known_by_what_they_set() {
        let of = |pairs: &[(&str, &str)]| {
            launched(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("PMI_SIZE", "1"), ("PMI_RANK", "0")]), None);
        let two = of(&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "2")]).unwrap();
        assert_eq!((two.rank, two.world, two.variable), (2, 4, "OMPI_COMM_WORLD_SIZE"));
    }

    #[cfg(not(feature = "mpi"))]
    #[test]
    fn without_the_feature_several_processes_are_refused() {
        let launched = Launched { rank: 3, world: 4, variable: "PMI_SIZE" };
        let text = start(Some(launched)).unwrap_err().to_string();
        for part in ["PMI_SIZE=4: 4 processes", "number 3", "--features mpi"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
