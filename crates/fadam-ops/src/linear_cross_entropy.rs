//! Cross-entropy of logits `x Wᵀ` that are never there in full.
//!
//! Rows of x are taken some hundred at a time. Their logits are kept transposed, `[V, rows]`, so that softmax is elementwise
//! along the rows, and W is read as it lies in memory. Where a gradient will be asked for, it is made at once from the
//! same logits, `∂x = ∂z W` and `∂W += ∂zᵀ x`, for a loss whose own gradient is 1, and is scaled in the backward pass.

use std::sync::Mutex;

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::cross_entropy::{CrossEntropy, Loss, Targets};
use crate::gradients::give;
use crate::lanes::{Vectorised, vectorise};
use crate::matrix::{Into, Matrix, Threads, product_into, transposed};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, is_of_rows};

const NAME: &str = "linear_cross_entropy";

/// Logits that are there at once.
const LOGITS: usize = 1 << 22;

/// Classes whose part of a sum over classes one thread adds up; parts are added in their order.
const PART: usize = 256;

/// The mean cross-entropy of logits `x Wᵀ`: from `x [..., d]`, `w [V, d]` and one u32 target a row of x.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use fadam_ops::CrossEntropy;
///
/// let x = Var::zeros((2, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let w = Var::ones((10, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let targets = Tensor::new(&[3u32, 7], &Device::Cpu)?;
/// let loss = fadam_ops::linear_cross_entropy(&x, &w, &targets, &CrossEntropy::default())?;
/// assert!((loss.objective.to_scalar::<f32>()? - 10f32.ln()).abs() < 1e-6);
/// assert!(fadam_ops::backward(&loss.objective)?.get(&w).is_some());
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// Shapes that do not fit; a target that is no class; no target that counts; options out of their range.
pub fn linear_cross_entropy(
    x: &Tensor,
    w: &Tensor,
    targets: &Tensor,
    options: &CrossEntropy,
) -> Result<Loss> {
    is_of_rows(NAME, x, w)?;
    options.check(NAME)?;
    let (classes, d) = w.dims2()?;
    match Route::of(NAME, &[x, w])? {
        Route::Single | Route::Double => {}
        Route::Widened(wide) => {
            return linear_cross_entropy(&x.to_dtype(wide)?, &w.to_dtype(wide)?, targets, options);
        }
        Route::Composed => {
            let logits = x.reshape(((), d))?.matmul(&w.t()?)?;
            return crate::softmax_loss::composed(&logits, targets, options);
        }
    }
    let rows = x.elem_count() / d;
    let targets = options.targets(NAME, targets, rows, classes)?;
    match x.dtype() {
        DType::F64 => fused::<f64>(x, w, &targets, options),
        _ => fused::<f32>(x, w, &targets, options),
    }
}

fn fused<T: Number>(
    x: &Tensor,
    w: &Tensor,
    targets: &Targets,
    options: &CrossEntropy,
) -> Result<Loss> {
    let (classes, d) = w.dims2()?;
    let mut pass = Pass::<T> {
        targets,
        options,
        classes,
        d,
        objective: 0.0,
        cross_entropy: 0.0,
        dx: x.track_op().then(|| vec![T::zero(); x.elem_count()]),
        dw: w.track_op().then(|| vec![T::zero(); w.elem_count()]),
    };
    read([x, w], |[x, w]| pass.run(x, w))?;
    let count = targets.counted as f64;
    let scalar = |x: f64| vec![T::of(x / count)];
    let backward = LinearCrossEntropy { dx: Mutex::new(pass.dx), dw: Mutex::new(pass.dw) };
    Ok(Loss {
        objective: node(NAME, [x, w], (scalar(pass.objective), ().into()), backward)?,
        cross_entropy: constant(scalar(pass.cross_entropy), ())?,
    })
}

/// One pass over the rows.
struct Pass<'a, T> {
    targets: &'a Targets,
    options: &'a CrossEntropy,
    classes: usize,
    d: usize,
    /// Sums over rows.
    objective: f64,
    cross_entropy: f64,
    dx: Option<Vec<T>>,
    dw: Option<Vec<T>>,
}

