//! What a step is given for one tensor: the gradient and what may come with it.

use candle_core::Tensor;

use super::column::Column;
use super::lanes::STRIP;
use super::number::Real;
use super::stored::{Locked, lock};
use super::tasks::Task;
use crate::Result;

/// The tensors that a step is given for one parameter, contiguous.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// The gradient of the loss.
    pub(crate) g: Tensor,
    /// γ: what the gradients are multiplied by before anything else.
    pub(crate) gamma: f64,
    /// What is averaged in f.
    pub(crate) squares: SquaresOf,
    /// The gradient of an auxiliary loss, and its weight.
    pub(crate) auxiliary: Option<(Tensor, f64)>,
}

/// Where the estimate of the FIM of one step comes from.
#[derive(Debug, Clone)]
pub(crate) enum SquaresOf {
    /// g²
    Gradient,
    /// Given as it is.
    Given(Tensor),
    /// `B s²`, with the mean gradient s of B sampled labels.
    Sampled(Tensor, f64),
}

/// The same, locked for reading.
pub(super) struct LockedTerms<'a> {
    g: Locked<'a>,
    gamma: f64,
    squares: LockedSquares<'a>,
    auxiliary: Option<Locked<'a>>,
}

enum LockedSquares<'a> {
    OfGradient,
    Given(Locked<'a>),
    Sampled(Locked<'a>, f64),
}

impl Terms {
    pub(super) fn lock(&self) -> Result<LockedTerms<'_>> {
        Ok(LockedTerms {
            g: lock(&self.g)?,
            gamma: self.gamma,
            squares: match &self.squares {
                SquaresOf::Gradient => LockedSquares::OfGradient,
                SquaresOf::Given(q) => LockedSquares::Given(lock(q)?),
                SquaresOf::Sampled(s, batch) => LockedSquares::Sampled(lock(s)?, *batch),
            },
            auxiliary: self.auxiliary.as_ref().map(|(a, _)| lock(a)).transpose()?,
        })
    }
}

impl LockedTerms<'_> {
    pub(super) fn given(&self) -> Result<Given<'_>> {
        Ok(Given {
            g: self.g.column()?,
            gamma: self.gamma,
            squares: match &self.squares {
                LockedSquares::OfGradient => Squares::OfGradient,
                // γ is of the loss, so it is of its squares too.
                LockedSquares::Given(q) => Squares::Given(q.column()?, self.gamma * self.gamma),
                LockedSquares::Sampled(s, batch) => {
                    Squares::Sampled(s.column()?, batch * self.gamma * self.gamma)
                }
            },
            auxiliary: self.auxiliary.as_ref().map(Locked::column).transpose()?,
        })
    }
}

/// The same as columns of a tensor or of a task.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) g: Column<'a>,
    gamma: f64,
    pub(super) squares: Squares<'a>,
    auxiliary: Option<Column<'a>>,
}

#[derive(Clone, Copy)]
pub(super) enum Squares<'a> {
    OfGradient,
    /// With a factor.
    Given(Column<'a>, f64),
    /// Of these numbers, with a factor.
    Sampled(Column<'a>, f64),
}

impl<'a> Given<'a> {
    /// The part that belongs to a task.
    pub(super) fn task(&self, task: &Task) -> Self {
        Self {
            g: self.g.task(task),
            gamma: self.gamma,
            squares: match self.squares {
                Squares::OfGradient => Squares::OfGradient,
                Squares::Given(q, factor) => Squares::Given(q.task(task), factor),
                Squares::Sampled(s, batch) => Squares::Sampled(s.task(task), batch),
            },
            auxiliary: self.auxiliary.map(|a| a.task(task)),
        }
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
        self.auxiliary.map(|a| scaled(a, self.gamma, at, n, room))
    }

    /// A strip of the estimate of the FIM, where it is not g².
    #[inline(always)]
    pub(super) fn squares_strip<'b, C: Real>(
        &self,
        at: usize,
        n: usize,
        room: &'b mut [C; STRIP],
    ) -> &'b [C]
    where
        'a: 'b,
    {
        match self.squares {
            Squares::OfGradient => &[],
            Squares::Given(q, factor) => scaled(q, factor, at, n, room),
            Squares::Sampled(s, factor) => {
                let (factor, mut unsquared) = (C::of(factor), [C::zero(); STRIP]);
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
