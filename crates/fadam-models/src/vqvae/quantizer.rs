//! From the encoder's width to codes and back to the decoder's, and how codes are used.

use candle_core::{DType, Result, Tensor, Var, bail};
use candle_nn::{Init, VarBuilder};
use fadam_ops::Quantized;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::config::VqVaeConfig;
use crate::layers::Affine;

/// The name of the buffer that counts how many steps each code was not used for.
pub(super) const STEPS_UNUSED: &str = "steps_unused";

/// A code that is shorter counts as so long, as in [`fadam_ops::vector_quantize`].
const EPS: f64 = 1e-12;

/// Parameters: `down.{weight [w, d], bias [w]}`, `codes [K, w]`, `up.{weight [d', w], bias [d']}`; and with restarts `steps_unused [K]`,
/// which is state and no parameter.
#[derive(Debug)]
pub(super) struct Quantizer {
    down: Affine,
    codes: Tensor,
    up: Affine,
    restart: u32,
    steps_unused: Option<Tensor>,
}

impl Quantizer {
    pub(super) fn new(config: &VqVaeConfig, vb: &VarBuilder) -> Result<Self> {
        let (k, w) = (config.codes, config.code_width);
        // Of any length: only directions matter, and those of normal numbers are even.
        let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
        let zeros = Init::Const(0.0);
        Ok(Self {
            down: Affine::new(w, config.encoder.d_model, &vb.pp("down"))?,
            codes: vb.get_with_hints((k, w), "codes", normal)?,
            up: Affine::new(config.decoder.d_model, w, &vb.pp("up"))?,
            restart: config.restart,
            steps_unused: if config.restart > 0 {
                Some(vb.get_with_hints(k, STEPS_UNUSED, zeros)?)
            } else {
                None
            },
        })
    }

    /// `[B, T, d]` to latents `[B, T, w]`.
    pub(super) fn down(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(x)
    }

    pub(super) fn quantize(&self, latents: &Tensor) -> Result<Quantized> {
        fadam_ops::vector_quantize(latents, &self.codes)
    }

    /// Codes `[B, T, w]` to `[B, T, d']`.
    pub(super) fn up(&self, codes: &Tensor) -> Result<Tensor> {
        self.up.forward(codes)
    }

    /// The codes, of unit length, at u32 `indices [B, T]`.
    pub(super) fn look_up(&self, indices: &Tensor) -> Result<Tensor> {
        let (k, w) = self.codes.dims2()?;
        let (b, t) = indices.dims2()?;
        let all: Vec<u32> = indices.flatten_all()?.to_vec1()?;
        if let Some((place, index)) = (0..).zip(&all).find(|(_, index)| **index as usize >= k) {
            bail!(
                "index {index} at patch {} of image {}: there are {k} codes",
                place % t,
                place / t
            );
        }
        let rows = self.codes.index_select(&indices.flatten_all()?, 0)?;
        let squares = rows.sqr()?.sum_keepdim(1)?;
        rows.broadcast_div(&squares.maximum(EPS * EPS)?.sqrt()?)?.reshape((b, t, w))
    }

