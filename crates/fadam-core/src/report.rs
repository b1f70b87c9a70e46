//! What a step did, for those who want to look.

use candle_core::DType;

use crate::algorithm::Algorithm;
use crate::param::Param;
use crate::{NamedOptimizer, Result};

/// What a step measured of one tensor, before clipping. RMS is over the whole tensor.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measures {
    /// RMS(g).
    pub rms_g: f64,
    /// ε̂, `min(ε, ε2 RMS(g))`; ε for the baselines.
    pub eps_hat: f64,
    /// RMS(ḡ) of the (natural) gradient: what is clipped to c.
    pub rms_natural: f64,
    /// RMS(ḡw) of the weight decay on the manifold; 0 for the baselines.
    pub rms_decay: f64,
    /// RMS of the auxiliary gradient over d; 0 without one.
    pub rms_auxiliary: f64,
}

/// The last step in numbers: [`NamedOptimizer::report`](crate::NamedOptimizer::report).
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Steps taken, this one included.
    pub step: u64,
    /// Steps skipped because something was not finite.
    pub skipped: u64,
    /// The norm of all gradients together before it was clipped, if
    /// [`max_grad_norm`](crate::NamedOptimizer::max_grad_norm) is set.
    pub grad_norm: Option<f64>,
    /// The tensors that the step changed, sorted by name.
    pub tensors: Vec<TensorReport>,
}

/// The last step of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorReport {
    /// The parameter.
    pub name: String,
    /// Steps that it has taken.
    pub t: u64,
    /// η of its group.
    pub lr: f64,
    /// RMS(g), ε̂ and what was clipped.
    pub measures: Measures,
    /// Whether ḡ was clipped: RMS(ḡ) > c.
    pub clipped: bool,
    /// Quantiles of the diagonal FIM.
    pub fim: Quantiles,
}

/// Quantiles of the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Quantiles {
    /// The least.
    pub min: f64,
    /// The element that 5 % are below.
    pub p05: f64,
    /// The element that half are below.
    pub median: f64,
    /// The element that 95 % are below.
    pub p95: f64,
    /// The greatest.
    pub max: f64,
}

impl<A: Algorithm> NamedOptimizer<A> {
    /// The last step in numbers. Measuring costs the step nothing; the quantiles of the FIM are computed here.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn report(&self) -> Result<StepReport> {
        let mut tensors = Vec::new();
        for (p, measures) in self.measured() {
            let fim = self.fim(&p.name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
            tensors.push(TensorReport {
                name: p.name.clone(),
                t: p.t,
                lr: self.config_of(p.group).lr(),
                measures,
                clipped: self.clips(p, measures),
                fim: Quantiles::of(fim),
            });
        }
        Ok(StepReport {
            step: self.steps,
            skipped: self.skipped_steps,
            grad_norm: self.grad_norm,
            tensors,
        })
    }

    /// The norm of the gradients of all parameters together in the last step, before it was clipped: `√Σ n RMS(g)²`. `None` before
    /// the first step. It costs nothing, as [`clipped_share`](Self::clipped_share).
    pub fn grad_norm(&self) -> Option<f64> {
        let square = |(p, of): (&Param, Measures)| p.var.elem_count() as f64 * of.rms_g * of.rms_g;
        self.measured().next()?;
        self.grad_norm.or_else(|| Some(self.measured().map(square).sum::<f64>().sqrt()))
    }

    /// The share of tensors whose ḡ the last step clipped ([`StepReport::clipped_share`]). `None` before the first step.
    pub fn clipped_share(&self) -> Option<f64> {
        let clipped = self.measured().filter(|(p, measures)| self.clips(p, *measures)).count();
        let all = self.measured().count();
        (all > 0).then(|| clipped as f64 / all as f64)
    }

    /// What the last step changed.
    fn measured(&self) -> impl Iterator<Item = (&Param, Measures)> {
        self.params.iter().filter_map(|p| Some((p, p.last?)))
    }

    fn clips(&self, p: &Param, measures: Measures) -> bool {
        let clip = self.config_of(p.group).rule(p.t.max(1)).clip;
        clip.is_some_and(|c| measures.rms_natural > c)
    }
}

impl StepReport {
    /// The share of tensors whose ḡ was clipped; 0 without tensors.
    pub fn clipped_share(&self) -> f64 {
        let clipped = self.tensors.iter().filter(|tensor| tensor.clipped).count();
        clipped as f64 / self.tensors.len().max(1) as f64
    }
}

impl Quantiles {
    /// Of these numbers; zeros without any.
    pub(crate) fn of(mut numbers: Vec<f64>) -> Self {
        if numbers.is_empty() {
            return Self::default();
        }
        let mut at = |share: f64| {
            let k = (share * (numbers.len() - 1) as f64).round() as usize;
            *numbers.select_nth_unstable_by(k, f64::total_cmp).1
        };
        Self { min: at(0.0), p05: at(0.05), median: at(0.5), p95: at(0.95), max: at(1.0) }
    }
}
