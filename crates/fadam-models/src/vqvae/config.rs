//! The dimensions of a VQ-VAE, checked.

use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// Red, green and blue.
pub(super) const CHANNELS: usize = 3;

/// Values of a channel of a pixel.
pub(super) const VALUES: usize = 256;

/// The dimensions and choices of a [`VqVae`](super::VqVae).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqVaeConfig {
    /// Height and width of an image, in pixels.
    pub image: usize,
    /// Height and width of a patch, in pixels; divides the image's.
    pub patch: usize,
    /// The transformer from patches to what is quantised.
    pub encoder: TowerConfig,
    /// The transformer from codes to patches.
    pub decoder: TowerConfig,
    /// Whether a layer norm ends each transformer, as in a pre-norm ViT.
    pub final_norm: bool,
    /// K, the codes.
    pub codes: usize,
    /// w, the width of a code.
    pub code_width: usize,
    /// β, the weight of the commitment loss.
    pub beta: f64,
    /// Whether training sends the commitment loss past the Fisher information (section 3.4.3 of the paper) instead of adding it to the loss.
    /// The codebook loss stays in the loss: the codes have no other gradient, and so no other Fisher information.
    pub bypass_fim: bool,
    /// Steps after which a code that no patch has had begins anew as what a patch of the batch was encoded to; 0 for never.
    pub restart: u32,
    /// What reconstructions are judged by.
    pub loss: ReconstructionLoss,
    /// Weight of the squared error in `loss = "l2+logit-laplace"`.
    pub l2_weight: f64,
    /// Weight of the negative log-likelihood in `loss = "l2+logit-laplace"`.
    pub logit_laplace_weight: f64,
    /// Whether blocks are computed again in the backward pass: one block's activations are there at a time, for one forward pass
    /// more. The same bits.
    pub checkpoint: bool,
}

/// The dimensions of a transformer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TowerConfig {
    /// L, blocks.
    pub layers: usize,
    /// d, the width.
    pub d_model: usize,
    /// h, attention heads of width d / h.
    pub heads: usize,
    /// The inner width of each feed-forward.
    pub mlp: usize,
}

/// What reconstructions are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReconstructionLoss {
    /// The cross-entropy over the 256 values of each channel of each pixel, in nats.
    #[serde(rename = "cross-entropy")]
    CrossEntropy,
    /// The squared error of channels from −1 to 1.
    #[serde(rename = "l2")]
    L2,
    /// That and the negative log-likelihood of a logit-Laplace distribution, each with its weight.
    #[serde(rename = "l2+logit-laplace")]
    L2LogitLaplace,
}

impl Default for TowerConfig {
    /// Of [`VqVaeConfig::tiny`].
    fn default() -> Self {
        Self::new(2, 128, 4)
    }
}

impl TowerConfig {
    /// Blocks, width, heads, and a feed-forward four times as wide.
    pub fn new(layers: usize, d_model: usize, heads: usize) -> Self {
        Self { layers, d_model, heads, mlp: 4 * d_model }
    }

    fn check(&self, fields: [&'static str; 4]) -> Result<(), ConfigError> {
        let Self { layers, d_model: d, heads, mlp } = *self;
        for (field, value) in fields.into_iter().zip([layers, d, heads, mlp]) {
            ConfigError::dimension(field, value)?;
        }
        let message =
            || format!("must be a multiple of 4, for positions in two dimensions, got {d}");
        ConfigError::require(fields[1], d.is_multiple_of(4), message)?;
        let message = || format!("must divide d_model = {d}, got {heads}");
        ConfigError::require(fields[2], d.is_multiple_of(heads), message)
    }

    /// Of one block: two norms, q, k, v without biases, out, up and down.
    fn params_of_block(&self) -> usize {
        let (d, mlp) = (self.d_model, self.mlp);
        4 * d + 3 * d * d + affine(d, d) + affine(mlp, d) + affine(d, mlp)
    }

    fn params(&self, final_norm: bool) -> usize {
        self.layers * self.params_of_block() + if final_norm { 2 * self.d_model } else { 0 }
    }
}

/// Parameters of a map with a bias.
fn affine(out: usize, inner: usize) -> usize {
    out * inner + out
}

impl Default for VqVaeConfig {
    /// [`tiny`](Self::tiny).
    fn default() -> Self {
        Self::tiny()
    }
}

impl VqVaeConfig {
    /// For two cores and images of 32 × 32: 64 patches of 4 × 4, twice two blocks of width 128, 512 codes; 2.41 M parameters with
    /// cross-entropy.
    pub fn tiny() -> Self {
        Self {
            image: 32,
            patch: 4,
            encoder: TowerConfig::default(),
            decoder: TowerConfig::default(),
            final_norm: true,
            codes: 512,
            code_width: 32,
            beta: 0.25,
            bypass_fim: false,
            restart: 0,
            loss: ReconstructionLoss::CrossEntropy,
            l2_weight: 1.0,
            logit_laplace_weight: 0.1,
            checkpoint: false,
        }
    }

