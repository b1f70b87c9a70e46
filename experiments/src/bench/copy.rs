//! How fast this machine copies memory: what a memory-bound step is held against.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use super::times::Times;

/// The copies that one measurement takes the median of, after one that is not counted.
const COPIES: usize = 9;

/// A buffer, kept from one measurement to the next so that its pages are there.
pub(crate) enum CopyMeter {
    /// Copied to the second by that many threads.
    Host { from: Vec<u8>, to: Vec<u8>, threads: usize },
    /// The first is copied to the second by their device.
    Device(Tensor, Tensor),
}

impl CopyMeter {
    /// Copies `bytes` with that many threads. To measure memory, `bytes` must be several times the last
    /// cache.
    pub(crate) fn new(bytes: usize, threads: usize, device: &Device) -> candle_core::Result<Self> {
        if device.is_cpu() {
            // Not zeros: the pages of a fresh zeroed buffer are all the same one until written to.
            return Ok(Self::Host { from: vec![1; bytes], to: vec![0; bytes], threads });
        }
        // candle copies element by element: f32 is what steps move.
        let ones = || Tensor::ones(bytes / 4, DType::F32, device);
        Ok(Self::Device(ones()?, ones()?))
    }

    /// 10⁹ bytes read and written a second, by the median copy.
    pub(crate) fn gb_per_s(&mut self) -> candle_core::Result<f64> {
        self.copy()?;
        let mut ms = Vec::new();
        for _ in 0..COPIES {
            let start = Instant::now();
            self.copy()?;
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let median = Times::new(ms).map_or(f64::NAN, |times| times.median());
        Ok(2.0 * self.bytes() as f64 / (median * 1e6))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Host { from, .. } => from.len(),
            Self::Device(from, _) => 4 * from.elem_count(),
        }
    }

    fn copy(&mut self) -> candle_core::Result<()> {
        match self {
            Self::Host { from, to, threads } => {
                let share = from.len().div_ceil(*threads).max(1);
                thread::scope(|scope| {
                    for (to, from) in to.chunks_mut(share).zip(from.chunks(share)) {
                        scope.spawn(move || to.copy_from_slice(from));
                    }
                });
                black_box(to);
            }
            Self::Device(from, to) => {
                to.slice_set(from, 0, 0)?;
                to.device().synchronize()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_whatever_the_number_of_threads() {
        for (bytes, threads) in [(0, 2), (1, 4), (1000, 3)] {
            let mut meter = CopyMeter::new(bytes, threads, &Device::Cpu).unwrap();
            meter.copy().unwrap();
            let CopyMeter::Host { to, .. } = meter else { unreachable!() };
            assert_eq!(to, vec![1; bytes]);
        }
    }
}
