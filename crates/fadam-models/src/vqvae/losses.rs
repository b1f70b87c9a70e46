//! What a reconstruction is judged by, and what pictures are made of the decoder's output.
//!
//! With a channel of a pixel v, 0 to 255, and of the decoder for each of them:
//!
//! ```text
//! cross-entropy     256 logits z          mean (log Σ exp z − z_v)                           picture: argmax z, or Σ v softmax(z)_v
//! l2                a number y            mean (y − (v / 127.5 − 1))²                        picture: 127.5 (y + 1)
//! l2+logit-laplace  μ and ln σ            a mean (2 r − 1 − (v / 127.5 − 1))² + b mean ℓ     picture: 255 r
//! ```
//!
//! with `r = (sigmoid μ − 0.1) / 0.8`, the weights a and b, and ℓ as in [`fadam_ops::logit_laplace`] of v / 255. Pictures are rounded and
//! cut to 0 and 255; the squared error is of r as it is, so that it has a gradient beyond these.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::sigmoid;
use fadam_ops::CrossEntropy;

use super::config::{ReconstructionLoss, VALUES, VqVaeConfig};
use crate::layers::Affine;

/// Logits that are there at once when pictures are made.
const LOGITS: usize = 1 << 24;

/// The loss of reconstructed images. Its parts are 0-d and have no gradient; those that the loss does not have are `None`.
#[derive(Debug, Clone)]
pub struct Reconstruction {
    /// What training descends: 0-d, with a gradient.
    pub objective: Tensor,
    /// In nats a channel of a pixel.
    pub cross_entropy: Option<Tensor>,
    /// The mean squared error, of channels from −1 to 1.
    pub l2: Option<Tensor>,
    /// In nats a channel of a pixel, as a density over 0.1 to 0.9.
    pub logit_laplace: Option<Tensor>,
}

/// The losses of a batch, and what they were computed from.
#[derive(Debug, Clone)]
pub struct VqVaeLosses {
    /// That of the images; it has a gradient of every parameter but the codes.
    pub reconstruction: Reconstruction,
    /// `mean ‖q − sg n‖²` over all numbers of all codes; it has a gradient of the codes alone.
    pub codebook: Tensor,
    /// `mean ‖sg q − n‖²`, the same number, without its weight β; it has a gradient of the encoder and of what is before the codes.
    pub commitment: Tensor,
    /// What the patches were encoded to, `[B, T, w]`; without a gradient.
    pub latents: Tensor,
    /// The code of each patch, u32 `[B, T]`; without a gradient.
    pub indices: Tensor,
    pub(super) beta: f64,
}

impl VqVaeLosses {
    /// `codebook + β commitment`: what is no likelihood, and may be sent past the FIM (the paper's section 3.4.3).
    ///
    /// # Errors
    /// When candle fails.
    pub fn auxiliary(&self) -> Result<Tensor> {
        &self.codebook + (&self.commitment * self.beta)?
    }

    /// The objective of the reconstruction and the auxiliary loss.
    ///
    /// # Errors
    /// When candle fails.
    pub fn total(&self) -> Result<Tensor> {
        &self.reconstruction.objective + self.auxiliary()?
    }
}

/// The last layer. Parameters: `weight [P n, d']` and `bias [P n]`, with n = 256 rows for each number of a patch one after another, n = 1,
/// or n = 2, the rows of all μ before those of all ln σ.
#[derive(Debug)]
pub(super) struct Head {
    out: Affine,
    loss: ReconstructionLoss,
    pixels: usize,
    l2_weight: f64,
    logit_laplace_weight: f64,
}

impl Head {
    pub(super) fn new(config: &VqVaeConfig, vb: &VarBuilder) -> Result<Self> {
        let pixels = config.pixels();
        Ok(Self {
            out: Affine::new(pixels * config.outputs(), config.decoder.d_model, vb)?,
            loss: config.loss,
            pixels,
            l2_weight: config.l2_weight,
            logit_laplace_weight: config.logit_laplace_weight,
        })
    }

