//! A decoder that reads on: keys and values of the tokens before are kept.

use candle_core::{D, Result, Tensor, bail};

use super::Palm;
use super::decoder::Block;

/// The keys (rotated) and values of the tokens that a decoder has read, block by block. It is of the one model whose
/// [`read`](Palm::read) filled it.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// `[1, positions, dh]` each.
    blocks: Vec<(Tensor, Tensor)>,
    positions: usize,
}

impl Cache {
    /// Of no token.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens that were read.
    pub fn positions(&self) -> usize {
        self.positions
    }
}

impl Palm {
    /// Reads more tokens of one text: the logits `[V]` of the token after the last of them. They are those of
    /// [`forward`](Palm::forward) on the whole text, but for the order in which sums are rounded.
    ///
    /// # Errors
    /// If there is no token, or one that is not in the vocabulary, or more than `seq_len` with those read before. The cache is
    /// then as it was.
    pub fn read(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor> {
        let from = cache.positions;
        if tokens.is_empty() {
            bail!("there is no token to read");
        }
        if from + tokens.len() > self.config().seq_len {
            let longest = self.config().seq_len;
            bail!("{from} and {} tokens, and the model reads {longest} at most", tokens.len());
        }
        let tokens = Tensor::new(tokens, self.device())?.unsqueeze(0)?;
        let mut x = self.embed(&tokens)?;
        let mut blocks = Vec::with_capacity(self.blocks().len());
        for (i, block) in self.blocks().iter().enumerate() {
            let (y, kept) = self.read_block(block, &x, from, cache.blocks.get(i))?;
            x = y;
            blocks.push(kept);
        }
        let last = x.narrow(1, x.dim(1)? - 1, 1)?.contiguous()?;
        let logits = self.logits(&last)?.flatten_all()?;
        *cache = Cache { blocks, positions: from + tokens.dim(1)? };
        Ok(logits)
    }

    /// One block on `x [1, n, d]` at positions `from`, …: its output, and all keys and values so far.
    fn read_block(
        &self,
        block: &Block,
        x: &Tensor,
        from: usize,
        before: Option<&(Tensor, Tensor)>,
    ) -> Result<(Tensor, (Tensor, Tensor))> {
        let config = self.config();
        let (n, heads, dh) = (x.dim(1)?, config.heads, config.d_head());
        let block = block.at(x.dtype())?;
        let h = block.normalised(x, config.norm_eps)?;
        let qkv = fadam_ops::linear(&h, &block.qkv, None)?;
        let q = qkv.narrow(2, 0, heads * dh)?.reshape((1, n, heads, dh))?.transpose(1, 2)?;
        let q = (fadam_ops::rope(&q.contiguous()?, self.rope(), from)? / (dh as f64).sqrt())?;
        let k = fadam_ops::rope(&qkv.narrow(2, heads * dh, dh)?.contiguous()?, self.rope(), from)?;
        let v = qkv.narrow(2, (heads + 1) * dh, dh)?.contiguous()?;
        let after = |before: &Tensor, new: &Tensor| Tensor::cat(&[before, new], 1);
        let (k, v) = match before {
            Some((keys, values)) => (after(keys, &k)?, after(values, &v)?),
            None => (k, v),
        };
        let all = from + n;
        let scores = q.reshape((1, heads * n, dh))?.matmul(&k.t()?)?.reshape((heads, n, all))?;
        let later = |e: usize| if e % all <= from + e / all { 0f32 } else { f32::NEG_INFINITY };
        let mask =
            Tensor::from_vec((0..n * all).map(later).collect::<Vec<_>>(), (n, all), x.device())?;
        let weights = scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
        let weights = candle_nn::ops::softmax(&weights, D::Minus1)?.reshape((1, heads * n, all))?;
        let mixed = weights.matmul(&v)?.reshape((1, heads, n, dh))?.transpose(1, 2)?;
        let mixed = mixed.reshape((1, n, heads * dh))?;
        Ok((block.sum(x, &h, &mixed)?, (k, v)))
    }
}
