//! Affine maps and layer norms, the parts of everything here.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use fadam_ops::Activation;

/// ε of all norms, as PyTorch's.
pub(super) const EPS: f64 = 1e-5;

/// U(±1/√fan in), what PyTorch draws weights and biases of its layers from.
pub(super) fn uniform(fan_in: usize) -> Init {
    let bound = (fan_in as f64).sqrt().recip();
    Init::Uniform { lo: -bound, up: bound }
}

/// `x Wᵀ + b`
#[derive(Debug)]
pub(super) struct Affine {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl Affine {
    /// `weight [out, fan_in]` and `bias [out]`.
    pub(super) fn new(out: usize, fan_in: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints((out, fan_in), "weight", uniform(fan_in))?,
            bias: vb.get_with_hints(out, "bias", uniform(fan_in))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        fadam_ops::linear(x, &self.weight, Some(&self.bias))
    }

    /// `φ(x Wᵀ + b)`
    pub(super) fn activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let x = fadam_ops::linear(x, &self.weight, None)?;
        fadam_ops::bias_activation(&x, &self.bias, activation)
    }
}

/// A norm's `weight [d]` and `bias [d]`.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl Norm {
    pub(super) fn new(d: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(d, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(d, "bias", Init::Const(0.0))?,
        })
    }

    /// Layer norm, over the last dimension.
    pub(super) fn layer(&self, x: &Tensor) -> Result<Tensor> {
        fadam_ops::layer_norm(x, &self.weight, &self.bias, EPS)
    }
}
