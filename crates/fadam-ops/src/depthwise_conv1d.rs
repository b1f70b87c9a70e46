//! `y[t, c] = Σ_k w[c, k] x[t + k − (K − 1)/2, c]` over the frames t of each utterance, channels last.
//!
//! With g = ∂L/∂y: `∂L/∂x[t, c] = Σ_k w[c, K − 1 − k] g[t + k − (K − 1)/2, c]` and
//! `∂L/∂w[c, k] = Σ g[t, c] x[t + k − (K − 1)/2, c]`.
//!
//! All three are correlations of a few frames, `out[j] = Σ_i a[i] b[i + j]`, in ∂L/∂w with g for a and the taps k for j. They
//! are computed [`BLOCK`] channels at a time, from copies where those of a frame lie together and zeros stand for padding.

use candle_core::{Result, Tensor, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::frames::{self, Run};
use crate::gradients::give;
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, matrix};
use crate::rows::sum_of;

const NAME: &str = "depthwise_conv1d";

/// Channels that are computed together: whole vectors of every instruction set.
const BLOCK: usize = 16;

/// Frames of a task.
const FRAMES: usize = 64;

/// Outputs that are added up side by side, in registers.
const SIDE_BY_SIDE: usize = 8;

/// Each channel of `x [B, T, C]` with K taps of its own, `w [C, K]`, centred on the frame: `y[b, t, c]` is
/// `Σ_k w[c, k] x[b, t + k − (K − 1)/2, c]`.
///
/// Of utterance b, `lengths[b]` frames are real. Those beyond are read as 0, whatever they hold, and get a gradient of 0; those
/// of the result are 0, and the gradient that they are given is not read.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[[1f32], [2.0], [4.0], [f32::NAN]]], &Device::Cpu)?; // 3 frames and padding
/// let w = Tensor::new(&[[100f32, 10.0, 1.0]], &Device::Cpu)?;
/// let y = fadam_ops::depthwise_conv1d(&x, &w, &[3])?;
/// assert_eq!(y.to_vec3::<f32>()?, [[[12.0], [124.0], [240.0], [0.0]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If K is even, a length is beyond T, or shapes, dtypes or devices do not fit.
pub fn depthwise_conv1d(x: &Tensor, w: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let [_, _, c] = *x.dims() else {
        bail!("{NAME}: x has shape {:?}, where [B, T, C] is expected", x.dims())
    };
    let (channels, taps) = matrix(NAME, "w", w)?;
    if channels != c {
        bail!("{NAME}: w {:?} has not the {c} channels of x {:?}", w.dims(), x.dims());
    }
    if taps.is_multiple_of(2) {
        bail!("{NAME}: w {:?} has {taps} taps; only an odd number has a middle", w.dims());
    }
    frames::check(NAME, x, lengths)?;
    match Route::of(NAME, &[x, w])? {
        Route::Single => fused::<f32>(x, w, lengths),
        Route::Double => fused::<f64>(x, w, lengths),
        Route::Widened(wide) => {
            depthwise_conv1d(&x.to_dtype(wide)?, &w.to_dtype(wide)?, lengths)?.to_dtype(x.dtype())
        }
        Route::Composed => composed(x, w, lengths),
    }
}

/// As candle composes it: a sum of K products of shifted frames. Its own grouped convolution runs once a channel.
fn composed(x: &Tensor, w: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let (frames, taps) = (x.dim(1)?, w.dim(1)?);
    let padded = frames::masked(x, lengths)?.pad_with_zeros(1, taps / 2, taps / 2)?;
    let tap = |k| padded.narrow(1, k, frames)?.broadcast_mul(&w.narrow(1, k, 1)?.flatten_all()?);
    let sum = (1..taps).try_fold(tap(0)?, |sum, k| sum + tap(k)?)?;
    frames::masked(&sum, lengths)
}

fn fused<T: Number>(x: &Tensor, w: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let shape = x.dims3()?;
    let taps = w.dim(1)?;
    let y = read([x, w], |[x, w]: [&[T]; 2]| {
        filtered(x, &blocks_of_taps(w, taps, |k| k), shape, taps, lengths)
    })?;
    let backward = Depthwise::<T> { lengths: lengths.to_vec(), of: std::marker::PhantomData };
    node(NAME, [x, w], (y, x.shape().clone()), backward)
}

