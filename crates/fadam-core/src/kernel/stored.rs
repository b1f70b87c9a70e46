//! How a parameter, its m and its f are kept between steps.

use candle_core::{DType, Device, Tensor};

use super::access::{Read, Slice, SliceMut, read, write};
use super::blocks::Code;
use super::column::{Column, ColumnMut};
use super::lanes::STRIP;
use super::noise::{Half, Noise};
use super::tasks::Task;
use crate::{Error, Result};

/// Numbers shaped as a parameter, or as its row or column sums.
#[derive(Debug, Clone)]
pub(crate) enum Stored {
    /// As they are; rounded to the nearest.
    Plain(Tensor),
    /// bf16 with stochastic rounding.
    Stochastic(Tensor),
    /// bf16, and what was rounded away from it, in bf16 too.
    Compensated { high: Tensor, low: Tensor },
    /// 8-bit codes shaped as the numbers, and the scales of their blocks.
    Blocks { codes: Tensor, scales: Tensor, code: Code },
}

/// The same, locked for reading.
pub(super) enum Locked<'a> {
    Plain(Read<'a>),
    Compensated(Read<'a>, Read<'a>),
    Blocks(Read<'a>, Read<'a>, Code),
}

/// Locks a plain tensor.
pub(super) fn lock(tensor: &Tensor) -> Result<Locked<'_>> {
    Ok(Locked::Plain(read(tensor)?))
}

impl Stored {
    /// What it is made of, with the ends of their names.
    pub(crate) fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::Plain(x) | Self::Stochastic(x) => vec![("", x)],
            Self::Compensated { high, low } => vec![("", high), (".low", low)],
            Self::Blocks { codes, scales, .. } => vec![(".codes", codes), (".scales", scales)],
        }
    }

    /// The one that is shaped as the numbers.
    pub(crate) fn shaped(&self) -> &Tensor {
        match self {
            Self::Plain(x)
            | Self::Stochastic(x)
            | Self::Compensated { high: x, .. }
            | Self::Blocks { codes: x, .. } => x,
        }
    }

    /// The same kind made of other tensors, which `each` gives for the ends of their names.
    pub(crate) fn map<E>(
        &self,
        mut each: impl FnMut(&'static str, &Tensor) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Self, E> {
        Ok(match self {
            Self::Plain(x) => Self::Plain(each("", x)?),
            Self::Stochastic(x) => Self::Stochastic(each("", x)?),
            Self::Compensated { high, low } => {
                Self::Compensated { high: each("", high)?, low: each(".low", low)? }
            }
            Self::Blocks { codes, scales, code } => Self::Blocks {
                codes: each(".codes", codes)?,
                scales: each(".scales", scales)?,
                code: *code,
            },
        })
    }

    pub(super) fn lock(&self) -> Result<Locked<'_>> {
        Ok(match self {
            Self::Plain(x) | Self::Stochastic(x) => Locked::Plain(read(x)?),
            Self::Compensated { high, low } => Locked::Compensated(read(high)?, read(low)?),
            Self::Blocks { codes, scales, code } => {
                Locked::Blocks(read(codes)?, read(scales)?, *code)
            }
        })
    }

    /// As a tensor of plain numbers: itself, or a copy in f32.
    pub(crate) fn decode(&self, tasks: &[Task]) -> Result<Tensor> {
        if let Self::Plain(x) | Self::Stochastic(x) = self {
            return Ok(x.clone());
        }
        let locked = self.lock()?;
        let column = locked.column()?;
        let mut numbers: Vec<f32> = Vec::new();
        for task in tasks {
            let column = column.task(task);
            for at in (0..task.len).step_by(STRIP) {
                let mut room = [0f32; STRIP];
                numbers.extend(column.strip(at, STRIP.min(task.len - at), &mut room));
            }
        }
        let shape = self.shaped().shape().clone();
        Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
    }

    /// The same kind with other numbers, rounded as it does: plain ones in a new tensor, others in place. `kind` is
    /// `m`, `f`, `R`, `C` or `theta`.
    pub(crate) fn replaced(
        &self,
        numbers: &Tensor,
        tasks: &[Task],
        noise: Noise,
        kind: &str,
    ) -> Result<Self> {
        if let Self::Plain(x) = self {
            return Ok(Self::Plain(numbers.to_dtype(x.dtype())?));
        }
        if numbers.elem_count() == 0 {
            return Ok(self.clone()); // candle takes the strides of an empty matrix for a broadcast
        }
        let numbers = numbers.to_dtype(DType::F64)?.contiguous()?;
        let numbers = read(&numbers)?;
        let numbers = Column::Plain(numbers.slice()?);
        write_all(&[self], |columns| {
            let Ok([mut rest]) = <[ColumnMut<'_>; 1]>::try_from(columns) else {
                return Err(other());
            };
            for task in tasks {
                let (mut column, after) = rest.split(task);
                rest = after;
                let numbers = numbers.task(task);
                for at in (0..task.len).step_by(STRIP) {
                    let mut room = [0f64; STRIP];
                    let strip = numbers.strip(at, STRIP.min(task.len - at), &mut room);
                    let mut random = [0; STRIP];
                    let half = if kind == "f" { Half::High } else { Half::Low };
                    if kind == "theta" {
                        noise.of_theta(task.start + at, &mut random);
                    } else {
                        noise.of_state(task.start + at, &mut random);
                    }
                    column.store(at, strip, &random, half);
                }
            }
            Ok(())
        })?;
        Ok(self.clone())
    }

    /// The dtype whose range the numbers have.
    pub(crate) fn range_dtype(&self) -> DType {
        match self {
            Self::Plain(x) => x.dtype(),
            _ => DType::BF16,
        }
    }
}

