//! What the algorithms have in common: a state for each tensor, and one step over it.

use candle_core::{D, DType, Tensor};

use crate::Result;
use crate::kernel::Rule;
use crate::math::{clip_rms, compute_dtype, ema, ratio};
use crate::report::Measures;

/// One of the paper's algorithms with its hyper-parameters, as it acts on one tensor.
///
/// The config types implement it; [`NamedOptimizer`](crate::NamedOptimizer) walks the
/// parameters. All tensors given to [`update`](Algorithm::update) are in the compute dtype (f64; f32
/// on Metal), so that an algorithm is the paper's lines and nothing else.
pub trait Algorithm: Clone + Fused {
    /// `fadam`, `fadafactor`, `adam`, `adafactor` or `fadam-parts`.
    fn name(&self) -> &'static str;

    /// The algorithm that a state is kept as: what another with the same can go on with. Its own name but for
    /// `fadam-parts`.
    fn kept_as(&self) -> &'static str {
        self.name()
    }

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

    /// One step. `t` counts from 1; the step descends.
    ///
    /// # Errors
    /// Only if candle fails.
    fn update(&self, t: u64, signal: &Signal, theta: &Tensor, state: &State) -> Result<Update>;

    /// The diagonal FIM that step `t` divided by, shaped as θ.
    ///
    /// # Errors
    /// Only if candle fails.
    fn fim(&self, t: u64, state: &State) -> Result<Tensor>;
}

/// The algorithm as the fused step takes it. Named in no path that another crate can reach, so the algorithms here
/// are all there are.
pub trait Fused: Send + Sync {
    /// Step `t`, which counts from 1, in numbers.
    fn rule(&self, t: u64) -> Rule;

    /// Whether [`rule`](Fused::rule) is all there is to a step; if not, it is computed by [`Algorithm::update`].
    fn has_kernel(&self) -> bool {
        true
    }
}

/// What a step learns from, for one tensor.
#[derive(Debug, Clone)]
pub struct Signal {
    /// The gradient of the loss.
    pub g: Tensor,
    /// The estimate of the diagonal FIM that f averages: g², or what [`Fisher`](crate::Fisher) says.
    pub squares: Tensor,
    /// The gradient of an auxiliary loss that is no log-likelihood, and its weight.
    pub auxiliary: Option<(Tensor, f64)>,
}

impl Signal {
    /// `w · clip(u / d)`, what an auxiliary gradient u of weight w adds to the direction of a step (the weight
    /// decay of Eq. 28 with another gradient), and RMS(u / d); `None` and 0 without one.
    pub(crate) fn bypass(&self, d: &Tensor, clip: Option<f64>) -> Result<(Option<Tensor>, f64)> {
        let Some((u, weight)) = &self.auxiliary else { return Ok((None, 0.0)) };
        let (direction, rms) = clip_rms(ratio(u, d)?, clip)?;
        Ok((Some((direction * *weight)?), rms))
    }
}

/// What a step makes of one tensor: nothing is changed in place.
#[derive(Debug, Clone)]
pub struct Update {
    /// `θ_t`.
    pub theta: Tensor,
    /// `m_t` and `f_t`.
    pub state: State,
    /// What was measured on the way.
    pub measures: Measures,
}

/// The state of one tensor.
#[derive(Debug, Clone)]
pub struct State<T = Tensor> {
    /// The momentum m, shaped as θ.
    pub m: T,
    /// The diagonal Fisher information.
    pub f: Fim<T>,
}

/// A diagonal Fisher information matrix, kept element by element or as row and column sums.
#[derive(Debug, Clone, Copy)]
pub enum Fim<T = Tensor> {
    /// f, shaped as θ.
    Full(T),
    /// Sums over the last two dimensions `[…, n, m]`, independently for each leading index:
    /// `f = R C / ΣR`.
    Factored {
        /// `[…, n]`: sums over the columns.
        r: T,
        /// `[…, m]`: sums over the rows.
        c: T,
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

    /// The same state in the dtype that steps are computed in.
    pub(crate) fn to_compute_dtype(&self) -> Result<Self> {
        let dtype: DType = compute_dtype(self.m.device());
        self.map(|_, x| Ok(x.to_dtype(dtype)?))
    }
}

impl<T> State<T> {
    /// All by their names in the paper: `m` and `f`, or `m`, `R` and `C`.
    pub(crate) fn named(&self) -> Vec<(&'static str, &T)> {
        match &self.f {
            Fim::Full(f) => vec![("m", &self.m), ("f", f)],
            Fim::Factored { r, c } => vec![("m", &self.m), ("R", r), ("C", c)],
        }
    }

    /// A state of what `each` makes of each of this one, called by its name.
    pub(crate) fn map<'a, U>(
        &'a self,
        mut each: impl FnMut(&'static str, &'a T) -> Result<U>,
    ) -> Result<State<U>> {
        Ok(State {
            m: each("m", &self.m)?,
            f: match &self.f {
                Fim::Full(f) => Fim::Full(each("f", f)?),
                Fim::Factored { r, c } => Fim::Factored { r: each("R", r)?, c: each("C", c)? },
            },
        })
    }
}

impl<T> State<T> {
    /// A state of what `each` makes of each of two, called by its name.
    pub(crate) fn zip<U, V>(
        &self,
        other: &State<U>,
        mut each: impl FnMut(&'static str, &T, &U) -> Result<V>,
    ) -> Result<State<V>> {
        let f = match (&self.f, &other.f) {
            (Fim::Full(a), Fim::Full(b)) => Fim::Full(each("f", a, b)?),
            (Fim::Factored { r, c }, Fim::Factored { r: r2, c: c2 }) => {
                Fim::Factored { r: each("R", r, r2)?, c: each("C", c, c2)? }
            }
            _ => return Err(candle_core::Error::msg("a full and a factored FIM").into()),
        };
        Ok(State { m: each("m", &self.m, &other.m)?, f })
    }
}

impl<T> Fim<T> {
    /// f where it is kept element by element.
    pub(crate) fn as_full(&self) -> Option<&T> {
        match self {
            Self::Full(f) => Some(f),
            Self::Factored { .. } => None,
        }
    }
}

impl Fim {
    /// `f ← β f + (1 − β) q`, or the same of the row and column sums of `q`.
    pub(crate) fn ema(&self, beta: f64, q: &Tensor) -> Result<Self> {
        Ok(match self {
            Self::Full(f) => Self::Full(ema(beta, f, q)?),
            Self::Factored { r, c } => Self::Factored {
                r: ema(beta, r, &q.sum(D::Minus1)?)?,
                c: ema(beta, c, &q.sum(D::Minus2)?)?,
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
