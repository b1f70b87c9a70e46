//! The PaLM-style decoder: parallel blocks, multi-query attention, SwiGLU, rotary positions, RMS norm,
//! no biases, tied embedding.
//!
//! Shapes: `B` sequences, `T` tokens, `d` model width, `h` heads of width `dh`, `V` tokens in the
//! vocabulary.
//!
//! Source: Chowdhery et al., PaLM, arXiv 2204.02311, section 2. `qkv`, `out`, `up` and `down` are
//! separate parameters, since clipping and factoring work per tensor and the partition changes the
//! trajectory.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init as Draw, VarBuilder};
use fadam_ops::{Attention, CrossEntropy, Loss, Rope};

use super::config::{Compute, Init, PalmConfig};

/// A decoder. Parameters, with matrices stored `[out, in]`: `emb.weight [V, d]`, `norm.weight [d]`, and
/// for block i `blocks.i.{norm [d], qkv [d + 2 dh, d], out [d, d], up [2 ff, d], down [d, ff]}.weight`.
#[derive(Debug)]
pub struct Palm {
    config: PalmConfig,
    emb: Tensor,
    blocks: Vec<Block>,
    norm: Tensor,
    attention: Attention,
    /// What everything but the parameters, their gradients and the loss is computed in.
    compute: DType,
}

/// Inputs and targets of next-token prediction, both `[B, T]` u32; targets are the inputs one later.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// `[B, T]` u32.
    pub inputs: Tensor,
    /// `[B, T]` u32.
    pub targets: Tensor,
}

/// The parameters of one block, each a matrix `[out, in]` but for the norm's scale.
#[derive(Debug, Clone)]
pub(super) struct Block {
    norm: Tensor,
    pub(super) qkv: Tensor,
    out: Tensor,
    up: Tensor,
    down: Tensor,
}

impl Palm {
    /// Builds the decoder, taking its parameters from `vb`.
    ///
    /// # Errors
    /// If `vb` has not the parameters, or not in these shapes.
    pub fn new(config: &PalmConfig, vocab: usize, vb: &VarBuilder) -> Result<Self> {
        let d = config.d_model;
        let compute = match config.compute {
            Compute::Parameters => vb.dtype(),
            Compute::Bf16 => DType::BF16,
        };
        let embedding = Draw::Randn {
            mean: 0.0,
            stdev: match config.init {
                Init::FanIn => 1.0,
                Init::Normal002 => 0.02,
            },
        };
        let blocks = (0..config.layers)
            .map(|i| Block::new(config, &vb.pp("blocks").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            emb: vb.pp("emb").get_with_hints((vocab, d), "weight", embedding)?,
            blocks,
            norm: norm(config, &vb.pp("norm"))?,
            compute,
            attention: Attention {
                heads: config.heads,
                kv_heads: 1,
                rope: Some(Rope::new(
                    config.seq_len,
                    config.d_head(),
                    config.rope_base,
                    compute,
                    vb.device(),
                )?),
            },
            config: config.clone(),
        })
    }

    /// The dimensions.
    pub fn config(&self) -> &PalmConfig {
        &self.config
    }

    /// Where the model computes.
    pub fn device(&self) -> &Device {
        self.emb.device()
    }