    /// Counts how many steps each code was not used for, and lets those begin anew that were not for too long: as latents of this batch,
    /// which are drawn by `seed`, one of each patch until all have been. Returns how many did.
    pub(super) fn restart(&self, latents: &Tensor, indices: &Tensor, seed: u64) -> Result<usize> {
        let Some(steps_unused) = &self.steps_unused else { return Ok(0) };
        if !steps_unused.is_variable() || !self.codes.is_variable() {
            bail!("codes are restarted, but they or their counts are constants");
        }
        let (k, w) = self.codes.dims2()?;
        let mut unused: Vec<f32> = steps_unused.detach().to_dtype(DType::F32)?.to_vec1()?;
        for steps in &mut unused {
            *steps += 1.0;
        }
        for index in indices.flatten_all()?.to_vec1::<u32>()? {
            unused[index as usize] = 0.0;
        }
        let is_dead = |steps: &f32| *steps >= self.restart as f32;
        let dead: Vec<usize> = (0..k).filter(|i| is_dead(&unused[*i])).collect();
        if !dead.is_empty() {
            for i in &dead {
                unused[*i] = 0.0;
            }
            let latents = latents.detach().reshape(((), w))?;
            let rows = drawn(latents.dim(0)?, dead.len(), seed);
            // Row k + j of both together is the j-th of those that begin anew.
            let mut of: Vec<u32> = (0..k as u32).collect();
            (k as u32..).zip(&dead).for_each(|(row, i)| of[*i] = row);
            let device = self.codes.device();
            let anew = latents.index_select(&Tensor::from_vec(rows, dead.len(), device)?, 0)?;
            let both = Tensor::cat(&[&self.codes.detach(), &anew], 0)?;
            let next = both.index_select(&Tensor::from_vec(of, k, device)?, 0)?;
            Var::from_tensor(&self.codes)?.set(&next)?;
        }
        let unused = Tensor::from_vec(unused, k, steps_unused.device())?;
        Var::from_tensor(steps_unused)?.set(&unused.to_dtype(steps_unused.dtype())?)?;
        Ok(dead.len())
    }
}

/// `count` of `rows`, without repetition until all have been drawn.
fn drawn(rows: usize, count: usize, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let some = (count - all.len()).min(rows);
        all.extend(rand::seq::index::sample(&mut rng, rows, some).iter().map(|row| row as u32));
    }
    all
}

/// How often each code was used.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_models::vqvae::CodeCounts;
///
/// let mut counts = CodeCounts::new(8);
/// counts.add(&Tensor::new(&[[0u32, 3], [3, 0]], &Device::Cpu)?)?;
/// assert_eq!(counts.counts(), [2, 0, 0, 2, 0, 0, 0, 0]);
/// assert_eq!((counts.used(), counts.usage()), (2, 0.25));
/// assert!((counts.perplexity() - 2.0).abs() < 1e-12); // two codes, equally often
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeCounts {
    counts: Vec<u64>,
}

impl CodeCounts {
    /// None yet, of so many codes.
    pub fn new(codes: usize) -> Self {
        Self { counts: vec![0; codes] }
    }

    /// Counts u32 indices of any shape.
    ///
    /// # Errors
    /// For an index that is no code; nothing is counted then.
    pub fn add(&mut self, indices: &Tensor) -> Result<()> {
        let indices: Vec<u32> = indices.flatten_all()?.to_vec1()?;
        let codes = self.counts.len();
        if let Some(index) = indices.iter().find(|index| **index as usize >= codes) {
            bail!("index {index} among {codes} codes");
        }
        for index in indices {
            self.counts[index as usize] += 1;
        }
        Ok(())
    }

    /// Of each code.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The codes that were used.
    pub fn used(&self) -> usize {
        self.counts.iter().filter(|count| **count > 0).count()
    }

    /// Their share of all codes.
    pub fn usage(&self) -> f64 {
        self.used() as f64 / self.counts.len() as f64
    }

    /// `exp(− Σ p ln p)` with p the share of each code: as many codes, used equally often, would tell as much. 1 before any was counted.
    pub fn perplexity(&self) -> f64 {
        let total: u64 = self.counts.iter().sum();
        let entropy = |count: &u64| {
            let p = *count as f64 / total as f64;
            -p * p.ln()
        };
        self.counts.iter().filter(|count| **count > 0).map(entropy).sum::<f64>().exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_without_repetition_until_all_have_been() {
        let mut first = drawn(5, 5, 1);
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2, 3, 4]);
        let twice = drawn(5, 12, 1);
        let count = |row: u32| twice.iter().filter(|drawn| **drawn == row).count();
        assert!((0..5).all(|row| [2, 3].contains(&count(row))), "{twice:?}");
        assert_eq!(drawn(100, 7, 3), drawn(100, 7, 3));
        assert_ne!(drawn(100, 7, 3), drawn(100, 7, 4));
    }
}
