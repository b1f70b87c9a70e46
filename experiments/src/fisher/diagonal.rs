//! The diagonal of the Fisher information matrix, exactly and as it is estimated.
//!
//! g is the gradient of `−log P(y|x)` of one example. With ỹ a label of the model and y that of the data:
//!
//! ```text
//! f = E_x E_ỹ[g²]                                    Eq. 56   exact
//! (1/B) Σ_b g_b²          labels ỹ                   Eq. 56   by samples
//! B ((1/B) Σ_b g_b)²      labels ỹ                   Eq. 56   by samples, from one mean gradient: `Fisher::Sampled`
//! (1/B) Σ_b g_b²          labels y                   Eq. 57
//! mean of (mean of m g)²  labels y                           micro-batches of m: `Fisher::Microbatch`
//! ((1/B) Σ_b g_b)²        labels y                   Eq. 58   what Adam and FAdam average: `Fisher::Minibatch`
//! ```
//!
//! Over batches that are drawn with replacement, the expectation of the first two estimators is f, that of Eq. 57 is the
//! mean `E[g²]` over the data, and that of the square of a mean over m examples is
//!
//! ```text
//! E[ḡ²] = (1/m) E[g²] + (1 − 1/m) (E[g])²
//! ```
//!
//! since the covariance of two examples that are drawn independently is 0: as m grows, the FIM leaves Eq. 58 and what
//! stays is the square of the gradient of the whole data.

use candle_core::{Result, Tensor};
use rand_chacha::ChaCha8Rng;

use super::likelihood::Likelihood;
use super::network::{Layer, Network, Pass};

/// An estimator of the diagonal FIM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Estimator {
    /// Eq. 56: squared gradients of single examples, with labels of the model.
    SampledSquares,
    /// Eq. 56: B times the squared mean gradient of labels of the model.
    SampledMean,
    /// Eq. 57: squared gradients of single examples, with the labels of the data.
    Squares,
    /// Squared mean gradients of micro-batches of this size, with the labels of the data.
    Micro(usize),
    /// Eq. 58: the squared mean gradient, with the labels of the data.
    Minibatch,
}

/// Numbers, one for each parameter: a matrix `[I, O]` a layer.
#[derive(Debug, Clone)]
pub struct Diagonal(pub Vec<Tensor>);

/// The exact FIM, and what makes up the expectations of its estimators.
#[derive(Debug)]
pub struct Exact {
    /// f of Eq. 56 over all examples and all labels.
    pub fim: Diagonal,
    /// `E[g²]` over the data.
    pub squares: Diagonal,
    /// `E[g]` over the data.
    pub mean: Diagonal,
}

impl Diagonal {
    fn of(layers: &[Layer], each: impl Fn(&Layer) -> Result<Tensor>) -> Result<Self> {
        Ok(Self(layers.iter().map(each).collect::<Result<_>>()?))
    }

    /// The mean of squared gradients.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn mean_of_squares(layers: &[Layer]) -> Result<Self> {
        Self::of(layers, |layer| layer.squares()?.mean())
    }

    /// The square of the mean gradient.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn square_of_mean(layers: &[Layer]) -> Result<Self> {
        Self::of(layers, |layer| layer.mean()?.sqr())
    }

    /// The mean of squared mean gradients of m examples each.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn micro_batches(layers: &[Layer], m: usize) -> Result<Self> {
        Self::of(layers, |layer| {
            let parts = layer.inputs.dim(0)? / m;
            let mut sum = layer.narrow(0, m)?.mean()?.sqr()?;
            for part in 1..parts {
                sum = (sum + layer.narrow(part * m, m)?.mean()?.sqr()?)?;
            }
            sum / parts as f64
        })
    }

    /// `a self + b other`
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn combined(&self, a: f64, other: &Self, b: f64) -> Result<Self> {
        let pairs = self.0.iter().zip(&other.0);
        Ok(Self(pairs.map(|(x, y)| (x * a)? + (y * b)?).collect::<Result<_>>()?))
    }

    /// All numbers, of all layers or of the first alone.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn values(&self, first_layer_alone: bool) -> Result<Vec<f64>> {
        let layers = if first_layer_alone { &self.0[..1] } else { &self.0[..] };
        let mut values = Vec::new();
        for layer in layers {
            values.extend(layer.flatten_all()?.to_vec1::<f64>()?);
        }
        Ok(values)
    }
}

