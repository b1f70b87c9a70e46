//! What the algorithms do with 1/d: what pass A sums, and the new m and θ of pass B.

use super::full::Inverse;
use super::lanes::Sum;
use super::number::Real;
use super::{Measured, Momentum, Rule};

/// The sums of squares of pass A: g, the step's direction x, the weight decay's w, the auxiliary loss's u.
pub(super) struct Sums<C> {
    g: Sum<C>,
    x: Sum<C>,
    w: Sum<C>,
    u: Sum<C>,
}

impl<C: Real> Sums<C> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self { g: Sum::new(), x: Sum::new(), w: Sum::new(), u: Sum::new() }
    }

    #[inline(always)]
    pub(super) fn flush(&mut self) {
        self.g.flush();
        self.x.flush();
        self.w.flush();
        self.u.flush();
    }

    #[inline(always)]
    pub(super) fn totals(&self) -> [f64; 4] {
        [self.g.total(), self.x.total(), self.w.total(), self.u.total()]
    }
}

/// The rule's numbers in the compute type.
#[derive(Clone, Copy)]
pub(super) struct Descent<C> {
    beta1: C,
    /// The share of the new gradient in m; of g/d with clipping included, where m is of it.
    share: C,
    /// `1/(1 − β1^t)` where m is corrected, else 1.
    m_correction: C,
    /// What m, or m/d, is multiplied by; clipping included where it is m/d.
    step: C,
    /// What θ/d (or θ) is multiplied by, clipping included.
    decay: C,
    /// What the auxiliary gradient over d is multiplied by, clipping included.
    auxiliary: C,
}

impl<C: Real> Descent<C> {
    pub(super) fn new(rule: &Rule, measured: &Measured) -> Self {
        let factor = rule.clip_factor(measured.measures.rms_natural);
        let decay_factor = rule.clip_factor(measured.measures.rms_decay);
        let auxiliary_factor = rule.clip_factor(measured.measures.rms_auxiliary);
        let (of_share, of_step) = match rule.momentum {
            Momentum::OfNaturalGradient { .. } => (factor, 1.0),
            Momentum::OfGradient => (1.0, factor),
        };
        Self {
            beta1: C::of(rule.beta1),
            share: C::of(rule.share * of_share),
            m_correction: C::of(rule.m_correction()),
            step: C::of(rule.step * of_step),
            decay: C::of(rule.decay * decay_factor),
            auxiliary: C::of(rule.lr * measured.auxiliary_weight * auxiliary_factor),
        }
    }

    /// Adds the squares of a strip: of x, w and those of g if `count_g`. `third` is m for Algorithm 3, θ for others.
    #[inline(always)]
    pub(super) fn measure<D: Direction<C>, I: Inverse<C>>(
        &self,
        _: D,
        mut inverse: I,
        g: &[C],
        third: &[C],
        count_g: bool,
        sums: &mut Sums<C>,
    ) {
        let n = g.len();
        let third = &third[..n];
        let (x2, w2) = (sums.x.strip(n), sums.w.strip(n));
        if count_g {
            let g2 = sums.g.strip(n);
            for i in 0..n {
                let [x, w] = D::measured(self, inverse.at(i, g[i]), g[i], third[i]);
                g2[i] = g2[i] + g[i] * g[i];
                x2[i] = x2[i] + x * x;
                w2[i] = w2[i] + w * w;
            }
        } else {
            for i in 0..n {
                let [x, w] = D::measured(self, inverse.at(i, g[i]), g[i], third[i]);
                x2[i] = x2[i] + x * x;
                w2[i] = w2[i] + w * w;
            }
        }
    }

    /// m and θ of a strip, in place.
    #[inline(always)]
    pub(super) fn step<D: Direction<C>, I: Inverse<C>>(
        &self,
        _: D,
        mut inverse: I,
        g: &[C],
        m: &mut [C],
        theta: &mut [C],
    ) {
        let n = g.len();
        let (m, theta) = (&mut m[..n], &mut theta[..n]);
        for i in 0..n {
            [m[i], theta[i]] = D::step(self, inverse.at(i, g[i]), g[i], m[i], theta[i]);
        }
    }

