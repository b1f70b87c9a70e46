//! Slices of candle tensors on the CPU, and how a tensor is cut into tasks.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, Tensor};
use rayon::prelude::*;

use super::lanes::BLOCK;
use super::number::Element;
use crate::{Error, Result};

/// Elements of a task: small enough to balance, large enough to be worth one.
pub(super) const TASK: usize = 8 * BLOCK;

/// A contiguous CPU tensor, locked for reading.
pub(super) struct Read<G> {
    storage: G,
    range: Range<usize>,
}

/// Locks a tensor for reading.
pub(super) fn read(tensor: &Tensor) -> Result<Read<impl Deref<Target = Storage>>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::Candle(candle_core::Error::RequiresContiguous { op: "fadam-step" }));
    };
    Ok(Read { storage, range: start..end })
}

impl<G: Deref<Target = Storage>> Read<G> {
    pub(super) fn slice<T: Element>(&self) -> Result<&[T]> {
        let Storage::Cpu(storage) = &*self.storage else {
            return Err(Error::Candle(candle_core::Error::msg("fadam-step: not a CPU tensor")));
        };
        Ok(&storage.as_slice::<T>()?[self.range.clone()])
    }
}

/// Changes the elements of a contiguous CPU tensor in place.
pub(super) fn write<T: Element, R>(
    tensor: &Tensor,
    f: impl FnOnce(&mut [T]) -> Result<R>,
) -> Result<R> {
    let op = InPlace { f: Cell::new(Some(f)), result: Cell::new(None), of: PhantomData };
    tensor.inplace_op1(&op)?;
    op.result.take().expect("candle ran the op, or returned an error")
}

/// Runs a closure on the elements as a candle op; candle locks the storage meanwhile.
struct InPlace<T, F, R> {
    f: Cell<Option<F>>,
    result: Cell<Option<Result<R>>>,
    of: PhantomData<T>,
}

impl<T: Element, R, F: FnOnce(&mut [T]) -> Result<R>> InplaceOp1 for InPlace<T, F, R> {
    fn name(&self) -> &'static str {
        "fadam-step"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(candle_core::Error::RequiresContiguous { op: "fadam-step" });
        };
        let Some(data) = T::slice_mut(storage) else {
            candle_core::bail!("fadam-step: expected a tensor of {:?}", T::DTYPE)
        };
        let f = self.f.take();
        self.result.set(f.map(|f| f(&mut data[start..end])));
        Ok(())
    }
}

/// `f` of each task in parallel; the results added in order.
pub(super) fn sum_tasks<const K: usize>(
    tasks: usize,
    f: impl Fn(usize) -> [f64; K] + Sync + Send,
) -> [f64; K] {
    let add = |a: [f64; K], b: [f64; K]| std::array::from_fn(|k| a[k] + b[k]);
    if tasks <= 1 {
        return (0..tasks).map(f).fold([0.0; K], add);
    }
    let sums: Vec<[f64; K]> = (0..tasks).into_par_iter().map(f).collect();
    sums.into_iter().fold([0.0; K], add)
}

/// Task `k` of a slice.
pub(super) fn task<T>(of: &[T], k: usize) -> &[T] {
    &of[k * TASK..((k + 1) * TASK).min(of.len())]
}