struct Depthwise<T> {
    lengths: Vec<usize>,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<2> for Depthwise<T> {
    fn backward(
        &self,
        [x, w]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let shape = x.dims3()?;
        let taps = w.dim(1)?;
        let of_x = || {
            let dx = read([w, g], |[w, g]: [&[T]; 2]| {
                let flipped = blocks_of_taps(w, taps, |k| taps - 1 - k);
                filtered(g, &flipped, shape, taps, &self.lengths)
            })?;
            constant(dx, x.shape())
        };
        let of_w = || {
            let dw = read([x, g], |[x, g]: [&[T]; 2]| of_taps(x, g, shape, taps, &self.lengths))?;
            give(w, dw)
        };
        let dx = if x.track_op() { Some(of_x()?) } else { None };
        let dw = if w.track_op() { of_w()? } else { None };
        Ok([dx, dw])
    }
}

/// `w [C, K]` as `[C / BLOCK, K, BLOCK]`, with zeros for channels that are not there; k comes from where `from` says.
fn blocks_of_taps<T: Number>(w: &[T], taps: usize, from: impl Fn(usize) -> usize) -> Vec<T> {
    let channels = w.len() / taps;
    let mut blocks = vec![T::zero(); channels.div_ceil(BLOCK) * taps * BLOCK];
    for (c, w) in w.chunks_exact(taps).enumerate() {
        let block = &mut blocks[c / BLOCK * taps * BLOCK..];
        for k in 0..taps {
            block[k * BLOCK + c % BLOCK] = w[from(k)];
        }
    }
    blocks
}

/// The frames of x, each the sum of those around it times the taps.
fn filtered<T: Number>(
    x: &[T],
    blocks: &[T],
    (_, frames, channels): (usize, usize, usize),
    taps: usize,
    lengths: &[usize],
) -> Vec<T> {
    let size = frames * channels;
    let scratch = || (Vec::new(), Vec::new());
    frames::new((frames, channels), lengths, FRAMES, scratch, |(around, out), run, y| {
        let x = &x[run.utterance * size..][..lengths[run.utterance] * channels];
        zeros(out, run.count.next_multiple_of(SIDE_BY_SIDE));
        for (block, taps_of) in blocks.chunks_exact(taps * BLOCK).enumerate() {
            let block = Block::new(block, channels);
            block.gather(x, run, taps / 2, out.len() / BLOCK + taps - 1, around);
            correlate(taps_of, around, out);
            block.store(out, y);
        }
    })
}

/// `Σ g[t, c] x[t + k − (K − 1)/2, c]`, from parts of [`FRAMES`] frames in their order.
fn of_taps<T: Number>(
    x: &[T],
    g: &[T],
    (_, frames, channels): (usize, usize, usize),
    taps: usize,
    lengths: &[usize],
) -> Vec<T> {
    let part = |run: Run| {
        let (start, len) = (run.utterance * frames * channels, lengths[run.utterance] * channels);
        let (x, g) = (&x[start..][..len], &g[start..][..len]);
        let mut part = vec![T::zero(); channels * taps];
        let (mut around, mut of_g, mut out) = (Vec::new(), Vec::new(), Vec::new());
        zeros(&mut out, taps.next_multiple_of(SIDE_BY_SIDE));
        for (i, part) in part.chunks_mut(BLOCK * taps).enumerate() {
            let block = Block::new(i, channels);
            block.gather(g, run, 0, run.count, &mut of_g);
            block.gather(x, run, taps / 2, run.count + out.len() / BLOCK - 1, &mut around);
            correlate(&of_g, &around, &mut out);
            for (c, part) in part.chunks_exact_mut(taps).enumerate() {
                part.iter_mut().zip(out.iter().skip(c).step_by(BLOCK)).for_each(|(dw, x)| *dw = *x);
            }
        }
        part
    };
    let parts = frames::runs(lengths, FRAMES).into_par_iter().map(part).collect();
    sum_of(parts, channels * taps)
}

/// Room for so many frames of a block, as zeros.
fn zeros<T: Number>(frames: &mut Vec<T>, count: usize) {
    frames.clear();
    frames.resize(count * BLOCK, T::zero());
}

/// Neighbouring channels.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    /// Those that are there, at most [`BLOCK`].
    count: usize,
    channels: usize,
}

