//! The few functions that the paper's algorithms are written in, on candle tensors.

use candle_core::{D, DType, Device, Tensor};

use crate::Result;

/// The dtype that a step is computed in, whatever its state and parameters are stored in: f64, so
/// that `(θ/ε̂)²` cannot overflow, and f32 on Metal, which has no f64.
pub(crate) fn compute_dtype(device: &Device) -> DType {
    if device.is_metal() { DType::F32 } else { DType::F64 }
}

/// The value of a 0-d tensor.
pub(crate) fn scalar(x: &Tensor) -> Result<f64> {
    Ok(x.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}

/// `RMS(x) = √(mean x²)` over the whole tensor, scaled by `max |x|` so that squares neither overflow
/// nor vanish; 0 for a tensor without elements.
pub(crate) fn rms(x: &Tensor) -> Result<f64> {
    if x.elem_count() == 0 {
        return Ok(0.0);
    }
    let largest = scalar(&x.abs()?.flatten_all()?.max(D::Minus1)?)?;
    if largest == 0.0 || !largest.is_finite() {
        return Ok(largest);
    }
    // Divided, not multiplied by the inverse, which overflows for a subnormal `largest`.
    let scale = Tensor::full(largest, (), x.device())?.to_dtype(x.dtype())?;
    let scaled = x.broadcast_div(&scale)?;
    Ok(largest * scalar(&scaled.sqr()?.mean_all()?)?.sqrt())
}

/// `a / b`, with `x / 0 := 0`: on an all-zero gradient the natural gradient is 0, not NaN.
pub(crate) fn ratio(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(b.eq(0.0)?.where_cond(&a.zeros_like()?, &(a / b)?)?)
}

/// `x / max(1, RMS(x)/c)`, so that no step's RMS is above `c` (`None` leaves x as it is), and RMS(x).
pub(crate) fn clip_rms(x: Tensor, c: Option<f64>) -> Result<(Tensor, f64)> {
    let rms = rms(&x)?;
    let factor = c.map_or(1.0, |c| (rms / c).max(1.0));
    Ok((if factor == 1.0 { x } else { (x / factor)? }, rms))
}

/// The exponential moving average `β·old + (1 − β)·new`.
pub(crate) fn ema(beta: f64, old: &Tensor, new: &Tensor) -> Result<Tensor> {
    Ok(((old * beta)? + (new * (1.0 - beta))?)?)
}

/// `β̂2 = β2 (1 − β2^{t−1}) / (1 − β2^t)`: 0 at t = 1, so the first step ignores f₀.
pub(crate) fn debiased_beta2(beta2: f64, t: u64) -> f64 {
    let t = t as f64;
    beta2 * (1.0 - beta2.powf(t - 1.0)) / (1.0 - beta2.powf(t))
}

/// `f^ρ`, with ρ = ½ and ρ = 1 as their own, exact and faster, cases.
pub(crate) fn power(f: &Tensor, rho: f64) -> Result<Tensor> {
    Ok(if rho == 0.5 {
        f.sqrt()?
    } else if rho == 1.0 {
        f.clone()
    } else {
        f.powf(rho)?
    })
}

/// True if no element is NaN or infinite (`0·x` is 0 for every finite x, and NaN otherwise).
pub(crate) fn is_finite(x: &Tensor) -> Result<bool> {
    Ok(x.elem_count() == 0 || scalar(&x.affine(0.0, 0.0)?.sum_all()?)? == 0.0)
}

/// Whether a finite tensor is below 0 somewhere: `|x| − x` is 0 elsewhere, and never less.
pub(crate) fn is_negative(x: &Tensor) -> Result<bool> {
    Ok(x.elem_count() > 0 && scalar(&(x.abs()? - x)?.sum_all()?)? > 0.0)
}
