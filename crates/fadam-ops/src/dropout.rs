//! Dropout from a seed (Srivastava et al., JMLR 15, 2014): each number is kept with probability 1 − p and divided by it, or 0.
//!
//! The mask is a function of seed and place, so that it need not be kept and a resumed run draws it again:
//! `∂L/∂x = g mask/(1 − p)`.

use candle_core::{Result, Tensor, bail};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::Route;
use crate::rows::for_rows;

const NAME: &str = "dropout";

/// Numbers that share a stream of the generator.
const RUN: usize = 1024;

/// Each number of `x` is 0 with probability `p`, and otherwise divided by 1 − p. The same seed drops the same places, on
/// every machine and device.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::ones(1000, candle_core::DType::F32, &Device::Cpu)?;
/// let y = fadam_ops::dropout(&x, 0.25, 7)?;
/// assert_eq!(y.to_vec1::<f32>()?, fadam_ops::dropout(&x, 0.25, 7)?.to_vec1::<f32>()?);
/// let mean = y.mean_all()?.to_scalar::<f32>()?;
/// assert!((mean - 1.0).abs() < 0.1);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If `p` is not within 0 (included) and 1 (excluded).
pub fn dropout(x: &Tensor, p: f64, seed: u64) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        bail!("{NAME}: p is {p}, not within 0 (included) and 1 (excluded)");
    }
    let route = Route::of(NAME, &[x])?;
    if p == 0.0 {
        return Ok(x.clone());
    }
    let mask = Mask { p, seed };
    match route {
        Route::Single => fused::<f32>(x, mask),
        Route::Double => fused::<f64>(x, mask),
        Route::Widened(wide) => dropout(&x.to_dtype(wide)?, p, seed)?.to_dtype(x.dtype()),
        Route::Composed => {
            let mut ones = vec![1f64; x.elem_count()];
            mask.apply(&mut ones);
            x * Tensor::from_vec(ones, x.shape(), x.device())?.to_dtype(x.dtype())?
        }
    }
}

fn fused<T: Number>(x: &Tensor, mask: Mask) -> Result<Tensor> {
    let y = masked::<T>(x, mask)?;
    node(NAME, [x], (y, x.shape().clone()), Dropout { mask, of: std::marker::PhantomData::<T> })
}

fn masked<T: Number>(x: &Tensor, mask: Mask) -> Result<Vec<T>> {
    read([x], |[x]: [&[T]; 1]| {
        let mut y = x.to_vec();
        mask.apply(&mut y);
        y
    })
}

#[derive(Debug, Clone, Copy)]
struct Mask {
    p: f64,
    seed: u64,
}

impl Mask {
    fn apply<T: Number>(self, x: &mut [T]) {
        let keep = T::of(1.0 / (1.0 - self.p));
        let below = (self.p * 2f64.powi(32)) as u32;
        let tail = x.len() / RUN * RUN;
        let (runs, tail) = x.split_at_mut(tail);
        let apply = |run: u64, x: &mut [T]| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(run);
            for x in x {
                *x = if rng.next_u32() < below { T::zero() } else { *x * keep };
            }
        };
        let in_runs = runs.len() as u64 / RUN as u64;
        for_rows(runs, RUN, |first, x| {
            for (run, x) in (first as u64..).zip(x.chunks_mut(RUN)) {
                apply(run, x);
            }
        });
        apply(in_runs, tail);
    }
}

struct Dropout<T> {
    mask: Mask,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<1> for Dropout<T> {
    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, g: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(constant(masked::<T>(g, self.mask)?, x.shape())?)])
    }
}
