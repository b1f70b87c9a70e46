//! Other sampling rates, through rubato's FFT resampler: a windowed sinc, in blocks.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};

/// The length of the filter in samples at the lower of the two rates. What lies between about 0.98
/// of that rate's Nyquist frequency and the frequency itself is lost.
const FILTER: usize = 1024;

/// Samples at the rate `to` for samples at the rate `from`: ⌈n·to/from⌉ of them, the first at the
/// same instant. What is above the Nyquist frequency of either rate is gone.
pub(super) fn resample(samples: Vec<f32>, from: u32, to: u32) -> Vec<f32> {
    if from == to || samples.is_empty() {
        return samples;
    }
    let (from, to) = (from as usize, to as usize);
    let wanted = (samples.len() * to).div_ceil(from);
    let block = block(from, to);
    // None of these can fail: the rates and the block are not 0, and the buffer is as long as it is.
    let mut plan = Fft::<f32>::new_custom(
        from,
        to,
        block,
        1,
        1,
        rubato::WindowFunction::BlackmanHarris2,
        FixedSync::Both,
    )
    .expect("rates and block sizes above 0 make a resampler");
    let input =
        InterleavedSlice::new(&samples, 1, samples.len()).expect("one channel is the whole buffer");
    let output =
        plan.process_all(&input, samples.len(), None).expect("the buffers have the plan's shape");
    let mut output = output.take_data();
    // rubato rounds up after a division in floats: at times that is one sample more.
    output.truncate(wanted);
    output
}

/// The length of a block in samples of `from`: a multiple of the smallest that has a whole number of
/// samples at both rates. It is an even multiple, since the filter's centre is half a block from its
/// beginning, and would lie between two samples of an odd one: the sound would be early or late.
fn block(from: usize, to: usize) -> usize {
    let smallest = from / gcd(from, to);
    let filter = FILTER * from.div_ceil(from.min(to));
    filter.div_ceil(smallest).next_multiple_of(2) * smallest
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
