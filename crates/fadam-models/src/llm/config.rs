//! The dimensions of a decoder, checked.

use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// The dimensions and choices of a [`Palm`](super::Palm) decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PalmConfig {
    /// L, the number of blocks.
    pub layers: usize,
    /// d, the width of the residual stream.
    pub d_model: usize,
    /// h, the number of query heads of width d / h; keys and values have one head.
    pub heads: usize,
    /// The inner width of the feed-forward.
    pub d_ff: usize,
    /// T, the longest sequence.
    pub seq_len: usize,
    /// ε of the RMS norms.
    pub norm_eps: f64,
    /// The base of the rotary embedding's wavelengths.
    pub rope_base: f64,
    /// How weights begin.
    pub init: Init,
    /// Whether logits are multiplied by 1/√d, which unit-variance embeddings need.
    pub logit_scale: bool,
    /// Weight of the z-loss `mean log² Z`, which keeps logits from drifting; 0 for none.
    pub z_loss: f64,
    /// What everything but parameters, gradients of parameters and the loss is computed in.
    pub compute: Compute,
    /// Whether blocks are computed again in the backward pass: one block's activations are there at a time, for one forward
    /// pass more. The same bits.
    pub checkpoint: bool,
}

/// What a decoder computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compute {
    /// What the parameters are: f32.
    Parameters,
    /// bf16, with the f32 parameters converted at each use: for GPUs. The CPU computes in f32 and rounds.
    Bf16,
}

/// How weights begin; norm scales begin at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// Matrices N(0, 1/√fan in), embeddings N(0, 1): the T5 and PaLM convention.
    FanIn,
    /// Every matrix N(0, 0.02), embeddings included: the GPT-2 convention.
    Normal002,
}

impl Default for PalmConfig {
    /// The two-core model of `configs/llm/tiny.toml`.
    fn default() -> Self {
        Self {
            layers: 2,
            d_model: 128,
            heads: 2,
            d_ff: 512,
            seq_len: 128,
            norm_eps: 1e-6,
            rope_base: 10_000.0,
            init: Init::FanIn,
            logit_scale: true,
            z_loss: 1e-4,
            compute: Compute::Parameters,
            checkpoint: false,
        }
    }
}

impl PalmConfig {
    /// Checks that a model of these dimensions exists.
    ///
    /// # Errors
    /// Names the first field that is impossible.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |field, message: String| Err(ConfigError { field, message });
        for (field, value) in [
            ("layers", self.layers),
            ("d_model", self.d_model),
            ("heads", self.heads),
            ("d_ff", self.d_ff),
            ("seq_len", self.seq_len),
        ] {
            ConfigError::dimension(field, value)?;
        }
        if !self.d_model.is_multiple_of(2 * self.heads) {
            let (d, h) = (self.d_model, self.heads);
            let message = format!("must divide d_model = {d} into heads of even width, got {h}");
            return fail("heads", message);
        }
        ConfigError::table("seq_len", self.seq_len, self.d_head())?;
        for (field, value) in [("norm_eps", self.norm_eps), ("rope_base", self.rope_base)] {
            if !(value.is_finite() && value > 0.0) {
                return fail(field, format!("must be a finite number above 0, got {value}"));
            }
        }
        if !(self.z_loss.is_finite() && self.z_loss >= 0.0) {
            return fail(
                "z_loss",
                format!("must be a finite number, 0 or more, got {}", self.z_loss),
            );
        }
        Ok(())
    }

    /// The width of a head, d / h.
    pub fn d_head(&self) -> usize {
        self.d_model / self.heads
    }

    /// The number of parameters with a vocabulary of `vocab` tokens (embedding tied).
    pub fn num_params(&self, vocab: usize) -> usize {
        let (d, ff) = (self.d_model, self.d_ff);
        let block = d + (d + 2 * self.d_head()) * d + d * d + 2 * ff * d + d * ff;
        vocab * d + self.layers * block + d
    }
}
