//! How steady a run is: steps that were not finite, and spikes of the loss.
//!
//! A spike is a loss far outside of what the last losses were, by Tukey's outer fence:
//!
//! ```text
//! spike:   loss > q₃ + 3 (q₃ − q₁)              q₁, q₂, q₃: quartiles of the last 100 losses
//! excess:  (loss − q₂) / (q₃ − q₁)
//! ```
//!
//! Of losses that scatter like a normal distribution one in 800,000 is beyond the fence. Quartiles do not move much for a spike in the
//! window, and neither a loss that is negative nor its unit matters.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The losses that one is compared with.
const WINDOW: usize = 100;

/// With fewer of them nothing is said.
const LEAST: usize = 20;

/// Interquartile ranges between the third quartile and the fence.
const FENCE: f64 = 3.0;

/// What went wrong so far, and what losses are judged by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Stability {
    /// Steps that were passed over because something was not finite.
    pub(crate) skipped: u64,
    /// Those since the last step that was not.
    pub(crate) skipped_in_a_row: u64,
    /// How often the run went back to a checkpoint.
    pub(crate) went_back: u64,
    /// What the learning rate is multiplied by since then.
    pub(crate) lr_scale: f64,
    /// Spikes of the loss.
    pub(crate) spikes: u64,
    /// The last losses, the newest last.
    recent: VecDeque<f64>,
    /// The greatest excess since the last training line.
    excess: Option<f64>,
    /// Spikes since the last training line.
    new_spikes: u64,
}

impl Default for Stability {
    fn default() -> Self {
        Self {
            skipped: 0,
            skipped_in_a_row: 0,
            went_back: 0,
            lr_scale: 1.0,
            spikes: 0,
            recent: VecDeque::new(),
            excess: None,
            new_spikes: 0,
        }
    }
}

impl Stability {
    /// Judges the (finite) loss of a step, then remembers it.
    pub(crate) fn see(&mut self, loss: f64) {
        if let Some([q1, q2, q3]) = self.quartiles() {
            let range = q3 - q1;
            if loss > q3 + FENCE * range {
                self.spikes += 1;
                self.new_spikes += 1;
            }
            let excess = (loss - q2) / range;
            if excess.is_finite() {
                self.excess = Some(self.excess.map_or(excess, |most| most.max(excess)));
            }
        }
        self.recent.push_back(loss);
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
    }

    /// Fields of a training line, of the steps since the one before; and, for a person, what is to be said
    /// of spikes among them.
    pub(crate) fn line(&mut self) -> ([(String, Value); 4], Option<String>) {
        let median = self.quartiles().map(|[_, median, _]| median);
        let (excess, spikes) = (self.excess.take(), std::mem::take(&mut self.new_spikes));
        let note = (spikes > 0).then(|| {
            let (steps, largest) = (if spikes == 1 { "step" } else { "steps" }, excess.unwrap_or(f64::INFINITY));
            format!(
                "loss spike in {spikes} {steps}: up to {largest:.1} interquartile ranges above the median of the steps before"
            )
        });
        let fields = [
            ("loss_median".to_owned(), median.into()),
            ("loss_excess".to_owned(), excess.into()),
            ("spikes".to_owned(), self.spikes.into()),
            ("skipped".to_owned(), self.skipped.into()),
        ];
        (fields, note)
    }

    /// Quartiles of the last losses, linear between neighbours.
    fn quartiles(&self) -> Option<[f64; 3]> {
        if self.recent.len() < LEAST {
            return None;
        }
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let last = (sorted.len() - 1) as f64;
        Some([0.25, 0.5, 0.75].map(|share| {
            let at = share * last;
            let below = sorted[at as usize];
            let above = sorted[(at as usize + 1).min(sorted.len() - 1)];
            below + at.fract() * (above - below)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(losses: impl IntoIterator<Item = f64>) -> Stability {
        let mut stability = Stability::default();
        for loss in losses {
            stability.see(loss);
        }
        stability
    }

    /// numpy.quantile(numpy.arange(21) ** 2 - 50, [.25, .5, .75]) is [-25, 50, 175].
    #[test]
    fn the_fence_is_tukeys_whatever_the_sign() {
        let losses = || (0..21).map(|i| f64::from(i * i) - 50.0);
        let stability = after(losses());
        assert_eq!(stability.quartiles(), Some([-25.0, 50.0, 175.0]));
        let fence = 175.0 + 3.0 * 200.0;
        assert_eq!(after(losses().chain([fence])).spikes, 0);
        let mut above = after(losses().chain([fence + 1e-9]));
        assert_eq!(above.spikes, 1);
        let (fields, note) = above.line();
        assert_eq!(fields[1].1, (fence + 1e-9 - 50.0) / 200.0);
        assert!(note.unwrap().starts_with("loss spike in 1 step: up to 3.6 interquartile"));
        let (fields, note) = above.line();
        assert_eq!((&fields[1].1, &fields[2].1, note), (&Value::Null, &1.into(), None));
    }

    #[test]
    fn nothing_is_said_of_the_first_losses_and_only_the_last_hundred_count() {
        let mut few = after((0..19).map(f64::from).chain([1e9]));
        assert_eq!((few.spikes, few.line().0[1].1.clone()), (0, Value::Null));
        // A fall to another level is no spike, and is what counts after a hundred steps.
        let wave = |i: u32, level: f64| level + f64::from(i % 10);
        let fallen = (0..100).map(|i| wave(i, 1000.0)).chain((0..100).map(|i| wave(i, 0.0)));
        let mut fallen = after(fallen);
        assert_eq!((fallen.spikes, fallen.recent.len()), (0, 100));
        assert_eq!(fallen.quartiles().unwrap()[1], 4.5);
        fallen.see(1000.0);
        assert_eq!(fallen.spikes, 1);
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut stability = after((0..150).map(|i| f64::from(i * 37 % 101).sqrt()).chain([1e3]));
        stability.lr_scale = 0.1;
        let text = serde_json::to_string(&stability).unwrap();
        assert_eq!(serde_json::from_str::<Stability>(&text).unwrap(), stability);
        assert_eq!(serde_json::from_str::<Stability>("{}").unwrap(), Stability::default());
    }
}
