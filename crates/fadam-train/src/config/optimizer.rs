//! `[optimizer]`: one flat section for the four algorithms.

use fadam_core::{Algorithm as _, AnyConfig, StateFormat};
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
    state: StateName,
    max_grad_norm: Option<Switch>,
}

/// What `[optimizer]` says beside the algorithm and its hyper-parameters.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct OptimizerOptions {
    /// How m and f are kept.
    pub state: StateFormat,
    /// The norm that all gradients together are clipped to; `None`: off.
    pub max_grad_norm: Option<f64>,
}

#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
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

impl From<StateFormat> for StateName {
    fn from(format: StateFormat) -> Self {
        match format {
            StateFormat::Bf16 => Self::Bf16,
            StateFormat::Blocks8 => Self::Blocks8,
            _ => Self::Full,
        }
    }
}

#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AlgorithmName {
    FAdam,
    #[default]
    FAdafactor,
    Adam,
    Adafactor,
}

/// A number, or `"off"` (`false` is read as off too).
#[derive(Debug, Clone, Copy)]
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
        let options = OptimizerOptions { state: self.state.into(), max_grad_norm: norm };
        let mut given = table(&self);
        given.retain(|key, _| !OPTIONS.contains(&key));
        let name = match &given["algorithm"] {
            Value::String(name) => name.clone(),
            other => unreachable!("AlgorithmName serializes as a string, not {other}"),
        };
        let defaults = AnyConfig::named(&name).expect("AlgorithmName has the names of AnyConfig");
        let mut resolved = table(&defaults);
        for (field, value) in given {
            if !resolved.contains_key(&field) {
                let fields: Vec<&str> = resolved.keys().map(String::as_str).collect();
                return Err(FieldError::new(
                    format!("optimizer.{field}"),
                    format!("is not a field of {name}, which has {}", fields.join(", ")),
                ));
            }
            resolved.insert(field, value);
        }
        let config: AnyConfig = resolved
            .try_into()
            .map_err(|err: toml::de::Error| FieldError::new("optimizer", err.message()))?;
        config.validate().map_err(|err| explain(&err))?;
        Ok((config, options))
    }

    /// What resolves to this.
    pub(super) fn of(config: &AnyConfig, options: &OptimizerOptions) -> Self {
        let raw: Self =
            table(config).try_into().expect("RawOptimizer has the fields of all four algorithms");
        let max_grad_norm = Some(Switch(options.max_grad_norm));
        Self { state: options.state.into(), max_grad_norm, ..raw }
    }
}

/// The keys of `[optimizer]` that are no hyper-parameters.
const OPTIONS: [&str; 2] = ["state", "max_grad_norm"];

fn table(config: &impl Serialize) -> Table {
    Table::try_from(config).expect("a struct of numbers and strings")
}

/// fadam-core's error about a field, with the key that the field has here.
fn explain(err: &fadam_core::Error) -> FieldError {
    match err {
        fadam_core::Error::Config { field, value, expected } => FieldError::new(
            format!("optimizer.{field}"),
            format!("must be {expected}, got {value}"),
        ),
        other => FieldError::new("optimizer", other.to_string()),
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
