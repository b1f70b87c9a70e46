//! Text from a decoder, token by token.

use candle_core::{DType, Result};
use candle_transformers::generation::LogitsProcessor;

use super::{Cache, Palm};

/// Continues `prompt` by up to `new_tokens` tokens drawn by `sampler`, ending early at `eos`; returns the
/// new tokens, without `eos`. The model sees the last `seq_len` tokens of the prompt, and goes on from the last half of
/// its context whenever that is full.
///
/// # Errors
/// If the prompt is empty or holds a token that is not in the vocabulary.
pub fn generate(
    model: &Palm,
    prompt: &[u32],
    new_tokens: usize,
    eos: u32,
    sampler: &mut LogitsProcessor,
) -> Result<Vec<u32>> {
    continuation(model, prompt, eos, sampler)?.take(new_tokens).collect()
}

/// As [`generate`], each token as soon as it is drawn; without end if `eos` is never drawn.
///
/// # Errors
/// If the prompt is empty. The iterator gives an error if it holds a token that is not in the vocabulary.
pub fn continuation<'a>(
    model: &'a Palm,
    prompt: &[u32],
    eos: u32,
    sampler: &'a mut LogitsProcessor,
) -> Result<impl Iterator<Item = Result<u32>> + 'a> {
    if prompt.is_empty() {
        candle_core::bail!("generation needs a prompt of at least one token");
    }
    let (mut tokens, mut cache) = (prompt.to_vec(), Cache::new());
    // Tokens from here on are in the cache or to be read.
    let mut begin = tokens.len().saturating_sub(model.config().seq_len);
    let mut next = move || {
        if tokens.len() - begin > model.config().seq_len {
            begin = tokens.len() - model.config().seq_len.div_ceil(2);
            cache = Cache::new();
        }
        let logits = model.read(&tokens[begin + cache.positions()..], &mut cache)?;
        let next = sampler.sample(&logits.to_dtype(DType::F32)?)?;
        tokens.push(next);
        Ok(next)
    };
    Ok(std::iter::from_fn(move || Some(next()).filter(|next| !matches!(next, Ok(t) if *t == eos)))
        .fuse())
}
