//! Slices of candle tensors on the CPU.

use std::cell::Cell;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, Tensor};
use half::{bf16, f16};

use crate::{Error, Result};

/// The elements of a contiguous CPU tensor.
#[derive(Clone, Copy)]
pub(crate) enum Slice<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    U8(&'a [u8]),
}

impl Slice<'_> {
    /// Whether no number is NaN or infinite.
    pub(super) fn is_finite(&self) -> bool {
        match self {
            Self::F32(x) => x.iter().all(|x| x.is_finite()),
            Self::F64(x) => x.iter().all(|x| x.is_finite()),
            Self::Bf16(x) => x.iter().all(|x| x.is_finite()),
            Self::F16(x) => x.iter().all(|x| x.is_finite()),
            Self::U8(_) => true,
        }
    }

    /// The largest of the numbers without their signs.
    pub(super) fn largest(&self) -> f64 {
        match self {
            Self::F32(x) => f64::from(x.iter().fold(0.0, |most: f32, x| most.max(x.abs()))),
            Self::F64(x) => x.iter().fold(0.0, |most: f64, x| most.max(x.abs())),
            Self::Bf16(x) => x.iter().fold(0.0, |most: f64, x| most.max(f64::from(*x).abs())),
            Self::F16(x) => x.iter().fold(0.0, |most: f64, x| most.max(f64::from(*x).abs())),
            Self::U8(_) => f64::from(u8::MAX),
        }
    }

    /// Whether a number is below 0.
    pub(super) fn is_negative(&self) -> bool {
        match self {
            Self::F32(x) => x.iter().any(|x| *x < 0.0),
            Self::F64(x) => x.iter().any(|x| *x < 0.0),
            Self::Bf16(x) => x.iter().any(|x| x.to_f32() < 0.0),
            Self::F16(x) => x.iter().any(|x| x.to_f32() < 0.0),
            Self::U8(_) => false,
        }
    }
}

/// The same, to be changed.
pub(crate) enum SliceMut<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
    U8(&'a mut [u8]),
}

/// A contiguous CPU tensor, locked for reading.
pub(crate) struct Read<'a> {
    /// A guard, of whichever lock candle uses.
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    elements: Range<usize>,
}

/// Locks a tensor for reading.
pub(crate) fn read(tensor: &Tensor) -> Result<Read<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::Candle(candle_core::Error::RequiresContiguous { op: OP }));
    };
    Ok(Read { storage: Box::new(storage), elements: start..end })
}

impl Read<'_> {
    pub(crate) fn slice(&self) -> Result<Slice<'_>> {
        let at = self.elements.clone();
        Ok(match self.storage.deref().deref() {
            Storage::Cpu(CpuStorage::F32(x)) => Slice::F32(&x[at]),
            Storage::Cpu(CpuStorage::F64(x)) => Slice::F64(&x[at]),
            Storage::Cpu(CpuStorage::BF16(x)) => Slice::Bf16(&x[at]),
            Storage::Cpu(CpuStorage::F16(x)) => Slice::F16(&x[at]),
            Storage::Cpu(CpuStorage::U8(x)) => Slice::U8(&x[at]),
            _ => return Err(unsupported().into()),
        })
    }
}

/// Changes the elements of contiguous CPU tensors in place, all at once. No two of them may share a storage.
pub(crate) fn write<R>(
    tensors: &[&Tensor],
    f: impl FnOnce(Vec<SliceMut<'_>>) -> Result<R>,
) -> Result<R> {
    nested(tensors, Vec::with_capacity(tensors.len()), f)
}

/// Locks the first of `rest`, and within that the others. `held` is what is locked already.
fn nested<R, F: FnOnce(Vec<SliceMut<'_>>) -> Result<R>>(
    rest: &[&Tensor],
    held: Vec<SliceMut<'_>>,
    f: F,
) -> Result<R> {
    let Some((first, rest)) = rest.split_first() else { return f(held) };
    let op = InPlace {
        f: Cell::new(Some(move |slice: SliceMut<'_>| {
            let mut held = held;
            held.push(slice);
            nested(rest, held, f)
        })),
        result: Cell::new(None),
    };
    first.inplace_op1(&op)?;
    op.result.take().expect("candle ran the op, or returned an error")
}

/// Runs a closure on the elements as a candle op; candle locks the storage meanwhile.
struct InPlace<F, R> {
    f: Cell<Option<F>>,
    result: Cell<Option<Result<R>>>,
}

impl<R, F: FnOnce(SliceMut<'_>) -> Result<R>> InplaceOp1 for InPlace<F, R> {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(candle_core::Error::RequiresContiguous { op: OP });
        };
        let slice = match storage {
            CpuStorage::F32(x) => SliceMut::F32(&mut x[start..end]),
            CpuStorage::F64(x) => SliceMut::F64(&mut x[start..end]),
            CpuStorage::BF16(x) => SliceMut::Bf16(&mut x[start..end]),
            CpuStorage::F16(x) => SliceMut::F16(&mut x[start..end]),
            CpuStorage::U8(x) => SliceMut::U8(&mut x[start..end]),
            _ => return Err(unsupported()),
        };
        self.result.set(self.f.take().map(|f| f(slice)));
        Ok(())
    }
}

/// The name of the op in candle's errors.
const OP: &str = "fadam-step";

/// Construction of an optimizer refuses all that could lead here.
fn unsupported() -> candle_core::Error {
    candle_core::Error::msg("fadam-step: a tensor that is not on the CPU, or of another dtype")
}
