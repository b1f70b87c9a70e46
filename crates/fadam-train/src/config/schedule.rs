//! `[schedule]`: warm-up, and one flat section for the decays.

use fadam_core::schedule::{Decay, Schedule};
use serde::{Deserialize, Serialize};

use super::FieldError;

/// The factor at the last step when `end` is not given.
const DEFAULT_END: f64 = 0.1;

/// `[schedule]` as it is written. A key that the kind does not have is refused by
/// [`RawSchedule::resolve`].
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSchedule {
    kind: Kind,
    warmup: u64,
    end: Option<f64>,
    d_model: Option<u64>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    #[default]
    Constant,
    Linear,
    Cosine,
    InverseSqrt,
    Exponential,
    Noam,
}

impl RawSchedule {
    pub(super) fn resolve(self) -> Result<Schedule, FieldError> {
        let has_end = matches!(self.kind, Kind::Linear | Kind::Cosine | Kind::Exponential);
        if self.end.is_some() && !has_end {
            let message = "is only for linear, cosine and exponential schedules";
            return Err(FieldError::new("schedule.end", message));
        }
        if self.d_model.is_some() && self.kind != Kind::Noam {
            return Err(FieldError::new("schedule.d_model", "is only for noam schedules"));
        }
        let end = self.end.unwrap_or(DEFAULT_END);
        let decay = match self.kind {
            Kind::Constant => Decay::Constant,
            Kind::Linear => Decay::Linear { end },
            Kind::Cosine => Decay::Cosine { end },
            Kind::InverseSqrt => Decay::InverseSqrt,
            Kind::Exponential => Decay::Exponential { end },
            Kind::Noam => Decay::Noam { d_model: self.d_model.unwrap_or(0) },
        };
        check(decay)?;
        Ok(Schedule { warmup: self.warmup, decay })
    }
}

fn check(decay: Decay) -> Result<(), FieldError> {
    match decay {
        Decay::Linear { end } | Decay::Cosine { end } => FieldError::require(
            "schedule.end",
            (0.0..=1.0).contains(&end),
            format!("must be from 0 to 1, got {end}"),
        ),
        Decay::Exponential { end } => FieldError::require(
            "schedule.end",
            end > 0.0 && end <= 1.0,
            format!("must be above 0 and at most 1, got {end}"),
        ),
        Decay::Noam { d_model } => FieldError::require(
            "schedule.d_model",
            d_model >= 1,
            "must be given for a noam schedule, and at least 1",
        ),
        _ => Ok(()),
    }
}

impl From<&Schedule> for RawSchedule {
    fn from(schedule: &Schedule) -> Self {
        let (kind, end, d_model) = match schedule.decay {
            Decay::Linear { end } => (Kind::Linear, Some(end), None),
            Decay::Cosine { end } => (Kind::Cosine, Some(end), None),
            Decay::InverseSqrt => (Kind::InverseSqrt, None, None),
            Decay::Exponential { end } => (Kind::Exponential, Some(end), None),
            Decay::Noam { d_model } => (Kind::Noam, None, Some(d_model)),
            // Decay is non-exhaustive for us; RawSchedule::resolve makes no other.
            _ => (Kind::Constant, None, None),
        };
        Self { kind, warmup: schedule.warmup, end, d_model }
    }
}
