//! What batch norm and group norm share: `y = n w + b` with `n = (x − μ) r` over real frames, μ and r of a channel and of all
//! utterances or of each.
//!
//! With g = ∂L/∂y, `∂L/∂b = Σ g` and `∂L/∂w = Σ g n` over real frames. Where N numbers of channels S have μ and r in common,
//! `∂L/∂x = r w g − r (Σ w g + n Σ w g n)/N`, with sums over those numbers; where μ and r are given, `∂L/∂x = r w g`.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::frames::{self, Run};
use crate::gradients::give;
use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::last_dim_is;

/// Frames of a task and of a part of a sum.
const FRAMES: usize = 64;

/// Refuses what is not `[B, T, C]` with vectors of C.
pub(crate) fn check(op: &str, x: &Tensor, vectors: &[(&str, &Tensor)]) -> Result<()> {
    if x.rank() != 3 {
        bail!("{op}: x has shape {:?}, where [B, T, C] is expected", x.dims());
    }
    vectors.iter().try_for_each(|(what, of)| last_dim_is(op, x, what, of))
}

/// μ and r of the channels.
pub(crate) struct Channels<T> {
    mean: Vec<T>,
    r: Vec<T>,
}

impl<T: Number> Channels<T> {
    pub(crate) fn new(mean: &[f64], variance: &[f64], eps: f64) -> Self {
        Self {
            mean: mean.iter().map(|mean| T::of(*mean)).collect(),
            r: variance.iter().map(|v| T::of((v + eps).sqrt().recip())).collect(),
        }
    }

    /// r w
    fn scale(&self, w: &[T]) -> Vec<T> {
        self.r.iter().zip(w).map(|(r, w)| *r * *w).collect()
    }
}

/// Where μ and r come from, and for whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// They are given.
    Constants,
    /// Of each channel, from so many frames of all utterances.
    Batch(usize),
    /// Of each utterance and so many neighbouring channels.
    Groups(usize),
}

/// The op on `[B, T, C]`, once its statistics are known.
pub(crate) struct Normalised<T> {
    pub(crate) name: &'static str,
    pub(crate) source: Source,
    /// One of all utterances, or of [`Source::Groups`] one of each.
    pub(crate) channels: Vec<Channels<T>>,
    pub(crate) lengths: Vec<usize>,
    /// T and C.
    pub(crate) size: (usize, usize),
}

/// Of the channels: `Σ g (x − μ)` and `Σ g`.
struct Sums<T> {
    along: Vec<T>,
    total: Vec<T>,
}

impl<T: Number> Normalised<T> {
    pub(crate) fn apply(self, x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
        let y = read([x, w, b], |[x, w, b]: [&[T]; 3]| {
            let scales = self.scales(w);
            frames::new(
                self.size,
                &self.lengths,
                FRAMES,
                || (),
                |(), run, y| {
                    let i = self.owner(run);
                    let mean = &self.channels[i].mean;
                    vectorise(Affine { y, x: self.at(run, x), mean, scale: &scales[i], b });
                },
            )
        })?;
        node(self.name, [x, w, b], (y, x.shape().clone()), self)
    }

    /// Whose statistics a run is normalised with.
    fn owner(&self, run: Run) -> usize {
        if matches!(self.source, Source::Groups(_)) { run.utterance } else { 0 }
    }

    fn scales(&self, w: &[T]) -> Vec<Vec<T>> {
        self.channels.iter().map(|channels| channels.scale(w)).collect()
    }

