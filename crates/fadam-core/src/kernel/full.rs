//! Algorithms 1, 2 and 4 on a tensor whose f is kept element by element.

use candle_core::Tensor;

use super::elementwise::{self, Elementwise};
use super::number::{Element, Real, inverse};
use super::power::{Exponent, General, Identity, Power, SquareRoot};
use super::{Measured, Preconditioned, Tensors, clip_factor};
use crate::Result;

/// The rule's numbers in the compute type.
#[derive(Clone, Copy)]
struct Full<C, W> {
    beta: C,
    new: C,
    offset: C,
    power: W,
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

impl<C: Real, W: Power<C>> Full<C, W> {
    fn new(rule: &Preconditioned, measured: &Measured, power: W) -> Self {
        Self {
            beta: C::of(rule.beta),
            new: C::of(1.0 - rule.beta),
            offset: C::of(rule.offset),
            power,
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

impl<C: Real, W: Power<C>> Elementwise<C> for Full<C, W> {
    /// g, g/d and θ/d (0 where the decay is not on the manifold).
    #[inline(always)]
    fn measured(&self, g: C, f: C, theta: C) -> [C; 3] {
        let (_, inverse) = self.precondition(g, f);
        let w = if self.on_manifold { theta * inverse } else { C::zero() };
        [g, g * inverse, w]
    }

    #[inline(always)]
    fn step(&self, g: C, f: C, m: C, theta: C) -> [C; 3] {
        let (f, inverse) = self.precondition(g, f);
        let m = self.beta1 * m + self.share * (g * inverse);
        let w = if self.on_manifold { theta * inverse } else { theta };
        [f, m, theta - (self.step * m + self.decay * w)]
    }
}

/// `$do`, with `$numbers` the rule's numbers for its ρ.
macro_rules! for_rho {
    ($rule:expr, $measured:expr, $numbers:ident => $do:expr) => {
        match Exponent::of($rule.rho) {
            Exponent::Half => {
                let $numbers = Full::<C, _>::new($rule, $measured, SquareRoot);
                $do
            }
            Exponent::One => {
                let $numbers = Full::<C, _>::new($rule, $measured, Identity);
                $do
            }
            Exponent::Other(rho) => {
                let $numbers = Full::<C, _>::new($rule, $measured, General::new(rho));
                $do
            }
        }
    };
}

/// Pass A.
pub(super) fn measure<C: Real, P: Element, S: Element>(
    t: &Tensors,
    f: &Tensor,
    rule: &Preconditioned,
) -> Result<Option<Measured>> {
    let n = t.theta.elem_count();
    let tensors = [t.g, f, t.theta];
    let mut measured = Measured::start::<C>(rule.eps);
    // With ε̂ = ε; and once more if the gradient says that ε̂ is less.
    loop {
        let [g2, x2, w2] = for_rho!(rule, &measured, numbers => {
            elementwise::sums::<C, P, S, P>(tensors, numbers)?
        });
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

/// Pass B.
pub(super) fn apply<C: Real, P: Element, S: Element>(
    t: &Tensors,
    f: &Tensor,
    rule: &Preconditioned,
    measured: &Measured,
) -> Result<()> {
    for_rho!(rule, measured, numbers => elementwise::apply::<C, P, S>(t, f, numbers))
}

/// What pass B would make not finite.
pub(super) fn verify<C: Real, P: Element, S: Element>(
    t: &Tensors,
    f: &Tensor,
    rule: &Preconditioned,
    measured: &Measured,
) -> Result<Option<&'static str>> {
    for_rho!(rule, measured, numbers => elementwise::verify::<C, P, S>(t, f, numbers))
}
