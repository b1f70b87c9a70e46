//! Checks that the config types share, and the config that may be any of them.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::algorithm::{Algorithm, Fused, Signal, State, Update};
use crate::kernel::Rule;
use crate::{
    AdafactorConfig, AdamConfig, Error, FAdafactorConfig, FAdamConfig, PartsConfig, Result,
};

/// Any of the algorithms, for programs that choose one at run time.
///
/// ```
/// use fadam_core::{Algorithm, AnyConfig};
/// let config: AnyConfig = serde_json::from_str(r#"{"algorithm": "fadam", "rho": 0.4}"#)?;
/// assert_eq!((config.name(), config.lr()), ("fadam", 1e-3));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "algorithm", rename_all = "lowercase")]
pub enum AnyConfig {
    /// Algorithm 1.
    FAdam(FAdamConfig),
    /// Algorithm 2.
    FAdafactor(FAdafactorConfig),
    /// Algorithm 3.
    Adam(AdamConfig),
    /// Algorithm 4.
    Adafactor(AdafactorConfig),
    /// What lies between Algorithms 1 and 3.
    #[serde(rename = "fadam-parts")]
    Parts(PartsConfig),
}

impl AnyConfig {
    /// The paper's algorithms. [`AnyConfig::named`] and the `algorithm` key take `fadam-parts` beside these.
    pub const NAMES: [&'static str; 4] = ["fadam", "fadafactor", "adam", "adafactor"];

    /// The algorithm of that name with the paper's constants; `None` for any other name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "fadam" => Self::FAdam(FAdamConfig::default()),
            "fadafactor" => Self::FAdafactor(FAdafactorConfig::default()),
            "adam" => Self::Adam(AdamConfig::default()),
            "adafactor" => Self::Adafactor(AdafactorConfig::default()),
            "fadam-parts" => Self::Parts(PartsConfig::default()),
            _ => return None,
        })
    }
}

/// Runs `$body` with `$config` bound to whichever of the configs `$any` holds.
macro_rules! each {
    ($any:expr, $config:ident => $body:expr) => {
        match $any {
            AnyConfig::FAdam($config) => $body,
            AnyConfig::FAdafactor($config) => $body,
            AnyConfig::Adam($config) => $body,
            AnyConfig::Adafactor($config) => $body,
            AnyConfig::Parts($config) => $body,
        }
    };
}

impl Algorithm for AnyConfig {
    fn name(&self) -> &'static str {
        each!(self, c => c.name())
    }

    fn kept_as(&self) -> &'static str {
        each!(self, c => c.kept_as())
    }

    fn validate(&self) -> Result<()> {
        each!(self, c => c.validate())
    }

    fn lr(&self) -> f64 {
        each!(self, c => c.lr())
    }

    fn set_lr(&mut self, lr: f64) {
        each!(self, c => c.set_lr(lr));
    }

    fn init(&self, theta: &Tensor) -> Result<State> {
        each!(self, c => c.init(theta))
    }

    fn update(&self, t: u64, signal: &Signal, theta: &Tensor, state: &State) -> Result<Update> {
        each!(self, c => c.update(t, signal, theta, state))
    }

    fn fim(&self, t: u64, state: &State) -> Result<Tensor> {
        each!(self, c => c.fim(t, state))
    }
}

impl Fused for AnyConfig {
    fn rule(&self, t: u64) -> Rule {
        each!(self, c => c.rule(t))
    }

    fn has_kernel(&self) -> bool {
        each!(self, c => c.has_kernel())
    }
}

impl From<FAdamConfig> for AnyConfig {
    fn from(config: FAdamConfig) -> Self {
        Self::FAdam(config)
    }
}

impl From<FAdafactorConfig> for AnyConfig {
    fn from(config: FAdafactorConfig) -> Self {
        Self::FAdafactor(config)
    }
}

impl From<AdamConfig> for AnyConfig {
    fn from(config: AdamConfig) -> Self {
        Self::Adam(config)
    }
}

impl From<PartsConfig> for AnyConfig {
    fn from(config: PartsConfig) -> Self {
        Self::Parts(config)
    }
}

impl From<AdafactorConfig> for AnyConfig {
    fn from(config: AdafactorConfig) -> Self {
        Self::Adafactor(config)
    }
}

/// `Err` unless `value` is finite and `holds`; a NaN fails whatever the condition says.
fn require(field: &'static str, value: f64, holds: bool, expected: &'static str) -> Result<()> {
    if value.is_finite() && holds { Ok(()) } else { Err(Error::Config { field, value, expected }) }
}

pub(crate) fn not_negative(field: &'static str, value: f64) -> Result<()> {
    require(field, value, value >= 0.0, "a finite number, 0 or more")
}

pub(crate) fn positive(field: &'static str, value: f64) -> Result<()> {
    require(field, value, value > 0.0, "a finite number above 0")
}

/// β1 and β2: an exponential moving average keeps a share of at least 0 and less than 1.
pub(crate) fn share(field: &'static str, value: f64) -> Result<()> {
    require(field, value, (0.0..1.0).contains(&value), "0 or more and below 1")
}

/// Fields that can be off (`eps2`, `clip`): a number, or `"off"` (`null` is read as off too).
pub(crate) mod switch {
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::ref_option, reason = "the signature that serde's `with` calls")]
    pub(crate) fn serialize<S: Serializer>(v: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
        match v {
            Some(v) => s.serialize_f64(*v),
            None => s.serialize_str("off"),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Switch {
            Number(f64),
            Word(String),
            Null,
        }
        match Switch::deserialize(d) {
            Ok(Switch::Number(v)) => Ok(Some(v)),
            Ok(Switch::Null) => Ok(None),
            Ok(Switch::Word(word)) if word == "off" => Ok(None),
            _ => Err(de::Error::custom("expected a number or \"off\"")),
        }
    }
}
