//! The negative log-likelihood of the logit-Laplace distribution, a Laplace distribution of `logit x'` (Ramesh et al., arXiv
//! 2102.12092, appendix A.3).
//!
//! With x in [0, 1], `x' = 0.8 x + 0.1`, `u = ln(x' / (1 − x'))`, a location μ and `s = ln σ`, the density of x' is that of a Laplace
//! variable times `du/dx' = 1 / (x' (1 − x'))`:
//!
//! ```text
//! ℓ = − ln p(x') = |u − μ| e⁻ˢ + s + ln(2 x' (1 − x'))
//! ∂ℓ/∂μ = − sign(u − μ) e⁻ˢ          ∂ℓ/∂s = 1 − |u − μ| e⁻ˢ
//! ```
//!
//! At u = μ the sign is 0. Nothing is kept: the backward pass makes u again.

use candle_core::{D, DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, last_dim};
use crate::rows::new_rows;

const NAME: &str = "logit_laplace";

/// Rows whose losses one thread adds up; parts are added in their order.
const PART: usize = 64;

/// The mean of `|logit x' − μ| / σ + ln σ + ln(2 x' (1 − x'))` with `x' = 0.8 x + 0.1`, in nats a number of x: from `parameters
/// [..., 2 p]`, a row's μ before its ln σ, and `x [..., p]` within 0 and 1.
///
/// It is a density over x'; one over x is larger by 0.8, its negative logarithm smaller by 0.223. x is data: it gets no gradient.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
///
/// // x' = 1/2, whose logit is 0: |0 − 3| e⁰ + 0 + ln(1/2).
/// let parameters = Var::new(&[[3f64, 0.0]], &Device::Cpu)?;
/// let x = Tensor::new(&[[0.5f64]], &Device::Cpu)?;
/// let loss = fadam_ops::logit_laplace(&parameters, &x)?;
/// assert!((loss.to_scalar::<f64>()? - (3.0 + 0.5f64.ln())).abs() < 1e-12);
/// let gradients = loss.backward()?;
/// let g = gradients.get(&parameters).unwrap().to_vec2::<f64>()?;
/// assert!((g[0][0] - 1.0).abs() < 1e-12 && (g[0][1] + 2.0).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit; without a number in x; for a number that is not within 0 and 1, named by its place (on the CPU; on a
/// device it is not looked for).
pub fn logit_laplace(parameters: &Tensor, x: &Tensor) -> Result<Tensor> {
    let width = last_dim(NAME, x)?;
    let mut asked = x.dims().to_vec();
    asked[x.rank() - 1] = 2 * width;
    if parameters.dims() != asked {
        bail!(
            "{NAME}: parameters have shape {:?}, where x {:?} asks for {asked:?}",
            parameters.dims(),
            x.dims()
        );
    }
    if x.elem_count() == 0 {
        bail!("{NAME}: x {:?} is empty, so that there is no mean", x.dims());
    }
    let x = &x.detach();
    match Route::of(NAME, &[parameters, x])? {
        Route::Single => fused::<f32>(parameters, x),
        Route::Double => fused::<f64>(parameters, x),
        Route::Widened(wide) => logit_laplace(&parameters.to_dtype(wide)?, &x.to_dtype(wide)?),
        Route::Composed => composed(parameters, x),
    }
}

/// As candle composes it: in f32 at least, as a loss.
fn composed(parameters: &Tensor, x: &Tensor) -> Result<Tensor> {
    let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let (parameters, x) = (parameters.to_dtype(wide)?, x.to_dtype(wide)?);
    let width = x.dim(D::Minus1)?;
    let mu = parameters.narrow(D::Minus1, 0, width)?;
    let s = parameters.narrow(D::Minus1, width, width)?;
    let inner = x.affine(0.8, 0.1)?;
    let (ln_x, ln_rest) = (inner.log()?, inner.affine(-1.0, 1.0)?.log()?);
    let distance = ((&ln_x - &ln_rest)? - mu)?.abs()?;
    let of_data = ((ln_x + ln_rest)? + std::f64::consts::LN_2)?;
    (((distance * s.neg()?.exp()?)? + s)? + of_data)?.mean_all()
}

fn fused<T: Number>(parameters: &Tensor, x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let total: f64 = read([parameters, x], |[parameters, x]: [&[T]; 2]| {
        if let Some((i, x)) = (0..).zip(x).find(|(_, x)| !(T::zero()..=T::one()).contains(*x)) {
            bail!("{NAME}: x is {x} at place {i}, not within 0 and 1");
        }
        let parts = parameters.par_chunks(2 * PART * width).zip(x.par_chunks(PART * width));
        let parts: Vec<f64> = parts.map(|(parameters, x)| losses(parameters, x, width)).collect();
        Ok(parts.iter().sum())
    })??;
    let value = vec![T::of(total / x.elem_count() as f64)];
    let backward = LogitLaplace { x: x.clone(), of: std::marker::PhantomData::<T> };
    node(NAME, [parameters], (value, ().into()), backward)
}

/// `ln x'` and `ln(1 − x')`
fn logs<T: Number>(x: T) -> (T, T) {
    let inner = T::of(0.8) * x + T::of(0.1);
    (inner.ln(), (T::one() - inner).ln())
}

/// The sum over rows.
fn losses<T: Number>(parameters: &[T], x: &[T], width: usize) -> f64 {
    let mut sum = 0.0;
    for (parameters, x) in parameters.chunks_exact(2 * width).zip(x.chunks_exact(width)) {
        let (mu, s) = parameters.split_at(width);
        for (x, (mu, s)) in x.iter().zip(mu.iter().zip(s)) {
            let (ln_x, ln_rest) = logs(*x);
            let distance = (ln_x - ln_rest - *mu).abs() * (-*s).exponential();
            sum += (distance + *s + (ln_x + ln_rest)).double() + std::f64::consts::LN_2;
        }
    }
    sum
}

struct LogitLaplace<T> {
    x: Tensor,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<1> for LogitLaplace<T> {
    fn backward(
        &self,
        [parameters]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        let width = self.x.dim(D::Minus1)?;
        let by = read([g], |[g]: [&[T]; 1]| g[0].double())? / self.x.elem_count() as f64;
        let gradient = read([parameters, &self.x], |[parameters, x]: [&[T]; 2]| {
            new_rows(parameters.len(), 2 * width, |first, out| {
                let given = parameters[first * 2 * width..].chunks_exact(2 * width);
                let rows = given.zip(x[first * width..].chunks_exact(width));
                for (out, (parameters, x)) in out.chunks_exact_mut(2 * width).zip(rows) {
                    reverse(out, parameters, x, T::of(by));
                }
            })
        })?;
        Ok([Some(constant(gradient, parameters.shape())?)])
    }
}

/// The gradients of a row's μ and ln σ, times `by`.
fn reverse<T: Number>(out: &mut [T], parameters: &[T], x: &[T], by: T) {
    let (d_mu, d_s) = out.split_at_mut(x.len());
    let (mu, s) = parameters.split_at(x.len());
    for (((d_mu, d_s), x), (mu, s)) in d_mu.iter_mut().zip(d_s).zip(x).zip(mu.iter().zip(s)) {
        let (ln_x, ln_rest) = logs(*x);
        let off = ln_x - ln_rest - *mu;
        let inverse = (-*s).exponential();
        let sign = if off == T::zero() { T::zero() } else { off.signum() };
        *d_mu = -sign * inverse * by;
        *d_s = (T::one() - off.abs() * inverse) * by;
    }
}
