//! `y = n w + b` with `n = (x − μ) r` and `r = 1/√(σ² + ε)`, μ and σ² a channel's mean and variance over the N real frames of all
//! utterances (Ioffe and Szegedy, arXiv 1502.03167; the variance is divided by N).
//!
//! With g = ∂L/∂y: `∂L/∂b = Σ g`, `∂L/∂w = Σ g n` over real frames, and `∂L/∂x = r w (g − ∂L/∂b / N − n ∂L/∂w / N)`. Where μ
//! and σ² are given, the last two terms are not there.

use candle_core::{DType, Result, Tensor, bail};

use crate::frame_norm::{Channels, Normalised, Source, check};
use crate::frames;
use crate::moments::Found;
use crate::number::Number;
use crate::op::{constant, read};
use crate::route::Route;

const NAME: &str = "batch_norm";
const WITH: &str = "batch_norm_with";

/// What [`batch_norm`] found of each channel, outside of the graph: in f64 for f64, otherwise in f32.
#[derive(Debug, Clone)]
pub struct Moments {
    /// μ `[C]`
    pub mean: Tensor,
    /// σ² `[C]`, the mean of the squared distances from μ: times N/(N − 1) it is without bias.
    pub variance: Tensor,
    /// N, the number of real frames.
    pub count: usize,
}

/// `(x − μ)/√(σ² + ε) · w + b` a channel, with mean μ and variance σ² over the real frames of `x [B, T, C]`; `w [C]`, `b [C]`.
///
/// Of utterance b, `lengths[b]` frames are real. Those beyond are read as 0, whatever they hold, count for nothing and get a
/// gradient of 0; those of the result are 0, and the gradient that they are given is not read.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// // 1, 3 and padding; 5: mean 3, variance 8/3.
/// let x = Tensor::new(&[[[1f64], [3.0]], [[5.0], [f64::NAN]]], &Device::Cpu)?;
/// let (w, b) = (Tensor::new(&[8f64], &Device::Cpu)?, Tensor::new(&[100f64], &Device::Cpu)?);
/// let (y, moments) = fadam_ops::batch_norm(&x, &w, &b, &[2, 1], 4.0 - 8.0 / 3.0)?;
/// assert_eq!(y.to_vec3::<f64>()?, [[[92.0], [100.0]], [[108.0], [0.0]]]);
/// assert_eq!((moments.mean.to_vec1::<f64>()?, moments.count), (vec![3.0], 3));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If no frame is real, a length is beyond T, or shapes, dtypes or devices do not fit.
pub fn batch_norm(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    lengths: &[usize],
    eps: f64,
) -> Result<(Tensor, Moments)> {
    check(NAME, x, &[("w", w), ("b", b)])?;
    frames::check(NAME, x, lengths)?;
    if lengths.iter().all(|n| *n == 0) {
        bail!("{NAME}: x {:?} has no real frame, and a mean of none is nothing", x.dims());
    }
    match Route::of(NAME, &[x, w, b])? {
        Route::Single => fused::<f32>(x, w, b, lengths, eps),
        Route::Double => fused::<f64>(x, w, b, lengths, eps),
        Route::Widened(wide) => {
            let [wide_x, w, b] = [x.to_dtype(wide)?, w.to_dtype(wide)?, b.to_dtype(wide)?];
            let (y, moments) = batch_norm(&wide_x, &w, &b, lengths, eps)?;
            Ok((y.to_dtype(x.dtype())?, moments))
        }
        Route::Composed => composed(x, w, b, lengths, eps),
    }
}

/// `(x − μ)/√(σ² + ε) · w + b` a channel, with `mean` μ and `variance` σ² given, as in evaluation: every frame of `x [B, T, C]`.
///
/// Both statistics are constants, `[C]` of any float dtype: no gradient goes into them.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[[1f32], [9.0]]], &Device::Cpu)?;
/// let [w, b, mean, variance] = [10f32, 1.0, 3.0, 3.0].map(|x| Tensor::new(&[x], &Device::Cpu).unwrap());
/// let y = fadam_ops::batch_norm_with(&x, &w, &b, &mean, &variance, 1.0)?;
/// assert_eq!(y.to_vec3::<f32>()?, [[[-9.0], [31.0]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If shapes or devices do not fit, or the dtypes of x, w and b.
pub fn batch_norm_with(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    check(WITH, x, &[("w", w), ("b", b), ("mean", mean), ("variance", variance)])?;
    let route = Route::of(WITH, &[x, w, b])?;
    let of = |wide: DType| -> Result<[Tensor; 2]> {
        let [mean, variance] = [mean.to_dtype(wide)?.detach(), variance.to_dtype(wide)?.detach()];
        Route::of(WITH, &[&x.to_dtype(wide)?, &mean, &variance])?;
        Ok([mean, variance])
    };
    match route {
        Route::Single => fused_with::<f32>(x, w, b, &of(DType::F32)?, eps),
        Route::Double => fused_with::<f64>(x, w, b, &of(DType::F64)?, eps),
        Route::Widened(wide) => {
            let [wide_x, w, b] = [x.to_dtype(wide)?, w.to_dtype(wide)?, b.to_dtype(wide)?];
            fused_with::<f32>(&wide_x, &w, &b, &of(wide)?, eps)?.to_dtype(x.dtype())
        }
        Route::Composed => composed_with(x, w, b, &of(x.dtype())?, eps),
    }
}

