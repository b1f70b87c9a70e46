//! The Conformer encoder (Gulati et al., arXiv 2005.08100).
//!
//! Shapes: `B` utterances, `T` frames, `d` the encoder's width. Every op that looks beyond a frame is told how many frames of
//! each utterance are real and reads the others as zeros, so that a padded batch gives what its utterances give alone.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use fadam_ops::{Activation, Conv2d, RelativePositions, SelfAttention};

use super::config::{BINS, SUBSAMPLING, TransducerConfig};
use super::convolution::Convolution;
use super::pass::Pass;
use crate::layers::{Affine, Norm, uniform};

/// Four frames to one: two 3×3 convolutions of stride 2 over time and mel bins, each followed by `max(0, x)`, and a map to d.
///
/// Parameters: `conv.i.{weight [c, 3, 3, c or 1], bias [c]}`, `linear.{weight [d, 20 c], bias [d]}`, frequency before channel.
#[derive(Debug)]
struct Subsampling {
    convolutions: [(Tensor, Tensor); 2],
    linear: Affine,
}

/// Frames that two convolutions of [`HALVE`] leave of this many: T/4, rounded up.
pub(super) fn subsampled(frames: usize) -> usize {
    frames.div_ceil(SUBSAMPLING)
}

/// Windows of 3 × 3 frames and bins, one at each second of both.
const HALVE: Conv2d = Conv2d { stride: (2, 2), padding: (1, 1), relu: true };

impl Subsampling {
    fn new(config: &TransducerConfig, vb: &VarBuilder) -> Result<Self> {
        let c = config.channels;
        let convolution = |i: usize, from: usize| {
            let vb = vb.pp("conv").pp(i);
            let weight = vb.get_with_hints((c, 3, 3, from), "weight", uniform(9 * from))?;
            Ok::<_, candle_core::Error>((weight, vb.get_with_hints(c, "bias", uniform(9 * from))?))
        };
        let width = c * BINS.div_ceil(SUBSAMPLING);
        Ok(Self {
            convolutions: [convolution(0, 1)?, convolution(1, c)?],
            linear: Affine::new(config.d_model, width, &vb.pp("linear"))?,
        })
    }

    /// From `[B, T, 80]` to `[B, T/4, d]`, and the real frames in it.
    fn forward(&self, features: &Tensor, frames: &[usize]) -> Result<(Tensor, Vec<usize>)> {
        let mut x = features.unsqueeze(3)?;
        let mut frames = frames.to_vec();
        for (weight, bias) in &self.convolutions {
            x = fadam_ops::conv2d(&x, weight, bias, &frames, &HALVE)?;
            for n in &mut frames {
                *n = HALVE.output_len(*n, 3);
            }
        }
        Ok((self.linear.forward(&x.flatten_from(2)?)?, frames))
    }
}

/// `W₂ silu(W₁ norm x)`
///
/// Parameters: `norm`, `up.{weight [ff, d], bias [ff]}`, `down.{weight [d, ff], bias [d]}`.
#[derive(Debug)]
struct FeedForward {
    norm: Norm,
    up: Affine,
    down: Affine,
}

