//! The transformer of both halves (Dosovitskiy et al., arXiv 2010.11929), and images as patches.
//!
//! Shapes: `B` images, `T` patches, `d` the width, `P` the numbers of a patch, channel before row before column.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use fadam_ops::{Activation, SelfAttention};

use super::config::{CHANNELS, TowerConfig, VqVaeConfig};
use crate::layers::{Affine, Norm, uniform};

/// Images `[B, 3, H, W]` as patches `[B, T, P]`, row after row; of any dtype.
///
/// # Errors
/// If the images are not of the model's size.
pub(super) fn patches(images: &Tensor, config: &VqVaeConfig) -> Result<Tensor> {
    let (side, p, grid) = (config.image, config.patch, config.grid());
    match images.dims() {
        [_, CHANNELS, height, width] if [*height, *width] == [side; 2] => {}
        other => {
            bail!("images have shape {other:?}, where [B, {CHANNELS}, {side}, {side}] is expected")
        }
    }
    let cut = images.reshape((images.dim(0)?, CHANNELS, grid, p, grid, p))?;
    cut.permute((0, 2, 4, 1, 3, 5))?.reshape(((), config.tokens(), config.pixels()))
}

/// The images of patches, the inverse of [`patches`].
pub(super) fn unpatched(patches: &Tensor, config: &VqVaeConfig) -> Result<Tensor> {
    let (side, p, grid) = (config.image, config.patch, config.grid());
    let cut = patches.reshape((patches.dim(0)?, grid, grid, CHANNELS, p, p))?;
    cut.permute((0, 3, 1, 4, 2, 5))?.reshape(((), CHANNELS, side, side))
}

