//! What a step is given for one tensor, as strips of the compute type.

use std::convert::Infallible;

use candle_core::Tensor;

use super::column::Column;
use super::lanes::STRIP;
use super::number::Real;
use super::stored::{Locked, lock};
use super::tasks::Task;
use crate::Result;
use crate::terms::{Estimate, Terms};

/// As columns of a tensor or of a task.
pub(super) type Given<'a> = Terms<Column<'a>>;

impl Terms<Tensor> {
    /// Locked for reading.
    pub(super) fn lock(&self) -> Result<Terms<Locked<'_>>> {
        self.map(lock)
    }
}

impl Terms<Locked<'_>> {
    pub(super) fn columns(&self) -> Result<Given<'_>> {
        self.map(Locked::column)
    }
}

impl<'a> Given<'a> {
    /// The part that belongs to a task.
    pub(super) fn task(&self, task: &Task) -> Self {
        let part = |column: &Column<'a>| Ok::<_, Infallible>(column.task(task));
        let Ok(terms) = self.map(part);
        terms
    }

    /// A strip of γ g.
    #[inline(always)]
    pub(super) fn gradient<'b, C: Real>(
        &self,
        at: usize,
        n: usize,
        room: &'b mut [C; STRIP],
    ) -> &'b [C]
    where
        'a: 'b,
    {
        scaled(self.g, self.gamma, at, n, room)
    }

    /// A strip of γ times the auxiliary gradient.
    #[inline(always)]
    pub(super) fn auxiliary<'b, C: Real>(
        &self,
        at: usize,
        n: usize,
        room: &'b mut [C; STRIP],
    ) -> Option<&'b [C]>
    where
        'a: 'b,
    {
        self.auxiliary.map(|(a, _)| scaled(a, self.gamma, at, n, room))
    }

    /// A strip of the estimate of the FIM, where it is not g².
    #[inline(always)]
    pub(super) fn estimate<'b, C: Real>(
        &self,
        at: usize,
        n: usize,
        room: &'b mut [C; STRIP],
    ) -> &'b [C]
    where
        'a: 'b,
    {
        // γ is of the loss, so it is of its squares too.
        let gamma2 = self.gamma * self.gamma;
        match self.estimate {
            Estimate::OfGradient => &[],
            Estimate::Given(q) => scaled(q, gamma2, at, n, room),
            Estimate::Sampled(s, batch) => {
                let (factor, mut unsquared) = (C::of(batch * gamma2), [C::zero(); STRIP]);
                let s = s.strip(at, n, &mut unsquared);
                let room = &mut room[..n];
                for i in 0..n {
                    room[i] = factor * (s[i] * s[i]);
                }
                room
            }
        }
    }
}

/// A strip of a factor times a column.
#[inline(always)]
fn scaled<'a: 'b, 'b, C: Real>(
    column: Column<'a>,
    factor: f64,
    at: usize,
    n: usize,
    room: &'b mut [C; STRIP],
) -> &'b [C] {
    if factor == 1.0 {
        return column.strip(at, n, room);
    }
    let (factor, mut unscaled) = (C::of(factor), [C::zero(); STRIP]);
    let unscaled = column.strip(at, n, &mut unscaled);
    let room = &mut room[..n];
    for i in 0..n {
        room[i] = factor * unscaled[i];
    }
    room
}