impl Block {
    fn new(i: usize, channels: usize) -> Self {
        let first = i * BLOCK;
        Self { first, count: BLOCK.min(channels - first), channels }
    }

    /// `count` frames of `x [.., C]`, the first of them `before` the first of a run; zeros stand for those that x has not.
    fn gather<T: Number>(&self, x: &[T], run: Run, before: usize, count: usize, into: &mut Vec<T>) {
        zeros(into, count);
        let missing = before.saturating_sub(run.first);
        let first = (run.first + missing - before) * self.channels;
        let into = into.chunks_exact_mut(BLOCK).skip(missing);
        for (into, x) in into.zip(x[first..].chunks_exact(self.channels)) {
            self.copy(&x[self.first..], into);
        }
    }

    /// The block of every frame of `y [.., C]`.
    fn store<T: Number>(&self, out: &[T], y: &mut [T]) {
        for (y, out) in y.chunks_exact_mut(self.channels).zip(out.chunks_exact(BLOCK)) {
            self.copy(out, &mut y[self.first..]);
        }
    }

    fn copy<T: Number>(&self, from: &[T], to: &mut [T]) {
        // Of a known size, a copy is a few instructions and not a call.
        match (from.first_chunk::<BLOCK>(), to.first_chunk_mut::<BLOCK>()) {
            (Some(from), Some(to)) if self.count == BLOCK => *to = *from,
            _ => to[..self.count].copy_from_slice(&from[..self.count]),
        }
    }
}

/// `out[j] = Σ_i a[i] b[i + j]`, all of blocks; b has as many as a and out have together, but one.
fn correlate<T: Number>(a: &[T], b: &[T], out: &mut [T]) {
    assert_eq!(a.len() + out.len(), b.len() + BLOCK, "blocks of a correlation");
    assert!(out.len().is_multiple_of(SIDE_BY_SIDE * BLOCK));
    pulp::Arch::new().dispatch(Correlate { a, b, out });
}

struct Correlate<'a, T> {
    a: &'a [T],
    b: &'a [T],
    out: &'a mut [T],
}

impl<T: Number> WithSimd for Correlate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (a, b) = (T::vectors::<S>(self.a), T::vectors::<S>(self.b));
        let out = T::vectors_mut::<S>(self.out);
        let vectors = BLOCK * size_of::<T>() / size_of::<T::Vector<S>>(); // of a block
        for (tile, out) in out.chunks_exact_mut(SIDE_BY_SIDE * vectors).enumerate() {
            let b = &b[tile * SIDE_BY_SIDE * vectors..];
            for v in 0..vectors {
                let mut sums = [T::zeros(simd); SIDE_BY_SIDE];
                for (i, a) in a.chunks_exact(vectors).enumerate() {
                    let b = &b[i * vectors..][..SIDE_BY_SIDE * vectors];
                    for (j, sum) in sums.iter_mut().enumerate() {
                        *sum = T::multiply_add(simd, a[v], b[j * vectors + v], *sum);
                    }
                }
                for (j, sum) in sums.into_iter().enumerate() {
                    out[j * vectors + v] = sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// What a device computes is what the CPU does, in f64 to rounding.
    #[test]
    fn composed_is_fused() {
        let draw = |shape: &[usize]| {
            Var::from_tensor(&Tensor::randn(0f64, 1.0, shape, &Device::Cpu).unwrap()).unwrap()
        };
        for (t, c, taps, lengths) in
            [(7, 3, 5, [7, 4]), (90, 20, 31, [90, 65]), (2, 16, 9, [0, 1]), (5, 1, 1, [5, 5])]
        {
            let (x, w) = (draw(&[2, t, c]), draw(&[c, taps]));
            let ours = depthwise_conv1d(&x, &w, &lengths).unwrap();
            crate::route::same(&[&x, &w], &ours, &composed(&x, &w, &lengths).unwrap());
        }
    }
}
