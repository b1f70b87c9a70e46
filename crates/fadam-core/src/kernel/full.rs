//! Algorithms 1, 2 and 4 on a tensor whose f is kept element by element.

use candle_core::Tensor;

use super::elementwise::{Elementwise, sums};
use super::lanes::{Element, Exponent, LANES, Real, inverse};
use super::{Measured, Preconditioned, Tensors, clip_factor};
use crate::Result;

/// The rule's numbers in the compute type.
pub(super) struct Full<C> {
    beta: C,
    new: C,
    offset: C,
    exponent: Exponent,
    /// ε̂^{2ρ}
    floor: C,
    beta1: C,
    /// The share of g/d in m, clipping included.
    share: C,
    step: C,
    /// What θ/d (or θ) is multiplied by, clipping included.
    decay: C,
    on_manifold: bool,
}

impl<C: Real> Full<C> {
    pub(super) fn new(rule: &Preconditioned, measured: &Measured) -> Self {
        Self {
            beta: C::of(rule.beta),
            new: C::of(1.0 - rule.beta),
            offset: C::of(rule.offset),
            exponent: Exponent::of(rule.rho),
            floor: C::of(measured.eps_hat.powf(2.0 * rule.rho)),
            beta1: C::of(rule.beta1),
            share: C::of(rule.share * measured.gradient_factor),
            step: C::of(rule.step),
            decay: C::of(rule.decay * measured.decay_factor),
            on_manifold: rule.on_manifold,
        }
    }

    /// f after the step, and `1/d`.
    #[inline(always)]
    fn precondition(&self, g: [C; LANES], mut f: [C; LANES]) -> ([C; LANES], [C; LANES]) {
        for l in 0..LANES {
            f[l] = self.beta * f[l] + self.new * (g[l] * g[l] + self.offset);
        }
        let mut d = self.exponent.apply_lanes(f);
        for l in 0..LANES {
            d[l] = inverse(d[l] + self.floor);
        }
        (f, d)
    }
}

impl<C: Real> Elementwise<C> for Full<C> {
    /// g, g/d and θ/d (0 where the decay is not on the manifold).
    #[inline(always)]
    fn measured(&self, g: [C; LANES], f: [C; LANES], theta: [C; LANES]) -> [[C; LANES]; 3] {
        let (_, inverse) = self.precondition(g, f);
        let (mut x, mut w) = ([C::zero(); LANES], [C::zero(); LANES]);
        for l in 0..LANES {
            x[l] = g[l] * inverse[l];
            w[l] = if self.on_manifold {
                theta[l] * inverse[l]
            } else {
                C::zero()
            };
        }
        [g, x, w]
    }

    #[inline(always)]
    fn step(
        &self,
        g: [C; LANES],
        f: [C; LANES],
        mut m: [C; LANES],
        mut theta: [C; LANES],
    ) -> [[C; LANES]; 3] {
        let (f, inverse) = self.precondition(g, f);
        for l in 0..LANES {
            m[l] = self.beta1 * m[l] + self.share * (g[l] * inverse[l]);
            let w = if self.on_manifold {
                theta[l] * inverse[l]
            } else {
                theta[l]
            };
            theta[l] = theta[l] - (self.step * m[l] + self.decay * w);
        }
        [f, m, theta]
    }
}

/// Pass A.
pub(super) fn measure<C: Real, P: Element, S: Element>(
    t: &Tensors,
    f: &Tensor,
    rule: &Preconditioned,
) -> Result<Option<Measured>> {
    let n = t.theta.elem_count();
    let mut measured = Measured::start::<C>(rule.eps);
    // With ε̂ = ε; and once more if the gradient says that ε̂ is less.
    loop {
        let numbers = Full::<C>::new(rule, &measured);
        let [g2, x2, w2] = sums::<C, P, S, P>([t.g, f, t.theta], &numbers)?;
        t.check_gradient::<P>(g2)?;
        let eps_hat = rule.eps_hat(g2, n);
        if !C::CAREFUL && (!g2.is_finite() || rule.needs_care(eps_hat)) {
            return Ok(None);
        }
        if eps_hat < measured.eps_hat {
            measured.eps_hat = eps_hat;
            continue;
        }
        if !(x2 + w2).is_finite() {
            return Ok(None);
        }
        measured.gradient_factor = clip_factor(x2, n, rule.clip);
        measured.decay_factor = clip_factor(w2, n, rule.clip);
        return Ok(Some(measured));
    }
}
