//! The loss of a joint network, and the same by way of its logits.

use anyhow::{Context, ensure};
use candle_core::{Tensor, Var};
use fadam_ops::{Activation, Joint, Transducer};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{Lengths, normal};

/// A joint network of tanh with its arguments.
pub(super) struct Network {
    encoded: Var,
    predicted: Var,
    w: Var,
    b: Var,
    lengths: Lengths,
}

impl Network {
    /// Of logits of that size, see [`Lengths::draw`], and that width.
    pub(super) fn draw(size: [usize; 4], width: usize, ragged: bool) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let [b, t, u, v] = size;
        Ok(Self {
            encoded: normal(&mut rng, &[b, t, width], 1.0)?,
            predicted: normal(&mut rng, &[b, u + 1, width], 1.0)?,
            w: normal(&mut rng, &[v, width], (width as f32).powf(-0.5))?,
            b: normal(&mut rng, &[v], 0.1)?,
            lengths: Lengths::draw(&mut rng, size, ragged)?,
        })
    }

    pub(super) fn losses(&self) -> candle_core::Result<Tensor> {
        let Lengths { targets, frames } = &self.lengths;
        let joint = Joint::new(&self.w, &self.b, Activation::Tanh);
        let options = Transducer::default();
        fadam_ops::joint_rnnt_loss(
            &self.encoded,
            &self.predicted,
            &joint,
            targets,
            frames,
            &options,
        )
    }

    /// The same losses of logits composed of candle's ops.
    fn composed(&self) -> candle_core::Result<Tensor> {
        let sum = self.encoded.unsqueeze(2)?.broadcast_add(&self.predicted.unsqueeze(1)?)?;
        let (b, t, columns, width) = sum.dims4()?;
        let rows = sum.tanh()?.reshape(((), width))?;
        let logits = rows.matmul(&self.w.t()?)?.broadcast_add(&self.b)?;
        let logits = logits.reshape((b, t, columns, ()))?;
        let Lengths { targets, frames } = &self.lengths;
        fadam_ops::rnnt_loss(&logits, targets, frames, &Transducer::default())
    }
}

/// Losses and gradients of a small network, with utterances of different lengths, are those by way of its logits: losses to 1e-5 of
/// each, gradients to 1e-5 of the largest.
pub(super) fn check() -> anyhow::Result<()> {
    let network = Network::draw([3, 60, 12, 40], 24, true)?;
    let (ours, theirs) = (network.losses()?, network.composed()?);
    for (b, (x, y)) in ours.to_vec1::<f32>()?.iter().zip(theirs.to_vec1::<f32>()?).enumerate() {
        ensure!((x - y).abs() <= 1e-5 * y, "utterance {b} has {x}, not {y}");
    }
    let ours = fadam_ops::backward(&ours.sum_all()?)?;
    let theirs = theirs.sum_all()?.backward()?;
    let Network { encoded, predicted, w, b, .. } = &network;
    for (name, var) in [("e", encoded), ("p", predicted), ("W", w), ("b", b)] {
        let missing = || format!("no gradient for {name}");
        let ours = ours.get(var).with_context(missing)?;
        let theirs = theirs.get(var).with_context(missing)?;
        let largest = |x: &Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
        let (off, size) = (largest(&(ours - theirs)?)?, largest(theirs)?);
        ensure!(off <= 1e-5 * size, "the gradient of {name} is off by {off:e} of {size:e}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_loss_is_that_of_the_logits() {
        super::check().unwrap();
    }
}
