//! What a network's outputs say of the labels: the two kinds of distribution that section 3.3.1 compares.
//!
//! N examples, J labels of each (the pixels of a picture, or one class), O outputs. Given the outputs, the labels of an
//! example are independent: `log P(y|x) = Σ_j log P(y_j|x)`.

use std::f64::consts::TAU;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::encoding::one_hot;
use candle_nn::ops::{log_softmax, softmax};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, StandardUniform};

/// A conditional distribution P(y|x) with its parameters as outputs of a network. All tensors are f64.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Likelihood {
    /// Each label is one of K levels, a whole number from 0: the outputs `[N, J·K]` are logits. The loss is
    /// cross-entropy.
    Categorical {
        /// K.
        levels: usize,
    },
    /// Each label is normally distributed around its output `[N, J]`. The loss is `(y − μ)² / 2σ²`, L2.
    Gaussian {
        /// σ, the same for all.
        sigma: f64,
    },
}

impl Likelihood {
    /// `−log P(y|x)` of each example, in nats: `[N]` from outputs `[N, O]` and labels `[N, J]`.
    ///
    /// # Errors
    /// If shapes do not fit or a label is no level.
    pub fn nats(self, outputs: &Tensor, labels: &Tensor) -> Result<Tensor> {
        match self {
            Self::Categorical { levels } => {
                let log_p = log_softmax(&grouped(outputs, levels)?, D::Minus1)?;
                let at = labels.to_dtype(DType::U32)?.unsqueeze(2)?;
                log_p.gather(&at, 2)?.squeeze(2)?.sum(1)?.neg()
            }
            Self::Gaussian { sigma } => {
                let constant = labels.dim(1)? as f64 * (sigma * TAU.sqrt()).ln();
                (outputs - labels)?.sqr()?.sum(1)?.affine(0.5 / (sigma * sigma), constant)
            }
        }
    }

    /// e, the gradient of `−log P(y|x)` with respect to the outputs: `p − [y = k]`, or `(μ − y) / σ²`; `[N, O]`.
    ///
    /// # Errors
    /// As of [`nats`](Self::nats).
    pub fn residuals(self, outputs: &Tensor, labels: &Tensor) -> Result<Tensor> {
        match self {
            Self::Categorical { levels } => {
                let p = softmax(&grouped(outputs, levels)?, D::Minus1)?;
                let observed = one_hot(labels.to_dtype(DType::U32)?, levels, 1f64, 0f64)?;
                (p - observed)?.reshape(outputs.shape())
            }
            Self::Gaussian { sigma } => (outputs - labels)? / (sigma * sigma),
        }
    }

    /// Labels `[N, J]` that the model draws, one for each output (or group of K outputs).
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn sample(self, outputs: &Tensor, random: &mut ChaCha8Rng) -> Result<Tensor> {
        match self {
            Self::Categorical { levels } => {
                let p = softmax(&grouped(outputs, levels)?, D::Minus1)?;
                let (n, j, _) = p.dims3()?;
                let p: Vec<f64> = p.flatten_all()?.to_vec1()?;
                let drawn = p.chunks(levels).map(|p| draw(p, StandardUniform.sample(random)));
                Tensor::from_iter(drawn.collect::<Vec<_>>(), &Device::Cpu)?.reshape((n, j))
            }
            Self::Gaussian { sigma } => {
                let noise = |_| -> f64 { StandardNormal.sample(random) };
                let noise: Vec<f64> = (0..outputs.elem_count()).map(noise).collect();
                outputs + (Tensor::from_vec(noise, outputs.shape(), &Device::Cpu)? * sigma)?
            }
        }
    }

    /// `E_y[e²]` over labels of the model, exactly: `p (1 − p)`, or `1/σ²`; `[N, O]`. (The mean of e is 0.)
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn variances(self, outputs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Categorical { levels } => {
                let p = softmax(&grouped(outputs, levels)?, D::Minus1)?;
                (&p - p.sqr()?)?.reshape(outputs.shape())
            }
            Self::Gaussian { sigma } => outputs.ones_like()? / (sigma * sigma),
        }
    }

    /// `E_y[(W e)²]` over labels of the model, exactly, `[N, H]` for W `[H, O]`: since labels are independent, the sum
    /// over them of `Σ_k p_k w_hk² − (Σ_k p_k w_hk)²`, or `Σ_o w_ho² / σ²`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn variances_through(self, outputs: &Tensor, w: &Tensor) -> Result<Tensor> {
        let n = outputs.dim(0)?;
        match self {
            Self::Categorical { levels } => {
                let p = softmax(&grouped(outputs, levels)?, D::Minus1)?.reshape(outputs.shape())?;
                let mut sum = p.matmul(&w.sqr()?.t()?)?;
                for at in (0..outputs.dim(1)?).step_by(levels) {
                    let part = |x: &Tensor| x.narrow(1, at, levels)?.contiguous();
                    sum = (sum - part(&p)?.matmul(&part(w)?.t()?)?.sqr()?)?;
                }
                Ok(sum)
            }
            Self::Gaussian { sigma } => {
                let each = (w.sqr()?.sum(1)? / (sigma * sigma))?;
                each.unsqueeze(0)?.broadcast_as((n, w.dim(0)?))?.contiguous()
            }
        }
    }
}

/// `[N, J·K]` as `[N, J, K]`.
fn grouped(outputs: &Tensor, levels: usize) -> Result<Tensor> {
    let (n, o) = outputs.dims2()?;
    outputs.reshape((n, o / levels, levels))
}

/// The level in whose share of 0..1 the number `at` lies.
fn draw(p: &[f64], at: f64) -> f64 {
    let mut left = at;
    for (k, p) in p.iter().enumerate() {
        if left < *p {
            return k as f64;
        }
        left -= p;
    }
    (p.len() - 1) as f64 // what rounding leaves of 1
}
