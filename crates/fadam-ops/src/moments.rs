//! Mean and variance of channels over real frames.
//!
//! Those of a few frames are taken while they are in the cache, and put together in f64 (Chan, Golub and `LeVeque`, 1979): of a
//! and b numbers with means apart by δ, the squared distances from the common mean are those from each plus δ² a b / (a + b). There
//! is no sum of squares from which a square is subtracted.

use rayon::prelude::*;

use crate::frames::{self, Run};
use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;

/// Frames of a part.
const FRAMES: usize = 64;

/// Of each channel, the mean of `count` frames and the sum of squared distances from it.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) count: usize,
    pub(crate) mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Found {
    /// Of runs of the real frames of `x [B, T, C]`, in their order.
    pub(crate) fn of_runs<T: Number>(
        x: &[T],
        (frames, channels): (usize, usize),
        lengths: &[usize],
    ) -> Vec<(Run, Self)> {
        let of = |run: Run| {
            let (mut mean, mut squares) = (vec![T::zero(); channels], vec![T::zero(); channels]);
            let x = &x[(run.utterance * frames + run.first) * channels..][..run.count * channels];
            vectorise(Measure { x, mean: &mut mean, squares: &mut squares });
            let wide = |x: Vec<T>| x.into_iter().map(T::double).collect();
            (run, Self { count: run.count, mean: wide(mean), squares: wide(squares) })
        };
        frames::runs(lengths, FRAMES).into_par_iter().map(of).collect()
    }

    pub(crate) fn nothing(channels: usize) -> Self {
        Self { count: 0, mean: vec![0.0; channels], squares: vec![0.0; channels] }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let share = other.count as f64 / (self.count + other.count) as f64;
        let weight = self.count as f64 * share;
        for (c, mean) in self.mean.iter_mut().enumerate() {
            let apart = other.mean[c] - *mean;
            *mean += apart * share;
            self.squares[c] += other.squares[c] + apart * apart * weight;
        }
        self.count += other.count;
    }

    /// Each channel with the mean and variance of all in its group of `size` neighbours.
    pub(crate) fn in_groups_of(&mut self, size: usize) {
        let groups = self.mean.chunks_exact_mut(size).zip(self.squares.chunks_exact_mut(size));
        for (mean, squares) in groups {
            let of_all = mean.iter().sum::<f64>() / size as f64;
            let apart: f64 = mean.iter().map(|mean| (mean - of_all) * (mean - of_all)).sum();
            let total = squares.iter().sum::<f64>() + apart * self.count as f64;
            mean.fill(of_all);
            squares.fill(total / size as f64);
        }
    }

    /// Infinite of no frames, so that r is 0.
    pub(crate) fn variance(&self) -> Vec<f64> {
        let of = |squares: &f64| match self.count {
            0 => f64::INFINITY,
            count => squares / count as f64,
        };
        self.squares.iter().map(of).collect()
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
        for mean in &mut *mean {
            *mean *= by;
        }
        for x in x.chunks_exact(channels.max(1)) {
            for (squares, (x, mean)) in squares.iter_mut().zip(x.iter().zip(&*mean)) {
                let apart = *x - *mean;
                *squares += apart * apart;
            }
        }
    }
}