impl<T: Number> Pass<'_, T> {
    fn run(&mut self, x: &[T], w: &[T]) {
        let (classes, d) = (self.classes, self.d);
        let at_once = (LOGITS / classes.max(1)).clamp(64, 256);
        let mut logits = vec![T::zero(); classes * at_once.min(self.targets.of.len())];
        let w = Matrix::new(w, classes, d);
        for (chunk, x) in x.chunks(at_once * d).enumerate() {
            let (first, rows) = (chunk * at_once, x.len() / d);
            let logits = &mut logits[..classes * rows];
            let x_t = transposed(x, rows, d);
            let scale = T::of(self.options.logit_scale);
            let x_t = Matrix::new(&x_t, d, rows);
            product_into(w, x_t, scale, logits, rows, Into::Overwrite, Threads::All);
            self.losses(logits, first, rows);
            let g = Matrix::new(logits, classes, rows);
            if let Some(dx) = &mut self.dx {
                let dx = &mut dx[first * d..][..x.len()];
                product_into(g.t(), w, scale, dx, d, Into::Overwrite, Threads::All);
            }
            if let Some(dw) = &mut self.dw {
                let x = Matrix::new(x, rows, d);
                let into = if first == 0 { Into::Overwrite } else { Into::Add };
                product_into(g, x, scale, dw, d, into, Threads::All);
            }
        }
    }

    /// Adds up the losses of rows whose logits are `[V, rows]`, and makes their gradients of the logits.
    fn losses(&mut self, logits: &mut [T], first: usize, rows: usize) {
        let targets = &self.targets.of[first..][..rows];
        let CrossEntropy { label_smoothing, z_loss, .. } = *self.options;
        let mean_logit = (label_smoothing > 0.0).then(|| {
            let sums = columns(logits, rows, Sum);
            sums.iter().map(|sum| sum.double() / self.classes as f64).collect::<Vec<_>>()
        });
        let at_target: Vec<Option<f64>> =
            (0..).zip(targets).map(|(row, y)| y.map(|y| logits[y * rows + row].double())).collect();
        let largest = columns(logits, rows, Largest);
        let sums = exponentials(logits, &largest);
        let mut factors = vec![T::zero(); rows];
        for (row, z_y) in at_target.iter().enumerate() {
            let Some(z_y) = z_y else { continue };
            let log_z = largest[row].double() + sums[row].double().ln();
            let mean = mean_logit.as_ref().map_or(0.0, |mean| mean[row]);
            self.cross_entropy += log_z - z_y;
            self.objective += log_z - (1.0 - label_smoothing) * z_y - label_smoothing * mean
                + z_loss * log_z * log_z;
            let of_p = (1.0 + 2.0 * z_loss * log_z) / self.targets.counted as f64;
            factors[row] = T::of(of_p / sums[row].double());
        }
        if self.dx.is_some() || self.dw.is_some() {
            self.gradient(logits, targets, &factors);
        }
    }

    /// From `exp(z − max)` to ∂/∂z.
    fn gradient(&self, logits: &mut [T], targets: &[Option<usize>], factors: &[T]) {
        let rows = factors.len();
        let (s, count) = (self.options.label_smoothing, self.targets.counted as f64);
        let each = s / self.classes as f64 / count;
        let spread: Vec<T> =
            targets.iter().map(|y| T::of(if y.is_some() { each } else { 0.0 })).collect();
        logits.par_chunks_mut(PART * rows).for_each(|part| {
            for z in part.chunks_exact_mut(rows) {
                vectorise(Scale { z, factors, spread: &spread });
            }
        });
        for (row, y) in targets.iter().enumerate() {
            if let Some(y) = y {
                logits[y * rows + row] -= T::of((1.0 - s) / count);
            }
        }
    }
}

/// A fold over the classes for each row of `[V, rows]`: within parts and then over them.
fn columns<T: Number, F: Fold>(logits: &[T], rows: usize, fold: F) -> Vec<T> {
    let part = |part: &[T]| {
        let mut folded = vec![fold.begin(); rows];
        for z in part.chunks_exact(rows) {
            vectorise(Columns { z, folded: &mut folded, fold });
        }
        folded
    };
    joined(logits.par_chunks(PART * rows).map(part).collect(), |a, b| fold.join(a, b))
}

