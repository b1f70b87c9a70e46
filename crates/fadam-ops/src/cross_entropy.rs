//! What a loss over classes is: options, targets, and the loss of a row.
//!
//! With logits z, `Z = Σ exp zᵥ`, target y, label smoothing s over V classes and z-loss weight ζ:
//!
//! ```text
//! loss   = log Z − (1 − s) z_y − s mean(z) + ζ log² Z
//! ∂/∂zᵥ = pᵥ (1 + 2 ζ log Z) − (1 − s) [v = y] − s/V        with pᵥ = exp(zᵥ)/Z
//! ```
//!
//! averaged over the rows whose target is not ignored.

use candle_core::{DType, Result, Tensor, bail};

/// Choices of [`cross_entropy`](crate::cross_entropy()) and [`linear_cross_entropy`](crate::linear_cross_entropy()).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropy {
    /// Rows with this target count neither in the sum nor in the mean.
    pub ignore_index: Option<u32>,
    /// s: the share of the target's probability that is spread over all classes, 0 ≤ s < 1 (Szegedy et al., arXiv
    /// 1512.00567).
    pub label_smoothing: f64,
    /// ζ: the weight of `log² Z`, which keeps logits from drifting (PaLM, arXiv 2204.02311, section 5).
    pub z_loss: f64,
    /// Logits are multiplied by this first.
    pub logit_scale: f64,
}

impl Default for CrossEntropy {
    /// The plain mean of `log Z − z_y`.
    fn default() -> Self {
        Self { ignore_index: None, label_smoothing: 0.0, z_loss: 0.0, logit_scale: 1.0 }
    }
}

/// What a loss returns.
#[derive(Debug, Clone)]
pub struct Loss {
    /// What training descends: 0-d, with a gradient.
    pub objective: Tensor,
    /// The mean of `log Z − z_y` in nats, without smoothing and z-loss: 0-d, without a gradient.
    pub cross_entropy: Tensor,
}

impl CrossEntropy {
    pub(crate) fn check(&self, op: &str) -> Result<()> {
        let Self { label_smoothing, z_loss, logit_scale, .. } = *self;
        if !(0.0..1.0).contains(&label_smoothing) {
            bail!(
                "{op}: label_smoothing is {label_smoothing}, not within 0 (included) and 1 (excluded)"
            );
        }
        if !(z_loss.is_finite() && z_loss >= 0.0) {
            bail!("{op}: z_loss is {z_loss}, not a finite number of 0 or more");
        }
        if !logit_scale.is_finite() {
            bail!("{op}: logit_scale is {logit_scale}");
        }
        Ok(())
    }

    /// The targets of rows on the host; `None` for those that are ignored.
    pub(crate) fn targets(
        &self,
        op: &str,
        targets: &Tensor,
        rows: usize,
        classes: usize,
    ) -> Result<Targets> {
        if targets.elem_count() != rows {
            bail!("{op}: {} targets for {rows} rows of logits", targets.elem_count());
        }
        if targets.dtype() != DType::U32 {
            bail!("{op}: targets are {:?}, not u32", targets.dtype());
        }
        let of: Vec<u32> = targets.flatten_all()?.to_vec1()?;
        let of: Vec<Option<usize>> =
            of.iter().map(|&y| (Some(y) != self.ignore_index).then_some(y as usize)).collect();
        if let Some((row, y)) =
            (0..).zip(&of).find_map(|(row, y)| Some((row, y.filter(|y| *y >= classes)?)))
        {
            bail!("{op}: the target of row {row} is {y}, and there are {classes} classes");
        }
        let counted = of.iter().flatten().count();
        if counted == 0 {
            bail!("{op}: there is no target that is not ignored, so that there is no mean");
        }
        Ok(Targets { of, counted })
    }
}

/// The targets of all rows.
pub(crate) struct Targets {
    pub(crate) of: Vec<Option<usize>>,
    /// Those that are not ignored.
    pub(crate) counted: usize,
}