/// As candle composes it.
fn composed(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    lengths: &[usize],
    eps: f64,
) -> Result<(Tensor, Moments)> {
    let count = lengths.iter().sum::<usize>();
    let mean = |x: &Tensor| x.sum((0, 1))? / count as f64;
    let real = frames::masked(x, lengths)?;
    let mu = mean(&real)?;
    let centred = frames::masked(&real.broadcast_sub(&mu)?, lengths)?;
    let variance = mean(&centred.sqr()?)?;
    let n = centred.broadcast_div(&(&variance + eps)?.sqrt()?)?;
    let y = frames::masked(&n.broadcast_mul(w)?.broadcast_add(b)?, lengths)?;
    let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let [mean, variance] = [mu.detach().to_dtype(wide)?, variance.detach().to_dtype(wide)?];
    Ok((y, Moments { mean, variance, count }))
}

/// As candle composes it.
fn composed_with(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    [mean, variance]: &[Tensor; 2],
    eps: f64,
) -> Result<Tensor> {
    let n = x.broadcast_sub(mean)?.broadcast_div(&(variance + eps)?.sqrt()?)?;
    n.broadcast_mul(w)?.broadcast_add(b)
}

fn fused<T: Number>(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    lengths: &[usize],
    eps: f64,
) -> Result<(Tensor, Moments)> {
    let (_, frames, channels) = x.dims3()?;
    let size = (frames, channels);
    let runs = read([x], |[x]: [&[T]; 1]| Found::of_runs(x, size, lengths))?;
    let mut found = Found::nothing(channels);
    for (_, run) in &runs {
        found.add(run);
    }
    let (count, variance) = (found.count, found.variance());
    let vector = |x: &[f64]| constant(x.iter().map(|x| T::of(*x)).collect::<Vec<T>>(), channels);
    let moments = Moments { mean: vector(&found.mean)?, variance: vector(&variance)?, count };
    let channels = vec![Channels::<T>::new(&found.mean, &variance, eps)];
    let (source, lengths) = (Source::Batch(count), lengths.to_vec());
    Ok((Normalised { name: NAME, source, channels, lengths, size }.apply(x, w, b)?, moments))
}

fn fused_with<T: Number>(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    [mean, variance]: &[Tensor; 2],
    eps: f64,
) -> Result<Tensor> {
    let (utterances, frames, channels) = x.dims3()?;
    let (size, lengths, source) = ((frames, channels), vec![frames; utterances], Source::Constants);
    let wide = |x: &Tensor| x.to_dtype(DType::F64)?.to_vec1::<f64>();
    let channels = vec![Channels::<T>::new(&wide(mean)?, &wide(variance)?, eps)];
    Normalised { name: WITH, source, channels, lengths, size }.apply(x, w, b)
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
        let (x, w, b) = (draw(&[3, 70, 5]), draw(&[5]), draw(&[5]));
        let lengths = [70, 66, 3];
        let (ours, of_ours) = batch_norm(&x, &w, &b, &lengths, 1e-3).unwrap();
        let (theirs, of_theirs) = composed(&x, &w, &b, &lengths, 1e-3).unwrap();
        crate::route::same(&[&x, &w, &b], &ours, &theirs);
        assert_eq!(of_ours.count, of_theirs.count);
        let mean = of_ours.mean.to_vec1::<f64>().unwrap();
        let variance = of_ours.variance.to_vec1::<f64>().unwrap();
        for (ours, theirs) in [(&mean, of_theirs.mean), (&variance, of_theirs.variance)] {
            for (ours, theirs) in ours.iter().zip(theirs.to_vec1::<f64>().unwrap()) {
                assert!((ours - theirs).abs() < 1e-13, "{ours} {theirs}");
            }
        }
        let given = [of_ours.mean, of_ours.variance];
        let ours = batch_norm_with(&x, &w, &b, &given[0], &given[1], 1e-3).unwrap();
        crate::route::same(&[&x, &w, &b], &ours, &composed_with(&x, &w, &b, &given, 1e-3).unwrap());
    }
}
