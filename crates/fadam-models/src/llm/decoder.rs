//! The PaLM-style decoder: parallel blocks, multi-query attention, SwiGLU, rotary positions, RMS norm,
//! no biases, tied embedding.
//!
//! Shapes: `B` sequences, `T` tokens, `d` model width, `h` heads of width `dh`, `V` tokens in the
//! vocabulary.
//!
//! Source: Chowdhery et al., PaLM, arXiv 2204.02311, section 2. `qkv`, `out`, `up` and `down` are
//! separate parameters, since clipping and factoring work per tensor and the partition changes the
//! trajectory.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Init as Draw, Linear, Module, VarBuilder, ops};

use super::config::{Init, PalmConfig};

/// A decoder. Parameters, with matrices stored `[out, in]`: `emb.weight [V, d]`, `norm.weight [d]`, and
/// for block i `blocks.i.{norm [d], qkv [d + 2 dh, d], out [d, d], up [2 ff, d], down [d, ff]}.weight`.
#[derive(Debug)]
pub struct Palm {
    config: PalmConfig,
    emb: Tensor,
    blocks: Vec<Block>,
    norm: RmsNorm,
    positions: Positions,
}

/// Inputs and targets of next-token prediction, both `[B, T]` u32; targets are the inputs one later.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// `[B, T]` u32.
    pub inputs: Tensor,
    /// `[B, T]` u32.
    pub targets: Tensor,
}

/// The mean losses of a batch, 0-d, nats a token.
#[derive(Debug)]
pub struct Losses {
    /// Cross-entropy: log perplexity.
    pub cross_entropy: Tensor,
    /// What training descends: cross-entropy and the weighted z-loss.
    pub objective: Tensor,
}

#[derive(Debug)]
struct Block {
    norm: RmsNorm,
    qkv: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
}

/// `x / √(mean x² + ε) · w` over the last dimension, in differentiable ops.
#[derive(Debug)]
struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

/// What depends on positions alone: never a parameter, never with a gradient.
#[derive(Debug)]
struct Positions {
    /// `[T, dh/2]`
    cos: Tensor,
    /// `[T, dh/2]`
    sin: Tensor,
    /// `[T, T]`: 0 where a query may look, −∞ at later tokens.
    mask: Tensor,
}

impl Palm {
    /// Builds the decoder, taking its parameters from `vb`.
    ///
    /// # Errors
    /// If `vb` has not the parameters, or not in these shapes.
    pub fn new(config: &PalmConfig, vocab: usize, vb: &VarBuilder) -> Result<Self> {
        let d = config.d_model;
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
            norm: RmsNorm::new(config, &vb.pp("norm"))?,
            positions: Positions::new(config, vb.dtype(), vb.device())?,
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
        let (b, t) = tokens.dims2()?;
        let mut x = self.emb.index_select(&tokens.flatten_all()?, 0)?.reshape((b, t, ()))?;
        let positions = self.positions.first(t)?;
        for block in &self.blocks {
            x = block.forward(&x, &positions, &self.config)?;
        }
        let logits = Linear::new(self.emb.clone(), None).forward(&self.norm.forward(&x)?)?;
        if self.config.logit_scale {
            logits / (self.config.d_model as f64).sqrt()
        } else {
            Ok(logits)
        }
    }

    /// The mean losses over all tokens of a batch:
    /// `mean(log Z − z_target)` and that plus `z_loss · mean(log² Z)`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn losses(&self, tokens: &Tokens) -> Result<Losses> {
        let logits = self.forward(&tokens.inputs)?.flatten(0, 1)?; // [B T, V]
        let logits = match logits.dtype() {
            DType::F64 => logits,
            _ => logits.to_dtype(DType::F32)?, // sums over V in half precision would not do
        };
        let log_z = logits.log_sum_exp(D::Minus1)?; // [B T]
        let targets = tokens.targets.flatten_all()?.unsqueeze(1)?;
        let z_target = logits.gather(&targets, 1)?.squeeze(1)?;
        let cross_entropy = (&log_z - z_target)?.mean_all()?;
        let objective = if self.config.z_loss > 0.0 {
            (&cross_entropy + (log_z.sqr()?.mean_all()? * self.config.z_loss)?)?
        } else {
            cross_entropy.clone()
        };
        Ok(Losses { cross_entropy, objective })
    }
}

