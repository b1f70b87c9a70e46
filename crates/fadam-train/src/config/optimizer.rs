//! `[optimizer]`: one flat section for all algorithms.

use fadam_core::{Algorithm as _, AnyConfig, Group, StateFormat};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use toml::{Table, Value};

use super::FieldError;

/// `[optimizer]` as it is written. A key that is absent takes the algorithm's default; a key that
/// the algorithm does not have is refused by [`RawOptimizer::resolve`].
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawOptimizer {
    algorithm: AlgorithmName,
    lr: Option<f64>,
    beta1: Option<f64>,
    beta2: Option<f64>,
    eps: Option<f64>,
    eps2: Option<Switch>,
    clip: Option<Switch>,
    weight_decay: Option<f64>,
    rho: Option<f64>,
    weight_decay_times_lr: Option<bool>,
    natural_momentum: Option<bool>,
    no_bias_correction: Option<bool>,
    adaptive_epsilon: Option<bool>,
    clip_natural_gradient: Option<bool>,
    fisher_weight_decay: Option<bool>,
    state: StateName,
    max_grad_norm: Option<Switch>,
    groups: Vec<RawGroup>,
}

/// One of `[[optimizer.groups]]` as it is written: what is absent is as in `[optimizer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    #[serde(rename = "match")]
    pattern: String,
    #[serde(default)]
    min_rank: usize,
    #[serde(default = "one")]
    lr_scale: f64,
    #[serde(default)]
    frozen: bool,
    state: Option<StateName>,
    algorithm: Option<AlgorithmName>,
    beta1: Option<f64>,
    beta2: Option<f64>,
    eps: Option<f64>,
    eps2: Option<Switch>,
    clip: Option<Switch>,
    weight_decay: Option<f64>,
    rho: Option<f64>,
    weight_decay_times_lr: Option<bool>,
    natural_momentum: Option<bool>,
    no_bias_correction: Option<bool>,
    adaptive_epsilon: Option<bool>,
    clip_natural_gradient: Option<bool>,
    fisher_weight_decay: Option<bool>,
}

fn one() -> f64 {
    1.0
}

/// What `[optimizer]` says beside the algorithm and its hyper-parameters.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct OptimizerOptions {
    /// The norm that all gradients together are clipped to; `None`: off.
    pub max_grad_norm: Option<f64>,
    /// How m and f are kept outside of the groups.
    state: StateName,
    /// As they are written.
    raw: Vec<RawGroup>,
    /// As they are meant, the last one for all that is in no other.
    groups: Vec<Group<AnyConfig>>,
}

