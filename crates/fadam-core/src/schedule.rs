//! Learning-rate schedules as pure functions of the step.

use serde::{Deserialize, Serialize};

/// A linear warm-up, then a decay: [`factor`](Schedule::factor) is what the learning rate is
/// multiplied by.
///
/// With `w = warmup`, T the total number of steps, and progress
/// `p = min(1, max(0, t − w) / max(1, T − w))`, the factor is `min(1, t/w)` times that of [`Decay`].
///
/// ```
/// use fadam_core::schedule::{Decay, Schedule};
/// let schedule = Schedule { warmup: 100, decay: Decay::Linear { end: 0.1 } };
/// assert_eq!(schedule.factor(50, 1000), 0.5);
/// assert_eq!(schedule.factor(100, 1000), 1.0);
/// assert!((schedule.factor(1000, 1000) - 0.1).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// w: steps until the warm-up reaches 1; 0 for none. (Noam has its own use of it.)
    pub warmup: u64,
    /// What follows the warm-up.
    pub decay: Decay,
}

/// The course of the factor after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Decay {
    /// 1.
    Constant,
    /// `1 − (1 − end) p`.
    Linear {
        /// The factor at the last step.
        end: f64,
    },
    /// `end + (1 − end) (1 + cos πp)/2`.
    Cosine {
        /// The factor at the last step.
        end: f64,
    },
    /// `end^p`: from 1 to `end` by equal ratios (paxml's C4 recipe: 0.1).
    Exponential {
        /// The factor at the last step.
        end: f64,
    },
    /// `√(w/t)` for `t > w`, with w at least 1.
    InverseSqrt,
    /// `d^−½ min(t^−½, t w^−3/2)`: warm-up and decay in one, to be used with a learning rate of
    /// about 1 to 5. Source: Vaswani et al., arXiv 1706.03762, section 5.3.
    Noam {
        /// d, the width of the model.
        d_model: u64,
    },
}

impl Schedule {
    /// A factor of 1 at every step.
    pub const CONSTANT: Self = Self { warmup: 0, decay: Decay::Constant };

    /// The factor at step `t`, which counts from 1, of `total` steps. Beyond the total it stays.
    pub fn factor(&self, t: u64, total: u64) -> f64 {
        let warmup = self.warmup.max(1) as f64;
        let step = t.max(1) as f64;
        let after = t.saturating_sub(self.warmup) as f64;
        let p = (after / total.saturating_sub(self.warmup).max(1) as f64).min(1.0);
        let decay = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear { end } => 1.0 - (1.0 - end) * p,
            Decay::Cosine { end } => {
                end + (1.0 - end) * 0.5 * (1.0 + (std::f64::consts::PI * p).cos())
            }
            Decay::Exponential { end } => end.powf(p),
            Decay::InverseSqrt => (warmup / step.max(warmup)).sqrt(),
            Decay::Noam { d_model } => {
                let d = d_model.max(1) as f64;
                return (step.powf(-0.5)).min(step * warmup.powf(-1.5)) / d.sqrt();
            }
        };
        decay * (step / warmup).min(1.0)
    }
}