    /// Logits `[B, T, V]` of the token that follows each of `tokens [B, T]` (u32, T ≤ `seq_len`).
    ///
    /// # Errors
    /// If a token is not in the vocabulary or the sequence is too long.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        self.logits(&self.blocks_on(tokens)?)
    }

    /// What the first block reads, `[B, T, d]`.
    pub(super) fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        fadam_ops::embedding(tokens, &self.emb)?.to_dtype(self.compute)
    }

    /// What the last block gives, `[B, T, d]`.
    fn blocks_on(&self, tokens: &Tensor) -> Result<Tensor> {
        let eps = self.config.norm_eps;
        let mut x = self.embed(tokens)?;
        for block in &self.blocks {
            x = if self.config.checkpoint {
                let (block, attention) = (block.clone(), self.attention.clone());
                fadam_ops::checkpoint(&x, move |x| block.forward(x, &attention, eps))?
            } else {
                block.forward(&x, &self.attention, eps)?
            };
        }
        Ok(x)
    }

    /// From the last block's output to what the logits are made of.
    fn hidden(&self, x: &Tensor) -> Result<Tensor> {
        fadam_ops::rms_norm(x, &self.norm.to_dtype(self.compute)?, self.config.norm_eps)
    }

    pub(super) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let emb = self.emb.to_dtype(self.compute)?;
        let logits = fadam_ops::linear(&self.hidden(x)?, &emb, None)?;
        if self.config.logit_scale { logits * self.logit_scale() } else { Ok(logits) }
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    pub(super) fn rope(&self) -> &Rope {
        self.attention.rope.as_ref().expect("made with one")
    }

    fn logit_scale(&self) -> f64 {
        if self.config.logit_scale { (self.config.d_model as f64).sqrt().recip() } else { 1.0 }
    }

    /// The mean losses over all tokens of a batch, to be trained on: `mean(log Z − z_target)` and that plus
    /// `z_loss · mean(log² Z)`. The logits are never there in full.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn losses(&self, tokens: &Tokens) -> Result<Loss> {
        let hidden = self.hidden(&self.blocks_on(&tokens.inputs)?)?;
        self.losses_of(&hidden, &self.emb.to_dtype(self.compute)?, &tokens.targets)
    }

    /// The mean cross-entropy of a batch, 0-d, in nats a token, without a gradient.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn cross_entropy(&self, tokens: &Tokens) -> Result<Tensor> {
        let hidden = self.hidden(&self.blocks_on(&tokens.inputs)?)?.detach();
        let emb = self.emb.detach().to_dtype(self.compute)?;
        Ok(self.losses_of(&hidden, &emb, &tokens.targets)?.cross_entropy)
    }

    fn losses_of(&self, hidden: &Tensor, emb: &Tensor, targets: &Tensor) -> Result<Loss> {
        let options = CrossEntropy {
            z_loss: self.config.z_loss,
            logit_scale: self.logit_scale(),
            ..CrossEntropy::default()
        };
        fadam_ops::linear_cross_entropy(hidden, emb, targets, &options)
    }
}

impl Block {
    fn new(config: &PalmConfig, vb: &VarBuilder) -> Result<Self> {
        let (d, dh, ff) = (config.d_model, config.d_head(), config.d_ff);
        let matrix = |name: &str, out: usize, fan_in: usize| {
            let stdev = match config.init {
                Init::FanIn => (fan_in as f64).sqrt().recip(),
                Init::Normal002 => 0.02,
            };
            let draw = Draw::Randn { mean: 0.0, stdev };
            vb.pp(name).get_with_hints((out, fan_in), "weight", draw)
        };
        Ok(Self {
            norm: norm(config, &vb.pp("norm"))?,
            qkv: matrix("qkv", d + 2 * dh, d)?,
            out: matrix("out", d, d)?,
            up: matrix("up", 2 * ff, d)?,
            down: matrix("down", d, ff)?,
        })
    }

    /// `x + out(attention(norm x)) + down(swiglu(up(norm x)))`, `[B, T, d]`.
    fn forward(&self, x: &Tensor, attention: &Attention, eps: f64) -> Result<Tensor> {
        let block = self.at(x.dtype())?;
        let h = block.normalised(x, eps)?;
        let qkv = fadam_ops::linear(&h, &block.qkv, None)?;
        block.sum(x, &h, &fadam_ops::causal_attention(&qkv, attention)?)
    }

    /// The same parameters in the dtype that is computed in; their gradients go back through the conversion.
    pub(super) fn at(&self, dtype: DType) -> Result<Self> {
        Ok(Self {
            norm: self.norm.to_dtype(dtype)?,
            qkv: self.qkv.to_dtype(dtype)?,
            out: self.out.to_dtype(dtype)?,
            up: self.up.to_dtype(dtype)?,
            down: self.down.to_dtype(dtype)?,
        })
    }

    pub(super) fn normalised(&self, x: &Tensor, eps: f64) -> Result<Tensor> {
        fadam_ops::rms_norm(x, &self.norm, eps)
    }

    /// The residual stream, what attention mixed, and the feed-forward of `h`.
    pub(super) fn sum(&self, x: &Tensor, h: &Tensor, mixed: &Tensor) -> Result<Tensor> {
        let attended = fadam_ops::linear(mixed, &self.out, None)?;
        let fed = fadam_ops::feed_forward(h, &self.up, &self.down)?;
        (x + attended)? + fed
    }
}

/// The scale of an RMS norm.
fn norm(config: &PalmConfig, vb: &VarBuilder) -> Result<Tensor> {
    vb.get_with_hints(config.d_model, "weight", Draw::Const(1.0))
}
