//! The convolution module of a Conformer block: `W₂ silu(norm(depthwise(glu(W₁ norm x))))`.

use candle_core::{Result, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use fadam_ops::Moments;

use super::config::{ConvNorm, TransducerConfig};
use super::pass::Pass;
use crate::layers::{Affine, EPS, Norm, uniform};

/// What a batch's statistics weigh in the running ones, as in PyTorch.
pub const MOMENTUM: f64 = 0.1;

/// Parameters: `norm`, `in.{weight [2 d, d], bias [2 d]}`, `depthwise.weight [d, K]`, `inner.{weight [d], bias [d]}` (with
/// batch norm its statistics `running_mean` and `running_var` beside them), `out.{weight [d, d], bias [d]}`.
#[derive(Debug)]
pub(super) struct Convolution {
    norm: Norm,
    into: Affine,
    depthwise: Tensor,
    inner: Inner,
    out: Affine,
}

/// The norm after the depthwise convolution.
#[derive(Debug)]
enum Inner {
    Batch { norm: Norm, running: Running },
    Layer(Norm),
    Group(Norm, usize),
}

/// Statistics of batches gone by.
#[derive(Debug)]
struct Running {
    mean: Tensor,
    variance: Tensor,
}

impl Convolution {
    pub(super) fn new(config: &TransducerConfig, vb: &VarBuilder) -> Result<Self> {
        let (d, k) = (config.d_model, config.kernel);
        let inner = vb.pp("inner");
        let norm = Norm::new(d, &inner)?;
        Ok(Self {
            norm: Norm::new(d, &vb.pp("norm"))?,
            into: Affine::new(2 * d, d, &vb.pp("in"))?,
            depthwise: vb.pp("depthwise").get_with_hints((d, k), "weight", uniform(k))?,
            inner: match config.conv_norm {
                ConvNorm::Batch => Inner::Batch { norm, running: Running::new(d, &inner)? },
                ConvNorm::Layer => Inner::Layer(norm),
                ConvNorm::Group => Inner::Group(norm, config.groups),
            },
            out: Affine::new(d, d, &vb.pp("out"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, frames: &[usize], pass: &Pass) -> Result<Tensor> {
        let x = fadam_ops::glu(&self.into.forward(&self.norm.layer(x)?)?)?;
        let x = fadam_ops::depthwise_conv1d(&x, &self.depthwise, frames)?;
        let x = self.inner.forward(&x, frames, pass)?.silu()?;
        pass.drop(self.out.forward(&x)?)
    }
}

impl Inner {
    fn forward(&self, x: &Tensor, frames: &[usize], pass: &Pass) -> Result<Tensor> {
        match self {
            Self::Batch { norm, running } if pass.trains() => {
                let (y, moments) = fadam_ops::batch_norm(x, &norm.weight, &norm.bias, frames, EPS)?;
                running.add(&moments)?;
                Ok(y)
            }
            Self::Batch { norm, running: Running { mean, variance } } => {
                let (mean, variance) = (mean.detach(), variance.detach());
                fadam_ops::batch_norm_with(x, &norm.weight, &norm.bias, &mean, &variance, EPS)
            }
            Self::Layer(norm) => norm.layer(x),
            Self::Group(norm, groups) => {
                fadam_ops::group_norm(x, &norm.weight, &norm.bias, *groups, frames, EPS)
            }
        }
    }
}

impl Running {
    fn new(d: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            mean: vb.get_with_hints(d, "running_mean", Init::Const(0.0))?,
            variance: vb.get_with_hints(d, "running_var", Init::Const(1.0))?,
        })
    }

    /// `running ← (1 − 0.1) running + 0.1 batch`, with the variance of n − 1.
    fn add(&self, batch: &Moments) -> Result<()> {
        let unbiased = batch.count as f64 / (batch.count.max(2) - 1) as f64;
        for (running, batch) in
            [(&self.mean, batch.mean.clone()), (&self.variance, (&batch.variance * unbiased)?)]
        {
            if !running.is_variable() {
                candle_core::bail!("batch norm trains, but its running statistics are constants");
            }
            let next = ((running.detach() * (1.0 - MOMENTUM))? + (batch * MOMENTUM)?)?;
            Var::from_tensor(running)?.set(&next)?;
        }
        Ok(())
    }
}
