//! The step of one parameter in f64, as plainly as it can be written; what it leaves is stored as the parameter and its
//! state are.

use super::{state_dtype, stored};
use crate::entry::{Dtype, Kind, Numbers};
use crate::table::Shape;

/// f, or R and C of `outer` matrices of n × width.
#[derive(Clone)]
pub(crate) enum Fim {
    Full(Vec<f64>),
    Factored { n: usize, width: usize, r: Vec<f64>, c: Vec<f64> },
}

#[derive(Clone)]
pub(crate) struct Plain {
    pub(crate) dtype: Dtype,
    pub(crate) theta: Vec<f64>,
    pub(crate) m: Vec<f64>,
    pub(crate) f: Fim,
    /// Of the last step: ε̂, and RMS of g, g/d, θ/d and a/d.
    pub(crate) measured: [f64; 5],
}

/// The root of the mean square, which neither overflows nor vanishes.
fn rms(x: &[f64]) -> f64 {
    let largest = x.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    if largest == 0.0 || x.is_empty() {
        return 0.0;
    }
    let sum: f64 = x.iter().map(|x| (x / largest).powi(2)).sum();
    largest * (sum / x.len() as f64).sqrt()
}

fn clipped(x: Vec<f64>, clip: Option<f64>, measured: &mut f64) -> Vec<f64> {
    *measured = rms(&x);
    let factor = clip.map_or(1.0, |c| (*measured / c).max(1.0));
    x.into_iter().map(|x| x / factor).collect()
}

/// x / d with x / 0 := 0.
fn ratio(x: &[f64], d: &[f64]) -> Vec<f64> {
    x.iter().zip(d).map(|(x, d)| if *d == 0.0 { 0.0 } else { x / d }).collect()
}

fn ema(beta: f64, old: &[f64], new: impl Iterator<Item = f64>) -> Vec<f64> {
    old.iter().zip(new).map(|(old, new)| beta * old + (1.0 - beta) * new).collect()
}

impl Plain {
    /// Before the first step: m = 0, and f, R and C are f₀. `matrix` is n and width where f is factored.
    pub(crate) fn new(
        dtype: Dtype,
        theta: &[f64],
        f0: f64,
        matrix: Option<(usize, usize)>,
    ) -> Self {
        let count = theta.len();
        let f = match matrix {
            Some((n, width)) => {
                let outer = count / (n * width);
                Fim::Factored { n, width, r: vec![f0; outer * n], c: vec![f0; outer * width] }
            }
            None => Fim::Full(vec![f0; count]),
        };
        Self { dtype, theta: stored(theta, dtype), m: vec![0.0; count], f, measured: [0.0; 5] }
    }

    pub(crate) fn shape(&self) -> Shape {
        let count = self.theta.len();
        match self.f {
            Fim::Full(_) => Shape::Full { count: count as u64 },
            Fim::Factored { n, width, .. } => {
                let outer = count / (n * width);
                Shape::Factored { outer: outer as u64, n: n as u64, width: width as u64 }
            }
        }
    }

    /// θ, m and f (or R and C) one after another.
    pub(crate) fn values(&self) -> Vec<Vec<f64>> {
        let f = match &self.f {
            Fim::Full(f) => vec![f.clone()],
            Fim::Factored { r, c, .. } => vec![r.clone(), c.clone()],
        };
        [vec![self.theta.clone(), self.m.clone()], f].concat()
    }

    /// f, as long as θ.
    pub(crate) fn diagonal(&self) -> Vec<f64> {
        match &self.f {
            Fim::Full(f) => f.clone(),
            Fim::Factored { n, width, r, c } => {
                let matrices = r.chunks(*n).zip(c.chunks(*width));
                let matrix = |(r, c): (&[f64], &[f64])| -> Vec<f64> {
                    let shares = ratio(r, &vec![r.iter().sum(); *n]);
                    shares.iter().flat_map(|r| c.iter().map(move |c| r * c)).collect()
                };
                matrices.flat_map(matrix).collect()
            }
        }
    }

