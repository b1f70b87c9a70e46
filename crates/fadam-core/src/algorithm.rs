//! What the four algorithms have in common: a state for each tensor, and one step over it.

use candle_core::{D, DType, Tensor};

use crate::Result;
use crate::kernel::Rule;
use crate::math::{compute_dtype, ema, ratio};

/// One of the paper's algorithms with its hyper-parameters, as it acts on one tensor.
///
/// The four config types implement it; [`NamedOptimizer`](crate::NamedOptimizer) walks the
/// parameters. All tensors given to [`update`](Algorithm::update) are in the compute dtype (f64; f32
/// on Metal), so that an algorithm is the paper's lines and nothing else.
pub trait Algorithm: Clone + Fused {
    /// `fadam`, `fadafactor`, `adam` or `adafactor`.
    fn name(&self) -> &'static str;

    /// Checks every hyper-parameter.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) names the first field that is impossible.
    fn validate(&self) -> Result<()>;

    /// The learning rate η.
    fn lr(&self) -> f64;

    /// Sets the learning rate η of the next steps.
    fn set_lr(&mut self, lr: f64);

    /// The state before the first step (line 2), shaped for θ, in the dtype of θ.
    ///
    /// # Errors
    /// Only if candle cannot allocate.
    fn init(&self, theta: &Tensor) -> Result<State>;

    /// One step. `t` counts from 1, `g` is the gradient of the loss (the step descends).
    ///
    /// # Errors
    /// Only if candle fails.
    fn update(&self, t: u64, g: &Tensor, theta: &Tensor, state: &State) -> Result<Update>;

    /// The diagonal FIM that step `t` divided by, shaped as θ.
    ///
    /// # Errors
    /// Only if candle fails.
    fn fim(&self, t: u64, state: &State) -> Result<Tensor>;
}

/// The algorithm as the fused step takes it. Named in no path that another crate can reach, so the four
/// algorithms are all there are.
pub trait Fused: Send + Sync {
    /// Step `t`, which counts from 1, in numbers.
    fn rule(&self, t: u64) -> Rule;
}

/// What a step makes of one tensor: nothing is changed in place.
#[derive(Debug, Clone)]
pub struct Update {
    /// `θ_t`.
    pub theta: Tensor,
    /// `m_t` and `f_t`.
    pub state: State,
}

/// The state of one tensor.
#[derive(Debug, Clone)]
pub struct State {
    /// The momentum m, shaped as θ.
    pub m: Tensor,
    /// The diagonal Fisher information.
    pub f: Fim,
}

/// A diagonal Fisher information matrix, kept element by element or as row and column sums.
#[derive(Debug, Clone)]
pub enum Fim {
    /// f, shaped as θ.
    Full(Tensor),
    /// Sums over the last two dimensions `[…, n, m]`, independently for each leading index:
    /// `f = R C / ΣR`.
    Factored {
        /// `[…, n]`: sums over the columns.
        r: Tensor,
        /// `[…, m]`: sums over the rows.
        c: Tensor,
    },
}

impl State {
    /// Zero momentum, and a FIM filled with `f0` that is factored if asked for and possible.
    pub(crate) fn new(theta: &Tensor, f0: f64, factored: bool) -> Result<Self> {
        let (dims, dtype, device) = (theta.dims(), theta.dtype(), theta.device());
        let filled = |shape: &[usize]| Tensor::full(f0, shape, device)?.to_dtype(dtype);
        let f = match dims {
            [leading @ .., n, m] if factored => Fim::Factored {
                r: filled(&[leading, &[*n]].concat())?,
                c: filled(&[leading, &[*m]].concat())?,
            },
            _ => Fim::Full(filled(dims)?),
        };
        Ok(Self { m: theta.zeros_like()?, f })
    }

    /// The tensors by their names in the paper: `m` and `f`, or `m`, `R` and `C`.
    pub(crate) fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match &self.f {
            Fim::Full(f) => vec![("m", &self.m), ("f", f)],
            Fim::Factored { r, c } => vec![("m", &self.m), ("R", r), ("C", c)],
        }
    }

    /// The same state with every tensor, called by its name, replaced.
    pub(crate) fn map(
        &self,
        mut each: impl FnMut(&'static str, &Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        Ok(Self {
            m: each("m", &self.m)?,
            f: match &self.f {
                Fim::Full(f) => Fim::Full(each("f", f)?),
                Fim::Factored { r, c } => Fim::Factored { r: each("R", r)?, c: each("C", c)? },
            },
        })
    }

    /// The same state in another dtype.
    pub(crate) fn to_dtype(&self, dtype: DType) -> Result<Self> {
        self.map(|_, x| Ok(x.to_dtype(dtype)?))
    }

    /// The same state in the dtype that steps are computed in.
    pub(crate) fn to_compute_dtype(&self) -> Result<Self> {
        self.to_dtype(compute_dtype(self.m.device()))
    }
}

impl Fim {
    /// f where it is kept element by element.
    pub(crate) fn full(&self) -> Result<&Tensor> {
        match self {
            Self::Full(f) => Ok(f),
            Self::Factored { .. } => Err(candle_core::Error::msg("a factored FIM in Adam").into()),
        }
    }

    /// `f ← β f + (1 − β) g²`, or the same of the row and column sums of `g²`.
    pub(crate) fn ema(&self, beta: f64, g2: &Tensor) -> Result<Self> {
        Ok(match self {
            Self::Full(f) => Self::Full(ema(beta, f, g2)?),
            Self::Factored { r, c } => Self::Factored {
                r: ema(beta, r, &g2.sum(D::Minus1)?)?,
                c: ema(beta, c, &g2.sum(D::Minus2)?)?,
            },
        })
    }

    /// f, shaped as θ: `f_ij = R_i C_j / Σ_i R_i` where factored, and 0 where ΣR is 0.
    pub(crate) fn diagonal(&self) -> Result<Tensor> {
        match self {
            Self::Full(f) => Ok(f.clone()),
            Self::Factored { r, c } => {
                let rows = ratio(r, &r.sum_keepdim(D::Minus1)?.broadcast_as(r.shape())?)?;
                Ok(rows.unsqueeze(D::Minus1)?.broadcast_mul(&c.unsqueeze(D::Minus2)?)?)
            }
        }
    }
}
