//! What is timed: which optimizer, dtype, state and ρ, and how much memory its step must touch.

use candle_core::DType;
use clap::ValueEnum;
use fadam_core::{
    AdafactorConfig, AdamConfig, AnyConfig, FAdafactorConfig, FAdamConfig, StateFormat,
};

/// The optimizers that are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// Algorithm 1
    Fadam,
    /// Algorithm 2
    Fadafactor,
    /// Algorithm 3
    Adam,
    /// Algorithm 4
    Adafactor,
    /// candle-nn's `AdamW`, for comparison
    CandleAdamw,
}

impl Name {
    /// As `--only` and the rows call it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fadam => "fadam",
            Self::Fadafactor => "fadafactor",
            Self::Adam => "adam",
            Self::Adafactor => "adafactor",
            Self::CandleAdamw => "candle-adamw",
        }
    }
}

/// How the numbers of the optimizer's state are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateKind {
    F32,
    F64,
    /// With stochastic rounding.
    Bf16,
    /// 8-bit floats in blocks.
    Blocks8,
}

impl StateKind {
    /// As the rows call it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::Blocks8 => "8bit",
        }
    }

    /// What the optimizer is asked for.
    pub(crate) fn format(self) -> StateFormat {
        match self {
            Self::F32 | Self::F64 => StateFormat::Full,
            Self::Bf16 => StateFormat::Bf16,
            Self::Blocks8 => StateFormat::Blocks8,
        }
    }

    /// Bytes a number of m or f takes.
    pub(crate) fn bytes(self) -> f64 {
        match self {
            Self::F32 => 4.0,
            Self::F64 => 8.0,
            Self::Bf16 => 2.0,
            Self::Blocks8 => 1.0,
        }
    }
}

/// Hyper-parameters that differ between a check and a timed step.
pub(crate) struct Constants {
    /// η
    pub(crate) lr: f64,
    /// λ
    pub(crate) weight_decay: f64,
    /// c
    pub(crate) clip: f64,
}

/// One row of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Case {
    pub(crate) name: Name,
    /// Of parameters and gradients.
    pub(crate) dtype: DType,
    pub(crate) state: StateKind,
    /// The exponent of the FIM, where the algorithm has one.
    pub(crate) rho: Option<f64>,
}

impl Case {
    /// Every row, in the order they are printed.
    pub(crate) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for name in [Name::Fadam, Name::Fadafactor, Name::Adam, Name::Adafactor] {
            for (dtype, state) in [
                (DType::F32, StateKind::F32),
                (DType::F32, StateKind::Bf16),
                (DType::F32, StateKind::Blocks8),
                (DType::BF16, StateKind::F32),
                (DType::F64, StateKind::F64),
            ] {
                let rhos: &[_] = match (name, dtype, state) {
                    (Name::Fadam, DType::F32, StateKind::F32) => &[Some(0.5), Some(0.7), Some(1.0)],
                    (Name::Fadam | Name::Fadafactor, ..) => &[Some(0.5)],
                    _ => &[None],
                };
                cases.extend(rhos.iter().map(|&rho| Self { name, dtype, state, rho }));
            }
        }
        cases.push(Self {
            name: Name::CandleAdamw,
            dtype: DType::F32,
            state: StateKind::F32,
            rho: None,
        });
        cases
    }

    /// The hyper-parameters: the paper's constants but for those given, and ρ. candle-nn's `AdamW` is
    /// Algorithm 3 without clipping.
    pub(crate) fn config(&self, constants: &Constants) -> AnyConfig {
        let Constants { lr, weight_decay, clip } = *constants;
        let rho = self.rho.unwrap_or(FAdamConfig::default().rho);
        let adam = |clip| AdamConfig { lr, weight_decay, clip, ..Default::default() };
        match self.name {
            Name::Fadam => AnyConfig::FAdam(FAdamConfig {
                lr,
                weight_decay,
                clip: Some(clip),
                rho,
                ..Default::default()
            }),
            Name::Fadafactor => AnyConfig::FAdafactor(FAdafactorConfig {
                lr,
                weight_decay,
                clip: Some(clip),
                rho,
                ..Default::default()
            }),
            Name::Adam => AnyConfig::Adam(adam(Some(clip))),
            Name::CandleAdamw => AnyConfig::Adam(adam(None)),
            Name::Adafactor => AnyConfig::Adafactor(AdafactorConfig {
                lr,
                weight_decay,
                clip: Some(clip),
                ..Default::default()
            }),
        }
    }

    /// Bytes that a step must at least read or write for a tensor of these dimensions; `None` where that
    /// says nothing about the step.
    pub(crate) fn step_bytes(&self, dims: &[usize]) -> Option<f64> {
        let Accesses { parameter, state } = Accesses::of(self.name, dims.len() > 1)?;
        let each = parameter * self.dtype.size_in_bytes() as f64 + state * self.state.bytes();
        Some(each * dims.iter().product::<usize>() as f64)
    }

    /// For a person: `fadafactor bf16, state f32, rho 0.5`.
    pub(crate) fn describe(&self) -> String {
        let (name, dtype, state) = (self.name.as_str(), self.dtype.as_str(), self.state.as_str());
        let rho = self.rho.map_or(String::new(), |rho| format!(", rho {rho}"));
        format!("{name} {dtype}, state {state}{rho}")
    }
}

/// How often a step must read or write each number, when it is computed chunk by chunk and memory is
/// the only place to keep anything. The table and its reasons are in the module `optimizer`.
struct Accesses {
    /// Of g and θ, which are kept in the parameter's dtype.
    parameter: f64,
    /// Of m and f, which are kept as the state is.
    state: f64,
}

impl Accesses {
    /// `matrix`: two dimensions or more, of which the factored algorithms keep sums only.
    fn of(name: Name, matrix: bool) -> Option<Self> {
        let (parameter, state) = match (name, matrix) {
            (Name::Fadam, _) | (Name::Fadafactor, false) => (5.0, 5.0),
            (Name::Fadafactor, true) => (6.0, 2.0),
            (Name::Adam, _) => (4.0, 6.0),
            (Name::Adafactor, false) => (4.0, 5.0),
            (Name::Adafactor, true) => (5.0, 2.0),
            (Name::CandleAdamw, _) => return None,
        };
        Some(Self { parameter, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_counted_in_the_dtype_they_are_made_in() {
        let bytes = |name, dtype, state, dims: &[usize]| {
            let rho = None;
            Case { name, dtype, state, rho }.step_bytes(dims)
        };
        let (f32, bf16) = (DType::F32, DType::BF16);
        assert_eq!(bytes(Name::Fadam, f32, StateKind::F32, &[3]), Some(3.0 * 40.0));
        assert_eq!(bytes(Name::Fadam, bf16, StateKind::F32, &[3]), Some(3.0 * 30.0));
        assert_eq!(bytes(Name::Fadafactor, f32, StateKind::F32, &[2, 3]), Some(6.0 * 32.0));
        assert_eq!(bytes(Name::Adafactor, DType::F64, StateKind::F64, &[2, 3]), Some(6.0 * 56.0));
        assert_eq!(bytes(Name::CandleAdamw, f32, StateKind::F32, &[3]), None);
    }

    #[test]
    fn a_name_is_what_the_command_line_takes() {
        for name in Name::value_variants() {
            let value = name.to_possible_value().unwrap();
            assert_eq!(value.get_name(), name.as_str());
        }
    }
}