/// `[T, d]`: for the patch in row i and column j of the grid, with r = d/4 rates `ω_k = 10000^(−k/r)`, the numbers
/// `sin i ω, cos i ω, sin j ω, cos j ω`, each for k from 0 to r − 1.
pub(super) fn positions(grid: usize, d: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let rates = d / 4;
    let mut table = Vec::with_capacity(grid * grid * d);
    for patch in 0..grid * grid {
        for place in [patch / grid, patch % grid] {
            let angle = |k: usize| place as f64 * 1e4f64.powf(-(k as f64) / rates as f64);
            table.extend((0..rates).map(|k| angle(k).sin()));
            table.extend((0..rates).map(|k| angle(k).cos()));
        }
    }
    Tensor::from_vec(table, (grid * grid, d), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

/// `x + attention(norm x)`, and to that `+ down tanh(up norm x)`.
///
/// Parameters: `attention.norm`, `attention.qkv.weight [3 d, d]`, `attention.out.{weight [d, d], bias [d]}`, `mlp.norm`,
/// `mlp.up.{weight [m, d], bias [m]}`, `mlp.down.{weight [d, m], bias [d]}`; a norm has a `weight [d]` and a `bias [d]`.
#[derive(Debug, Clone)]
struct Block {
    attention_norm: Norm,
    qkv: Tensor,
    out: Affine,
    mlp_norm: Norm,
    up: Affine,
    down: Affine,
    heads: usize,
}

impl Block {
    fn new(config: &TowerConfig, vb: &VarBuilder) -> Result<Self> {
        let TowerConfig { d_model: d, heads, mlp: inner, .. } = *config;
        let (attention, mlp) = (vb.pp("attention"), vb.pp("mlp"));
        Ok(Self {
            attention_norm: Norm::new(d, &attention.pp("norm"))?,
            qkv: attention.pp("qkv").get_with_hints((3 * d, d), "weight", uniform(d))?,
            out: Affine::new(d, d, &attention.pp("out"))?,
            mlp_norm: Norm::new(d, &mlp.pp("norm"))?,
            up: Affine::new(inner, d, &mlp.pp("up"))?,
            down: Affine::new(d, inner, &mlp.pp("down"))?,
            heads,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        let qkv = fadam_ops::linear(&self.attention_norm.layer(x)?, &self.qkv, None)?;
        let lengths = vec![t; b];
        let attention = SelfAttention { heads: self.heads, lengths: &lengths, positions: None };
        let mixed = fadam_ops::self_attention(&qkv, &attention)?;
        let x = (x + self.out.forward(&mixed)?)?;
        let inner = self.up.activated(&self.mlp_norm.layer(&x)?, Activation::Tanh)?;
        x + self.down.forward(&inner)?
    }
}

/// Positions, blocks, and a norm if there is one. Parameters: `blocks.i.*`, `norm`.
#[derive(Debug)]
pub(super) struct Tower {
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Option<Norm>,
    checkpoint: bool,
}

impl Tower {
    /// One of the two of a VQ-VAE.
    pub(super) fn new(config: &TowerConfig, of: &VqVaeConfig, vb: &VarBuilder) -> Result<Self> {
        let d = config.d_model;
        let block = |i: usize| Block::new(config, &vb.pp("blocks").pp(i));
        Ok(Self {
            positions: positions(of.grid(), d, vb.dtype(), vb.device())?,
            blocks: (0..config.layers).map(block).collect::<Result<_>>()?,
            norm: if of.final_norm { Some(Norm::new(d, &vb.pp("norm"))?) } else { None },
            checkpoint: of.checkpoint,
        })
    }

    /// `[B, T, d]` to the same.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.broadcast_add(&self.positions)?;
        for block in &self.blocks {
            x = if self.checkpoint {
                let block = block.clone();
                fadam_ops::checkpoint(&x, move |x| block.forward(x))?
            } else {
                block.forward(&x)?
            };
        }
        self.norm.as_ref().map_or(Ok(x.clone()), |norm| norm.layer(&x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_and_back() {
        let config = VqVaeConfig { image: 6, patch: 2, ..VqVaeConfig::tiny() };
        let images = Tensor::arange(0u32, 2 * 3 * 36, &Device::Cpu).unwrap();
        let images = images.reshape((2, 3, 6, 6)).unwrap();
        let cut = patches(&images, &config).unwrap();
        assert_eq!(cut.dims(), [2, 9, 12]);
        let rows = cut.to_vec3::<u32>().unwrap();
        // Of the first image, the patch in row 1 and column 2: rows 2, 3 and columns 4, 5 of each channel.
        let corner = |channel: u32| channel * 36 + 2 * 6 + 4;
        let wanted = |c: u32| [corner(c), corner(c) + 1, corner(c) + 6, corner(c) + 7];
        assert_eq!(rows[0][5], (0..3).flat_map(wanted).collect::<Vec<_>>());
        let again = unpatched(&cut, &config).unwrap();
        let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<u32>().unwrap();
        assert_eq!((again.dims(), numbers(&again)), (images.dims(), numbers(&images)));
        let err = patches(&images.narrow(3, 0, 4).unwrap(), &config).unwrap_err().to_string();
        assert!(err.contains("[2, 3, 6, 4]") && err.contains("[B, 3, 6, 6]"), "{err}");
    }

    #[test]
    fn positions_are_sines_of_row_and_column() {
        let table = positions(3, 8, DType::F64, &Device::Cpu).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(table.len(), 9);
        // Row 1, column 2; rates 1 and 1/100.
        let wanted = [1.0, 0.01, 1.0, 0.01, 2.0, 0.02, 2.0, 0.02f64];
        for (i, (x, angle)) in table[5].iter().zip(wanted).enumerate() {
            let wanted = if i % 4 < 2 { angle.sin() } else { angle.cos() };
            assert!((x - wanted).abs() < 1e-15, "{i}: {x} {wanted}");
        }
        for (i, a) in table.iter().enumerate() {
            assert!(table[..i].iter().all(|b| a != b), "patch {i} is like one before");
        }
    }
}
