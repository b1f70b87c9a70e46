//! Algorithms 1, 2 and 4 on a tensor whose f is kept element by element.

use candle_core::Tensor;

use super::elementwise::{Elementwise, sums};
use super::lanes::{Element, Power, Real, inverse};
use super::{Measured, Preconditioned, Tensors, clip_factor};
use crate::Result;

/// The rule's numbers in the compute type.
#[derive(Clone, Copy)]
pub(super) struct Full<C> {
    beta: C,
    new: C,
    offset: C,
    power: Power<C>,
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
            power: Power::of(rule.rho),
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
    fn precondition(&self, g: C, f: C) -> (C, C) {
        let f = self.beta * f + self.new * (g * g + self.offset);
        (f, inverse(self.power.apply(f) + self.floor))
    }
}

impl<C: Real> Elementwise<C> for Full<C> {
    /// g, g/d and θ/d (0 where the decay is not on the manifold).
    #[inline(always)]
    fn measured(&self, g: C, f: C, theta: C) -> [C; 3] {
        let (_, inverse) = self.precondition(g, f);
        let w = if self.on_manifold {
            theta * inverse
        } else {
            C::zero()
        };
        [g, g * inverse, w]
    }

    #[inline(always)]
    fn step(&self, g: C, f: C, m: C, theta: C) -> [C; 3] {
        let (f, inverse) = self.precondition(g, f);
        let m = self.beta1 * m + self.share * (g * inverse);
        let w = if self.on_manifold {
            theta * inverse
        } else {
            theta
        };
        [f, m, theta - (self.step * m + self.decay * w)]
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
        let [g2, x2, w2] = sums::<C, P, S, P>([t.g, f, t.theta], numbers)?;
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
