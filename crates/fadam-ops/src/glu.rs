//! `y = a σ(b)`, a and b the halves of the last dimension (Dauphin et al., arXiv 1612.08083).
//!
//! With g = ∂L/∂y and s = σ(b): `∂L/∂a = g s`, `∂L/∂b = g a s (1 − s)`.

use candle_core::{D, Result, Tensor, bail};

use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, last_dim};
use crate::rows::new_rows;

const NAME: &str = "glu";

/// `value · σ(gate)` from `x [..., 2 d]`, of which the gate is the second half, to `[..., d]`.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[3f32, 4.0, 0.0, 100.0]], &Device::Cpu)?;
/// assert_eq!(fadam_ops::glu(&x)?.to_vec2::<f32>()?, [[1.5, 4.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the last dimension is odd, or the dtype is not a float.
pub fn glu(x: &Tensor) -> Result<Tensor> {
    let width = last_dim(NAME, x)?;
    if !width.is_multiple_of(2) {
        bail!("{NAME}: the last dimension of {:?} is odd, and has no halves", x.dims());
    }
    match Route::of(NAME, &[x])? {
        Route::Single => fused::<f32>(x),
        Route::Double => fused::<f64>(x),
        Route::Widened(wide) => glu(&x.to_dtype(wide)?)?.to_dtype(x.dtype()),
        Route::Composed => composed(x),
    }
}

/// As candle composes it.
fn composed(x: &Tensor) -> Result<Tensor> {
    let d = x.dim(D::Minus1)? / 2;
    x.narrow(D::Minus1, 0, d)? * candle_nn::ops::sigmoid(&x.narrow(D::Minus1, d, d)?.contiguous()?)?
}

fn fused<T: Number>(x: &Tensor) -> Result<Tensor> {
    let d = x.dim(D::Minus1)? / 2;
    let y = read([x], |[x]: [&[T]; 1]| {
        new_rows(x.len() / 2, d, |first, y| {
            for (y, x) in y.chunks_exact_mut(d).zip(x[first * 2 * d..].chunks_exact(2 * d)) {
                let (value, gate) = x.split_at(d);
                vectorise(Forward { y, value, gate });
            }
        })
    })?;
    let mut shape = x.dims().to_vec();
    *shape.last_mut().expect("a last dimension") = d;
    node(NAME, [x], (y, shape.into()), Glu::<T>(std::marker::PhantomData))
}

struct Glu<T>(std::marker::PhantomData<T>);

impl<T: Number> Backward<1> for Glu<T> {
    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, g: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let d = x.dim(D::Minus1)? / 2;
        let dx = read([x, g], |[x, g]: [&[T]; 2]| {
            new_rows(x.len(), 2 * d, |first, dx| {
                let rows =
                    x[first * 2 * d..].chunks_exact(2 * d).zip(g[first * d..].chunks_exact(d));
                for (dx, (x, g)) in dx.chunks_exact_mut(2 * d).zip(rows) {
                    let ((d_value, d_gate), (value, gate)) = (dx.split_at_mut(d), x.split_at(d));
                    vectorise(Reverse { d_value, d_gate, value, gate, g });
                }
            })
        })?;
        Ok([Some(constant(dx, x.shape())?)])
    }
}

#[inline(always)]
fn sigmoid<T: Number>(x: T) -> T {
    T::one() / (T::one() + (-x).exponential())
}

/// One row. Slices that a function is given are known not to overlap; those that it cuts itself are not, and the loop
/// would not be vectorised.
struct Forward<'a, T> {
    y: &'a mut [T],
    value: &'a [T],
    gate: &'a [T],
}

impl<T: Number> Vectorised for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (y, (a, b)) in self.y.iter_mut().zip(self.value.iter().zip(self.gate)) {
            *y = *a * sigmoid(*b);
        }
    }
}

/// One row.
struct Reverse<'a, T> {
    d_value: &'a mut [T],
    d_gate: &'a mut [T],
    value: &'a [T],
    gate: &'a [T],
    g: &'a [T],
}

impl<T: Number> Vectorised for Reverse<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { d_value, d_gate, value, gate, g } = self;
        for ((da, db), (g, (a, b))) in
            d_value.iter_mut().zip(d_gate).zip(g.iter().zip(value.iter().zip(gate)))
        {
            let s = sigmoid(*b);
            *da = *g * s;
            *db = *g * *a * (s * (T::one() - s));
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// What a device computes is what the CPU does, in f64 to rounding.
    #[test]
    fn composed_is_fused() {
        let x: Vec<f64> = (-40..40).map(|i| f64::from(i) / 9.0).collect();
        let x = Var::from_tensor(&Tensor::from_vec(x, (2, 5, 8), &Device::Cpu).unwrap()).unwrap();
        crate::route::same(&[&x], &glu(&x).unwrap(), &composed(&x).unwrap());
    }
}
