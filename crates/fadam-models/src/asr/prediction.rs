//! The prediction network: label embedding and LSTM. It sees the labels before, and nothing of the sound.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use fadam_ops::LstmState;

use super::config::TransducerConfig;
use crate::layers::{Affine, uniform};

/// The label that stands for nothing: the blank, and what a transcript begins after.
pub const BLANK: u32 = 0;

/// Parameters: `embedding.weight [V, P]` (row 0 is what a transcript begins after), and for layer l
/// `lstm.l.{weight [4 P, P], bias [4 P], recurrent [4 P, P]}`, gates in the order i, f, g, o.
#[derive(Debug)]
pub(super) struct Prediction {
    embedding: Tensor,
    layers: Vec<(Affine, Tensor)>,
}

impl Prediction {
    pub(super) fn new(config: &TransducerConfig, units: usize, vb: &VarBuilder) -> Result<Self> {
        let p = config.d_prediction;
        let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
        let layer = |l: usize| {
            let vb = vb.pp("lstm").pp(l);
            let recurrent = vb.get_with_hints((4 * p, p), "recurrent", uniform(p))?;
            Ok((Affine::new(4 * p, p, &vb)?, recurrent))
        };
        Ok(Self {
            embedding: vb.pp("embedding").get_with_hints((units, p), "weight", normal)?,
            layers: (0..config.prediction_layers).map(layer).collect::<Result<_>>()?,
        })
    }

    /// What follows each of `labels [B, U]` (u32), `[B, U, P]`, and the states after the last; from a state of each layer, or
    /// from zeros.
    pub(super) fn forward(
        &self,
        labels: &Tensor,
        states: Option<&[LstmState]>,
    ) -> Result<(Tensor, Vec<LstmState>)> {
        let mut x = fadam_ops::embedding(labels, &self.embedding)?;
        let mut after = Vec::with_capacity(self.layers.len());
        for (l, (affine, recurrent)) in self.layers.iter().enumerate() {
            let state = states.map(|states| &states[l]);
            let (y, last) = fadam_ops::lstm(&affine.forward(&x)?, recurrent, state)?;
            x = y;
            after.push(last);
        }
        Ok((x, after))
    }
}
