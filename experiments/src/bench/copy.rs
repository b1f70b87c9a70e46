//! How fast this machine copies memory: what a memory-bound step is held against.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use super::times::Times;

/// The copies that one measurement takes the median of, after one that is not counted.
const COPIES: usize = 9;

/// Two buffers, kept from one measurement to the next so that their pages are there.
pub(crate) struct CopyMeter {
    from: Vec<u8>,
    to: Vec<u8>,
    threads: usize,
}

impl CopyMeter {
    /// Copies `bytes` with that many threads. To measure memory, `bytes` must be several times the last
    /// cache.
    pub(crate) fn new(bytes: usize, threads: usize) -> Self {
        Self {
            // Not zeros: the pages of a fresh zeroed buffer are all the same one until written to.
            from: vec![1; bytes],
            to: vec![0; bytes],
            threads,
        }
    }

    /// 10⁹ bytes read and written a second, by the median copy.
    pub(crate) fn gb_per_s(&mut self) -> f64 {
        self.copy();
        let ms = (0..COPIES)
            .map(|_| {
                let start = Instant::now();
                self.copy();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        let median = Times::new(ms).map_or(f64::NAN, |times| times.median());
        2.0 * self.from.len() as f64 / (median * 1e6)
    }

    fn copy(&mut self) {
        let share = self.from.len().div_ceil(self.threads).max(1);
        thread::scope(|scope| {
            for (to, from) in self.to.chunks_mut(share).zip(self.from.chunks(share)) {
                scope.spawn(move || to.copy_from_slice(from));
            }
        });
        black_box(&self.to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_whatever_the_number_of_threads() {
        for (bytes, threads) in [(0, 2), (1, 4), (1000, 3)] {
            let mut meter = CopyMeter::new(bytes, threads);
            meter.copy();
            assert_eq!(meter.to, vec![1; bytes]);
        }
    }
}
