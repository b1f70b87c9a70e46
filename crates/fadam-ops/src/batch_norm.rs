//! `y = n w + b` with `n = (x − μ) r` and `r = 1/√(σ² + ε)`, μ and σ² a channel's mean and variance over the N real frames of all
//! utterances (Ioffe and Szegedy, arXiv 1502.03167; the variance is divided by N).
//!
//! With g = ∂L/∂y: `∂L/∂b = Σ g`, `∂L/∂w = Σ g n` over real frames, and `∂L/∂x = r w (g − ∂L/∂b / N − n ∂L/∂w / N)`. Where μ
//! and σ² are given, the last two terms are not there.
//!
//! Mean and squares of a few frames are taken while they are in the cache, and put together in f64 (Chan, Golub and `LeVeque`,
//! 1979): no sum of squares from which a square is subtracted.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::frames::{self, Run};
use crate::gradients::give;
use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, last_dim_is};
use crate::rows::sum_of;

const NAME: &str = "batch_norm";
const WITH: &str = "batch_norm_with";

/// Frames of a task and of a part of a sum.
const FRAMES: usize = 64;

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

/// Refuses what is not `[B, T, C]` with vectors of C.
fn check(op: &str, x: &Tensor, vectors: &[(&str, &Tensor)]) -> Result<()> {
    if x.rank() != 3 {
        bail!("{op}: x has shape {:?}, where [B, T, C] is expected", x.dims());
    }
    vectors.iter().try_for_each(|(what, of)| last_dim_is(op, x, what, of))
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
    let found = read([x], |[x]: [&[T]; 1]| Found::of(x, (frames, channels), lengths))?;
    let count = found.count;
    let vector = |x: &[f64]| constant(x.iter().map(|x| T::of(*x)).collect::<Vec<T>>(), channels);
    let moments =
        Moments { mean: vector(&found.mean)?, variance: vector(&found.variance())?, count };
    let of = Normalised {
        mean: found.mean.iter().map(|mean| T::of(*mean)).collect(),
        r: found.variance().iter().map(|v| T::of((v + eps).sqrt().recip())).collect(),
        lengths: lengths.to_vec(),
        frames,
        measured: Some(count),
    };
    Ok((of.apply(x, w, b)?, moments))
}

fn fused_with<T: Number>(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    [mean, variance]: &[Tensor; 2],
    eps: f64,
) -> Result<Tensor> {
    let (utterances, frames, _) = x.dims3()?;
    let [mean, variance] = [mean.to_vec1::<T>()?, variance.to_vec1::<T>()?];
    let r = variance.iter().map(|v| T::of((v.double() + eps).sqrt().recip())).collect();
    Normalised { mean, r, lengths: vec![frames; utterances], frames, measured: None }.apply(x, w, b)
}

/// Means, and sums of squared distances from them.
struct Found {
    count: usize,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Found {
    /// Of the real frames of x, from parts of [`FRAMES`] in their order.
    fn of<T: Number>(x: &[T], (frames, channels): (usize, usize), lengths: &[usize]) -> Self {
        let part = |run: Run| {
            let (mut mean, mut squares) = (vec![T::zero(); channels], vec![T::zero(); channels]);
            let x = &x[(run.utterance * frames + run.first) * channels..][..run.count * channels];
            vectorise(Measure { x, mean: &mut mean, squares: &mut squares });
            (run.count, mean, squares)
        };
        let parts: Vec<_> = frames::runs(lengths, FRAMES).into_par_iter().map(part).collect();
        let zeros = vec![0.0; channels];
        let mut all = Self { count: 0, mean: zeros.clone(), squares: zeros };
        for (count, mean, squares) in parts {
            all.add(count, &mean, &squares);
        }
        all
    }

    fn add<T: Number>(&mut self, count: usize, mean: &[T], squares: &[T]) {
        let share = count as f64 / (self.count + count) as f64;
        let before = self.count as f64;
        let all = self.mean.iter_mut().zip(&mut self.squares);
        for ((to_mean, to_squares), (mean, squares)) in all.zip(mean.iter().zip(squares)) {
            let apart = mean.double() - *to_mean;
            *to_mean += apart * share;
            *to_squares += squares.double() + apart * apart * before * share;
        }
        self.count += count;
    }

    fn variance(&self) -> Vec<f64> {
        self.squares.iter().map(|squares| squares / self.count as f64).collect()
    }
}

/// The op on `[B, T, C]`, once its statistics are known.
struct Normalised<T> {
    mean: Vec<T>,
    r: Vec<T>,
    lengths: Vec<usize>,
    /// T
    frames: usize,
    /// N, where the statistics are x's own.
    measured: Option<usize>,
}

impl<T: Number> Normalised<T> {
    fn apply(self, x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
        let size = (self.frames, self.mean.len());
        let y = read([x, w, b], |[x, w, b]: [&[T]; 3]| {
            let scale = self.scale(w);
            frames::new(
                size,
                &self.lengths,
                FRAMES,
                || (),
                |(), run, y| {
                    vectorise(Affine { y, x: self.at(run, x), mean: &self.mean, scale: &scale, b });
                },
            )
        })?;
        let name = if self.measured.is_some() { NAME } else { WITH };
        node(name, [x, w, b], (y, x.shape().clone()), self)
    }

    /// r w
    fn scale(&self, w: &[T]) -> Vec<T> {
        self.r.iter().zip(w).map(|(r, w)| *r * *w).collect()
    }