    /// For images of 64 × 64: 64 patches of 8 × 8, twice four blocks of width 256, 1,024 codes; 19.04 M parameters with cross-entropy,
    /// 6.46 M with squared errors.
    pub fn small() -> Self {
        Self {
            image: 64,
            patch: 8,
            encoder: TowerConfig::new(4, 256, 4),
            decoder: TowerConfig::new(4, 256, 4),
            codes: 1024,
            ..Self::tiny()
        }
    }

    /// About the paper's 100 M for images of 256 × 256: 1,024 patches of 8 × 8, the Small encoder and Base decoder of ViT-VQGAN, 8,192
    /// codes; 110.8 M parameters with squared errors, and 37.7 M more in the last layer with cross-entropy.
    pub fn paper_100m() -> Self {
        Self {
            image: 256,
            patch: 8,
            encoder: TowerConfig::new(8, 512, 8),
            decoder: TowerConfig::new(12, 768, 12),
            codes: 8192,
            ..Self::tiny()
        }
    }

    /// Checks that a model of these dimensions exists.
    ///
    /// # Errors
    /// Names the first field that is impossible.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (field, value) in
            [("image", self.image), ("patch", self.patch), ("code_width", self.code_width)]
        {
            ConfigError::dimension(field, value)?;
        }
        let (image, patch) = (self.image, self.patch);
        let message = || format!("must divide image = {image}, got {patch}");
        ConfigError::require("patch", image.is_multiple_of(patch), message)?;
        let fields = ["encoder.layers", "encoder.d_model", "encoder.heads", "encoder.mlp"];
        self.encoder.check(fields)?;
        let fields = ["decoder.layers", "decoder.d_model", "decoder.heads", "decoder.mlp"];
        self.decoder.check(fields)?;
        let width = self.encoder.d_model.max(self.decoder.d_model);
        ConfigError::table("patch", self.tokens(), width)?;
        let message = || format!("must be at least 2 and less than 2^32, got {}", self.codes);
        let named = self.codes >= 2 && u32::try_from(self.codes).is_ok();
        ConfigError::require("codes", named, message)?;
        for (field, value) in [
            ("beta", self.beta),
            ("l2_weight", self.l2_weight),
            ("logit_laplace_weight", self.logit_laplace_weight),
        ] {
            let message = || format!("must be a finite number, 0 or more, got {value}");
            ConfigError::require(field, value.is_finite() && value >= 0.0, message)?;
        }
        let message =
            || "must not be 0 where logit_laplace_weight is: nothing would be learned".to_owned();
        let learns = self.loss != ReconstructionLoss::L2LogitLaplace
            || self.l2_weight + self.logit_laplace_weight > 0.0;
        ConfigError::require("l2_weight", learns, message)
    }

    /// Patches of an image, along one of its sides.
    pub fn grid(&self) -> usize {
        self.image / self.patch
    }

    /// T, the patches of an image.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }

    /// P, the numbers of a patch: three channels of each pixel.
    pub fn pixels(&self) -> usize {
        CHANNELS * self.patch * self.patch
    }

    /// What the last layer makes of each number of a patch: 256 logits, one value, or a location and a scale.
    pub(super) fn outputs(&self) -> usize {
        match self.loss {
            ReconstructionLoss::CrossEntropy => VALUES,
            ReconstructionLoss::L2 => 1,
            ReconstructionLoss::L2LogitLaplace => 2,
        }
    }

    /// The number of parameters; positions and the count of steps that codes were not used for are none.
    pub fn num_params(&self) -> usize {
        let (of_encoder, of_decoder) = (self.encoder.d_model, self.decoder.d_model);
        let towers = self.encoder.params(self.final_norm) + self.decoder.params(self.final_norm);
        let around = affine(self.code_width, of_encoder) + affine(of_decoder, self.code_width);
        let quantizer = around + self.codes * self.code_width;
        let pixels = self.pixels();
        affine(of_encoder, pixels)
            + towers
            + quantizer
            + affine(pixels * self.outputs(), of_decoder)
    }
}