impl Exact {
    /// Of all examples that went through, whose labels make the gradients `layers`.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn new(
        network: &Network,
        likelihood: Likelihood,
        pass: &Pass,
        layers: &[Layer],
    ) -> Result<Self> {
        Ok(Self {
            fim: Diagonal::of(&network.expected_squares(pass, likelihood)?, Layer::mean)?,
            squares: Diagonal::mean_of_squares(layers)?,
            mean: Diagonal::of(layers, Layer::mean)?,
        })
    }

    /// The expectation of an estimator over batches of B examples, drawn with replacement.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn expectation(&self, estimator: Estimator, batch: usize) -> Result<Diagonal> {
        let averaged = match estimator {
            Estimator::SampledSquares | Estimator::SampledMean => return Ok(self.fim.clone()),
            Estimator::Squares => 1,
            Estimator::Micro(m) => m,
            Estimator::Minibatch => batch,
        };
        let share = 1.0 / averaged as f64;
        let mean = Diagonal(self.mean.0.iter().map(Tensor::sqr).collect::<Result<_>>()?);
        self.squares.combined(share, &mean, 1.0 - share)
    }
}

impl Estimator {
    /// All, with micro-batches of m.
    pub fn all(m: usize) -> [Self; 5] {
        [Self::SampledSquares, Self::SampledMean, Self::Squares, Self::Micro(m), Self::Minibatch]
    }

    /// What it is called in tables.
    pub fn name(self) -> String {
        match self {
            Self::SampledSquares => "sampled, each squared (56)".to_owned(),
            Self::SampledMean => "sampled, B x mean squared (56)".to_owned(),
            Self::Squares => "each squared (57)".to_owned(),
            Self::Micro(m) => format!("micro-batches of {m}"),
            Self::Minibatch => "mean squared (58)".to_owned(),
        }
    }

    /// Whether a batch of B can be estimated from: micro-batches need a whole one.
    pub fn takes(self, batch: usize) -> bool {
        !matches!(self, Self::Micro(m) if batch < m)
    }

    /// Whether its labels are the model's.
    pub fn samples(self) -> bool {
        matches!(self, Self::SampledSquares | Self::SampledMean)
    }

    /// The estimate from the gradients of a batch, whose labels are the model's if it [`samples`](Self::samples).
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn estimate(self, layers: &[Layer]) -> Result<Diagonal> {
        match self {
            Self::SampledSquares | Self::Squares => Diagonal::mean_of_squares(layers),
            Self::Micro(m) => Diagonal::micro_batches(layers, m),
            Self::Minibatch => Diagonal::square_of_mean(layers),
            Self::SampledMean => {
                let batch = layers[0].inputs.dim(0)? as f64;
                let mean = Diagonal::square_of_mean(layers)?;
                Ok(Diagonal(mean.0.iter().map(|x| x * batch).collect::<Result<_>>()?))
            }
        }
    }
}

/// The gradients of a batch with labels that the model draws, each on its own.
///
/// # Errors
/// Only if candle fails.
pub fn with_sampled_labels(
    network: &Network,
    likelihood: Likelihood,
    batch: &Pass,
    random: &mut ChaCha8Rng,
) -> Result<Vec<Layer>> {
    let labels = likelihood.sample(&batch.outputs, random)?;
    network.backward(batch, likelihood.residuals(&batch.outputs, &labels)?)
}
