//! `y = silu(a) b` with `silu(a) = a σ(a)`, a and b the halves of the last dimension (Shazeer, arXiv 2002.05202).
//!
//! With g = ∂L/∂y and s = σ(a): `∂L/∂a = g b s (1 + a (1 − s))`, `∂L/∂b = g a s`.

use candle_core::{D, Result, Tensor, bail};

use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, last_dim};
use crate::rows::new_rows;

const NAME: &str = "swiglu";

/// `silu(gate) · value` from `x [..., 2 n]`, of which the gate is the first half, to `[..., n]`.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[0f32, 1.0, 5.0, 6.0]], &Device::Cpu)?;
/// let y = fadam_ops::swiglu(&x)?.to_vec2::<f32>()?;
/// assert!((y[0][1] - 6.0 / (1.0 + (-1f32).exp())).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the last dimension is odd, or the dtype is not a float.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    let width = last_dim(NAME, x)?;
    if !width.is_multiple_of(2) {
        bail!("{NAME}: the last dimension of {:?} is odd, and has no halves", x.dims());
    }
    match Route::of(NAME, &[x])? {
        Route::Single => fused::<f32>(x),
        Route::Double => fused::<f64>(x),
        Route::Widened(wide) => swiglu(&x.to_dtype(wide)?)?.to_dtype(x.dtype()),
        Route::Composed => composed(x),
    }
}

/// As candle composes it.
fn composed(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(D::Minus1)? / 2;
    x.narrow(D::Minus1, 0, n)?.silu()? * x.narrow(D::Minus1, n, n)?
}

fn fused<T: Number>(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(D::Minus1)? / 2;
    let y = read([x], |[x]: [&[T]; 1]| {
        new_rows(x.len() / 2, n, |first, y| gated(y, &x[first * 2 * n..], n))
    })?;
    let mut shape = x.dims().to_vec();
    *shape.last_mut().expect("a last dimension") = n;
    node(NAME, [x], (y, shape.into()), SwiGlu::<T>(std::marker::PhantomData))
}

/// The rows `y [rows, n]` from those that `x [rows, 2 n]` begins with.
pub(crate) fn gated<T: Number>(y: &mut [T], x: &[T], n: usize) {
    for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact(2 * n)) {
        let (gate, value) = x.split_at(n);
        vectorise(Forward { y, gate, value });
    }
}

/// `x [rows, 2 n]` becomes ∂L/∂x, and `y [rows, n]`, which holds ∂L/∂y, becomes y.
pub(crate) fn ungated<T: Number>(x: &mut [T], y: &mut [T], n: usize) {
    for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact_mut(2 * n)) {
        let (gate, value) = x.split_at_mut(n);
        vectorise(Exchange { y, gate, value });
    }
}

struct SwiGlu<T>(std::marker::PhantomData<T>);

impl<T: Number> Backward<1> for SwiGlu<T> {
    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, g: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let n = x.dim(D::Minus1)? / 2;
        let dx = read([x, g], |[x, g]: [&[T]; 2]| {
            new_rows(x.len(), 2 * n, |first, dx| {
                let rows =
                    x[first * 2 * n..].chunks_exact(2 * n).zip(g[first * n..].chunks_exact(n));
                for (dx, (x, g)) in dx.chunks_exact_mut(2 * n).zip(rows) {
                    let (gate, value) = x.split_at(n);
                    let (d_gate, d_value) = dx.split_at_mut(n);
                    vectorise(Reverse { d_gate, d_value, gate, value, g });
                }
            })
        })?;
        Ok([Some(constant(dx, x.shape())?)])
    }
}

struct Forward<'a, T> {
    y: &'a mut [T],
    gate: &'a [T],
    value: &'a [T],
}

impl<T: Number> Vectorised for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let one = T::one();
        for (y, (a, b)) in self.y.iter_mut().zip(self.gate.iter().zip(self.value)) {
            *y = *a * *b / (one + (-*a).exponential());
        }
    }
}

struct Reverse<'a, T> {
    d_gate: &'a mut [T],
    d_value: &'a mut [T],
    gate: &'a [T],
    value: &'a [T],
    g: &'a [T],
}

impl<T: Number> Vectorised for Reverse<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { d_gate, d_value, gate, value, g } = self;
        let one = T::one();
        for ((da, db), (g, (a, b))) in
            d_gate.iter_mut().zip(d_value).zip(g.iter().zip(gate.iter().zip(value)))
        {
            let s = one / (one + (-*a).exponential());
            *db = *g * (*a * s);
            *da = *g * *b * (s * (one + *a * (one - s)));
        }
    }
}

/// The gradients in place of gate and value, and y in place of its gradient.
struct Exchange<'a, T> {
    y: &'a mut [T],
    gate: &'a mut [T],
    value: &'a mut [T],
}

impl<T: Number> Vectorised for Exchange<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let one = T::one();
        for (y, (a, b)) in self.y.iter_mut().zip(self.gate.iter_mut().zip(self.value)) {
            let below = one + (-*a).exponential();
            let (g, s) = (*y, one / below);
            let slope = s * (one + *a * (one - s));
            *y = *a * *b / below;
            (*a, *b) = (g * *b * slope, g * (*a * s));
        }
    }
}
