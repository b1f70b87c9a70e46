//! What a forward pass is for.

use std::cell::Cell;

use candle_core::{Result, Tensor};

/// Whether a forward pass trains, and what its dropout is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Dropout from this seed, which should be another one for each batch; batch norm by the batch's statistics, which
    /// also go into the running ones.
    Train {
        /// Of the dropout.
        seed: u64,
    },
    /// No dropout, and running statistics.
    Evaluate,
}

/// One forward pass: each place that drops activations draws from a stream of its own.
#[derive(Debug)]
pub(super) struct Pass {
    mode: Mode,
    dropout: f64,
    places: Cell<u64>,
}

impl Pass {
    pub(super) fn new(mode: Mode, dropout: f64) -> Self {
        Self { mode, dropout, places: Cell::new(0) }
    }

    pub(super) fn trains(&self) -> bool {
        self.mode != Mode::Evaluate
    }

    /// `x` with some of its numbers dropped, if this pass trains.
    pub(super) fn drop(&self, x: Tensor) -> Result<Tensor> {
        match self.mode {
            Mode::Train { seed } if self.dropout > 0.0 => {
                let place = self.places.replace(self.places.get() + 1);
                // Splitmix's increment: neighbouring seeds and places do not meet.
                let seed = seed.wrapping_add((place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                fadam_ops::dropout(&x, self.dropout, seed)
            }
            _ => Ok(x),
        }
    }
}