impl OptimizerOptions {
    /// The parameter groups for the optimizer; every parameter is in one.
    pub fn groups(&self) -> &[Group<AnyConfig>] {
        &self.groups
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateName {
    #[default]
    Full,
    Bf16,
    #[serde(rename = "8bit")]
    Blocks8,
}

impl From<StateName> for StateFormat {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Full => Self::Full,
            StateName::Bf16 => Self::Bf16,
            StateName::Blocks8 => Self::Blocks8,
        }
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AlgorithmName {
    FAdam,
    #[default]
    FAdafactor,
    Adam,
    Adafactor,
    #[serde(rename = "fadam-parts")]
    Parts,
}

/// A number, or `"off"` (`false` is read as off too).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Switch(Option<f64>);

impl RawOptimizer {
    /// The algorithm with its defaults, overwritten by the keys that are set, and the options.
    pub(super) fn resolve(self) -> Result<(AnyConfig, OptimizerOptions), FieldError> {
        let norm = self.max_grad_norm.and_then(|norm| norm.0);
        FieldError::require(
            "optimizer.max_grad_norm",
            norm.is_none_or(|norm| norm > 0.0 && norm.is_finite()),
            "must be a finite number above 0, or \"off\"",
        )?;
        let mut given = table(&self);
        given.retain(|key, _| !OPTIONS.contains(&key));
        let config = overwritten("optimizer", &defaults(&given["algorithm"]), given)?;
        let mut groups = Vec::new();
        for (k, group) in self.groups.iter().enumerate() {
            groups.push(group.resolve(&format!("optimizer.groups[{k}]"), &config, self.state)?);
        }
        groups.push(Group::new("*").state(self.state.into()));
        let (state, raw) = (self.state, self.groups);
        Ok((config, OptimizerOptions { max_grad_norm: norm, state, raw, groups }))
    }

    /// What resolves to this.
    pub(super) fn of(config: &AnyConfig, options: &OptimizerOptions) -> Self {
        let raw: Self =
            table(config).try_into().expect("RawOptimizer has the fields of all algorithms");
        let max_grad_norm = Some(Switch(options.max_grad_norm));
        Self { state: options.state, max_grad_norm, groups: options.raw.clone(), ..raw }
    }
}

impl RawGroup {
    /// The group, whose hyper-parameters are those of `[optimizer]`, or of its own algorithm, overwritten.
    fn resolve(
        &self,
        key: &str,
        base: &AnyConfig,
        state: StateName,
    ) -> Result<Group<AnyConfig>, FieldError> {
        FieldError::require(
            &format!("{key}.lr_scale"),
            self.lr_scale >= 0.0 && self.lr_scale.is_finite(),
            "must be a finite number, 0 or more",
        )?;
        let mut given = table(self);
        given.retain(|key, _| !GROUP_OPTIONS.contains(&key));
        let mut config = match given.get("algorithm") {
            Some(algorithm) if *algorithm != table(base)["algorithm"] => defaults(algorithm),
            _ => base.clone(),
        };
        config.set_lr(base.lr());
        let group = Group::new(&self.pattern)
            .ranks(self.min_rank, usize::MAX)
            .lr_scale(self.lr_scale)
            .frozen(self.frozen)
            .state(self.state.unwrap_or(state).into());
        Ok(group.config(overwritten(key, &config, given)?))
    }
}

/// The algorithm of that name with the paper's constants.
fn defaults(algorithm: &Value) -> AnyConfig {
    let name = algorithm.as_str().expect("AlgorithmName serializes as a string");
    AnyConfig::named(name).expect("AlgorithmName has the names of AnyConfig")
}

/// Hyper-parameters with those overwritten that are given in section `section`.
fn overwritten(section: &str, config: &AnyConfig, given: Table) -> Result<AnyConfig, FieldError> {
    let name = config.name();
    let mut resolved = table(config);
    for (field, value) in given {
        if !resolved.contains_key(&field) {
            let fields: Vec<&str> = resolved.keys().map(String::as_str).collect();
            return Err(FieldError::new(
                format!("{section}.{field}"),
                format!("is not a field of {name}, which has {}", fields.join(", ")),
            ));
        }
        resolved.insert(field, value);
    }
    let config: AnyConfig = resolved
        .try_into()
        .map_err(|err: toml::de::Error| FieldError::new(section, err.message()))?;
    config.validate().map_err(|err| explain(section, &err))?;
    Ok(config)
}

/// The keys of `[optimizer]` that are no hyper-parameters.
const OPTIONS: [&str; 3] = ["state", "max_grad_norm", "groups"];

/// The same of a group.
const GROUP_OPTIONS: [&str; 5] = ["match", "min_rank", "lr_scale", "frozen", "state"];

fn table(config: &impl Serialize) -> Table {
    Table::try_from(config).expect("a struct of numbers and strings")
}

/// fadam-core's error about a field, with the key that the field has here.
fn explain(section: &str, err: &fadam_core::Error) -> FieldError {
    match err {
        fadam_core::Error::Config { field, value, expected } => FieldError::new(
            format!("{section}.{field}"),
            format!("must be {expected}, got {value}"),
        ),
        other => FieldError::new(section, other.to_string()),
    }
}

impl Serialize for Switch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(value) => serializer.serialize_f64(value),
            None => serializer.serialize_str("off"),
        }
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrOff;

        impl Visitor<'_> for NumberOrOff {
            type Value = Switch;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or \"off\"")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Switch, E> {
                Ok(Switch(Some(value)))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Switch, E> {
                Ok(Switch(Some(value as f64)))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Switch, E> {
                if value {
                    Err(E::invalid_value(de::Unexpected::Bool(true), &self))
                } else {
                    Ok(Switch(None))
                }
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Switch, E> {
                match value {
                    "off" => Ok(Switch(None)),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(NumberOrOff)
    }
}
