//! Algorithm 1 of the paper: Fisher Adam.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::algorithm::{Algorithm, Fim, Fused, Signal, State, Update};
use crate::config::{not_negative, positive, share, switch};
use crate::kernel::{Momentum, Rule};
use crate::math::{clip_rms, debiased_beta2, ema, power, ratio, rms};
use crate::report::Measures;
use crate::{NamedOptimizer, Result};

/// FAdam, Algorithm 1: natural gradient descent with a diagonal empirical Fisher information.
///
/// For each parameter tensor θ, from the gradient g of the loss (a negative log-likelihood):
///
/// ```text
/// β̂2 = β2 (1 − β2^{t−1}) / (1 − β2^t)              line 6   bias correction; the first step ignores f₀
/// f  = β̂2 f + (1 − β̂2) g²                          line 7   diagonal empirical FIM
/// ε̂  = min(ε, ε2 RMS(g))                           line 8   adaptive epsilon
/// ḡ  = g / (f^ρ + ε̂^{2ρ}),   ḡ /= max(1, RMS(ḡ)/c)   9, 10   invariant natural gradient, clipped
/// m  = β1 m + (1 − β1) ḡ                           line 11  momentum, without bias correction
/// ḡw = θ / (f^ρ + ε̂^{2ρ}),   ḡw /= max(1, RMS(ḡw)/c) 12, 13  weight decay on the manifold, clipped
/// θ  = θ − η (m + λ ḡw)                            line 14
/// ```
///
/// RMS is over the whole tensor and `x / 0` counts as 0. m and f have the shape of θ; they are f32
/// for f32, bf16 and f16 parameters and f64 for f64.
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use candle_nn::Optimizer;
/// use fadam_core::{FAdam, FAdamConfig};
///
/// let w = Var::new(&[[3f32, -2.0]], &Device::Cpu)?;
/// let mut optimizer = FAdam::new(vec![w.clone()], FAdamConfig { lr: 0.1, ..Default::default() })?;
/// for _ in 0..100 {
///     let loss = w.sqr()?.sum_all()?;
///     optimizer.backward_step(&loss)?;
/// }
/// assert!(w.abs()?.max_all()?.to_scalar::<f32>()? < 0.2);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// Source: Algorithm 1 of arXiv 2405.12807.
pub type FAdam = NamedOptimizer<FAdamConfig>;

/// The hyper-parameters of [`FAdam`]; the defaults are the paper's constants.
///
/// | field | symbol | default | range | purpose |
/// |---|---|---|---|---|
/// | `lr` | η | 1e-3 | ≥ 0 | learning rate (the paper gives none; 1e-3 is ours) |
/// | `beta1` | β1 | 0.9 | [0, 1) | decay of the momentum |
/// | `beta2` | β2 | 0.999 | [0, 1) | decay of the FIM |
/// | `eps` | ε | 1e-8 | ≥ 0 | upper bound of ε̂ |
/// | `eps2` | ε2 | 0.01 | > 0 or off | ε̂ is at most ε2 RMS(g); off: ε̂ = ε |
/// | `clip` | c | 1.0 | > 0 or off | RMS that ḡ and ḡw are clipped to |
/// | `weight_decay` | λ | 0.001 | ≥ 0 | weight of ḡw |
/// | `rho` | ρ | 0.5 | > 0 | exponent of the FIM |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FAdamConfig {
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

impl Default for FAdamConfig {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            eps2: Some(0.01),
            clip: Some(1.0),
            weight_decay: 0.001,
            rho: 0.5,
        }
    }
}

impl Algorithm for FAdamConfig {
    fn name(&self) -> &'static str {
        "fadam"
    }

    fn validate(&self) -> Result<()> {
        not_negative("lr", self.lr)?;
        share("beta1", self.beta1)?;
        share("beta2", self.beta2)?;
        not_negative("eps", self.eps)?;
        self.eps2.map_or(Ok(()), |eps2| positive("eps2", eps2))?;
        self.clip.map_or(Ok(()), |clip| positive("clip", clip))?;
        not_negative("weight_decay", self.weight_decay)?;
        positive("rho", self.rho)
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn init(&self, theta: &Tensor) -> Result<State> {
        State::new(theta, 1.0, false) // line 2
    }

    fn update(&self, t: u64, signal: &Signal, theta: &Tensor, state: &State) -> Result<Update> {
        let beta2_hat = debiased_beta2(self.beta2, t); // line 6
        let f = state.f.ema(beta2_hat, &signal.squares)?; // line 7
        self.descend(signal, theta, &state.m, f)
    }

    fn fim(&self, _t: u64, state: &State) -> Result<Tensor> {
        state.f.diagonal()
    }
}

impl FAdamConfig {
    /// Lines 8 to 14 (10 to 16 of Algorithm 2), from `f_t` on.
    pub(crate) fn descend(
        &self,
        signal: &Signal,
        theta: &Tensor,
        m: &Tensor,
        f: Fim,
    ) -> Result<Update> {
        let rms_g = rms(&signal.g)?;
        let eps_hat = self.eps2.map_or(self.eps, |eps2| self.eps.min(eps2 * rms_g)); // line 8
        let d = (power(&f.diagonal()?, self.rho)? + eps_hat.powf(2.0 * self.rho))?;
        let (g_nat, rms_natural) = clip_rms(ratio(&signal.g, &d)?, self.clip)?; // lines 9, 10
        let m = ema(self.beta1, m, &g_nat)?; // line 11
        let (g_w, rms_decay) = clip_rms(ratio(theta, &d)?, self.clip)?; // lines 12, 13
        let mut direction = (&m + (g_w * self.weight_decay)?)?;
        let (bypass, rms_auxiliary) = signal.bypass(&d, self.clip)?; // section 3.4.3
        if let Some(bypass) = bypass {
            direction = (direction + bypass)?;
        }
        let theta = (theta - (direction * self.lr)?)?; // line 14
        let measures = Measures { rms_g, eps_hat, rms_natural, rms_decay, rms_auxiliary };
        Ok(Update { theta, state: State { m, f }, measures })
    }
}

impl Fused for FAdamConfig {
    fn rule(&self, t: u64) -> Rule {
        Rule {
            t,
            beta2: self.beta2,
            offset: 0.0,
            eps: self.eps,
            eps2: self.eps2,
            rho: self.rho,
            clip: self.clip,
            beta1: self.beta1,
            momentum: Momentum::OfNaturalGradient { decay_on_manifold: true },
            share: 1.0 - self.beta1,
            step: self.lr,
            decay: self.lr * self.weight_decay,
            lr: self.lr,
        }
    }
}
