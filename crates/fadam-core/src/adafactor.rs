//! Algorithm 4 of the paper: Adafactor as its baseline.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::algorithm::{Algorithm, Fused, Signal, State, Update};
use crate::config::{not_negative, positive, share, switch};
use crate::kernel::{Momentum, Rule};
use crate::math::{clip_rms, debiased_beta2, ema, ratio, rms};
use crate::report::Measures;
use crate::{NamedOptimizer, Result};

/// Adafactor, Algorithm 4: the paper's baseline for language models.
///
/// For a tensor of two or more dimensions `[…, n, m]` (others keep a full f):
///
/// ```text
/// R = β̂2 R + (1 − β̂2) (g² + ε) 1_m        line 7
/// C = β̂2 C + (1 − β̂2) 1_nᵀ (g² + ε)       line 8
/// f = R C / ΣR                            line 9
/// ḡ = g / √f,   ḡ /= max(1, RMS(ḡ)/c)     lines 10, 11
/// m = β1 m + (1 − β1) η ḡ                 line 12   the momentum holds η
/// θ = θ − (m + λ θ)                       line 13   the decay does not
/// ```
///
/// `weight_decay_times_lr: true` multiplies λ by η, as some implementations do.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use fadam_core::{Adafactor, AdafactorConfig};
///
/// let w = Var::new(&[[3f32, -2.0], [1.0, 2.0]], &Device::Cpu)?;
/// let mut optimizer =
///     Adafactor::new(vec![w.clone()], AdafactorConfig { lr: 0.1, ..Default::default() })?;
/// for _ in 0..100 {
///     optimizer.backward_step(&w.sqr()?.sum_all()?)?;
/// }
/// assert!(w.abs()?.max_all()?.to_scalar::<f32>()? < 0.2);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// Source: Algorithm 4 of arXiv 2405.12807; Shazeer and Stern, arXiv 1804.04235.
pub type Adafactor = NamedOptimizer<AdafactorConfig>;

/// The hyper-parameters of [`Adafactor`]; the defaults are the paper's constants.
///
/// | field | symbol | default | range | purpose |
/// |---|---|---|---|---|
/// | `lr` | η | 1e-3 | ≥ 0 | learning rate (the paper gives none; 1e-3 is ours) |
/// | `beta1` | β1 | 0.9 | [0, 1) | decay of the momentum |
/// | `beta2` | β2 | 0.999 | [0, 1) | decay of the FIM |
/// | `eps` | ε | 1e-30 | ≥ 0 | added to g² in the accumulators |
/// | `clip` | c | 1.0 | > 0 or off | RMS that ḡ is clipped to |
/// | `weight_decay` | λ | 0.001 | ≥ 0 | weight decay, not times η |
/// | `weight_decay_times_lr` | - | false | - | multiply λ by η after all |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdafactorConfig {
    /// η, the learning rate.
    pub lr: f64,
    /// β1, the decay of the momentum.
    pub beta1: f64,
    /// β2, the decay of the FIM.
    pub beta2: f64,
    /// ε, added to g² in the accumulators.
    pub eps: f64,
    /// c, the RMS that ḡ is clipped to; `None`: no clipping.
    #[serde(with = "switch")]
    pub clip: Option<f64>,
    /// λ, the weight decay.
    pub weight_decay: f64,
    /// Whether λ is multiplied by η; the paper's Algorithm 4 does not.
    pub weight_decay_times_lr: bool,
}

impl Default for AdafactorConfig {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-30,
            clip: Some(1.0),
            weight_decay: 0.001,
            weight_decay_times_lr: false,
        }
    }
}

impl Algorithm for AdafactorConfig {
    fn name(&self) -> &'static str {
        "adafactor"
    }

    fn validate(&self) -> Result<()> {
        not_negative("lr", self.lr)?;
        share("beta1", self.beta1)?;
        share("beta2", self.beta2)?;
        not_negative("eps", self.eps)?;
        self.clip.map_or(Ok(()), |clip| positive("clip", clip))?;
        not_negative("weight_decay", self.weight_decay)
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn init(&self, theta: &Tensor) -> Result<State> {
        State::new(theta, 0.0, true) // line 2
    }

    fn update(&self, t: u64, signal: &Signal, theta: &Tensor, state: &State) -> Result<Update> {
        let beta2_hat = debiased_beta2(self.beta2, t); // line 6
        let f = state.f.ema(beta2_hat, &(&signal.squares + self.eps)?)?; // lines 7 to 9
        let d = f.diagonal()?.sqrt()?;
        let (g_bar, rms_natural) = clip_rms(ratio(&signal.g, &d)?, self.clip)?; // lines 10, 11
        let m = ema(self.beta1, &state.m, &(g_bar * self.lr)?)?; // line 12
        let mut step = (&m + (theta * self.lambda())?)?;
        let (bypass, rms_auxiliary) = signal.bypass(&d, self.clip)?;
        if let Some(bypass) = bypass {
            step = (step + (bypass * self.lr)?)?;
        }
        let theta = (theta - step)?; // line 13
        let (rms_g, eps_hat) = (rms(&signal.g)?, 0.0);
        let measures = Measures { rms_g, eps_hat, rms_natural, rms_decay: 0.0, rms_auxiliary };
        Ok(Update { theta, state: State { m, f }, measures })
    }

    fn fim(&self, _t: u64, state: &State) -> Result<Tensor> {
        state.f.diagonal()
    }
}

impl AdafactorConfig {
    /// λ as line 13 uses it.
    fn lambda(&self) -> f64 {
        let factor = if self.weight_decay_times_lr { self.lr } else { 1.0 };
        self.weight_decay * factor
    }
}

impl Fused for AdafactorConfig {
    fn rule(&self, t: u64) -> Rule {
        Rule {
            t,
            beta2: self.beta2,
            offset: self.eps,
            eps: 0.0,
            eps2: None,
            rho: 0.5,
            clip: self.clip,
            beta1: self.beta1,
            momentum: Momentum::OfNaturalGradient { decay_on_manifold: false },
            share: (1.0 - self.beta1) * self.lr,
            step: 1.0,
            decay: self.lambda(),
            lr: self.lr,
        }
    }
}
