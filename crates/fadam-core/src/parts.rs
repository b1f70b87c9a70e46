//! FAdam in parts: the five things in which Algorithm 1 differs from Algorithm 3, each with a switch.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::algorithm::{Algorithm, Fused, Signal, State, Update};
use crate::config::switch;
use crate::kernel::Rule;
use crate::math::{clip_rms, debiased_beta2, ema, power, ratio, rms};
use crate::report::Measures;
use crate::{AdamConfig, FAdamConfig, NamedOptimizer, Result};

/// What lies between Adam and FAdam: an optimizer with any of FAdam's parts, for ablations.
///
/// ```text
/// f  = as in Algorithm 1, line 7                          or as in Algorithm 3, line 6, with f/(1 − β2^t) for f below
/// ε̂  = min(ε, ε2 RMS(g))                                  adaptive_epsilon; else ε
/// d  = f^ρ + ε̂^{2ρ}
/// s  = max(1, RMS(g/d)/c)                                 clip_natural_gradient; else 1
/// m  = β1 m + (1 − β1) (g/d)/s                            natural_momentum; else of g/s
/// m̂  = m                                                  no_bias_correction; else m/(1 − β1^t)
/// ḡ  = m̂                                                  natural_momentum; else m̂/d
/// ḡ  = ḡ / max(1, RMS(ḡ)/c)                               unless clip_natural_gradient
/// ḡw = (θ/d) / max(1, RMS(θ/d)/c)                         fisher_weight_decay; else θ
/// θ  = θ − η (ḡ + λ ḡw)
/// ```
///
/// With all parts it is [`FAdam`](crate::FAdam), bit for bit; with none, and ρ = ½, it is [`Adam`](crate::Adam), bit for
/// bit. Those two are stepped by the fused kernels; all others as tensor operations
/// ([`Backend::Reference`](crate::Backend)), on any device. f is kept as the algorithm keeps it whose m it has (which of the two
/// ways makes no difference but rounding), so that its state is one of `fadam` with `natural_momentum` and one of `adam`
/// without, and state files go from one to the other.
///
/// RMS is over the whole tensor and `x / 0` counts as 0. m and f have the shape of θ; they are f32 for f32, bf16 and f16
/// parameters and f64 for f64.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use fadam_core::{Parts, PartsConfig};
///
/// let w = Var::new(&[3f32, -2.0], &Device::Cpu)?;
/// let laprop = PartsConfig { lr: 0.1, natural_momentum: true, ..PartsConfig::none() };
/// let mut optimizer = Parts::new(vec![w.clone()], laprop)?;
/// for _ in 0..100 {
///     optimizer.backward_step(&w.sqr()?.sum_all()?)?;
/// }
/// assert!(w.abs()?.max_all()?.to_scalar::<f32>()? < 0.2);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// Source: Algorithms 1 and 3 of arXiv 2405.12807, and what sections 3.4.2, 3.4.3 and B.3 say of each part.
pub type Parts = NamedOptimizer<PartsConfig>;

/// The switches and hyper-parameters of [`Parts`]; the default is FAdam.
///
/// | field | paper | on: Algorithm 1 | off: Algorithm 3 |
/// |---|---|---|---|
/// | `natural_momentum` | 3.4.2 | m averages the natural gradient (line 11) | m averages g, and is divided when it is used (7, 8) |
/// | `no_bias_correction` | 3.4.2 | m is used as it is | m / (1 − β1^t) is used (line 7) |
/// | `adaptive_epsilon` | B.3 | ε̂ = min(ε, ε2 RMS(g)) (line 8) | ε̂ = ε (line 8) |
/// | `clip_natural_gradient` | B.3 | clipped is what enters m (line 10) | clipped is the step that leaves it (line 9) |
/// | `fisher_weight_decay` | 3.4.3 | λ clip(θ/d) (lines 12, 13) | λ θ (line 10) |
///
/// All other fields are those of [`FAdamConfig`]. `clip: None` takes clipping away altogether, wherever it would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own: all 32 are optimizers"
)]
pub struct PartsConfig {
    /// Whether the momentum is of the natural gradient.
    pub natural_momentum: bool,
    /// Whether the momentum is used without bias correction.
    pub no_bias_correction: bool,
    /// Whether ε̂ is adaptive.
    pub adaptive_epsilon: bool,
    /// Whether what is clipped is the natural gradient, before the momentum.
    pub clip_natural_gradient: bool,
    /// Whether the weight decay is on the manifold.
    pub fisher_weight_decay: bool,
    /// η, the learning rate.
    pub lr: f64,
    /// β1, the decay of the momentum.
    pub beta1: f64,
    /// β2, the decay of the FIM.
    pub beta2: f64,
    /// ε, the upper bound of ε̂.
    pub eps: f64,
    /// ε2, the share of RMS(g) that an adaptive ε̂ is at most; `None`: ε̂ = ε.
    #[serde(with = "switch")]
    pub eps2: Option<f64>,
    /// c, the RMS that is clipped to; `None`: no clipping.
    #[serde(with = "switch")]
    pub clip: Option<f64>,
    /// λ, the weight decay.
    pub weight_decay: f64,
    /// ρ, the exponent of the FIM.
    pub rho: f64,
}

impl Default for PartsConfig {
    fn default() -> Self {
        FAdamConfig::default().into()
    }
}

