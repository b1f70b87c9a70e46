//! Beam search, frame by frame (time-synchronous decoding: Saon et al., ICASSP 2020), with equal prefixes merged.
//!
//! After frame t, a prefix has the probability of all ways to have come to it in t frames: it was there before and the frame
//! says blank, or labels were added within the frame. Ways to one prefix are added up, so that with a beam that is wide
//! enough nothing is lost: the probabilities of all transcripts are then those of the loss.

use std::collections::HashMap;
use std::rc::Rc;

use candle_core::{Result, Tensor};
use fadam_ops::LstmState;
use rayon::prelude::*;

use super::greedy::log_softmax_rows;
use super::prediction::BLANK;
use super::transducer::{Encoded, Transducer};

/// How far a search looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beam {
    /// Prefixes kept from frame to frame.
    pub width: usize,
    /// Labels that one frame may add.
    pub max_symbols: usize,
}

/// A transcript and what it is held to be worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// The labels, without blanks.
    pub labels: Vec<u32>,
    /// ln P, of the ways that the search kept.
    pub log_prob: f64,
}

impl Beam {
    /// Up to `width` transcripts of each utterance, the likeliest first.
    ///
    /// # Errors
    /// If candle fails.
    pub fn search(self, model: &Transducer, encoded: &Encoded) -> Result<Vec<Vec<Hypothesis>>> {
        let one = |(b, length): (usize, &usize)| {
            let mut search = Search { model, beam: self, predictions: HashMap::new() };
            search.run(&encoded.frames.get(b)?, *length)
        };
        encoded.lengths.par_iter().enumerate().map(one).collect()
    }
}

/// The prediction network after a prefix.
struct Prediction {
    predicted: Tensor,
    states: Vec<LstmState>,
}

struct Search<'m> {
    model: &'m Transducer,
    beam: Beam,
    /// Of all prefixes that were ever extended.
    predictions: HashMap<Vec<u32>, Rc<Prediction>>,
}

impl Search<'_> {
    fn run(&mut self, frames: &Tensor, length: usize) -> Result<Vec<Hypothesis>> {
        let mut kept = vec![Hypothesis { labels: Vec::new(), log_prob: 0.0 }];
        for t in 0..length {
            kept = self.frame(&frames.get(t)?, kept)?;
        }
        Ok(kept)
    }

    /// What one frame makes of the prefixes before it.
    fn frame(&mut self, frame: &Tensor, before: Vec<Hypothesis>) -> Result<Vec<Hypothesis>> {
        let Beam { width, max_symbols } = self.beam;
        let mut ended: HashMap<Vec<u32>, f64> = HashMap::new();
        let mut open = before;
        for symbols in 0..=max_symbols {
            let log_probs = self.log_probs(frame, &open)?;
            for (prefix, row) in open.iter().zip(&log_probs) {
                let ways = ended.entry(prefix.labels.clone()).or_insert(f64::NEG_INFINITY);
                *ways = log_add(*ways, prefix.log_prob + row[BLANK as usize]);
            }
            if symbols < max_symbols {
                open = extended(&open, &log_probs, width, worth_keeping(&ended, width));
            }
            if open.is_empty() {
                break;
            }
        }
        let ended = ended.into_iter().map(|(labels, log_prob)| Hypothesis { labels, log_prob });
        Ok(best(ended.collect(), width))
    }

    /// `ln P(unit | frame, prefix)`, a row a prefix.
    fn log_probs(&mut self, frame: &Tensor, prefixes: &[Hypothesis]) -> Result<Vec<Vec<f64>>> {
        let predicted = prefixes
            .iter()
            .map(|prefix| Ok(self.prediction(&prefix.labels)?.predicted.clone()))
            .collect::<Result<Vec<_>>>()?;
        log_softmax_rows(&self.model.joint(&Tensor::stack(&predicted, 0)?, frame)?)
    }

    fn prediction(&mut self, labels: &[u32]) -> Result<Rc<Prediction>> {
        if let Some(known) = self.predictions.get(labels) {
            return Ok(Rc::clone(known));
        }
        let (predicted, states) = match labels.split_last() {
            None => self.model.predict(BLANK, None)?,
            Some((last, before)) => {
                let before = self.prediction(before)?;
                self.model.predict(*last, Some(&before.states))?
            }
        };
        let new = Rc::new(Prediction { predicted, states });
        self.predictions.insert(labels.to_vec(), Rc::clone(&new));
        Ok(new)
    }
}

/// The `width` likeliest prefixes that are one label longer, all above `bound`.
fn extended(
    prefixes: &[Hypothesis],
    log_probs: &[Vec<f64>],
    width: usize,
    bound: f64,
) -> Vec<Hypothesis> {
    let mut longer: Vec<(usize, u32, f64)> = Vec::new();
    for (i, (prefix, row)) in prefixes.iter().zip(log_probs).enumerate() {
        let labels = (0u32..).zip(row).filter(|(unit, _)| *unit != BLANK);
        let scored = labels.map(|(unit, log_prob)| (i, unit, prefix.log_prob + log_prob));
        longer.extend(scored.filter(|(.., log_prob)| *log_prob > bound));
    }
    longer.sort_by(|a, b| b.2.total_cmp(&a.2).then_with(|| (a.0, a.1).cmp(&(b.0, b.1))));
    longer.truncate(width);
    let hypothesis = |(i, unit, log_prob): (usize, u32, f64)| {
        let labels = prefixes[i].labels.iter().copied().chain([unit]).collect();
        Hypothesis { labels, log_prob }
    };
    longer.into_iter().map(hypothesis).collect()
}

/// What the last of the `width` best that ended has: less is not worth a place.
fn worth_keeping(ended: &HashMap<Vec<u32>, f64>, width: usize) -> f64 {
    let mut log_probs: Vec<f64> = ended.values().copied().collect();
    log_probs.sort_by(|a, b| b.total_cmp(a));
    log_probs.get(width - 1).copied().unwrap_or(f64::NEG_INFINITY)
}

/// The `width` likeliest, the likeliest first; of equal ones the one with the smaller labels.
fn best(mut all: Vec<Hypothesis>, width: usize) -> Vec<Hypothesis> {
    all.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob).then_with(|| a.labels.cmp(&b.labels)));
    all.truncate(width);
    all
}

/// `ln(eᵃ + eᵇ)`
fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if high == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}
