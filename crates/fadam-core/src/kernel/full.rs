//! Algorithms 1, 2 and 4 on a tensor whose f is kept element by element.

use candle_core::Tensor;

use super::descent::Descent;
use super::elementwise::{self, Elementwise};
use super::number::{Element, Real};
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
    descent: Descent<C>,
}

impl<C: Real, W: Power<C>> Full<C, W> {
    fn new(rule: &Preconditioned, measured: &Measured, power: W) -> Self {
        Self {
            beta: C::of(rule.beta),
            new: C::of(1.0 - rule.beta),
            offset: C::of(rule.offset),
            power,
            descent: Descent::new(rule, measured),
        }
    }

    /// f after the step.
    #[inline(always)]
    fn fim(&self, g: C, f: C) -> C {
        self.beta * f + self.new * (g * g + self.offset)
    }
}

impl<C: Real, W: Power<C>> Elementwise<C> for Full<C, W> {
    /// g, g/d and θ/d (0 where the decay is not on the manifold).
    #[inline(always)]
    fn measured(&self, g: C, f: C, theta: C) -> [C; 3] {
        let [x, w] = self.descent.measured(self.power.apply(self.fim(g, f)), g, theta);
        [g, x, w]
    }

    #[inline(always)]
    fn step(&self, g: C, f: C, m: C, theta: C) -> [C; 3] {
        let f = self.fim(g, f);
        let [m, theta] = self.descent.step(self.power.apply(f), g, m, theta);
        [f, m, theta]
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
