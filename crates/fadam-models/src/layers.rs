//! Affine maps and layer norms, the parts of several networks.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use fadam_ops::Activation;

/// ε of all norms, as PyTorch's.
pub(crate) const EPS: f64 = 1e-5;

/// U(±1/√fan in), what PyTorch draws weights and biases of its layers from.
pub(crate) fn uniform(fan_in: usize) -> Init {
    let bound = (fan_in as f64).sqrt().recip();
    Init::Uniform { lo: -bound, up: bound }
}

/// `x Wᵀ + b`
#[derive(Debug, Clone)]
pub(crate) struct Affine {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Affine {
    /// `weight [out, fan_in]` and `bias [out]`.
    pub(crate) fn new(out: usize, fan_in: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints((out, fan_in), "weight", uniform(fan_in))?,
            bias: vb.get_with_hints(out, "bias", uniform(fan_in))?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        fadam_ops::linear(x, &self.weight, Some(&self.bias))
    }

    /// `φ(x Wᵀ + b)`
    pub(crate) fn activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        fadam_ops::linear_activation(x, &self.weight, &self.bias, activation)
    }
}

/// A norm's `weight [d]` and `bias [d]`.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Norm {
    pub(crate) fn new(d: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(d, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(d, "bias", Init::Const(0.0))?,
        })
    }

    /// Layer norm, over the last dimension.
    pub(crate) fn layer(&self, x: &Tensor) -> Result<Tensor> {
        fadam_ops::layer_norm(x, &self.weight, &self.bias, EPS)
    }
}
