//! `y = n w + b` with `n = (x − mean x) r` and `r = 1/√(var x + ε)`, over the last dimension (Ba et al., arXiv 1607.06450;
//! the variance is that of the d numbers themselves, divided by d).
//!
//! With g = ∂L/∂y and h = g w: `∂L/∂x = r (h − mean h − n mean(h n))`, `∂L/∂w = Σ g n` and `∂L/∂b = Σ g` over rows.

use candle_core::{D, Result, Tensor};

use crate::gradients::give;
use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, last_dim_is};
use crate::rows::{new_rows, sum_rows};

const NAME: &str = "layer_norm";

/// `(x − mean x) / √(var x + ε) · w + b` over the last dimension of `x [..., d]`, with `w [d]` and `b [d]`.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[1f64, 3.0]], &Device::Cpu)?; // mean 2, variance 1
/// let w = Tensor::new(&[1f64, 10.0], &Device::Cpu)?;
/// let b = Tensor::new(&[0f64, 100.0], &Device::Cpu)?;
/// assert_eq!(fadam_ops::layer_norm(&x, &w, &b, 0.0)?.to_vec2::<f64>()?, [[-1.0, 110.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If `w` or `b` is not of the last dimension's size, or of another dtype or device.
pub fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
    last_dim_is(NAME, x, "w", w)?;
    last_dim_is(NAME, x, "b", b)?;
    match Route::of(NAME, &[x, w, b])? {
        Route::Single => fused::<f32>(x, w, b, eps),
        Route::Double => fused::<f64>(x, w, b, eps),
        Route::Widened(wide) => {
            let [wide_x, w, b] = [x.to_dtype(wide)?, w.to_dtype(wide)?, b.to_dtype(wide)?];
            layer_norm(&wide_x, &w, &b, eps)?.to_dtype(x.dtype())
        }
        Route::Composed => composed(x, w, b, eps),
    }
}

/// As candle composes it.
fn composed(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(w)?.broadcast_add(b)
}

fn fused<T: Number>(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
    let d = w.elem_count();
    let y = read([x, w, b], |[x, w, b]: [&[T]; 3]| {
        new_rows(x.len(), d, |first, y| {
            for (y, x) in y.chunks_exact_mut(d).zip(x[first * d..].chunks_exact(d)) {
                normalise(x, eps, y);
                vectorise(Affine { y, w, b });
            }
        })
    })?;
    let backward = LayerNorm::<T> { eps, of: std::marker::PhantomData };
    node(NAME, [x, w, b], (y, x.shape().clone()), backward)
}

/// n into `out`; returns r. The mean is taken away before squares are summed.
fn normalise<T: Number>(x: &[T], eps: f64, out: &mut [T]) -> T {
    let d = T::of(x.len() as f64);
    let mean = T::total(x) / d;
    vectorise(Centre { out, x, mean });
    let r = (T::dot(out, out) / d + T::of(eps)).sqrt().recip();
    vectorise(Scale { out, by: r });
    r
}

struct LayerNorm<T> {
    eps: f64,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<3> for LayerNorm<T> {
    fn backward(
        &self,
        [x, w, b]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let d = w.elem_count();
        let (dx, sums) = read([x, w, g], |[x, w, g]: [&[T]; 3]| {
            let mut dx = vec![T::zero(); x.len()];
            let sums = sum_rows(&mut dx, d, 2 * d, |first, dx, sums| {
                let (dw, db) = sums.split_at_mut(d);
                let mut n = vec![T::zero(); d];
                let from = first * d..;
                let rows = x[from.clone()].chunks_exact(d).zip(g[from].chunks_exact(d));
                for (dx, (x, g)) in dx.chunks_exact_mut(d).zip(rows) {
                    let r = normalise(x, self.eps, &mut n);
                    vectorise(Weighted { h: dx, dw, db, n: &n, w, g });
                    let count = T::of(d as f64);
                    let (mean, along) = (T::total(dx) / count, T::dot(dx, &n) / count);
                    vectorise(Project { h: dx, n: &n, r, mean, along });
                }
            });
            (dx, sums)
        })?;
        let (dw, db) = sums.split_at(d);
        Ok([Some(constant(dx, x.shape())?), give(w, dw.to_vec())?, give(b, db.to_vec())?])
    }
}

/// `out = x − mean`
struct Centre<'a, T> {
    out: &'a mut [T],
    x: &'a [T],
    mean: T,
}

impl<T: Number> Vectorised for Centre<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.out.iter_mut().zip(self.x).for_each(|(out, x)| *out = *x - self.mean);
    }
}

/// `out = by out`
struct Scale<'a, T> {
    out: &'a mut [T],
    by: T,
}

impl<T: Number> Vectorised for Scale<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.out.iter_mut().for_each(|out| *out *= self.by);
    }
}

/// `y = y w + b`
struct Affine<'a, T> {
    y: &'a mut [T],
    w: &'a [T],
    b: &'a [T],
}

impl<T: Number> Vectorised for Affine<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (y, (w, b)) in self.y.iter_mut().zip(self.w.iter().zip(self.b)) {
            *y = *y * *w + *b;
        }
    }
}

/// `h = g w`, `dw += g n`, `db += g`
struct Weighted<'a, T> {
    h: &'a mut [T],
    dw: &'a mut [T],
    db: &'a mut [T],
    n: &'a [T],
    w: &'a [T],
    g: &'a [T],
}

impl<T: Number> Vectorised for Weighted<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { h, dw, db, n, w, g } = self;
        for (((h, dw), db), (n, (w, g))) in
            h.iter_mut().zip(dw).zip(db).zip(n.iter().zip(w.iter().zip(g)))
        {
            *h = *g * *w;
            *dw += *g * *n;
            *db += *g;
        }
    }
}

/// `h = r (h − mean − n along)`
struct Project<'a, T> {
    h: &'a mut [T],
    n: &'a [T],
    r: T,
    mean: T,
    along: T,
}

impl<T: Number> Vectorised for Project<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (h, n) in self.h.iter_mut().zip(self.n) {
            *h = self.r * (*h - self.mean - *n * self.along);
        }
    }
}
