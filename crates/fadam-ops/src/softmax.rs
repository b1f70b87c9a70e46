//! `yᵢ = exp(xᵢ − m) / Σ exp(xⱼ − m)` with m = max x, over the last dimension.
//!
//! With g = ∂L/∂y: `∂L/∂x = y (g − Σ g y)`.

use candle_core::{D, Result, Tensor, bail};

use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, last_dim};
use crate::rows::for_rows;

const NAME: &str = "softmax";

/// Softmax over the last dimension. A logit of −∞ gets the probability 0; a row of nothing else gives NaN.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[0f32, 3f32.ln()]], &Device::Cpu)?;
/// let y = fadam_ops::softmax(&x)?.to_vec2::<f32>()?;
/// assert!((y[0][1] - 0.75).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the last dimension is 0 or the dtype is not a float.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if last_dim(NAME, x)? == 0 {
        bail!("{NAME}: the last dimension of {:?} is empty", x.dims());
    }
    match Route::of(NAME, &[x])? {
        Route::Single => fused::<f32>(x),
        Route::Double => fused::<f64>(x),
        Route::Widened(wide) => softmax(&x.to_dtype(wide)?)?.to_dtype(x.dtype()),
        Route::Composed => candle_nn::ops::softmax(x, D::Minus1),
    }
}

fn fused<T: Number>(x: &Tensor) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    let y = read([x], |[x]: [&[T]; 1]| {
        let mut y = x.to_vec();
        for_rows(&mut y, d, |_, y| y.chunks_exact_mut(d).for_each(in_place));
        y
    })?;
    node(NAME, [x], (y, x.shape().clone()), Softmax::<T>(std::marker::PhantomData))
}

/// Softmax of one row.
pub(crate) fn in_place<T: Number>(row: &mut [T]) {
    let largest = T::largest(row);
    exponentials(row, T::one(), largest);
    let by = T::total(row).recip();
    for x in row {
        *x *= by;
    }
}

struct Softmax<T>(std::marker::PhantomData<T>);

impl<T: Number> Backward<1> for Softmax<T> {
    fn backward(&self, _: [&Tensor; 1], y: &Tensor, g: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let d = y.dim(D::Minus1)?;
        let dx = read([y, g], |[y, g]: [&[T]; 2]| {
            let mut dx = g.to_vec();
            for_rows(&mut dx, d, |first, dx| {
                for (dx, y) in dx.chunks_exact_mut(d).zip(y[first * d..].chunks_exact(d)) {
                    let mean = T::dot(dx, y);
                    reverse(dx, y, mean);
                }
            });
            dx
        })?;
        Ok([Some(constant(dx, y.shape())?)])
    }
}

/// From the gradient of a row of probabilities p to that of its logits, in place; `mean` is Σ g p.
pub(crate) fn reverse<T: Number>(g: &mut [T], p: &[T], mean: T) {
    vectorise(Reverse { g, p, mean });
}

/// `z = exp(by z − less)`
pub(crate) fn exponentials<T: Number>(z: &mut [T], by: T, less: T) {
    vectorise(Exponentials { z, by, less });
}

struct Exponentials<'a, T> {
    z: &'a mut [T],
    by: T,
    less: T,
}

impl<T: Number> Vectorised for Exponentials<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for z in self.z {
            *z = (*z * self.by - self.less).exponential();
        }
    }
}

/// `g = p (g − mean)`
struct Reverse<'a, T> {
    g: &'a mut [T],
    p: &'a [T],
    mean: T,
}

impl<T: Number> Vectorised for Reverse<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (g, p) in self.g.iter_mut().zip(self.p) {
            *g = *p * (*g - self.mean);
        }
    }
}
