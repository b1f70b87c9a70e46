//! Random numbers of a training run: each use, epoch and example has a stream of its own.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator of a use: its stream is the use (2 bits), the epoch (30) and the example's number in
/// its set (32).
pub(crate) fn stream(seed: u64, what: u64, epoch: u64, number: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(what << 62 | (epoch & ((1 << 30) - 1)) << 32 | number as u64);
    rng
}