impl Locked<'_> {
    pub(super) fn column(&self) -> Result<Column<'_>> {
        Ok(match self {
            Self::Plain(x) => Column::Plain(x.slice()?),
            Self::Compensated(high, low) => match (high.slice()?, low.slice()?) {
                (Slice::Bf16(high), Slice::Bf16(low)) => Column::Compensated(high, low),
                _ => return Err(other()),
            },
            Self::Blocks(codes, scales, code) => match (codes.slice()?, scales.slice()?) {
                (Slice::U8(codes), Slice::F32(scales)) => Column::Blocks(codes, scales, *code),
                _ => return Err(other()),
            },
        })
    }
}

/// Changes several in place, all at once. No two of them may share a storage.
pub(super) fn write_all<R>(
    all: &[&Stored],
    f: impl FnOnce(Vec<ColumnMut<'_>>) -> Result<R>,
) -> Result<R> {
    let tensors: Vec<&Tensor> =
        all.iter().flat_map(|stored| stored.tensors()).map(|(_, tensor)| tensor).collect();
    write(&tensors, |slices| {
        let mut slices = slices.into_iter();
        let columns: Option<Vec<_>> =
            all.iter().map(|stored| column_mut(stored, &mut slices)).collect();
        f(columns.ok_or_else(other)?)
    })
}

/// The column of one, from the next slices.
fn column_mut<'a>(
    stored: &Stored,
    slices: &mut impl Iterator<Item = SliceMut<'a>>,
) -> Option<ColumnMut<'a>> {
    let mut next = || slices.next();
    Some(match (stored, next()?) {
        (Stored::Plain(_), x) => ColumnMut::Plain(x),
        (Stored::Stochastic(_), SliceMut::Bf16(x)) => ColumnMut::Stochastic(x),
        (Stored::Compensated { .. }, SliceMut::Bf16(high)) => match next()? {
            SliceMut::Bf16(low) => ColumnMut::Compensated(high, low),
            _ => return None,
        },
        (Stored::Blocks { code, .. }, SliceMut::U8(codes)) => match next()? {
            SliceMut::F32(scales) => ColumnMut::Blocks(codes, scales, *code),
            _ => return None,
        },
        _ => return None,
    })
}

/// Construction makes each kind of the dtypes that it is of.
fn other() -> Error {
    Error::Candle(candle_core::Error::msg("fadam-step: a stored tensor of another dtype"))
}
