//! Gradients that are made in the forward pass, where what they need is there, for a loss whose own gradient is 1.

use std::sync::Mutex;

use candle_core::{Result, bail};
use rayon::prelude::*;

use crate::number::Number;

/// The gradient of one argument, until the backward pass takes it.
pub(crate) struct Kept<T>(Mutex<Option<Vec<T>>>);

impl<T: Number> Kept<T> {
    pub(crate) fn new(gradient: Option<Vec<T>>) -> Self {
        Self(Mutex::new(gradient))
    }

    /// The gradient, times the loss's own; `op` is who asks.
    ///
    /// # Errors
    /// The second time.
    pub(crate) fn take(&self, op: &str, by: T) -> Result<Vec<T>> {
        let kept = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(mut kept) = kept else {
            bail!("{op}: a second backward pass; compute the loss again");
        };
        if by != T::one() {
            kept.par_chunks_mut(1 << 14).for_each(|part| part.iter_mut().for_each(|g| *g *= by));
        }
        Ok(kept)
    }
}
