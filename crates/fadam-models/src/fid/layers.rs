//! A convolution with the batch norm behind it, as one convolution.
//!
//! With the running mean m and variance v, scale γ and offset β, `γ (w ∗ x − m)/√(v + ε) + β` is the convolution with `w γ/√(v + ε)` and
//! the bias `β − m γ/√(v + ε)`. They are computed in f64, once.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, bail};
use candle_nn::VarBuilder;
use fadam_ops::Conv2d;
use rayon::prelude::*;

use super::planes::{Axis, depthwise_relu6};
use super::reduce::relu6;

/// ε of all batch norms here.
const EPS: f64 = 1e-3;

/// What follows a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    Relu,
    Relu6,
}

/// What lies around an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    /// Zeros on either side, of height and of width.
    Zeros(usize, usize),
    /// TensorFlow's `SAME`.
    Same,
}

/// `[N, H, W, C]` to `[N, H', W', C_out]`.
#[derive(Debug)]
pub(super) struct Conv {
    /// `[C_out, K_h, K_w, C_in]`
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: Padding,
    after: After,
}

impl Conv {
    /// From `weight [C_out, C_in, K_h, K_w]` at `conv` and the norm's parameters at `norm`.
    pub(super) fn new(
        (c_out, c_in): (usize, usize),
        (k_h, k_w): (usize, usize),
        (stride, padding, after): (usize, Padding, After),
        conv: &VarBuilder,
        norm: &VarBuilder,
    ) -> Result<Self> {
        let weight = conv.get((c_out, c_in, k_h, k_w), "weight")?;
        let (weight, bias) = folded(&weight, norm)?;
        let weight = weight.permute((0, 2, 3, 1))?.contiguous()?;
        Ok(Self { weight, bias, stride, padding, after })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, h, w, _) = x.dims4()?;
        let (_, k_h, k_w, _) = self.weight.dims4()?;
        let (x, padding) = match self.padding {
            Padding::Zeros(height, width) => (x.clone(), (height, width)),
            Padding::Same => {
                let rows = Axis::same(h, k_h, self.stride).padding();
                let columns = Axis::same(w, k_w, self.stride).padding();
                if rows.0 == rows.1 && columns.0 == columns.1 {
                    (x.clone(), (rows.0, columns.0))
                } else {
                    let x = x.pad_with_zeros(1, rows.0, rows.1)?;
                    (x.pad_with_zeros(2, columns.0, columns.1)?.contiguous()?, (0, 0))
                }
            }
        };
        let relu = self.after == After::Relu;
        let conv = Conv2d { stride: (self.stride, self.stride), padding, relu };
        let lengths = vec![x.dim(1)?; n];
        let y = fadam_ops::conv2d(&x, &self.weight, &self.bias, &lengths, &conv)?;
        if self.after == After::Relu6 { at_most_six(y) } else { Ok(y) }
    }
}

/// A convolution of each channel for itself, a norm, and relu6; `SAME` padding.
#[derive(Debug)]
pub(super) struct Depthwise {
    /// `[K K, C]`
    weight: Tensor,
    bias: Tensor,
    kernel: usize,
    stride: usize,
}

impl Depthwise {
    /// From `weight [C, 1, K, K]` at `conv` and the norm's parameters at `norm`.
    pub(super) fn new(
        channels: usize,
        (kernel, stride): (usize, usize),
        conv: &VarBuilder,
        norm: &VarBuilder,
    ) -> Result<Self> {
        let weight = conv.get((channels, 1, kernel, kernel), "weight")?;
        let (weight, bias) = folded(&weight, norm)?;
        let weight = weight.reshape((channels, kernel * kernel))?.t()?.contiguous()?;
        Ok(Self { weight, bias, kernel, stride })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        depthwise_relu6(x, &self.weight, &self.bias, (self.kernel, self.stride))
    }
}

/// Weight and bias with the norm in them, f32, outside of any graph.
fn folded(weight: &Tensor, norm: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let channels = weight.dim(0)?;
    let wide = |x: &Tensor| x.to_device(&Device::Cpu)?.detach().to_dtype(DType::F64);
    let get = |name: &str| wide(&norm.get(channels, name)?);
    let (scale, offset) = (get("weight")?, get("bias")?);
    let (mean, variance) = (get("running_mean")?, get("running_var")?);
    let least = variance.min(0)?.to_scalar::<f64>()?;
    if least < 0.0 {
        bail!("{}: a running variance of {least}", norm.prefix());
    }
    let scale = (scale / (variance + EPS)?.sqrt()?)?;
    let bias = (offset - (mean * &scale)?)?;
    let mut each = vec![1; weight.rank()];
    each[0] = channels;
    let weight = wide(weight)?.broadcast_mul(&scale.reshape(each)?)?;
    let device = norm.device();
    let narrow = |x: Tensor| x.to_dtype(DType::F32)?.to_device(device);
    Ok((narrow(weight)?, narrow(bias)?))
}

/// `min(max(y, 0), 6)` of what nobody else has.
fn at_most_six(y: Tensor) -> Result<Tensor> {
    if !y.device().is_cpu() {
        return y.clamp(0f32, 6f32);
    }
    y.inplace_op1(&AtMostSix)?;
    Ok(y)
}

struct AtMostSix;

impl InplaceOp1 for AtMostSix {
    fn name(&self) -> &'static str {
        "relu6"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(y), Some((from, to))) = (storage, layout.contiguous_offsets()) else {
            bail!("relu6: not contiguous numbers in f32");
        };
        let each = |y: &mut [f32]| y.iter_mut().for_each(|y| *y = relu6(*y));
        y[from..to].par_chunks_mut(1 << 14).for_each(each);
        Ok(())
    }
}