    /// x from a run on.
    fn at<'x>(&self, run: Run, x: &'x [T]) -> &'x [T] {
        &x[(run.utterance * self.frames + run.first) * self.mean.len()..]
    }

    /// `Σ g n` and `Σ g` over real frames, from parts of [`FRAMES`] in their order.
    fn sums(&self, x: &[T], g: &[T]) -> [Vec<T>; 2] {
        let channels = self.mean.len();
        let part = |run: Run| {
            let mut part = vec![T::zero(); 2 * channels];
            let (along, total) = part.split_at_mut(channels);
            let g = &self.at(run, g)[..run.count * channels];
            vectorise(Sums { along, total, x: self.at(run, x), g, mean: &self.mean });
            part
        };
        let runs = frames::runs(&self.lengths, FRAMES);
        let mut along = sum_of(runs.into_par_iter().map(part).collect(), 2 * channels);
        let total = along.split_off(channels);
        along.iter_mut().zip(&self.r).for_each(|(along, r)| *along *= *r);
        [along, total]
    }

    fn reverse(&self, x: &[T], w: &[T], g: &[T], [along, total]: &[Vec<T>; 2]) -> Vec<T> {
        let scale = self.scale(w);
        // The sums divided by N, and the second times r, as it is multiplied with x − μ.
        let (mut less, mut more) = (total.clone(), along.clone());
        match self.measured.map(|count| T::of(1.0 / count as f64)) {
            Some(by) => {
                less.iter_mut().for_each(|less| *less *= by);
                more.iter_mut().zip(&self.r).for_each(|(more, r)| *more *= *r * by);
            }
            None => [&mut less, &mut more].into_iter().for_each(|sum| sum.fill(T::zero())),
        }
        let size = (self.frames, self.mean.len());
        frames::new(
            size,
            &self.lengths,
            FRAMES,
            || (),
            |(), run, dx| {
                let (x, g, mean) = (self.at(run, x), self.at(run, g), &self.mean);
                vectorise(Reverse { dx, x, g, mean, scale: &scale, less: &less, along: &more });
            },
        )
    }
}

impl<T: Number> Backward<3> for Normalised<T> {
    fn backward(
        &self,
        [x, w, b]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (dx, [dw, db]) = read([x, w, g], |[x, w, g]: [&[T]; 3]| {
            let sums = self.sums(x, g);
            let dx = self.reverse(x, w, g, &sums);
            (dx, sums)
        })?;
        Ok([Some(constant(dx, x.shape())?), give(w, dw)?, give(b, db)?])
    }
}

/// Mean of a few rows x, and the sum of squared distances from it; both begin as zeros.
struct Measure<'a, T> {
    x: &'a [T],
    mean: &'a mut [T],
    squares: &'a mut [T],
}

impl<T: Number> Vectorised for Measure<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, mean, squares } = self;
        let channels = mean.len();
        for x in x.chunks_exact(channels.max(1)) {
            mean.iter_mut().zip(x).for_each(|(mean, x)| *mean += *x);
        }
        let by = T::of(channels as f64 / x.len() as f64);
        mean.iter_mut().for_each(|mean| *mean *= by);
        for x in x.chunks_exact(channels.max(1)) {
            for (squares, (x, mean)) in squares.iter_mut().zip(x.iter().zip(&*mean)) {
                let apart = *x - *mean;
                *squares += apart * apart;
            }
        }
    }
}

/// `y = (x − μ) scale + b` for the rows of y.
struct Affine<'a, T> {
    y: &'a mut [T],
    x: &'a [T],
    mean: &'a [T],
    scale: &'a [T],
    b: &'a [T],
}

impl<T: Number> Vectorised for Affine<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { y, x, mean, scale, b } = self;
        let channels = mean.len();
        for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            let each = x.iter().zip(mean).zip(scale.iter().zip(b));
            for (y, ((x, mean), (scale, b))) in y.iter_mut().zip(each) {
                *y = (*x - *mean) * *scale + *b;
            }
        }
    }
}

/// `along += g (x − μ)` and `total += g` for the rows of g.
struct Sums<'a, T> {
    along: &'a mut [T],
    total: &'a mut [T],
    x: &'a [T],
    g: &'a [T],
    mean: &'a [T],
}

impl<T: Number> Vectorised for Sums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { along, total, x, g, mean } = self;
        let channels = mean.len().max(1);
        for (x, g) in x.chunks_exact(channels).zip(g.chunks_exact(channels)) {
            let each = along.iter_mut().zip(&mut *total);
            for ((along, total), (g, (x, mean))) in each.zip(g.iter().zip(x.iter().zip(mean))) {
                *along += *g * (*x - *mean);
                *total += *g;
            }
        }
    }
}

/// `dx = scale (g − less − (x − μ) along)` for the rows of dx.
struct Reverse<'a, T> {
    dx: &'a mut [T],
    x: &'a [T],
    g: &'a [T],
    mean: &'a [T],
    scale: &'a [T],
    less: &'a [T],
    along: &'a [T],
}

impl<T: Number> Vectorised for Reverse<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { dx, x, g, mean, scale, less, along } = self;
        let channels = mean.len();
        let rows = x.chunks_exact(channels).zip(g.chunks_exact(channels));
        for (dx, (x, g)) in dx.chunks_exact_mut(channels).zip(rows) {
            let of = scale.iter().zip(less.iter().zip(along));
            let each = g.iter().zip(x.iter().zip(mean)).zip(of);
            for (dx, ((g, (x, mean)), (scale, (less, along)))) in dx.iter_mut().zip(each) {
                *dx = *scale * (*g - *less - (*x - *mean) * *along);
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