    /// Of u8 `patches [B, T, P]` and what the decoder made of their codes, `x [B, T, d']`.
    pub(super) fn loss(&self, x: &Tensor, patches: &Tensor) -> Result<Reconstruction> {
        match self.loss {
            ReconstructionLoss::CrossEntropy => {
                let (targets, plain) = (patches.to_dtype(DType::U32)?, CrossEntropy::default());
                let (w, b) = (&self.out.weight, &self.out.bias);
                let loss = fadam_ops::grouped_linear_cross_entropy(x, w, b, &targets, &plain)?;
                let cross_entropy = Some(loss.cross_entropy);
                let objective = loss.objective;
                Ok(Reconstruction { objective, cross_entropy, l2: None, logit_laplace: None })
            }
            ReconstructionLoss::L2 => {
                let l2 = squared_error(&self.out.forward(x)?, patches)?;
                let detached = Some(l2.detach());
                Ok(Reconstruction {
                    objective: l2,
                    cross_entropy: None,
                    l2: detached,
                    logit_laplace: None,
                })
            }
            ReconstructionLoss::L2LogitLaplace => {
                let parameters = self.out.forward(x)?;
                let l2 = squared_error(&signed(&self.locations(&parameters)?)?, patches)?;
                let data = values(patches, parameters.dtype(), |v| v / 255.0)?;
                let likelihood = fadam_ops::logit_laplace(&parameters, &data)?;
                let objective =
                    ((&l2 * self.l2_weight)? + (&likelihood * self.logit_laplace_weight)?)?;
                Ok(Reconstruction {
                    objective,
                    cross_entropy: None,
                    l2: Some(l2.detach()),
                    logit_laplace: Some(likelihood.detach()),
                })
            }
        }
    }

    /// μ from μ and ln σ.
    fn locations(&self, parameters: &Tensor) -> Result<Tensor> {
        parameters.narrow(D::Minus1, 0, self.pixels)?.contiguous()
    }

    /// u8 patches `[B, T, P]`: by expectation or as the loss has them, and for cross-entropy also the most probable ones.
    pub(super) fn patches(&self, x: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let of_signed = |y: &Tensor| rounded(&y.affine(127.5, 127.5)?);
        match self.loss {
            ReconstructionLoss::CrossEntropy => self.of_classes(x),
            ReconstructionLoss::L2 => Ok((of_signed(&self.out.forward(x)?)?, None)),
            ReconstructionLoss::L2LogitLaplace => {
                let locations = self.locations(&self.out.forward(x)?)?;
                Ok((of_signed(&signed(&locations)?)?, None))
            }
        }
    }

    /// Some rows at a time, so that the logits are never there in full.
    fn of_classes(&self, x: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let (b, t, d) = x.dims3()?;
        let x = x.reshape((b * t, d))?;
        let each: Vec<f32> = (0..VALUES).map(|v| v as f32).collect();
        let each = Tensor::from_vec(each, (VALUES, 1), x.device())?.to_dtype(x.dtype())?;
        let at_once = (LOGITS / (self.pixels * VALUES)).max(1);
        let (mut expected, mut likeliest) = (Vec::new(), Vec::new());
        for first in (0..b * t).step_by(at_once) {
            let rows = at_once.min(b * t - first);
            let logits = self.out.forward(&x.narrow(0, first, rows)?)?;
            let logits = logits.reshape((rows * self.pixels, VALUES))?;
            likeliest.push(logits.argmax(D::Minus1)?.to_dtype(DType::U8)?);
            expected.push(rounded(&fadam_ops::softmax(&logits)?.matmul(&each)?)?);
        }
        let joined = |parts: &[Tensor]| Tensor::cat(parts, 0)?.reshape((b, t, self.pixels));
        Ok((joined(&expected)?, Some(joined(&likeliest)?)))
    }
}

/// `2 r − 1` with `r = (sigmoid μ − 0.1) / 0.8`.
fn signed(locations: &Tensor) -> Result<Tensor> {
    sigmoid(locations)?.affine(2.5, -1.25)
}

/// `mean (y − (v / 127.5 − 1))²` of u8 v.
fn squared_error(y: &Tensor, patches: &Tensor) -> Result<Tensor> {
    (y - to_signed(patches, y.dtype())?)?.sqr()?.mean_all()
}

/// `v / 127.5 − 1` of u8 v.
pub(super) fn to_signed(patches: &Tensor, dtype: DType) -> Result<Tensor> {
    values(patches, dtype, |v| v / 127.5 - 1.0)
}

/// `f(v)` for u8 v, as an f64 rounded once: v times a rounded 1 / 255 could be above 1.
fn values(patches: &Tensor, dtype: DType, f: impl Fn(f64) -> f64) -> Result<Tensor> {
    let table: Vec<f64> = (0..VALUES).map(|v| f(v as f64)).collect();
    let table = Tensor::new(table, &candle_core::Device::Cpu)?.to_dtype(dtype)?;
    let table = table.to_device(patches.device())?;
    // As u32: candle takes the largest number of an index's type, which 255 is of u8, for a place that is to be 0.
    let places = patches.flatten_all()?.to_dtype(DType::U32)?;
    table.index_select(&places, 0)?.reshape(patches.shape())
}

/// Numbers as u8, rounded and cut.
fn rounded(x: &Tensor) -> Result<Tensor> {
    x.round()?.clamp(0f32, 255f32)?.to_dtype(DType::U8)
}