    /// x from a run on.
    fn at<'x>(&self, run: Run, x: &'x [T]) -> &'x [T] {
        &x[(run.utterance * self.size.0 + run.first) * self.size.1..]
    }

    /// One for each of `self.channels`, from parts of [`FRAMES`] in their order.
    fn sums(&self, x: &[T], g: &[T]) -> Vec<Sums<T>> {
        let zeros = || vec![T::zero(); self.size.1];
        let part = |run: Run| {
            let mut sums = Sums { along: zeros(), total: zeros() };
            let (x, g) = (self.at(run, x), &self.at(run, g)[..run.count * self.size.1]);
            let Sums { along, total } = &mut sums;
            vectorise(Add { along, total, x, g, mean: &self.channels[self.owner(run)].mean });
            (run, sums)
        };
        let runs = frames::runs(&self.lengths, FRAMES);
        let parts: Vec<_> = runs.into_par_iter().map(part).collect();
        let new = |_| Sums { along: zeros(), total: zeros() };
        let mut all: Vec<Sums<T>> = self.channels.iter().map(new).collect();
        for (run, part) in parts {
            let sums = &mut all[self.owner(run)];
            add(&mut sums.along, &part.along);
            add(&mut sums.total, &part.total);
        }
        all
    }

    /// What is taken from r w g, for each of `self.channels`: `less`, and `more` for each x − μ.
    fn terms(&self, i: usize, w: &[T], Sums { along, total }: &Sums<T>) -> (Vec<T>, Vec<T>) {
        let r = &self.channels[i].r;
        let (size, count) = match self.source {
            Source::Constants => return (vec![T::zero(); w.len()], vec![T::zero(); w.len()]),
            Source::Batch(count) => (1, count),
            Source::Groups(size) => (size, size * self.lengths[i]),
        };
        let by = T::of((count.max(1) as f64).recip());
        let (mut less, mut more) = (Vec::with_capacity(w.len()), Vec::with_capacity(w.len()));
        for first in (0..w.len()).step_by(size) {
            let group = first..first + size;
            let sum = |of: &[T]| {
                let each = group.clone().map(|c| w[c] * of[c]);
                each.fold(T::zero(), |sum, x| sum + x) * by
            };
            let (of_g, of_gx) = (sum(total), sum(along));
            less.extend(group.clone().map(|c| r[c] * of_g));
            more.extend(group.clone().map(|c| r[c] * r[c] * r[c] * of_gx));
        }
        (less, more)
    }
}

fn add<T: Number>(to: &mut [T], from: &[T]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
}

impl<T: Number> Backward<3> for Normalised<T> {
    fn backward(
        &self,
        [x, w, b]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (dx, dw, db) = read([x, w, g], |[x, w, g]: [&[T]; 3]| {
            let sums = self.sums(x, g);
            let scales = self.scales(w);
            let terms: Vec<_> =
                sums.iter().enumerate().map(|(i, sums)| self.terms(i, w, sums)).collect();
            let dx = frames::new(
                self.size,
                &self.lengths,
                FRAMES,
                || (),
                |(), run, dx| {
                    let i = self.owner(run);
                    let (x, g, mean) = (self.at(run, x), self.at(run, g), &self.channels[i].mean);
                    let (scale, (less, more)) = (&scales[i], &terms[i]);
                    vectorise(Reverse { dx, x, g, mean, scale, less, more });
                },
            );
            let (mut dw, mut db) = (vec![T::zero(); w.len()], vec![T::zero(); w.len()]);
            for (sums, channels) in sums.iter().zip(&self.channels) {
                add(&mut dw, &channels.scale(&sums.along));
                add(&mut db, &sums.total);
            }
            (dx, dw, db)
        })?;
        Ok([Some(constant(dx, x.shape())?), give(w, dw)?, give(b, db)?])
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
struct Add<'a, T> {
    along: &'a mut [T],
    total: &'a mut [T],
    x: &'a [T],
    g: &'a [T],
    mean: &'a [T],
}

impl<T: Number> Vectorised for Add<'_, T> {
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

/// `dx = scale g − less − (x − μ) more` for the rows of dx.
struct Reverse<'a, T> {
    dx: &'a mut [T],
    x: &'a [T],
    g: &'a [T],
    mean: &'a [T],
    scale: &'a [T],
    less: &'a [T],
    more: &'a [T],
}

impl<T: Number> Vectorised for Reverse<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { dx, x, g, mean, scale, less, more } = self;
        let channels = mean.len();
        let rows = x.chunks_exact(channels).zip(g.chunks_exact(channels));
        for (dx, (x, g)) in dx.chunks_exact_mut(channels).zip(rows) {
            let of = scale.iter().zip(less.iter().zip(more));
            let each = g.iter().zip(x.iter().zip(mean)).zip(of);
            for (dx, ((g, (x, mean)), (scale, (less, more)))) in dx.iter_mut().zip(each) {
                *dx = *scale * *g - *less - (*x - *mean) * *more;
            }
        }
    }
}
