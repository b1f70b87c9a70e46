//! The gated feed-forward `y = s Dᵀ` with `s = swiglu(u)`, `u = x Uᵀ`, as one op.
//!
//! With g = ∂L/∂y: `∂s = g D`, `∂u` as in [`swiglu`](crate::swiglu()), `∂D = gᵀ s`, `∂x = ∂u U`, `∂U = ∂uᵀ x`. Only u is kept: s is
//! made again from it, and ∂u takes its place. As separate ops, candle would keep s too, and would copy the gradients of both
//! onto tensors of zeros.

use std::sync::Mutex;

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use crate::gradients::accumulate;
use crate::matrix::{Matrix, Threads, product, product_into, transposed};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, is_of_rows};
use crate::rows::new_rows;
use crate::swiglu::{gated, swiglu, ungated};

const NAME: &str = "feed_forward";

/// Rows that one thread goes on with.
const ROWS: usize = 16;

/// `swiglu(x Uᵀ) Dᵀ`: from `x [..., d]`, `up [2 n, d]` (the gate's rows first) and `down [o, n]` to `[..., o]`.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::randn(0f64, 1.0, (3, 4), &Device::Cpu)?;
/// let up = Tensor::randn(0f64, 1.0, (10, 4), &Device::Cpu)?;
/// let down = Tensor::randn(0f64, 1.0, (4, 5), &Device::Cpu)?;
/// let y = fadam_ops::feed_forward(&x, &up, &down)?;
/// let hidden = fadam_ops::swiglu(&fadam_ops::linear(&x, &up, None)?)?;
/// let off = (y - fadam_ops::linear(&hidden, &down, None)?)?.abs()?.sum_all()?.to_scalar::<f64>()?;
/// assert!(off < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit, or dtypes or devices differ. A second backward pass through the same result is refused.
pub fn feed_forward(x: &Tensor, up: &Tensor, down: &Tensor) -> Result<Tensor> {
    is_of_rows(NAME, x, up)?;
    let (wide, n) = (up.dim(0)?, down.dims2()?.1);
    if wide != 2 * n || n == 0 {
        bail!(
            "{NAME}: up {:?} and down {:?}; up must have twice as many rows as down has columns",
            up.dims(),
            down.dims()
        );
    }
    match Route::of(NAME, &[x, up, down])? {
        Route::Single => fused::<f32>(x, up, down),
        Route::Double => fused::<f64>(x, up, down),
        Route::Widened(wide) => {
            let [x32, up, down] = [x.to_dtype(wide)?, up.to_dtype(wide)?, down.to_dtype(wide)?];
            feed_forward(&x32, &up, &down)?.to_dtype(x.dtype())
        }
        Route::Composed => crate::linear(&swiglu(&crate::linear(x, up, None)?)?, down, None),
    }
}

fn fused<T: Number>(x: &Tensor, up: &Tensor, down: &Tensor) -> Result<Tensor> {
    let (wide, d) = up.dims2()?;
    let (o, n) = down.dims2()?;
    let (u, y) = read([x, up, down], |[x, up, down]: [&[T]; 3]| {
        let rows = x.len() / d;
        let up = transposed(up, wide, d);
        let u = product(Matrix::new(x, rows, d), Matrix::new(&up, d, wide), T::one(), Threads::All);
        let s = new_rows(rows * n, n, |first, s| gated(s, &u[first * wide..], n));
        let down = transposed(down, o, n);
        let y = product(Matrix::new(&s, rows, n), Matrix::new(&down, n, o), T::one(), Threads::All);
        (u, y)
    })?;
    let mut shape = x.dims().to_vec();
    shape[x.rank() - 1] = o;
    node(NAME, [x, up, down], (y, shape.into()), FeedForward { u: Mutex::new(Some(u)) })
}

struct FeedForward<T> {
    u: Mutex<Option<Vec<T>>>,
}

impl<T: Number> Backward<3> for FeedForward<T> {
    fn backward(
        &self,
        [x, up, down]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let u = self.u.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(mut u) = u else {
            bail!("{NAME}: a second backward pass; compute the result again")
        };
        let (o, n) = down.dims2()?;
        let (d, wide) = (x.dim(D::Minus1)?, 2 * n);
        let rows = x.elem_count() / d;
        let mut s = read([down, g], |[down, g]: [&[T]; 2]| {
            product(Matrix::new(g, rows, o), Matrix::new(down, o, n), T::one(), Threads::All)
        })?;
        // ∂s becomes s, and u becomes ∂u.
        let parts = u.par_chunks_mut(ROWS * wide).zip(s.par_chunks_mut(ROWS * n));
        parts.for_each(|(u, s)| ungated(u, s, n));
        let d_down = tracked(down, || {
            read([g], |[g]: [&[T]; 1]| {
                let (g, s) = (Matrix::new(g, rows, o), Matrix::new(&s, rows, n));
                accumulate(down, |sum, into| {
                    product_into(g.t(), s, T::one(), sum, n, into, Threads::All);
                })
            })?
        })?;
        drop(s);
        let du = Matrix::new(&u, rows, wide);
        let d_up = tracked(up, || {
            read([x], |[x]: [&[T]; 1]| {
                let x = Matrix::new(x, rows, d);
                accumulate(up, |sum, into| {
                    product_into(du.t(), x, T::one(), sum, d, into, Threads::All);
                })
            })?
        })?;
        let dx = tracked(x, || {
            let dx = read([up], |[up]: [&[T]; 1]| {
                product(du, Matrix::new(up, wide, d), T::one(), Threads::All)
            })?;
            Ok(Some(constant(dx, x.shape())?))
        })?;
        Ok([dx, d_up, d_down])
    }
}

/// The gradient of an argument that has one.
fn tracked(
    argument: &Tensor,
    gradient: impl FnOnce() -> Result<Option<Tensor>>,
) -> Result<Option<Tensor>> {
    if argument.track_op() { gradient() } else { Ok(None) }
}
