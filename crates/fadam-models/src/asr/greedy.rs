//! Greedy search: at each frame the likeliest unit, again until it is the blank.

use candle_core::{DType, Result, Tensor};
use fadam_ops::LstmState;
use rayon::prelude::*;

use super::prediction::BLANK;
use super::transducer::{Encoded, Transducer};

/// Frames whose logits are computed together: until a label comes, the prediction stays the same.
const AHEAD: usize = 4;

/// What was heard in an utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct Recognised {
    /// The labels, without blanks.
    pub labels: Vec<u32>,
    /// The frame of the encoder at which each label came.
    pub frames: Vec<usize>,
    /// The geometric mean of the labels' probabilities where they were chosen; 0 without a label.
    pub confidence: f64,
}

/// The likeliest labels of each utterance, at most `max_symbols` a frame, one after another. The LSTM advances with labels
/// only.
///
/// # Errors
/// If candle fails.
pub fn greedy(
    model: &Transducer,
    encoded: &Encoded,
    max_symbols: usize,
) -> Result<Vec<Recognised>> {
    let one = |(b, length): (usize, &usize)| {
        let frames = encoded.frames.get(b)?.narrow(0, 0, *length)?.contiguous()?;
        Search::begin(model)?.run(&frames, max_symbols)
    };
    encoded.lengths.par_iter().enumerate().map(one).collect()
}

struct Search<'m> {
    model: &'m Transducer,
    predicted: Tensor,
    states: Vec<LstmState>,
    found: Recognised,
    log_probs: f64,
}

impl<'m> Search<'m> {
    fn begin(model: &'m Transducer) -> Result<Self> {
        let (predicted, states) = model.predict(BLANK, None)?;
        let found = Recognised { labels: Vec::new(), frames: Vec::new(), confidence: 0.0 };
        Ok(Self { model, predicted, states, found, log_probs: 0.0 })
    }

    fn run(mut self, frames: &Tensor, max_symbols: usize) -> Result<Recognised> {
        let length = frames.dim(0)?;
        let (mut at, mut symbols) = (0, 0);
        while at < length {
            let ahead = frames.narrow(0, at, AHEAD.min(length - at))?;
            let logits = self.model.joint(&ahead, &self.predicted)?;
            for row in log_softmax_rows(&logits)? {
                let (unit, log_prob) = likeliest(&row);
                if unit == BLANK {
                    (at, symbols) = (at + 1, 0);
                    continue;
                }
                self.emit(unit, log_prob, at)?;
                symbols += 1;
                if symbols == max_symbols {
                    (at, symbols) = (at + 1, 0);
                }
                break; // the rows after it were of the prediction before
            }
        }
        let labels = self.found.labels.len();
        if labels > 0 {
            self.found.confidence = (self.log_probs / labels as f64).exp();
        }
        Ok(self.found)
    }

    fn emit(&mut self, label: u32, log_prob: f64, frame: usize) -> Result<()> {
        self.found.labels.push(label);
        self.found.frames.push(frame);
        self.log_probs += log_prob;
        (self.predicted, self.states) = self.model.predict(label, Some(&self.states))?;
        Ok(())
    }
}

/// `ln softmax` of each row of `[n, V]`, on the host.
pub(super) fn log_softmax_rows(logits: &Tensor) -> Result<Vec<Vec<f64>>> {
    let mut rows: Vec<Vec<f64>> = logits.to_dtype(DType::F64)?.to_vec2()?;
    for row in &mut rows {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        let log_z = largest + sum.ln();
        for x in row {
            *x -= log_z;
        }
    }
    Ok(rows)
}

/// The first of the largest.
fn likeliest(row: &[f64]) -> (u32, f64) {
    let larger =
        |best: (u32, f64), (unit, x): (u32, &f64)| if *x > best.1 { (unit, *x) } else { best };
    (0..).zip(row).fold((BLANK, f64::NEG_INFINITY), larger)
}
