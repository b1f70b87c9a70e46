//! How text is read from a transducer.

use fadam_data::speech::Units;
use fadam_models::asr::{Beam, Encoded, Transducer, greedy};
use fadam_train::bad_input;

/// Greedy or beam search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// At each frame the likeliest unit, up to this many labels.
    Greedy {
        /// Labels that one frame may emit.
        max_symbols: usize,
    },
    /// The likeliest prefixes, frame by frame.
    Beam(Beam),
}

/// What was understood of one utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// As the units spell it.
    pub text: String,
    /// How sure the model is, 0 to 1: greedy, the geometric mean of the labels' probabilities; in a beam, the transcript's
    /// probability among those found, to the power of 1 / labels.
    pub confidence: f64,
}

impl Search {
    /// The text of each utterance.
    ///
    /// # Errors
    /// If candle fails.
    pub fn run(
        self,
        model: &Transducer,
        encoded: &Encoded,
        units: &Units,
    ) -> anyhow::Result<Vec<Heard>> {
        let text = |labels: &[u32]| units.decode(labels).map_err(bad_input);
        match self {
            Self::Greedy { max_symbols } => greedy(model, encoded, max_symbols)?
                .into_iter()
                .map(|found| Ok(Heard { text: text(&found.labels)?, confidence: found.confidence }))
                .collect(),
            Self::Beam(beam) => {
                let all = beam.search(model, encoded)?;
                let heard = |found: Vec<fadam_models::asr::Hypothesis>| {
                    let Some(best) = found.first() else {
                        anyhow::bail!("a search without result")
                    };
                    let total: f64 = found.iter().map(|h| (h.log_prob - best.log_prob).exp()).sum();
                    let labels = best.labels.len();
                    let confidence =
                        if labels == 0 { 0.0 } else { (-total.ln() / labels as f64).exp() };
                    Ok(Heard { text: text(&best.labels)?, confidence })
                };
                all.into_iter().map(heard).collect()
            }
        }
    }
}
