//! Algorithm 3 of the paper: Adam as its baseline, which is AdamW when clipping is off.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::algorithm::{Algorithm, Fim, Fused, Signal, State, Update};
use crate::config::{not_negative, positive, share, switch};
use crate::kernel::{Momentum, Rule};
use crate::math::{clip_rms, ema, ratio, rms};
use crate::report::Measures;
use crate::{NamedOptimizer, Result};

/// Adam, Algorithm 3: the paper's baseline, with decoupled weight decay and RMS clipping.
///
/// ```text
/// f = β2 f + (1 − β2) g²                                  line 6
/// m = β1 m + (1 − β1) g                                   line 7
/// ḡ = m/(1 − β1^t) / (√(f/(1 − β2^t)) + ε)                line 8
/// ḡ = ḡ / max(1, RMS(ḡ)/c)                                line 9
/// θ = θ − η (ḡ + λ θ)                                     line 10
/// ```
///
/// Lines 6 and 7 are printed with the bias corrections inside the recursion, where they would
/// compound. As in Adam itself, the state is kept uncorrected here and corrected where it is used.
/// With `clip: None` this is AdamW.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use fadam_core::{Adam, AdamConfig};
///
/// let w = Var::new(&[3f32, -2.0], &Device::Cpu)?;
/// let adamw = AdamConfig { lr: 0.1, clip: None, weight_decay: 0.01, ..Default::default() };
/// let mut optimizer = Adam::new(vec![w.clone()], adamw)?;
/// for _ in 0..100 {
///     optimizer.backward_step(&w.sqr()?.sum_all()?)?;
/// }
/// assert!(w.abs()?.max_all()?.to_scalar::<f32>()? < 0.2);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// Source: Algorithm 3 of arXiv 2405.12807; Kingma and Ba, arXiv 1412.6980.
pub type Adam = NamedOptimizer<AdamConfig>;

/// The hyper-parameters of [`Adam`]; the defaults are the paper's constants.
///
/// | field | symbol | default | range | purpose |
/// |---|---|---|---|---|
/// | `lr` | η | 1e-3 | ≥ 0 | learning rate (the paper gives none; 1e-3 is ours) |
/// | `beta1` | β1 | 0.9 | [0, 1) | decay of the momentum |
/// | `beta2` | β2 | 0.999 | [0, 1) | decay of the FIM |
/// | `eps` | ε | 1e-8 | ≥ 0 | added to √f |
/// | `clip` | c | 1.0 | > 0 or off | RMS that ḡ is clipped to; off: AdamW |
/// | `weight_decay` | λ | 0.001 | ≥ 0 | decoupled weight decay, times η |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamConfig {
    /// η, the learning rate.
    pub lr: f64,
    /// β1, the decay of the momentum.
    pub beta1: f64,
    /// β2, the decay of the FIM.
    pub beta2: f64,
    /// ε, added to √f.
    pub eps: f64,
    /// c, the RMS that ḡ is clipped to; `None`: no clipping, which is AdamW.
    #[serde(with = "switch")]
    pub clip: Option<f64>,
    /// λ, the decoupled weight decay, multiplied by η.
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, clip: Some(1.0), weight_decay: 0.001 }
    }
}

impl Algorithm for AdamConfig {
    fn name(&self) -> &'static str {
        "adam"
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
        State::new(theta, 0.0, false) // line 2
    }

    fn update(&self, t: u64, signal: &Signal, theta: &Tensor, state: &State) -> Result<Update> {
        let f = state.f.ema(self.beta2, &signal.squares)?; // line 6
        let m = ema(self.beta1, &state.m, &signal.g)?; // line 7
        let state = State { m, f };
        let m_hat = (&state.m / (1.0 - self.beta1.powf(t as f64)))?;
        let d = (self.fim(t, &state)?.sqrt()? + self.eps)?;
        let (g_bar, rms_natural) = clip_rms(ratio(&m_hat, &d)?, self.clip)?; // lines 8, 9
        let mut direction = (g_bar + (theta * self.weight_decay)?)?;
        let (bypass, rms_auxiliary) = signal.bypass(&d, self.clip)?;
        if let Some(bypass) = bypass {
            direction = (direction + bypass)?;
        }
        let theta = (theta - (direction * self.lr)?)?; // line 10
        let (rms_g, eps_hat) = (rms(&signal.g)?, self.eps);
        let measures = Measures { rms_g, eps_hat, rms_natural, rms_decay: 0.0, rms_auxiliary };
        Ok(Update { theta, state, measures })
    }

    /// `f / (1 − β2^t)`, the bias-corrected f that line 8 divides by; f₀ = 0 before the first step.
    fn fim(&self, t: u64, state: &State) -> Result<Tensor> {
        let Fim::Full(f) = &state.f else {
            return state.f.diagonal();
        };
        let correction = if t == 0 { 1.0 } else { 1.0 - self.beta2.powf(t as f64) };
        Ok((f / correction)?)
    }
}

impl Fused for AdamConfig {
    fn rule(&self, t: u64) -> Rule {
        Rule {
            t,
            beta2: self.beta2,
            offset: 0.0,
            eps: self.eps,
            eps2: None,
            rho: 0.5,
            clip: self.clip,
            beta1: self.beta1,
            momentum: Momentum::OfGradient,
            share: 1.0 - self.beta1,
            step: self.lr,
            decay: self.lr * self.weight_decay,
            lr: self.lr,
        }
    }
}
