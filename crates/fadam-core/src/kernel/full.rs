//! 1/d of a tensor whose f is kept element by element.

use super::number::{Real, inverse};
use super::power::Power;
use super::{Measured, Rule};

/// The rule's numbers in the compute type.
#[derive(Clone, Copy)]
pub(super) struct Full<C> {
    beta: C,
    new: C,
    offset: C,
    /// `1/(1 − β2^t)` where f is corrected after the average, else 1.
    correction: C,
    /// ε̂^{2ρ}
    floor: C,
}

impl<C: Real> Full<C> {
    pub(super) fn new(rule: &Rule, measured: &Measured) -> Self {
        Self {
            beta: C::of(rule.beta()),
            new: C::of(1.0 - rule.beta()),
            offset: C::of(rule.offset),
            correction: C::of(rule.f_correction()),
            floor: C::of(rule.floor(measured)),
        }
    }

    /// `f_t = β f + (1 − β)(q + o)`
    #[inline(always)]
    fn fim(&self, q: C, f: C) -> C {
        self.beta * f + self.new * (q + self.offset)
    }

    /// `1 / (f_t^ρ + ε̂^{2ρ})`
    #[inline(always)]
    fn inverse(&self, f: C, power: impl Power<C>) -> C {
        inverse(power.of(f * self.correction) + self.floor)
    }
}

/// 1/d of the elements of a strip.
pub(super) trait Inverse<C> {
    /// Of element i with the gradient g.
    fn at(&mut self, i: usize, g: C) -> C;
}

/// The estimate of the FIM of the elements of a strip.
pub(super) trait Estimate<C>: Copy {
    fn at(self, i: usize, g: C) -> C;
}

/// g².
#[derive(Clone, Copy)]
pub(super) struct OfGradient;

impl<C: Real> Estimate<C> for OfGradient {
    #[inline(always)]
    fn at(self, _: usize, g: C) -> C {
        g * g
    }
}

impl<C: Real> Estimate<C> for &[C] {
    #[inline(always)]
    fn at(self, i: usize, _: C) -> C {
        self[i]
    }
}

/// From f as it was; `f_t` is not kept. The strips have the length of the loop.
pub(super) struct Reading<'a, C, Q, P> {
    pub(super) numbers: Full<C>,
    pub(super) power: P,
    pub(super) q: Q,
    pub(super) f: &'a [C],
}

impl<C: Real, Q: Estimate<C>, P: Power<C>> Inverse<C> for Reading<'_, C, Q, P> {
    #[inline(always)]
    fn at(&mut self, i: usize, g: C) -> C {
        let f = self.numbers.fim(self.q.at(i, g), self.f[i]);
        self.numbers.inverse(f, self.power)
    }
}

/// From f as it was, which becomes `f_t`.
pub(super) struct Writing<'a, C, Q, P> {
    pub(super) numbers: Full<C>,
    pub(super) power: P,
    pub(super) q: Q,
    pub(super) f: &'a mut [C],
}

impl<C: Real, Q: Estimate<C>, P: Power<C>> Inverse<C> for Writing<'_, C, Q, P> {
    #[inline(always)]
    fn at(&mut self, i: usize, g: C) -> C {
        self.f[i] = self.numbers.fim(self.q.at(i, g), self.f[i]);
        self.numbers.inverse(self.f[i], self.power)
    }
}

/// As it was found before.
pub(super) struct Found<'a, C>(pub(super) &'a [C]);

impl<C: Real> Inverse<C> for Found<'_, C> {
    #[inline(always)]
    fn at(&mut self, i: usize, _: C) -> C {
        self.0[i]
    }
}
