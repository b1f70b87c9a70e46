//! Relative positions: what [`self_attention`](crate::self_attention()) is given, and the fixed table it is made from.

use candle_core::{DType, Device, Result, Tensor, bail};

const NAME: &str = "sinusoidal_positions";

/// The relative positions of Transformer-XL (Dai et al., arXiv 1901.02860), as Conformers have them.
#[derive(Debug, Clone, Copy)]
pub struct RelativePositions<'a> {
    /// `[2 T − 1, h d]`: row m is the projected position of the offset i − j = T − 1 − m of query i from key j. See
    /// [`sinusoidal_positions`].
    pub r: &'a Tensor,
    /// `[2, h, d]`: the biases u and v.
    pub uv: &'a Tensor,
}

/// Offsets of t positions from each other.
pub(super) fn offsets(t: usize) -> usize {
    (2 * t).saturating_sub(1)
}

/// The fixed positions that are projected by a linear layer to make [`RelativePositions::r`], `[2 t − 1, d]`: row m, of the
/// offset p = t − 1 − m, is `sin(p ω₀), cos(p ω₀), sin(p ω₁), …` with `ωᵢ = 10000^(−2i/d)` (Vaswani et al., arXiv 1706.03762).
///
/// ```
/// use candle_core::{DType, Device};
///
/// let x = fadam_ops::sinusoidal_positions(2, 2, DType::F64, &Device::Cpu)?; // offsets 1, 0, −1
/// let (sin, cos) = 1f64.sin_cos();
/// assert_eq!(x.to_vec2::<f64>()?, [[sin, cos], [0.0, 1.0], [-sin, cos]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If `d` is odd, or the dtype is not a float.
pub fn sinusoidal_positions(t: usize, d: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    if !d.is_multiple_of(2) {
        bail!("{NAME}: a width of {d}, which is odd, has no pairs of sine and cosine");
    }
    if !dtype.is_float() {
        bail!("{NAME}: {dtype:?} is not a float");
    }
    let number = |e: usize| {
        let (offset, i) = (t as f64 - 1.0 - (e / d) as f64, e % d / 2);
        let angle = offset * 10_000f64.powf(-2.0 * i as f64 / d as f64);
        if e.is_multiple_of(2) { angle.sin() } else { angle.cos() }
    };
    let numbers: Vec<f64> = (0..offsets(t) * d).map(number).collect();
    Tensor::from_vec(numbers, (offsets(t), d), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}