/// How numbers are folded.
trait Fold: Copy + Sync {
    fn begin<T: Number>(self) -> T;
    /// Implementations are `#[inline(always)]`.
    fn join<T: Number>(self, a: T, b: T) -> T;
}

#[derive(Clone, Copy)]
struct Sum;

impl Fold for Sum {
    fn begin<T: Number>(self) -> T {
        T::zero()
    }

    #[inline(always)]
    fn join<T: Number>(self, a: T, b: T) -> T {
        a + b
    }
}

#[derive(Clone, Copy)]
struct Largest;

impl Fold for Largest {
    fn begin<T: Number>(self) -> T {
        T::neg_infinity()
    }

    /// A NaN is passed over: it comes back in the sum of exponentials.
    #[inline(always)]
    fn join<T: Number>(self, a: T, b: T) -> T {
        if b > a { b } else { a }
    }
}

/// `folded = fold(folded, z)`
struct Columns<'a, T, F> {
    z: &'a [T],
    folded: &'a mut [T],
    fold: F,
}

impl<T: Number, F: Fold> Vectorised for Columns<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (folded, z) in self.folded.iter_mut().zip(self.z) {
            *folded = self.fold.join(*folded, *z);
        }
    }
}

fn joined<T: Number>(parts: Vec<Vec<T>>, join: impl Fn(T, T) -> T) -> Vec<T> {
    let mut parts = parts.into_iter();
    let mut all = parts.next().expect("at least one class");
    for part in parts {
        all.iter_mut().zip(part).for_each(|(all, part)| *all = join(*all, part));
    }
    all
}

/// `exp(z − max)` in place of z; returns the sums over classes.
fn exponentials<T: Number>(logits: &mut [T], largest: &[T]) -> Vec<T> {
    let rows = largest.len();
    let parts: Vec<Vec<T>> = logits
        .par_chunks_mut(PART * rows)
        .map(|part| {
            let mut sums = vec![T::zero(); rows];
            for z in part.chunks_exact_mut(rows) {
                vectorise(Exponentials { z, largest, sums: &mut sums });
            }
            sums
        })
        .collect();
    joined(parts, |a, b| a + b)
}

/// `z = exp(z − max)`, `sums += z`
struct Exponentials<'a, T> {
    z: &'a mut [T],
    largest: &'a [T],
    sums: &'a mut [T],
}

impl<T: Number> Vectorised for Exponentials<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (z, (most, sum)) in self.z.iter_mut().zip(self.largest.iter().zip(self.sums)) {
            *z = (*z - *most).exponential();
            *sum += *z;
        }
    }
}

/// `z = factors z − spread`
struct Scale<'a, T> {
    z: &'a mut [T],
    factors: &'a [T],
    spread: &'a [T],
}

impl<T: Number> Vectorised for Scale<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (z, (factor, spread)) in self.z.iter_mut().zip(self.factors.iter().zip(self.spread)) {
            *z = *factor * *z - *spread;
        }
    }
}

/// The gradients for a loss whose own gradient is 1.
struct LinearCrossEntropy<T> {
    dx: Mutex<Option<Vec<T>>>,
    dw: Mutex<Option<Vec<T>>>,
}

/// Takes what was kept, times the loss's own gradient.
fn scaled<T: Number>(kept: &Mutex<Option<Vec<T>>>, by: T) -> Result<Vec<T>> {
    let kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let Some(mut kept) = kept else {
        bail!("{NAME}: a second backward pass; compute the loss again");
    };
    if by != T::one() {
        kept.par_chunks_mut(1 << 14).for_each(|part| part.iter_mut().for_each(|g| *g *= by));
    }
    Ok(kept)
}

impl<T: Number> Backward<2> for LinearCrossEntropy<T> {
    fn backward(
        &self,
        [x, w]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let by = read([g], |[g]: [&[T]; 1]| g[0])?;
        let dx =
            if x.track_op() { Some(constant(scaled(&self.dx, by)?, x.shape())?) } else { None };
        if !w.track_op() {
            return Ok([dx, None]);
        }
        let dw = scaled(&self.dw, by)?;
        Ok([dx, give(w, dw)?])
    }
}
