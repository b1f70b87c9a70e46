//! The decoder's loss composed of candle's differentiable ops, one operation at a time: what the fused one is checked
//! against and, with `--composed`, what a user of candle alone would have.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops;
use fadam_core::NamedVars;
use fadam_models::llm::{PalmConfig, Tokens};

/// Mean cross-entropy of `Palm`'s parameters on a batch.
pub(crate) fn loss(vars: &NamedVars, config: &PalmConfig, tokens: &Tokens) -> Result<Tensor> {
    let weight = |name: String| -> Result<&Tensor> {
        let Some(var) = vars.get(&name) else { candle_core::bail!("no parameter {name}") };
        Ok(var.as_tensor())
    };
    let emb = weight("emb.weight".to_owned())?;
    let (b, t) = tokens.inputs.dims2()?;
    let positions = Positions::new(config, t, emb)?;
    let norm = |x: &Tensor, w: &Tensor| ops::rms_norm_slow(x, w, config.norm_eps as f32);
    let mut x = emb.index_select(&tokens.inputs.flatten_all()?, 0)?.reshape((b, t, ()))?;
    for i in 0..config.layers {
        let of_block = |name: &str| weight(format!("blocks.{i}.{name}.weight"));
        let linear = |x: &Tensor, name: &str| x.broadcast_matmul(&of_block(name)?.t()?);
        let h = norm(&x, of_block("norm")?)?;
        let attended = linear(&attention(&linear(&h, "qkv")?, &positions, config)?, "out")?;
        let up = linear(&h, "up")?;
        let gate = up.narrow(D::Minus1, 0, config.d_ff)?.silu()?;
        let fed = linear(&(gate * up.narrow(D::Minus1, config.d_ff, config.d_ff)?)?, "down")?;
        x = ((x + attended)? + fed)?;
    }
    let x = norm(&x, weight("norm.weight".to_owned())?)?;
    let logits = x.broadcast_matmul(&emb.t()?)?.flatten(0, 1)?;
    candle_nn::loss::cross_entropy(&logits, &tokens.targets.flatten_all()?)
}

/// Causal multi-query attention from packed `[B, T, h·dh + 2 dh]`, to `[B, T, d]`.
fn attention(qkv: &Tensor, positions: &Positions, config: &PalmConfig) -> Result<Tensor> {
    let (b, t, _) = qkv.dims3()?;
    let (heads, dh, d) = (config.heads, config.d_head(), config.d_model);
    let split = |start: usize, heads: usize| {
        qkv.narrow(2, start, heads * dh)?.reshape((b, t, heads, dh))?.transpose(1, 2)?.contiguous()
    };
    let q = (positions.rotate(&split(0, heads)?)? / (dh as f64).sqrt())?;
    let k = positions.rotate(&split(d, 1)?)?.squeeze(1)?;
    let v = split(d + dh, 1)?.squeeze(1)?;
    let scores = q.reshape((b, heads * t, dh))?.matmul(&k.t()?)?.reshape((b, heads, t, t))?;
    let weights = ops::softmax(&scores.broadcast_add(&positions.mask)?, D::Minus1)?;
    let mixed = weights.reshape((b, heads * t, t))?.matmul(&v)?;
    mixed.reshape((b, heads, t, dh))?.transpose(1, 2)?.reshape((b, t, d))
}

struct Positions {
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
}

impl Positions {
    fn new(config: &PalmConfig, t: usize, like: &Tensor) -> Result<Self> {
        let half = config.d_head() / 2;
        let angle = |e: usize| {
            (e / half) as f64 * config.rope_base.powf(-((e % half) as f64) / half as f64)
        };
        let angle: Vec<f64> = (0..t * half).map(angle).collect();
        let angle = Tensor::from_vec(angle, (t, half), like.device())?;
        let mask = |e: usize| if e % t <= e / t { 0f32 } else { f32::NEG_INFINITY };
        let mask =
            Tensor::from_vec((0..t * t).map(mask).collect::<Vec<_>>(), (t, t), like.device())?;
        let place = |x: Tensor| {
            x.to_dtype(if like.dtype() == DType::F64 { DType::F64 } else { DType::F32 })
        };
        Ok(Self { cos: place(angle.cos()?)?, sin: place(angle.sin()?)?, mask: place(mask)? })
    }

    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.dim(D::Minus1)? / 2;
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let (cos, sin) = (&self.cos, &self.sin);
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
        Tensor::cat(&[first, second], D::Minus1)
    }
}