/// With all parts.
impl From<FAdamConfig> for PartsConfig {
    fn from(config: FAdamConfig) -> Self {
        let FAdamConfig { lr, beta1, beta2, eps, eps2, clip, weight_decay, rho } = config;
        Self {
            natural_momentum: true,
            no_bias_correction: true,
            adaptive_epsilon: true,
            clip_natural_gradient: true,
            fisher_weight_decay: true,
            lr,
            beta1,
            beta2,
            eps,
            eps2,
            clip,
            weight_decay,
            rho,
        }
    }
}

/// With none.
impl From<AdamConfig> for PartsConfig {
    fn from(config: AdamConfig) -> Self {
        let AdamConfig { lr, beta1, beta2, eps, clip, weight_decay } = config;
        let fadam = FAdamConfig::default();
        Self {
            natural_momentum: false,
            no_bias_correction: false,
            adaptive_epsilon: false,
            clip_natural_gradient: false,
            fisher_weight_decay: false,
            ..FAdamConfig { lr, beta1, beta2, eps, clip, weight_decay, ..fadam }.into()
        }
    }
}

impl PartsConfig {
    /// Adam: none of the parts.
    pub fn none() -> Self {
        AdamConfig::default().into()
    }

    /// The switches, in the order of the table.
    fn switches(&self) -> [bool; 5] {
        [
            self.natural_momentum,
            self.no_bias_correction,
            self.adaptive_epsilon,
            self.clip_natural_gradient,
            self.fisher_weight_decay,
        ]
    }

    /// The same hyper-parameters for Algorithm 1.
    fn fadam(&self) -> FAdamConfig {
        let Self { lr, beta1, beta2, eps, eps2, clip, weight_decay, rho, .. } = *self;
        FAdamConfig { lr, beta1, beta2, eps, eps2, clip, weight_decay, rho }
    }

    /// The same hyper-parameters for Algorithm 3, which has no ε2 and no ρ.
    fn adam(&self) -> AdamConfig {
        let Self { lr, beta1, beta2, eps, clip, weight_decay, .. } = *self;
        AdamConfig { lr, beta1, beta2, eps, clip, weight_decay }
    }

    fn eps_hat(&self, rms_g: f64) -> f64 {
        let eps2 = self.eps2.filter(|_| self.adaptive_epsilon);
        eps2.map_or(self.eps, |eps2| self.eps.min(eps2 * rms_g))
    }

    /// m, ḡ, and the RMS of what is clipped to c.
    fn momentum(
        &self,
        t: u64,
        g: &Tensor,
        d: &Tensor,
        m: &Tensor,
    ) -> Result<(Tensor, Tensor, f64)> {
        let (before, after) =
            if self.clip_natural_gradient { (self.clip, None) } else { (None, self.clip) };
        let (natural, rms_before) = clip_rms(ratio(g, d)?, before)?;
        let enters = if self.natural_momentum {
            natural
        } else {
            (g / before.map_or(1.0, |c| (rms_before / c).max(1.0)))?
        };
        let m = ema(self.beta1, m, &enters)?;
        let m_hat = if self.no_bias_correction {
            m.clone()
        } else {
            (&m / (1.0 - self.beta1.powf(t as f64)))?
        };
        let leaves = if self.natural_momentum { m_hat } else { ratio(&m_hat, d)? };
        let (leaves, rms_after) = clip_rms(leaves, after)?;
        let measured = if self.clip_natural_gradient { rms_before } else { rms_after };
        Ok((m, leaves, measured))
    }
}

impl Algorithm for PartsConfig {
    fn name(&self) -> &'static str {
        "fadam-parts"
    }

    fn kept_as(&self) -> &'static str {
        if self.natural_momentum { "fadam" } else { "adam" }
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
        if self.natural_momentum { self.fadam().init(theta) } else { self.adam().init(theta) }
    }

    fn update(&self, t: u64, signal: &Signal, theta: &Tensor, state: &State) -> Result<Update> {
        let beta2 = if self.natural_momentum { debiased_beta2(self.beta2, t) } else { self.beta2 };
        let mut state = State { m: state.m.clone(), f: state.f.ema(beta2, &signal.squares)? };
        let rms_g = rms(&signal.g)?;
        let eps_hat = self.eps_hat(rms_g);
        let d = (power(&self.fim(t, &state)?, self.rho)? + eps_hat.powf(2.0 * self.rho))?;
        let (m, g_bar, rms_natural) = self.momentum(t, &signal.g, &d, &state.m)?;
        state.m = m;
        let (g_w, rms_decay) = if self.fisher_weight_decay {
            clip_rms(ratio(theta, &d)?, self.clip)?
        } else {
            (theta.clone(), 0.0)
        };
        let mut direction = (g_bar + (g_w * self.weight_decay)?)?;
        let (bypass, rms_auxiliary) = signal.bypass(&d, self.clip)?; // section 3.4.3
        if let Some(bypass) = bypass {
            direction = (direction + bypass)?;
        }
        let theta = (theta - (direction * self.lr)?)?;
        let measures = Measures { rms_g, eps_hat, rms_natural, rms_decay, rms_auxiliary };
        Ok(Update { theta, state, measures })
    }

    fn fim(&self, t: u64, state: &State) -> Result<Tensor> {
        if self.natural_momentum { self.fadam().fim(t, state) } else { self.adam().fim(t, state) }
    }
}

impl Fused for PartsConfig {
    /// The one of the two algorithms whose state it keeps.
    fn rule(&self, t: u64) -> Rule {
        if self.natural_momentum { self.fadam().rule(t) } else { self.adam().rule(t) }
    }

    fn has_kernel(&self) -> bool {
        self.switches() == [true; 5] || self.switches() == [false; 5] && self.rho == 0.5
    }
}
