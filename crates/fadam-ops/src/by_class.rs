//! Losses of logits that lie by class, `[V, rows]`, so that softmax is elementwise along the rows.
//! [`cross_entropy`](crate::cross_entropy()) has the equations.

use rayon::prelude::*;

use crate::cross_entropy::CrossEntropy;
use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;

/// Classes whose part of a sum over classes one thread adds up; parts are added in their order.
const PART: usize = 256;

/// Sums over rows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    pub(crate) objective: f64,
    pub(crate) cross_entropy: f64,
}

/// How losses are computed, and how many rows their mean is of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByClass<'a> {
    pub(crate) options: &'a CrossEntropy,
    pub(crate) counted: usize,
    /// Whether the logits become their gradients; otherwise `exp(z − max)` is left there.
    pub(crate) gradient: bool,
}

impl ByClass<'_> {
    /// Adds up the losses of rows, one a target, whose logits are `[V, rows]`. Their gradients are those of the mean.
    pub(crate) fn losses<T: Number>(
        &self,
        logits: &mut [T],
        targets: &[Option<usize>],
        total: &mut Sums,
    ) {
        let rows = targets.len();
        let classes = logits.len() / rows;
        let CrossEntropy { label_smoothing, z_loss, .. } = *self.options;
        let mean_logit = (label_smoothing > 0.0).then(|| {
            let sums = columns(logits, rows, Sum);
            sums.iter().map(|sum| sum.double() / classes as f64).collect::<Vec<_>>()
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
            total.cross_entropy += log_z - z_y;
            total.objective += log_z - (1.0 - label_smoothing) * z_y - label_smoothing * mean
                + z_loss * log_z * log_z;
            let of_p = (1.0 + 2.0 * z_loss * log_z) / self.counted as f64;
            factors[row] = T::of(of_p / sums[row].double());
        }
        if self.gradient {
            self.gradients(logits, targets, &factors);
        }
    }

    /// From `exp(z − max)` to ∂/∂z.
    fn gradients<T: Number>(&self, logits: &mut [T], targets: &[Option<usize>], factors: &[T]) {
        let rows = factors.len();
        let (s, count) = (self.options.label_smoothing, self.counted as f64);
        let each = s / (logits.len() / rows) as f64 / count;
        let spread: Vec<T> =
            targets.iter().map(|y| T::of(if y.is_some() { each } else { 0.0 })).collect();
        logits
            .par_chunks_mut(PART * rows)
            .for_each(|z| vectorise(Scale { z, factors, spread: &spread }));
        for (row, y) in targets.iter().enumerate() {
            if let Some(y) = y {
                logits[y * rows + row] -= T::of((1.0 - s) / count);
            }
        }
    }
}

/// A fold over the classes for each row of `[V, rows]`: within parts and then over them.
fn columns<T: Number, F: Fold>(logits: &[T], rows: usize, fold: F) -> Vec<T> {
    let part = |z: &[T]| {
        let mut folded = vec![fold.begin(); rows];
        vectorise(Columns { z, folded: &mut folded, fold });
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

/// `folded = fold(folded, z)` for each class in turn
struct Columns<'a, T, F> {
    z: &'a [T],
    folded: &'a mut [T],
    fold: F,
}

impl<T: Number, F: Fold> Vectorised for Columns<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for z in self.z.chunks_exact(self.folded.len()) {
            for (folded, z) in self.folded.iter_mut().zip(z) {
                *folded = self.fold.join(*folded, *z);
            }
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
    let part = |z: &mut [T]| {
        let mut sums = vec![T::zero(); rows];
        vectorise(Exponentials { z, largest, sums: &mut sums });
        sums
    };
    joined(logits.par_chunks_mut(PART * rows).map(part).collect(), |a, b| a + b)
}

/// `z = exp(z − max)`, `sums += z` for each class in turn
struct Exponentials<'a, T> {
    z: &'a mut [T],
    largest: &'a [T],
    sums: &'a mut [T],
}

impl<T: Number> Vectorised for Exponentials<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { z, largest, sums } = self;
        for z in z.chunks_exact_mut(largest.len()) {
            for (z, (most, sum)) in z.iter_mut().zip(largest.iter().zip(sums.iter_mut())) {
                *z = (*z - *most).exponential();
                *sum += *z;
            }
        }
    }
}

/// `z = factors z − spread` for each class
struct Scale<'a, T> {
    z: &'a mut [T],
    factors: &'a [T],
    spread: &'a [T],
}

impl<T: Number> Vectorised for Scale<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for z in self.z.chunks_exact_mut(self.factors.len()) {
            for (z, (factor, spread)) in z.iter_mut().zip(self.factors.iter().zip(self.spread)) {
                *z = *factor * *z - *spread;
            }
        }
    }
}
