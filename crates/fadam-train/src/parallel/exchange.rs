//! What the ranks tell each other in every step, beside gradients: some numbers.

use anyhow::{Context, ensure};
use candle_core::Tensor;
use fadam_core::Gradients;

use super::Collective;
use super::replicas::checksum;

/// What a rank has to say of its share of a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    /// The units of its batches.
    pub(crate) units: u64,
    /// Whether it was asked to end.
    pub(crate) interrupted: bool,
    /// Names and shapes of its gradients, as a number.
    layout: u64,
    /// The losses of its batches.
    pub(crate) losses: Vec<f64>,
}

impl Told {
    pub(crate) fn new<'g>(
        units: u64,
        interrupted: bool,
        gradients: impl IntoIterator<Item = &'g Gradients>,
        losses: Vec<f64>,
    ) -> Self {
        let of = |(name, g): (&String, &Tensor)| format!("{name} {:?} {:?};", g.dims(), g.dtype());
        let each = gradients.into_iter().map(|part| part.iter().map(of).collect::<String>());
        let layout = each.collect::<Vec<_>>().join("|");
        Self { units, interrupted, layout: checksum(layout.as_bytes()), losses }
    }

    /// What all ranks together say: the sum of the units, whether any was interrupted, and the losses in the order in
    /// which one process has them. It is the same everywhere.
    ///
    /// # Errors
    /// When the gradients of some rank are of other parameters than those of rank 0, or a rank is gone.
    pub(super) fn to_all(&self, collective: &dyn Collective) -> anyhow::Result<Self> {
        let all = collective.all_gather(&self.bytes())?;
        let size = all.len() / collective.world();
        let ranks: Vec<Self> =
            all.chunks_exact(size).map(Self::parse).collect::<Option<_>>().context("no numbers")?;
        if let Some(rank) = ranks.iter().position(|rank| rank.layout != ranks[0].layout) {
            let message = "has gradients of other parameters or shapes than rank 0: every batch has to reach the same ones";
            anyhow::bail!("rank {rank} {message}");
        }
        let each = ranks[0].losses.len();
        ensure!(ranks.iter().all(|rank| rank.losses.len() == each), "ranks have unequal shares");
        // Rank r has batches r, r + W, …
        let losses = (0..each).flat_map(|i| ranks.iter().map(move |rank| rank.losses[i])).collect();
        Ok(Self {
            units: ranks.iter().map(|rank| rank.units).sum(),
            interrupted: ranks.iter().any(|rank| rank.interrupted),
            layout: self.layout,
            losses,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let head = [self.units, u64::from(self.interrupted), self.layout];
        let losses = self.losses.iter().map(|loss| loss.to_bits());
        head.into_iter().chain(losses).flat_map(u64::to_le_bytes).collect()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let words: Vec<u64> = bytes.as_chunks().0.iter().map(|x| u64::from_le_bytes(*x)).collect();
        let [units, interrupted, layout, losses @ ..] = &words[..] else { return None };
        let losses = losses.iter().map(|bits| f64::from_bits(*bits)).collect();
        Some(Self { units: *units, interrupted: *interrupted != 0, layout: *layout, losses })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::parallel::Threads;

    fn told(names: &[&str], rank: usize) -> Told {
        let g = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        let gradients = names.iter().map(|name| ((*name).to_owned(), g.clone())).collect();
        let losses = vec![rank as f64, if rank == 1 { f64::NAN } else { 10.0 + rank as f64 }];
        Told::new(100 + rank as u64, rank == 2, [&gradients], losses)
    }

    fn all(of: impl Fn(usize) -> Told + Sync) -> Vec<anyhow::Result<Told>> {
        std::thread::scope(|scope| {
            let of = &of;
            let ranks: Vec<_> = Threads::team(3)
                .into_iter()
                .map(|rank| scope.spawn(move || of(rank.rank()).to_all(&rank)))
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_hears_the_same_with_losses_in_the_order_of_one_process() {
        for heard in all(|rank| told(&["a", "b"], rank)) {
            let heard = heard.unwrap();
            assert_eq!((heard.units, heard.interrupted), (303, true));
            let shown = format!("{:?}", heard.losses);
            assert_eq!(shown, "[0.0, 1.0, 2.0, 10.0, NaN, 12.0]");
        }
    }

    #[test]
    fn gradients_of_other_parameters_are_an_error_that_names_the_rank() {
        for heard in all(|rank| told(if rank == 1 { &["a"] } else { &["a", "b"] }, rank)) {
            let text = heard.unwrap_err().to_string();
            assert!(text.starts_with("rank 1 has gradients of other parameters"), "{text}");
        }
    }
}
