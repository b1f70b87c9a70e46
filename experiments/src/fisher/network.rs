//! The network that is measured, with its gradient for each example by hand.
//!
//! One hidden layer of tanh, or none. The gradient of one example with respect to a weight matrix is an outer product,
//! `∂/∂W_io = a_i δ_o`, so that all N of them are kept as two matrices, a `[N, I]` and δ `[N, O]`: their mean is `aᵀδ/N` and
//! the mean of their squares `(a²)ᵀ(δ²)/N`.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use fadam_core::{Gradients, NamedVars};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardUniform};

use super::likelihood::Likelihood;

/// Weights in f64; the last row of each matrix is the bias.
#[derive(Debug)]
pub struct Network {
    /// `[D + 1, H]`
    first: Option<Var>,
    /// `[H + 1, O]`, or `[D + 1, O]` without a hidden layer.
    last: Var,
}

/// What N examples make of a network.
#[derive(Debug)]
pub struct Pass {
    /// Of each layer, `[N, I]`, with a column of ones.
    inputs: Vec<Tensor>,
    /// `[N, O]`
    pub outputs: Tensor,
}

/// The gradients of N examples with respect to one weight matrix `[I, O]`.
#[derive(Debug)]
pub struct Layer {
    /// a, `[N, I]`.
    pub inputs: Tensor,
    /// δ, `[N, O]`.
    pub deltas: Tensor,
}

impl Network {
    /// Weights and biases from ±1/√(fan in), uniformly; without a hidden layer if `hidden` is 0.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn new(features: usize, hidden: usize, outputs: usize, seed: u64) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut matrix = |inputs: usize, outputs: usize| {
            let bound = (inputs.max(1) as f64).sqrt().recip();
            let mut value = || bound * (2.0 * random_share(&mut random) - 1.0);
            let values: Vec<f64> = (0..(inputs + 1) * outputs).map(|_| value()).collect();
            Var::from_vec(values, (inputs + 1, outputs), &Device::Cpu)
        };
        let first = if hidden > 0 { Some(matrix(features, hidden)?) } else { None };
        let last = matrix(if hidden > 0 { hidden } else { features }, outputs)?;
        Ok(Self { first, last })
    }

    /// Without a hidden layer, with these weights `[D + 1, O]`.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn linear(weights: &Tensor) -> Result<Self> {
        Ok(Self { first: None, last: Var::from_tensor(weights)? })
    }

    /// The weights: `first`, if there is a hidden layer, and `last`.
    pub fn vars(&self) -> NamedVars {
        let first = self.first.iter().map(|var| ("first".to_owned(), var.clone()));
        first.chain([("last".to_owned(), self.last.clone())]).collect()
    }

    /// The outputs for examples `[N, D + 1]`, whose last column is 1.
    ///
    /// # Errors
    /// If the shape does not fit.
    pub fn pass(&self, x: &Tensor) -> Result<Pass> {
        let mut inputs = vec![x.clone()];
        if let Some(first) = &self.first {
            inputs.push(with_ones(&x.matmul(&first.as_detached_tensor())?.tanh()?)?);
        }
        let outputs = inputs[inputs.len() - 1].matmul(&self.last.as_detached_tensor())?;
        Ok(Pass { inputs, outputs })
    }

    /// The gradients of each example from e `[N, O]`, those with respect to the outputs.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn backward(&self, pass: &Pass, residuals: Tensor) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        if self.first.is_some() {
            let deltas = (residuals.matmul(&self.last_without_bias()?.t()?)? * slope(pass)?)?;
            layers.push(Layer { inputs: pass.inputs[0].clone(), deltas });
        }
        let inputs = pass.inputs[pass.inputs.len() - 1].clone();
        layers.push(Layer { inputs, deltas: residuals });
        Ok(layers)
    }

    /// The same of the squares, in expectation over labels of the model (Eq. 56): a² and `E_y[δ²]`.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn expected_squares(&self, pass: &Pass, likelihood: Likelihood) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        if self.first.is_some() {
            let through =
                likelihood.variances_through(&pass.outputs, &self.last_without_bias()?)?;
            let deltas = (through * slope(pass)?.sqr()?)?;
            layers.push(Layer { inputs: pass.inputs[0].sqr()?, deltas });
        }
        let inputs = pass.inputs[pass.inputs.len() - 1].sqr()?;
        layers.push(Layer { inputs, deltas: likelihood.variances(&pass.outputs)? });
        Ok(layers)
    }

    /// The gradients of the mean over these examples, by the names of [`vars`](Self::vars).
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn gradients(&self, layers: &[Layer]) -> Result<Gradients> {
        let means = layers.iter().map(Layer::mean).collect::<Result<Vec<_>>>()?;
        Ok(self.vars().iter().map(|(name, _)| name.to_owned()).zip(means).collect())
    }

    fn last_without_bias(&self) -> Result<Tensor> {
        self.last.as_detached_tensor().narrow(0, 0, self.last.dim(0)? - 1)
    }
}

impl Pass {
    /// Of the examples of these numbers.
    ///
    /// # Errors
    /// If there is no such example.
    pub fn select(&self, examples: &Tensor) -> Result<Self> {
        let of = |x: &Tensor| x.index_select(examples, 0);
        let inputs = self.inputs.iter().map(of).collect::<Result<_>>()?;
        Ok(Self { inputs, outputs: of(&self.outputs)? })
    }
}

impl Layer {
    /// Of the examples of these numbers.
    ///
    /// # Errors
    /// If there is no such example.
    pub fn select(&self, examples: &Tensor) -> Result<Self> {
        let of = |x: &Tensor| x.index_select(examples, 0);
        Ok(Self { inputs: of(&self.inputs)?, deltas: of(&self.deltas)? })
    }

    /// Of `n` examples from `start` on.
    ///
    /// # Errors
    /// If there are not as many.
    pub fn narrow(&self, start: usize, n: usize) -> Result<Self> {
        let of = |x: &Tensor| x.narrow(0, start, n)?.contiguous();
        Ok(Self { inputs: of(&self.inputs)?, deltas: of(&self.deltas)? })
    }

    /// `aᵀδ/N`: the mean of the gradients, `[I, O]`.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn mean(&self) -> Result<Tensor> {
        self.inputs.t()?.matmul(&self.deltas)? / self.inputs.dim(0)? as f64
    }

    /// a² and δ², whose [`mean`](Self::mean) is that of the squared gradients.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn squares(&self) -> Result<Self> {
        Ok(Self { inputs: self.inputs.sqr()?, deltas: self.deltas.sqr()? })
    }
}

/// A number in 0..1.
fn random_share(random: &mut ChaCha8Rng) -> f64 {
    StandardUniform.sample(random)
}

/// `1 − tanh²`, the slope of the hidden units.
fn slope(pass: &Pass) -> Result<Tensor> {
    let hidden = pass.inputs[1].narrow(D::Minus1, 0, pass.inputs[1].dim(D::Minus1)? - 1)?;
    hidden.sqr()?.affine(-1.0, 1.0)
}

/// `[N, D]` with a last column of ones.
///
/// # Errors
/// Only if candle fails.
pub fn with_ones(x: &Tensor) -> Result<Tensor> {
    let ones = Tensor::ones((x.dim(0)?, 1), DType::F64, x.device())?;
    Tensor::cat(&[x, &ones], 1)
}
