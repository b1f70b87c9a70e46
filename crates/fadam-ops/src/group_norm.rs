//! `y = n w + b` with `n = (x − μ) r` and `r = 1/√(σ² + ε)`, μ and σ² the mean and variance of a group of channels over the real
//! frames of one utterance (Wu and He, arXiv 1803.08494; the variance is divided by N, the number of frames times channels).
//!
//! With g = ∂L/∂y: `∂L/∂b = Σ g`, `∂L/∂w = Σ g n` over real frames, and with h = g w
//! `∂L/∂x = r (h − mean h − n mean(h n))`, means of a group and an utterance.

use candle_core::{D, Result, Tensor, bail};

use crate::frame_norm::{Channels, Normalised, Source, check};
use crate::frames;
use crate::moments::Found;
use crate::number::Number;
use crate::op::read;
use crate::route::Route;

const NAME: &str = "group_norm";

/// `(x − μ)/√(σ² + ε) · w + b`, with mean μ and variance σ² of each utterance of `x [B, T, C]` and each of `groups` equal groups of
/// neighbouring channels, over real frames; `w [C]`, `b [C]`.
///
/// Of utterance b, `lengths[b]` frames are real. Those beyond are read as 0, whatever they hold, count for nothing and get a
/// gradient of 0; those of the result are 0, and the gradient that they are given is not read.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// // Two channels in one group: 1, 3, 3, 5 and padding have mean 3 and variance 2.
/// let x = Tensor::new(&[[[1f64, 3.0], [3.0, 5.0], [f64::NAN, 9.0]]], &Device::Cpu)?;
/// let (w, b) = (Tensor::new(&[2f64, 4.0], &Device::Cpu)?, Tensor::new(&[0f64, 0.0], &Device::Cpu)?);
/// let y = fadam_ops::group_norm(&x, &w, &b, 1, &[2], 2.0)?;
/// assert_eq!(y.to_vec3::<f64>()?, [[[-2.0, 0.0], [0.0, 4.0], [0.0, 0.0]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If `groups` does not divide C, a length is beyond T, or shapes, dtypes or devices do not fit.
pub fn group_norm(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    groups: usize,
    lengths: &[usize],
    eps: f64,
) -> Result<Tensor> {
    check(NAME, x, &[("w", w), ("b", b)])?;
    frames::check(NAME, x, lengths)?;
    let channels = x.dim(D::Minus1)?;
    if channels == 0 || groups == 0 || !channels.is_multiple_of(groups) {
        bail!("{NAME}: the {channels} channels of x {:?} are not {groups} equal groups", x.dims());
    }
    match Route::of(NAME, &[x, w, b])? {
        Route::Single => fused::<f32>(x, w, b, channels / groups, lengths, eps),
        Route::Double => fused::<f64>(x, w, b, channels / groups, lengths, eps),
        Route::Widened(wide) => {
            let [wide_x, w, b] = [x.to_dtype(wide)?, w.to_dtype(wide)?, b.to_dtype(wide)?];
            group_norm(&wide_x, &w, &b, groups, lengths, eps)?.to_dtype(x.dtype())
        }
        Route::Composed => composed(x, w, b, channels / groups, lengths, eps),
    }
}

/// As candle composes it, of groups of `size` channels.
fn composed(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    size: usize,
    lengths: &[usize],
    eps: f64,
) -> Result<Tensor> {
    let (utterances, frames, channels) = x.dims3()?;
    let share = |n: &usize| 1.0 / ((n * size).max(1) as f64);
    let shares: Vec<f64> = lengths.iter().map(share).collect();
    let shares =
        Tensor::from_vec(shares, (utterances, 1, 1, 1), x.device())?.to_dtype(x.dtype())?;
    let mean = |x: &Tensor| x.sum_keepdim((1, 3))?.broadcast_mul(&shares);
    let real = frames::masked(x, lengths)?.reshape((utterances, frames, (), size))?;
    let centred = frames::masked(&real.broadcast_sub(&mean(&real)?)?, lengths)?;
    let n = centred.broadcast_div(&(mean(&centred.sqr()?)? + eps)?.sqrt()?)?;
    let y = n.reshape((utterances, frames, channels))?.broadcast_mul(w)?.broadcast_add(b)?;
    frames::masked(&y, lengths)
}

fn fused<T: Number>(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    group: usize,
    lengths: &[usize],
    eps: f64,
) -> Result<Tensor> {
    let (_, frames, channels) = x.dims3()?;
    let size = (frames, channels);
    let runs = read([x], |[x]: [&[T]; 1]| Found::of_runs(x, size, lengths))?;
    let mut found = vec![Found::nothing(channels); lengths.len()];
    for (run, of) in &runs {
        found[run.utterance].add(of);
    }
    let of_utterance = |mut found: Found| {
        found.in_groups_of(group);
        Channels::<T>::new(&found.mean, &found.variance(), eps)
    };
    let channels = found.into_iter().map(of_utterance).collect();
    let (source, lengths) = (Source::Groups(group), lengths.to_vec());
    Normalised { name: NAME, source, channels, lengths, size }.apply(x, w, b)
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
        let (x, w, b) = (draw(&[4, 70, 6]), draw(&[6]), draw(&[6]));
        let lengths = [70, 66, 0, 3];
        for size in [1, 2, 3, 6] {
            let ours = group_norm(&x, &w, &b, 6 / size, &lengths, 1e-3).unwrap();
            let theirs = composed(&x, &w, &b, size, &lengths, 1e-3).unwrap();
            crate::route::same(&[&x, &w, &b], &ours, &theirs);
        }
    }
}