impl FeedForward {
    fn new(config: &TransducerConfig, vb: &VarBuilder) -> Result<Self> {
        let (d, ff) = (config.d_model, config.d_ff);
        Ok(Self {
            norm: Norm::new(d, &vb.pp("norm"))?,
            up: Affine::new(ff, d, &vb.pp("up"))?,
            down: Affine::new(d, ff, &vb.pp("down"))?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let inner = self.up.activated(&self.norm.layer(x)?, Activation::Silu)?;
        pass.drop(self.down.forward(&pass.drop(inner)?)?)
    }
}

/// Multi-head self-attention over the real frames.
///
/// Parameters: `norm`, `qkv.{weight [3 d, d], bias [3 d]}`, `out.{weight [d, d], bias [d]}`, and with relative positions
/// `positions.{weight [d, d], uv [2, h, d/h]}`.
#[derive(Debug)]
struct Attention {
    norm: Norm,
    qkv: Affine,
    out: Affine,
    heads: usize,
    positions: Option<(Tensor, Tensor)>,
}

impl Attention {
    fn new(config: &TransducerConfig, vb: &VarBuilder) -> Result<Self> {
        let (d, heads) = (config.d_model, config.heads);
        let positions = || {
            let vb = vb.pp("positions");
            let weight = vb.get_with_hints((d, d), "weight", uniform(d))?;
            let zeros = candle_nn::Init::Const(0.0);
            Ok::<_, candle_core::Error>((
                weight,
                vb.get_with_hints((2, heads, d / heads), "uv", zeros)?,
            ))
        };
        Ok(Self {
            norm: Norm::new(d, &vb.pp("norm"))?,
            qkv: Affine::new(3 * d, d, &vb.pp("qkv"))?,
            out: Affine::new(d, d, &vb.pp("out"))?,
            heads,
            positions: if config.relative_positions { Some(positions()?) } else { None },
        })
    }

    /// `table [2 T − 1, d]`: the sinusoids of all offsets.
    fn forward(&self, x: &Tensor, frames: &[usize], table: &Tensor, pass: &Pass) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norm.layer(x)?)?;
        let of_offsets = match &self.positions {
            Some((weight, uv)) => Some((fadam_ops::linear(table, weight, None)?, uv)),
            None => None,
        };
        let positions = of_offsets.as_ref().map(|(r, uv)| RelativePositions { r, uv });
        let attention = SelfAttention { heads: self.heads, lengths: frames, positions };
        let mixed = fadam_ops::self_attention(&qkv, &attention)?;
        pass.drop(self.out.forward(&mixed)?)
    }
}

/// Half a feed-forward, attention, convolution, half a feed-forward, each added to what came before; then a norm.
#[derive(Debug)]
struct Block {
    ff1: FeedForward,
    attention: Attention,
    convolution: Convolution,
    ff2: FeedForward,
    norm: Norm,
}

impl Block {
    fn new(config: &TransducerConfig, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            ff1: FeedForward::new(config, &vb.pp("ff1"))?,
            attention: Attention::new(config, &vb.pp("attention"))?,
            convolution: Convolution::new(config, &vb.pp("conv"))?,
            ff2: FeedForward::new(config, &vb.pp("ff2"))?,
            norm: Norm::new(config.d_model, &vb.pp("norm"))?,
        })
    }

    fn forward(&self, x: &Tensor, frames: &[usize], table: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = (x + (self.ff1.forward(x, pass)? * 0.5)?)?;
        let x = (&x + self.attention.forward(&x, frames, table, pass)?)?;
        let x = (&x + self.convolution.forward(&x, frames, pass)?)?;
        let x = (&x + (self.ff2.forward(&x, pass)? * 0.5)?)?;
        self.norm.layer(&x)
    }
}

/// Subsampling and blocks. Parameters: `subsampling.*`, and for block i `blocks.i.{ff1, attention, conv, ff2, norm}.*`.
#[derive(Debug)]
pub(super) struct Encoder {
    subsampling: Subsampling,
    blocks: Vec<Block>,
}

impl Encoder {
    pub(super) fn new(config: &TransducerConfig, vb: &VarBuilder) -> Result<Self> {
        let block = |i: usize| Block::new(config, &vb.pp("blocks").pp(i));
        Ok(Self {
            subsampling: Subsampling::new(config, &vb.pp("subsampling"))?,
            blocks: (0..config.layers).map(block).collect::<Result<_>>()?,
        })
    }

    /// From features `[B, T, 80]`, of which `frames[b]` are utterance b's, to `[B, T/4, d]` and the real frames in it.
    pub(super) fn forward(
        &self,
        features: &Tensor,
        frames: &[usize],
        pass: &Pass,
    ) -> Result<(Tensor, Vec<usize>)> {
        let (x, frames) = self.subsampling.forward(features, frames)?;
        let (_, t, d) = x.dims3()?;
        let table = fadam_ops::sinusoidal_positions(t, d, x.dtype(), x.device())?;
        let mut x = pass.drop(x)?;
        for block in &self.blocks {
            x = block.forward(&x, &frames, &table, pass)?;
        }
        Ok((x, frames))
    }
}
