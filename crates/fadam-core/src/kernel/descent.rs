//! The end of Algorithms 1, 2 and 4, the same however f is kept: from f^ρ to m and θ.

use super::number::{Real, inverse};
use super::{Measured, Preconditioned};

/// The rule's numbers in the compute type.
#[derive(Clone, Copy)]
pub(super) struct Descent<C> {
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

impl<C: Real> Descent<C> {
    pub(super) fn new(rule: &Preconditioned, measured: &Measured) -> Self {
        Self {
            floor: C::of(measured.eps_hat.powf(2.0 * rule.rho)),
            beta1: C::of(rule.beta1),
            share: C::of(rule.share * measured.gradient_factor),
            step: C::of(rule.step),
            decay: C::of(rule.decay * measured.decay_factor),
            on_manifold: rule.on_manifold,
        }
    }

    /// g/d and θ/d (0 where the decay is not on the manifold), from f^ρ.
    #[inline(always)]
    pub(super) fn measured(&self, power: C, g: C, theta: C) -> [C; 2] {
        let inverse = inverse(power + self.floor);
        [g * inverse, if self.on_manifold { theta * inverse } else { C::zero() }]
    }

    /// m and θ after the step, from f^ρ.
    #[inline(always)]
    pub(super) fn step(&self, power: C, g: C, m: C, theta: C) -> [C; 2] {
        let inverse = inverse(power + self.floor);
        let m = self.beta1 * m + self.share * (g * inverse);
        let w = if self.on_manifold { theta * inverse } else { theta };
        [m, theta - (self.step * m + self.decay * w)]
    }
}
