//! Elementwise updates of one tensor by another, in place and on all threads, and the norm of one.
//!
//! Numbers are computed in f64, each on its own, and rounded to what they are stored in; sums are taken over
//! tasks of a fixed size and added in their order. So the bits do not depend on the number of threads.

use std::ops::Range;

use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Storage, Tensor, Var, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::math::{compute_dtype, rms};
use crate::{Error, Result};

/// Elements of a task: small enough to balance, large enough to be worth one.
const TASK: usize = 1 << 15;

/// What becomes of an element `old` and its partner `x`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    /// `x`
    Store,
    /// `x²`
    StoreSquare,
    /// `old + s (x − old)`
    Approach { share: f64 },
    /// `old + s (x² − old)`
    ApproachSquare { share: f64 },
}

impl Op {
    /// Changes `target` in place. Only a CPU tensor is changed without a temporary.
    pub(crate) fn apply(self, target: &Var, source: &Tensor) -> Result<()> {
        let source = source.detach();
        if !target.device().is_cpu() {
            return self.apply_composed(target, &source);
        }
        let dtypes = (target.dtype(), source.dtype());
        let source = match dtypes {
            (DType::F32, DType::BF16 | DType::F16) | (DType::BF16 | DType::F16, DType::F32) => {
                source
            }
            _ => source.to_dtype(target.dtype())?,
        };
        Ok(target.inplace_op2(&source.contiguous()?, &self)?)
    }

    /// The same by candle's operations, in the wider of the two dtypes.
    fn apply_composed(self, target: &Var, source: &Tensor) -> Result<()> {
        let half = |dtype| matches!(dtype, DType::BF16 | DType::F16);
        let dtype = if half(target.dtype()) { source.dtype() } else { target.dtype() };
        let (old, x) = (target.as_detached_tensor().to_dtype(dtype)?, source.to_dtype(dtype)?);
        let x = match self {
            Self::Store | Self::Approach { .. } => x,
            Self::StoreSquare | Self::ApproachSquare { .. } => x.sqr()?,
        };
        let new = match self {
            Self::Store | Self::StoreSquare => x,
            Self::Approach { share } | Self::ApproachSquare { share } => {
                ((x - &old)?.affine(share, 0.0)? + old)?
            }
        };
        Ok(target.set(&new.to_dtype(target.dtype())?)?)
    }

    fn run<S: Number, T: Number>(self, target: &mut [S], source: &[T]) {
        // One loop for each, so that none decides anything per element.
        match self {
            Self::Store => each(target, source, |_, x| x),
            Self::StoreSquare => each(target, source, |_, x| x * x),
            Self::Approach { share } => each(target, source, |old, x| old + share * (x - old)),
            Self::ApproachSquare { share } => {
                each(target, source, |old, x| old + share * (x * x - old));
            }
        }
    }
}

fn each<S: Number, T: Number>(
    target: &mut [S],
    source: &[T],
    f: impl Fn(f64, f64) -> f64 + Sync + Send,
) {
    target.par_chunks_mut(TASK).zip(source.par_chunks(TASK)).for_each(|(target, source)| {
        for (old, x) in target.iter_mut().zip(source) {
            *old = S::round(f(old.wide(), x.wide()));
        }
    });
}

impl InplaceOp2 for Op {
    fn name(&self) -> &'static str {
        "fadam-update"
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        target_layout: &Layout,
        source: &CpuStorage,
        source_layout: &Layout,
    ) -> candle_core::Result<()> {
        use CpuStorage::{BF16, F16, F32, F64};
        let (to, from) = (range(target_layout)?, range(source_layout)?);
        match (target, source) {
            (F32(target), F32(source)) => self.run(&mut target[to], &source[from]),
            (F32(target), BF16(source)) => self.run(&mut target[to], &source[from]),
            (F32(target), F16(source)) => self.run(&mut target[to], &source[from]),
            (F64(target), F64(source)) => self.run(&mut target[to], &source[from]),
            (BF16(target), F32(source)) => self.run(&mut target[to], &source[from]),
            (F16(target), F32(source)) => self.run(&mut target[to], &source[from]),
            (BF16(target), BF16(source)) => self.run(&mut target[to], &source[from]),
            (F16(target), F16(source)) => self.run(&mut target[to], &source[from]),
            _ => candle_core::bail!("fadam-update: not a pair of dtypes that it knows"),
        }
        Ok(())
    }
}

/// Where the elements of a contiguous tensor lie.
fn range(layout: &Layout) -> candle_core::Result<Range<usize>> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or(candle_core::Error::RequiresContiguous { op: "fadam-update" })?;
    Ok(start..end)
}

