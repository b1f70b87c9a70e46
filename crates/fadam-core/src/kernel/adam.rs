//! Algorithm 3.

use candle_core::Tensor;

use super::elementwise::{Elementwise, sums};
use super::lanes::{Element, LANES, Real, inverse};
use super::{Adam, CAREFUL_BELOW, Measured, Tensors, clip_factor};
use crate::Result;

/// The rule's numbers in the compute type.
pub(super) struct Numbers<C> {
    beta1: C,
    new1: C,
    beta2: C,
    new2: C,
    /// `1/(1 − β1^t)`
    m_correction: C,
    /// `1/(1 − β2^t)`
    f_correction: C,
    eps: C,
    /// η, clipping included.
    step: C,
    /// η λ
    decay: C,
}

impl<C: Real> Numbers<C> {
    pub(super) fn new(rule: &Adam, measured: &Measured) -> Self {
        Self {
            beta1: C::of(rule.beta1),
            new1: C::of(1.0 - rule.beta1),
            beta2: C::of(rule.beta2),
            new2: C::of(1.0 - rule.beta2),
            m_correction: C::of(rule.m_correction.recip()),
            f_correction: C::of(rule.f_correction.recip()),
            eps: C::of(rule.eps),
            step: C::of(rule.lr * measured.gradient_factor),
            decay: C::of(rule.lr * rule.weight_decay),
        }
    }

    /// f and m after the step, and ḡ before clipping.
    #[inline(always)]
    fn direction(&self, g: [C; LANES], mut f: [C; LANES], mut m: [C; LANES]) -> [[C; LANES]; 3] {
        let mut update = [C::zero(); LANES];
        for l in 0..LANES {
            f[l] = self.beta2 * f[l] + self.new2 * (g[l] * g[l]);
            m[l] = self.beta1 * m[l] + self.new1 * g[l];
            let d = (f[l] * self.f_correction).sqrt() + self.eps;
            update[l] = m[l] * self.m_correction * inverse(d);
        }
        [f, m, update]
    }
}

impl<C: Real> Elementwise<C> for Numbers<C> {
    /// g, ḡ and 0.
    #[inline(always)]
    fn measured(&self, g: [C; LANES], f: [C; LANES], m: [C; LANES]) -> [[C; LANES]; 3] {
        let [_, _, update] = self.direction(g, f, m);
        [g, update, [C::zero(); LANES]]
    }

    #[inline(always)]
    fn step(
        &self,
        g: [C; LANES],
        f: [C; LANES],
        m: [C; LANES],
        mut theta: [C; LANES],
    ) -> [[C; LANES]; 3] {
        let [f, m, update] = self.direction(g, f, m);
        for l in 0..LANES {
            theta[l] = theta[l] - (self.step * update[l] + self.decay * theta[l]);
        }
        [f, m, theta]
    }
}

/// Pass A.
pub(super) fn measure<C: Real, P: Element, S: Element>(
    t: &Tensors,
    f: &Tensor,
    rule: &Adam,
) -> Result<Option<Measured>> {
    let mut measured = Measured::start::<C>(rule.eps);
    let numbers = Numbers::<C>::new(rule, &measured);
    let [g2, u2, _] = sums::<C, P, S, S>([t.g, f, &t.state.m], &numbers)?;
    t.check_gradient::<P>(g2)?;
    if !(g2 + u2).is_finite() || !C::CAREFUL && rule.eps < CAREFUL_BELOW {
        return Ok(None);
    }
    measured.gradient_factor = clip_factor(u2, t.theta.elem_count(), rule.clip);
    Ok(Some(measured))
}
