//! Algorithm 3.

use candle_core::Tensor;

use super::elementwise::{Elementwise, sums};
use super::number::{Element, Real, inverse};
use super::{Adam, CAREFUL_BELOW, Measured, Tensors, clip_factor};
use crate::Result;

/// The rule's numbers in the compute type.
#[derive(Clone, Copy)]
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
    fn direction(&self, g: C, f: C, m: C) -> [C; 3] {
        let f = self.beta2 * f + self.new2 * (g * g);
        let m = self.beta1 * m + self.new1 * g;
        let d = (f * self.f_correction).sqrt() + self.eps;
        [f, m, m * self.m_correction * inverse(d)]
    }
}

impl<C: Real> Elementwise<C> for Numbers<C> {
    /// g, ḡ and 0.
    #[inline(always)]
    fn measured(&self, g: C, f: C, m: C) -> [C; 3] {
        let [_, _, update] = self.direction(g, f, m);
        [g, update, C::zero()]
    }

    #[inline(always)]
    fn step(&self, g: C, f: C, m: C, theta: C) -> [C; 3] {
        let [f, m, update] = self.direction(g, f, m);
        [f, m, theta - (self.step * update + self.decay * theta)]
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
    let [g2, u2, _] = sums::<C, P, S, S>([t.g, f, &t.state.m], numbers)?;
    t.check_gradient::<P>(g2)?;
    if !(g2 + u2).is_finite() || !C::CAREFUL && rule.eps < CAREFUL_BELOW {
        return Ok(None);
    }
    measured.gradient_factor = clip_factor(u2, t.theta.elem_count(), rule.clip);
    Ok(Some(measured))
}