    /// One step with the gradient g, the squares q and perhaps the auxiliary gradient a. False, and nothing has
    /// changed, if something is not finite or would not be.
    pub(crate) fn step(&mut self, by: &Numbers, g: &[f64], q: &[f64], a: Option<&[f64]>) -> bool {
        let mut next = self.clone();
        let t = by.t as f64;
        let adam = by.kind == Kind::Adam;
        let debiased = by.beta2 * (1.0 - by.beta2.powf(t - 1.0)) / (1.0 - by.beta2.powf(t));
        next.average(if adam { by.beta2 } else { debiased }, by.offset, q);

        let g: Vec<f64> = g.iter().map(|g| by.gamma * g).collect();
        let eps_hat = by.eps2.map_or(by.eps, |eps2| by.eps.min(eps2 * rms(&g)));
        next.measured = [eps_hat, rms(&g), 0.0, 0.0, 0.0];
        let f = next.diagonal();
        let d: Vec<f64> = if adam {
            f.iter().map(|f| (f / (1.0 - by.beta2.powf(t))).sqrt() + by.eps).collect()
        } else {
            f.iter().map(|f| f.powf(by.rho) + eps_hat.powf(2.0 * by.rho)).collect()
        };
        if adam {
            next.m = self.m.iter().zip(&g).map(|(m, g)| by.beta1 * m + by.share * g).collect();
        }
        let corrected: Vec<f64> = next.m.iter().map(|m| m / (1.0 - by.beta1.powf(t))).collect();
        let [.., rms_x, rms_w, rms_a] = &mut next.measured;
        let x = clipped(ratio(if adam { &corrected } else { &g }, &d), by.clip, rms_x);
        if !adam {
            next.m = self.m.iter().zip(&x).map(|(m, x)| by.beta1 * m + by.share * x).collect();
        }
        let w = if by.on_manifold {
            clipped(ratio(&self.theta, &d), by.clip, rms_w)
        } else {
            self.theta.clone()
        };
        let a: Vec<f64> =
            a.map_or(vec![0.0; g.len()], |a| a.iter().map(|a| by.gamma * a).collect());
        let u = clipped(ratio(&a, &d), by.clip, rms_a);
        for (i, theta) in next.theta.iter_mut().enumerate() {
            let moved = if adam { x[i] } else { next.m[i] };
            *theta -= by.step * moved + by.decay * w[i] + by.aux * u[i];
        }
        next.store();
        let all_finite = |x: &[f64]| x.iter().all(|x| x.is_finite());
        let finite =
            all_finite(&g) && all_finite(&a) && next.values().iter().all(|x| all_finite(x));
        if finite {
            *self = next;
        }
        finite
    }

    /// `f = β f + (1 − β)(q + o)`, or the same of the row and column sums.
    fn average(&mut self, beta: f64, offset: f64, q: &[f64]) {
        let q: Vec<f64> = q.iter().map(|q| q + offset).collect();
        match &mut self.f {
            Fim::Full(f) => *f = ema(beta, f, q.into_iter()),
            Fim::Factored { n, width, r, c } => {
                let columns = q.chunks(*n * *width).flat_map(|matrix| {
                    (0..*width).map(|j| matrix.iter().skip(j).step_by(*width).sum::<f64>())
                });
                *c = ema(beta, c, columns);
                *r = ema(beta, r, q.chunks(*width).map(|row| row.iter().sum()));
            }
        }
    }

    fn store(&mut self) {
        let state = state_dtype(self.dtype);
        self.theta = stored(&self.theta, self.dtype);
        self.m = stored(&self.m, state);
        match &mut self.f {
            Fim::Full(f) => *f = stored(f, state),
            Fim::Factored { r, c, .. } => {
                *r = stored(r, state);
                *c = stored(c, state);
            }
        }
    }
}
