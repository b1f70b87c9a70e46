//! Algorithm 2 of the paper: Fisher Adafactor, FAdam with a factored FIM.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::algorithm::{Algorithm, Fused, Signal, State, Update};
use crate::config::switch;
use crate::kernel::Rule;
use crate::math::debiased_beta2;
use crate::{FAdamConfig, NamedOptimizer, Result};

/// FAdafactor, Algorithm 2: [`FAdam`](crate::FAdam) that keeps the FIM of a matrix as its row and
/// column sums.
///
/// For a tensor of two or more dimensions `[…, n, m]`, independently for each leading index:
///
/// ```text
/// R  = β̂2 R + (1 − β̂2) g² 1_m        line 7   [n]
/// C  = β̂2 C + (1 − β̂2) 1_nᵀ g²       line 8   [m]
/// f  = R C / ΣR                      line 9   [n, m], never stored
/// ```
///
/// and lines 10 to 16 are lines 8 to 14 of Algorithm 1. A tensor of fewer dimensions keeps a full f.
/// State: n + m numbers a matrix beside the momentum, instead of n·m.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use fadam_core::{FAdafactor, FAdafactorConfig};
///
/// let w = Var::new(&[[3f32, -2.0], [1.0, 2.0]], &Device::Cpu)?;
/// let config = FAdafactorConfig { lr: 0.1, beta2: 0.99, ..Default::default() };
/// let mut optimizer = FAdafactor::new(vec![w.clone()], config)?;
/// for _ in 0..100 {
///     optimizer.backward_step(&w.sqr()?.sum_all()?)?;
/// }
/// assert!(w.abs()?.max_all()?.to_scalar::<f32>()? < 0.2);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// Source: Algorithm 2 of arXiv 2405.12807. Factoring over the last two dimensions of larger tensors
/// is our reading; the paper writes matrices.
pub type FAdafactor = NamedOptimizer<FAdafactorConfig>;

/// The hyper-parameters of [`FAdafactor`]: those of [`FAdamConfig`], with the same defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FAdafactorConfig {
    /// η, the learning rate.
    pub lr: f64,
    /// β1, the decay of the momentum.
    pub beta1: f64,
    /// β2, the decay of the FIM.
    pub beta2: f64,
    /// ε, the upper bound of ε̂.
    pub eps: f64,
    /// ε2, the share of RMS(g) that ε̂ is at most; `None`: ε̂ = ε.
    #[serde(with = "switch")]
    pub eps2: Option<f64>,
    /// c, the RMS that ḡ and ḡw are clipped to; `None`: no clipping.
    #[serde(with = "switch")]
    pub clip: Option<f64>,
    /// λ, the weight decay.
    pub weight_decay: f64,
    /// ρ, the exponent of the FIM.
    pub rho: f64,
}

impl Default for FAdafactorConfig {
    fn default() -> Self {
        let FAdamConfig { lr, beta1, beta2, eps, eps2, clip, weight_decay, rho } =
            FAdamConfig::default();
        Self { lr, beta1, beta2, eps, eps2, clip, weight_decay, rho }
    }
}

impl FAdafactorConfig {
    /// The same hyper-parameters for Algorithm 1, whose checks and last lines are shared.
    fn fadam(&self) -> FAdamConfig {
        let Self { lr, beta1, beta2, eps, eps2, clip, weight_decay, rho } = *self;
        FAdamConfig { lr, beta1, beta2, eps, eps2, clip, weight_decay, rho }
    }
}

impl Algorithm for FAdafactorConfig {
    fn name(&self) -> &'static str {
        "fadafactor"
    }

    fn validate(&self) -> Result<()> {
        self.fadam().validate()
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn init(&self, theta: &Tensor) -> Result<State> {
        State::new(theta, 1.0, true) // line 2
    }

    fn update(&self, t: u64, signal: &Signal, theta: &Tensor, state: &State) -> Result<Update> {
        let beta2_hat = debiased_beta2(self.beta2, t); // line 6
        let f = state.f.ema(beta2_hat, &signal.squares)?; // lines 7 to 9
        self.fadam().descend(signal, theta, &state.m, f) // lines 10 to 16
    }

    fn fim(&self, _t: u64, state: &State) -> Result<Tensor> {
        state.f.diagonal()
    }
}

impl Fused for FAdafactorConfig {
    fn rule(&self, t: u64) -> Rule {
        self.fadam().rule(t)
    }
}
