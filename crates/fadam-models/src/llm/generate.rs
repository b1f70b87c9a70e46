//! Text from a decoder, token by token.

use candle_core::{Result, Tensor};
use candle_transformers::generation::LogitsProcessor;

use super::Palm;

/// Continues `prompt` by up to `new_tokens` tokens drawn by `sampler`, ending early at `eos`; returns the
/// new tokens, without `eos`. The model sees the last `seq_len` tokens.
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
    if prompt.is_empty() {
        candle_core::bail!("generation needs a prompt of at least one token");
    }
    let device = model.device();
    let mut tokens = prompt.to_vec();
    while tokens.len() < prompt.len() + new_tokens {
        let context = &tokens[tokens.len().saturating_sub(model.config().seq_len)..];
        let logits = model.forward(&Tensor::new(context, device)?.unsqueeze(0)?)?;
        let next = sampler.sample(&logits.get(0)?.get(context.len() - 1)?)?;
        if next == eos {
            break;
        }
        tokens.push(next);
    }
    Ok(tokens.split_off(prompt.len()))
}
