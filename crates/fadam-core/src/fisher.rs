//! What a step is told: the gradients, and where the estimate of the Fisher information comes from.

use candle_core::Tensor;

use crate::Gradients;
use crate::terms::{Estimate, Terms};

/// Where the estimate of the diagonal FIM comes from that a step averages in f.
///
/// The diagonal FIM of a model P is `f = E_{y ~ P}[(∇ log P(y|x))²]` (Eqs. 14, 56). Adam, and the paper's
/// algorithms, make three approximations on the way to g²; each can be taken back here:
///
/// | estimator | formula | labels | square | equations |
/// |---|---|---|---|---|
/// | `Minibatch` | `ḡ²` | of the data | of the mean gradient | 21, 58 |
/// | `Microbatch` | `mean_k g_k²` | of the data | of each micro-batch's gradient | 20, 57 (exact with one example each) |
/// | `Sampled` | `B ḡ_s²` | drawn from the model | of the mean gradient | 14, 56 |
///
/// `B ḡ_s²` is an unbiased estimate of the mean square over B independently drawn labels: the scores of
/// a model's own labels have mean 0, so the cross terms vanish on average. That holds for labels of the model
/// only, and `Minibatch` has no B: where gradients are noise, f of the others is larger, by up to B, and their steps
/// smaller by its root (ρ = ½). They want a learning rate that is larger by as much.
///
/// A tensor's ε̂ is of the gradient itself, whatever the estimator.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use fadam_core::{Accumulator, FAdam, FAdamConfig, Fisher, NamedVars};
///
/// let w = Var::new(&[1f32, -2.0], &Device::Cpu)?;
/// let params = NamedVars::from_iter([("w".to_owned(), w.clone())]);
/// let mut optimizer = FAdam::from_named(params.clone(), FAdamConfig::default())?;
/// let mut sum = Accumulator::with_squares();
/// for x in [1f32, 3.0, -2.0] {
///     let loss = (w.affine(f64::from(x), -1.0)?).sqr()?.mean_all()?; // one micro-batch
///     sum.add(&params.gradients(&loss.backward()?))?;
/// }
/// let mean = sum.finish()?;
/// optimizer.step_with(&mean.gradients, Fisher::Microbatch(&mean.squares.expect("asked for")))?;
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// Source: arXiv 2405.12807, sections 3.3 and B.2 (Eq. 20 is misprinted there as Eq. 21).
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub enum Fisher<'a> {
    /// g² of the mean gradient: the paper's algorithms.
    #[default]
    Minibatch,
    /// The mean of the squared gradients of micro-batches of one fixed size, by name: the
    /// [`squares`](crate::Accumulated::squares) of an [`Accumulator`](crate::Accumulator). Its expectation does
    /// not depend on the number of micro-batches.
    Microbatch(&'a Gradients),
    /// `B s²`.
    Sampled {
        /// s: the mean gradient of the loss of labels that were drawn from the model, each on its own.
        gradients: &'a Gradients,
        /// B: how many labels that was (examples, or tokens).
        batch: usize,
    },
}

/// The gradients of a step: of the loss and, apart, of an auxiliary loss.
///
/// A loss that is no log-likelihood (a codebook loss, a load-balancing loss, elastic weight consolidation) has no
/// place in the FIM: section 3.4.3. Its gradient u is treated as the weight decay of Eq. 28 is: divided by
/// `f^ρ + ε̂^{2ρ}`, clipped on its own, past the momentum, `θ ← θ − η w ū` with the weight w.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use fadam_core::{FAdam, FAdamConfig, Fisher, Gradients, LossGradients, NamedVars};
///
/// let w = Var::new(&[1f32, -2.0], &Device::Cpu)?;
/// let params = NamedVars::from_iter([("w".to_owned(), w.clone())]);
/// let mut optimizer = FAdam::from_named(params.clone(), FAdamConfig::default())?;
/// let loss = params.gradients(&w.sqr()?.sum_all()?.backward()?);
/// let auxiliary = params.gradients(&w.abs()?.sum_all()?.backward()?);
/// optimizer.step_with(LossGradients::new(&loss).auxiliary(&auxiliary, 0.25), Fisher::Minibatch)?;
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LossGradients<'a> {
    pub(crate) loss: &'a Gradients,
    pub(crate) auxiliary: Option<(&'a Gradients, f64)>,
}

impl<'a> LossGradients<'a> {
    /// Of a loss that is a log-likelihood, and nothing else.
    pub fn new(loss: &'a Gradients) -> Self {
        Self { loss, auxiliary: None }
    }

    /// And of an auxiliary loss with its weight. It need not reach every parameter. Since the gradient is clipped by
    /// its RMS, the weight is to be given here and not in the loss.
    #[must_use]
    pub fn auxiliary(mut self, gradients: &'a Gradients, weight: f64) -> Self {
        self.auxiliary = Some((gradients, weight));
        self
    }
}

impl LossGradients<'_> {
    /// What a step is told about one parameter; `None` without a gradient of it.
    pub(crate) fn terms<'b>(
        &'b self,
        fisher: &'b Fisher<'_>,
        gamma: f64,
        name: &str,
    ) -> Option<Terms<&'b Tensor>> {
        Some(Terms {
            g: self.loss.get(name)?,
            gamma,
            estimate: fisher.of(name)?,
            auxiliary: self.auxiliary.and_then(|(u, weight)| Some((u.get(name)?, weight))),
        })
    }
}

impl<'a> From<&'a Gradients> for LossGradients<'a> {
    fn from(loss: &'a Gradients) -> Self {
        Self::new(loss)
    }
}

impl<'a> Fisher<'a> {
    /// The gradients that it comes with.
    pub(crate) fn given(&self) -> Option<&'a Gradients> {
        match self {
            Self::Minibatch => None,
            Self::Microbatch(given) | Self::Sampled { gradients: given, .. } => Some(given),
        }
    }

    /// For one parameter; `None` if what is given lacks it.
    pub(crate) fn of(&self, name: &str) -> Option<Estimate<&'a Tensor>> {
        Some(match self {
            Self::Minibatch => Estimate::OfGradient,
            Self::Microbatch(squares) => Estimate::Given(squares.get(name)?),
            Self::Sampled { gradients, batch } => {
                Estimate::Sampled(gradients.get(name)?, *batch as f64)
            }
        })
    }
}