/// `√Σx²` in f64, which neither overflows nor vanishes unless the norm itself does. On the CPU in tasks of a
/// fixed size, added in their order.
pub(crate) fn norm(x: &Tensor) -> Result<f64> {
    let x = x.detach();
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => norm_on_cpu::<f32>(&x),
        (true, DType::F64) => norm_on_cpu::<f64>(&x),
        (true, DType::BF16) => norm_on_cpu::<bf16>(&x),
        (true, DType::F16) => norm_on_cpu::<f16>(&x),
        _ => norm_composed(&x),
    }
}

fn norm_composed(x: &Tensor) -> Result<f64> {
    Ok(rms(&x.to_dtype(compute_dtype(x.device()))?)? * (x.elem_count() as f64).sqrt())
}

fn norm_on_cpu<T: Number + WithDType>(x: &Tensor) -> Result<f64> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(Error::Candle(candle_core::Error::msg("fadam-norm: not a CPU tensor")));
    };
    let x = &storage.as_slice::<T>()?[range(layout)?];
    let sum = |scale: f64| -> f64 {
        let sums: Vec<f64> = x.par_chunks(TASK).map(|task| sum_of_squares(task, scale)).collect();
        sums.iter().sum()
    };
    // Squares of f64 overflow from 1e154 on and vanish below 1e-162: then they are scaled, exactly.
    let plain = sum(1.0);
    let scale = if plain == f64::INFINITY {
        2f64.powi(-600)
    } else if plain < 1e-280 {
        2f64.powi(600)
    } else {
        return Ok(plain.sqrt());
    };
    Ok(sum(scale).sqrt() / scale)
}

fn sum_of_squares<T: Number>(x: &[T], scale: f64) -> f64 {
    // Several sums side by side do not wait for one another.
    let mut sums = [0.0; 16];
    for part in x.chunks(sums.len()) {
        for (sum, x) in sums.iter_mut().zip(part) {
            let x = scale * x.wide();
            *sum += x * x;
        }
    }
    sums.iter().sum()
}

/// A number as a tensor stores it.
trait Number: Copy + Send + Sync {
    fn wide(self) -> f64;
    fn round(x: f64) -> Self;
}

impl Number for f64 {
    fn wide(self) -> f64 {
        self
    }

    fn round(x: f64) -> Self {
        x
    }
}

impl Number for f32 {
    fn wide(self) -> f64 {
        f64::from(self)
    }

    fn round(x: f64) -> Self {
        x as Self
    }
}

// Through f32: `half` converts to f64 a bit at a time.
impl Number for bf16 {
    fn wide(self) -> f64 {
        f64::from(self.to_f32())
    }

    fn round(x: f64) -> Self {
        Self::from_f32(x as f32)
    }
}

impl Number for f16 {
    fn wide(self) -> f64 {
        f64::from(self.to_f32())
    }

    fn round(x: f64) -> Self {
        Self::from_f32(x as f32)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// What runs on other devices gives what runs on the CPU.
    #[test]
    fn composed_is_in_place() {
        let numbers = |seed: f64, dtype| {
            let numbers = (0..40).map(|i| (f64::from(i) * seed).sin()).collect::<Vec<_>>();
            Tensor::from_vec(numbers, (5, 8), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let values = |x: &Tensor| -> Vec<f64> {
            x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let all = [DType::F64, DType::F32, DType::BF16, DType::F16];
        for (to, from) in all.into_iter().flat_map(|to| all.map(|from| (to, from))) {
            let share = 0.3;
            let approach = [Op::Approach { share }, Op::ApproachSquare { share }];
            for op in [Op::Store, Op::StoreSquare].into_iter().chain(approach) {
                let targets = [0, 1].map(|_| Var::from_tensor(&numbers(0.7, to)).unwrap());
                let source = numbers(1.3, from);
                op.apply(&targets[0], &source).unwrap();
                op.apply_composed(&targets[1], &source).unwrap();
                let unit = match to {
                    DType::F64 => 1e-15,
                    DType::F32 => 1e-6,
                    _ => 1e-2,
                };
                for (a, b) in values(&targets[0]).iter().zip(values(&targets[1])) {
                    assert!((a - b).abs() <= unit, "{op:?} {from:?} to {to:?}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn norm_composed_is_norm() {
        let numbers = (0..100_000).map(|i| f64::from(i).sin()).collect::<Vec<_>>();
        let x = Tensor::from_vec(numbers, (100, 1000), &Device::Cpu).unwrap();
        for scale in [1e-200, 1.0, 1e200] {
            let x = (&x * scale).unwrap().t().unwrap();
            let (a, b) = (norm(&x).unwrap(), norm_composed(&x).unwrap());
            assert!((a - b).abs() <= 1e-12 * b && b.is_finite() && b > 0.0, "{scale:e}: {a} {b}");
        }
    }
}
