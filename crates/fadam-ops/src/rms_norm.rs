//! `y = x r w` with `r = 1/√(mean x² + ε)`, over the last dimension (Zhang and Sennrich, arXiv 1910.07467).
//!
//! With g = ∂L/∂y and h = g w: `∂L/∂x = r h − x r³ mean(h x)`, since `∂r/∂x = −r³ x / d`; `∂L/∂w = Σ g x r` over rows.

use candle_core::{D, DType, Result, Tensor};

use crate::gradients::give;
use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, last_dim_is};
use crate::rows::{new_rows, sum_rows};

const NAME: &str = "rms_norm";

/// `x / √(mean x² + ε) · w` over the last dimension of `x [..., d]`, with `w [d]`.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[3f64, 4.0]], &Device::Cpu)?;
/// let w = Tensor::new(&[1f64, 10.0], &Device::Cpu)?;
/// let y = fadam_ops::rms_norm(&x, &w, 0.0)?; // √(mean x²) = √12.5
/// assert!((y.to_vec2::<f64>()?[0][1] - 40.0 / 12.5f64.sqrt()).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If `w` is not of the last dimension's size or of another dtype or device.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    last_dim_is(NAME, x, "w", w)?;
    match Route::of(NAME, &[x, w])? {
        Route::Single => fused::<f32>(x, w, eps),
        Route::Double => fused::<f64>(x, w, eps),
        Route::Widened(wide) => {
            rms_norm(&x.to_dtype(wide)?, &w.to_dtype(wide)?, eps)?.to_dtype(x.dtype())
        }
        Route::Composed => composed(x, w, eps),
    }
}

/// As candle composes it: its `rms_norm_slow` has ε in f32.
fn composed(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = match x.dtype() {
        DType::BF16 | DType::F16 => x.to_dtype(DType::F32)?,
        _ => x.clone(),
    };
    let rms = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    wide.broadcast_div(&rms)?.to_dtype(x.dtype())?.broadcast_mul(w)
}

fn fused<T: Number>(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let d = w.elem_count();
    let y = read([x, w], |[x, w]: [&[T]; 2]| {
        new_rows(x.len(), d, |first, y| {
            for (y, x) in y.chunks_exact_mut(d).zip(x[first * d..].chunks_exact(d)) {
                vectorise(Scale { out: y, x, w, r: inverse_rms(x, eps) });
            }
        })
    })?;
    node(NAME, [x, w], (y, x.shape().clone()), RmsNorm::<T> { eps, of: std::marker::PhantomData })
}

/// r
fn inverse_rms<T: Number>(x: &[T], eps: f64) -> T {
    (T::dot(x, x) / T::of(x.len() as f64) + T::of(eps)).sqrt().recip()
}

struct RmsNorm<T> {
    eps: f64,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<2> for RmsNorm<T> {
    fn backward(
        &self,
        [x, w]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let d = w.elem_count();
        let eps = self.eps;
        let (dx, dw) = read([x, w, g], |[x, w, g]: [&[T]; 3]| {
            let mut dx = vec![T::zero(); x.len()];
            let dw = sum_rows(&mut dx, d, d, |first, dx, dw| {
                let from = first * d..;
                let rows = x[from.clone()].chunks_exact(d).zip(g[from].chunks_exact(d));
                for (dx, (x, g)) in dx.chunks_exact_mut(d).zip(rows) {
                    let r = inverse_rms(x, eps);
                    vectorise(Weighted { out: dx, dw, x, w, g, r });
                    let mean = T::dot(dx, x) / T::of(d as f64);
                    vectorise(Project { dx, x, r, by: r * r * r * mean });
                }
            });
            (dx, dw)
        })?;
        let dw = give(w, dw)?;
        Ok([Some(constant(dx, x.shape())?), dw])
    }
}

/// `out = x r w`
struct Scale<'a, T> {
    out: &'a mut [T],
    x: &'a [T],
    w: &'a [T],
    r: T,
}

impl<T: Number> Vectorised for Scale<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, (x, w)) in self.out.iter_mut().zip(self.x.iter().zip(self.w)) {
            *out = *x * self.r * *w;
        }
    }
}

/// `out = g w`, `dw += g x r`
struct Weighted<'a, T> {
    out: &'a mut [T],
    dw: &'a mut [T],
    x: &'a [T],
    w: &'a [T],
    g: &'a [T],
    r: T,
}

impl<T: Number> Vectorised for Weighted<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { out, dw, x, w, g, r } = self;
        for (((out, dw), x), (w, g)) in out.iter_mut().zip(dw).zip(x).zip(w.iter().zip(g)) {
            *out = *g * *w;
            *dw += *g * (*x * r);
        }
    }
}

/// `dx = r dx − by x`
struct Project<'a, T> {
    dx: &'a mut [T],
    x: &'a [T],
    r: T,
    by: T,
}

impl<T: Number> Vectorised for Project<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (dx, x) in self.dx.iter_mut().zip(self.x) {
            *dx = self.r * *dx - self.by * *x;
        }
    }
}
