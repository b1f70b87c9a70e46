//! Padded batches: of the T frames of utterance b in `x [B, T, ...]`, the first `lengths[b]` are real.
//!
//! Ops with `lengths` share one rule. Frames beyond are read as 0, whatever they hold, and get a gradient of 0; those of a
//! result are 0, and the gradient that they are given is not read. An utterance then has the same result in a batch as alone.

use std::mem::MaybeUninit;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::number::Number;

/// Refuses lengths that are not one an utterance of `x [B, T, ...]`, or of more than T frames.
pub(crate) fn check(op: &str, x: &Tensor, lengths: &[usize]) -> Result<()> {
    let (utterances, frames) = (x.dim(0)?, x.dim(1)?);
    if lengths.len() != utterances {
        bail!(
            "{op}: {} lengths for the {utterances} utterances of x {:?}",
            lengths.len(),
            x.dims()
        );
    }
    if let Some((b, n)) = lengths.iter().enumerate().find(|(_, n)| **n > frames) {
        bail!("{op}: utterance {b} has length {n}, where x {:?} has {frames} frames", x.dims());
    }
    Ok(())
}

/// x with zeros for the frames beyond, by candle's differentiable ops. A product with zeros would keep what is not finite.
pub(crate) fn masked(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let frames = x.dim(1)?;
    let real = |n: &usize| (0..*n).map(|_| 1u8).chain((*n..frames).map(|_| 0)).collect::<Vec<_>>();
    let real: Vec<u8> = lengths.iter().flat_map(real).collect();
    let mut shape = vec![1; x.rank()];
    shape[..2].copy_from_slice(&x.dims()[..2]);
    let real = Tensor::from_vec(real, shape, x.device())?.broadcast_as(x.shape())?;
    real.where_cond(x, &x.zeros_like()?)
}

/// Real frames of one utterance, one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) utterance: usize,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// All real frames, in runs of at most `count`.
pub(crate) fn runs(lengths: &[usize], count: usize) -> Vec<Run> {
    let of = |(utterance, n): (usize, &usize)| {
        let n = *n;
        let run = move |first| Run { utterance, first, count: count.min(n - first) };
        (0..n).step_by(count).map(run)
    };
    lengths.iter().enumerate().flat_map(of).collect()
}

/// `[B, frames, width]` of which `f(scratch, run, frames)` fills runs of at most `count` real frames, in parallel; the others are
/// zeros. They are zeros before, written by the thread that goes on with them, so that they are in its cache.
#[allow(unsafe_code)]
pub(crate) fn new<T: Number, S>(
    (frames, width): (usize, usize),
    lengths: &[usize],
    count: usize,
    scratch: impl Fn() -> S + Send + Sync,
    f: impl Fn(&mut S, Run, &mut [T]) + Send + Sync,
) -> Vec<T> {
    let len = lengths.len() * frames * width;
    if len == 0 {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(len);
    let utterances = out.spare_capacity_mut()[..len].par_chunks_mut(frames * width).zip(lengths);
    let runs = utterances.enumerate().flat_map(|(utterance, (out, real))| {
        let chunks = out.par_chunks_mut(count * width).enumerate();
        chunks.map(move |(i, out)| {
            let first = i * count;
            let count = (out.len() / width).min(real.saturating_sub(first));
            (Run { utterance, first, count }, out)
        })
    });
    runs.for_each_init(scratch, |scratch, (run, out): (Run, &mut [MaybeUninit<T>])| {
        out.fill(MaybeUninit::new(T::zero()));
        // SAFETY: all elements have just been written, and `MaybeUninit<T>` is laid out as `T`.
        let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [T]) };
        if run.count > 0 {
            f(scratch, run, &mut out[..run.count * width]);
        }
    });
    // SAFETY: the chunks of all utterances are all of the first `len` elements, and every one was written.
    unsafe { out.set_len(len) };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_all_real_frames_once() {
        let lengths = [0, 7, 3, 6];
        for count in [1, 2, 3, 100] {
            let all = runs(&lengths, count);
            let found = std::sync::Mutex::new(Vec::new());
            let x = new(
                (7, 2),
                &lengths,
                count,
                || (),
                |(), run, x: &mut [f64]| {
                    assert_eq!(x.len(), run.count * 2);
                    for x in x {
                        *x += 1.0 + run.utterance as f64;
                    }
                    found.lock().unwrap().push(run);
                },
            );
            let mut found = found.into_inner().unwrap();
            found.sort_by_key(|run| (run.utterance, run.first));
            assert_eq!(found, all);
            assert!(all.iter().all(|run| 0 < run.count && run.count <= count));
            let wanted = lengths.iter().enumerate().flat_map(|(b, n)| {
                (0..7 * 2).map(move |i| if i < n * 2 { 1.0 + b as f64 } else { 0.0 })
            });
            assert_eq!(x, wanted.collect::<Vec<_>>(), "{count}");
        }
        for size in [(0, 2), (3, 0)] {
            assert!(new(size, &[0, 0], 5, || (), |(), _, _: &mut [f32]| panic!()).is_empty());
        }
    }
}