impl Block {
    fn new(config: &PalmConfig, vb: &VarBuilder) -> Result<Self> {
        let (d, dh, ff) = (config.d_model, config.d_head(), config.d_ff);
        let linear = |name: &str, out: usize, fan_in: usize| {
            let stdev = match config.init {
                Init::FanIn => (fan_in as f64).sqrt().recip(),
                Init::Normal002 => 0.02,
            };
            let draw = Draw::Randn { mean: 0.0, stdev };
            Ok::<_, candle_core::Error>(Linear::new(
                vb.pp(name).get_with_hints((out, fan_in), "weight", draw)?,
                None,
            ))
        };
        Ok(Self {
            norm: RmsNorm::new(config, &vb.pp("norm"))?,
            qkv: linear("qkv", d + 2 * dh, d)?,
            out: linear("out", d, d)?,
            up: linear("up", 2 * ff, d)?,
            down: linear("down", d, ff)?,
        })
    }

    /// `x + out(attention(norm x)) + down(swiglu(up(norm x)))`, `[B, T, d]`.
    fn forward(&self, x: &Tensor, positions: &Positions, config: &PalmConfig) -> Result<Tensor> {
        let h = self.norm.forward(x)?;
        let attended = self.out.forward(&attention(&self.qkv.forward(&h)?, positions, config)?)?;
        let fed = self.down.forward(&swiglu(&self.up.forward(&h)?)?)?;
        (x + attended)? + fed
    }
}

/// Causal multi-query attention from packed `[B, T, h·dh + 2 dh]` (queries, key, value), to `[B, T, d]`.
fn attention(qkv: &Tensor, positions: &Positions, config: &PalmConfig) -> Result<Tensor> {
    let (b, t, _) = qkv.dims3()?;
    let (heads, dh, d) = (config.heads, config.d_head(), config.d_model);
    let split = |start: usize, heads: usize| {
        qkv.narrow(2, start, heads * dh)?.reshape((b, t, heads, dh))?.transpose(1, 2)?.contiguous()
    };
    let q = (positions.rotate(&split(0, heads)?)? / (dh as f64).sqrt())?;
    let k = positions.rotate(&split(d, 1)?)?.squeeze(1)?; // [B, T, dh]
    let v = split(d + dh, 1)?.squeeze(1)?;
    // All heads share one key: they are stacked along the queries, and nothing is copied per head.
    let scores = q.reshape((b, heads * t, dh))?.matmul(&k.t()?)?.reshape((b, heads, t, t))?;
    let weights = ops::softmax(&scores.broadcast_add(&positions.mask)?, D::Minus1)?;
    let mixed = weights.reshape((b, heads * t, t))?.matmul(&v)?; // [B, h·T, dh]
    mixed.reshape((b, heads, t, dh))?.transpose(1, 2)?.reshape((b, t, d))
}

/// `silu(gate) · x` of packed `[B, T, 2 ff]`, gate first.
fn swiglu(packed: &Tensor) -> Result<Tensor> {
    let ff = packed.dim(D::Minus1)? / 2;
    packed.narrow(D::Minus1, 0, ff)?.silu()? * packed.narrow(D::Minus1, ff, ff)?
}

impl RmsNorm {
    fn new(config: &PalmConfig, vb: &VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints(config.d_model, "weight", Draw::Const(1.0))?;
        Ok(Self { weight, eps: config.norm_eps })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm_slow(x, &self.weight, self.eps as f32)
    }
}

impl Positions {
    fn new(config: &PalmConfig, dtype: DType, device: &Device) -> Result<Self> {
        let (t, dh) = (config.seq_len, config.d_head());
        // Angle of position p in pair i: p · base^(−2i/dh).
        let frequency: Vec<f64> =
            (0..dh / 2).map(|i| config.rope_base.powf(-2.0 * i as f64 / dh as f64)).collect();
        let angle: Vec<f64> =
            (0..t).flat_map(|p| frequency.iter().map(move |f| p as f64 * f)).collect();
        let angle = Tensor::from_vec(angle, (t, dh / 2), &Device::Cpu)?;
        let mask: Vec<f32> = (0..t)
            .flat_map(|q| (0..t).map(move |k| if k <= q { 0.0 } else { f32::NEG_INFINITY }))
            .collect();
        let place = |x: Tensor| x.to_dtype(dtype)?.to_device(device);
        Ok(Self {
            cos: place(angle.cos()?)?,
            sin: place(angle.sin()?)?,
            mask: place(Tensor::from_vec(mask, (t, t), &Device::Cpu)?)?,
        })
    }

    /// The same for sequences of `t` tokens.
    fn first(&self, t: usize) -> Result<Self> {
        Ok(Self {
            cos: self.cos.narrow(0, 0, t)?,
            sin: self.sin.narrow(0, 0, t)?,
            mask: self.mask.narrow(0, 0, t)?.narrow(1, 0, t)?.contiguous()?,
        })
    }

    /// Rotates the pairs (i, i + dh/2) of `x [B, h, T, dh]` by their position's angle.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.dim(D::Minus1)? / 2;
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let (cos, sin) = (&self.cos, &self.sin);
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
        Tensor::cat(&[first, second], D::Minus1)
    }
}