    /// θ of a strip after the auxiliary gradient's part, from 1/d.
    #[inline(always)]
    pub(super) fn step_auxiliary(&self, inverse: &[C], auxiliary: &[C], theta: &mut [C]) {
        let n = theta.len();
        let (inverse, auxiliary) = (&inverse[..n], &auxiliary[..n]);
        for i in 0..n {
            theta[i] = theta[i] - self.auxiliary * (auxiliary[i] * inverse[i]);
        }
    }
}

/// Adds the squares of an auxiliary gradient's strip over d.
#[inline(always)]
pub(super) fn measure_auxiliary<C: Real>(
    mut inverse: impl Inverse<C>,
    g: &[C],
    auxiliary: &[C],
    sums: &mut Sums<C>,
) {
    let n = g.len();
    let (u2, auxiliary) = (sums.u.strip(n), &auxiliary[..n]);
    for i in 0..n {
        let u = auxiliary[i] * inverse.at(i, g[i]);
        u2[i] = u2[i] + u * u;
    }
}

/// What an algorithm does to one element: a type for each, so that a loop is compiled for it.
pub(super) trait Direction<C>: Copy {
    /// What is clipped: x and w (0 where the decay is not on the manifold), from 1/d, g and m or θ.
    fn measured(numbers: &Descent<C>, inverse: C, g: C, third: C) -> [C; 2];

    /// m and θ after the step.
    fn step(numbers: &Descent<C>, inverse: C, g: C, m: C, theta: C) -> [C; 2];
}

/// Algorithms 1 and 2: momentum of g/d, decay of θ/d.
#[derive(Clone, Copy)]
pub(super) struct OnManifold;

/// Algorithm 4: momentum of g/d, decay of θ.
#[derive(Clone, Copy)]
pub(super) struct Natural;

/// Algorithm 3: momentum of g.
#[derive(Clone, Copy)]
pub(super) struct Raw;

impl<C: Real> Direction<C> for OnManifold {
    #[inline(always)]
    fn measured(_: &Descent<C>, inverse: C, g: C, theta: C) -> [C; 2] {
        [g * inverse, theta * inverse]
    }

    #[inline(always)]
    fn step(numbers: &Descent<C>, inverse: C, g: C, m: C, theta: C) -> [C; 2] {
        let m = numbers.beta1 * m + numbers.share * (g * inverse);
        [m, theta - (numbers.step * m + numbers.decay * (theta * inverse))]
    }
}

impl<C: Real> Direction<C> for Natural {
    #[inline(always)]
    fn measured(_: &Descent<C>, inverse: C, g: C, _: C) -> [C; 2] {
        [g * inverse, C::zero()]
    }

    #[inline(always)]
    fn step(numbers: &Descent<C>, inverse: C, g: C, m: C, theta: C) -> [C; 2] {
        let m = numbers.beta1 * m + numbers.share * (g * inverse);
        [m, theta - (numbers.step * m + numbers.decay * theta)]
    }
}

impl<C: Real> Direction<C> for Raw {
    #[inline(always)]
    fn measured(numbers: &Descent<C>, inverse: C, g: C, m: C) -> [C; 2] {
        let m = numbers.beta1 * m + numbers.share * g;
        [m * numbers.m_correction * inverse, C::zero()]
    }

    #[inline(always)]
    fn step(numbers: &Descent<C>, inverse: C, g: C, m: C, theta: C) -> [C; 2] {
        let m = numbers.beta1 * m + numbers.share * g;
        let x = m * numbers.m_correction * inverse;
        [m, theta - (numbers.step * x + numbers.decay * theta)]
    }
}

/// Calls `$do` with `$direction` the type of a rule's momentum.
macro_rules! for_direction {
    ($momentum:expr, $direction:ident => $do:expr) => {
        match $momentum {
            Momentum::OfNaturalGradient { decay_on_manifold: true } => {
                let $direction = OnManifold;
                $do
            }
            Momentum::OfNaturalGradient { decay_on_manifold: false } => {
                let $direction = Natural;
                $do
            }
            Momentum::OfGradient => {
                let $direction = Raw;
                $do
            }
        }
    };
}
pub(super) use for_direction;
