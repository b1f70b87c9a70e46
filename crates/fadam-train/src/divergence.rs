//! A step whose loss, gradients or update are not finite: what is known of it, and what is told.

use std::fmt;

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::Gradients;
use serde_json::{Value, json};

use crate::task::Task;

/// The tensors that a message names; the line in `metrics.jsonl` has them all.
const NAMED: usize = 8;

/// A step that was not taken, since something in it is not finite.
#[derive(Debug, Clone)]
pub(crate) struct Divergence {
    /// The step that it would have been.
    pub(crate) step: u64,
    /// What gave it away: the loss, or the optimizer's error.
    pub(crate) cause: String,
    /// The mean loss of the step's batches.
    pub(crate) loss: f64,
    /// The loss of each batch.
    pub(crate) losses: Vec<f64>,
    /// Gradients that are not finite.
    pub(crate) tensors: Vec<BadTensor>,
    /// The task's cursor before the step's batches.
    pub(crate) cursor: Value,
}

/// A gradient that is not finite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadTensor {
    name: String,
    numbers: usize,
    nan: usize,
    infinite: usize,
}

impl BadTensor {
    /// Those among `gradients`, sorted by name.
    pub(crate) fn among(gradients: &Gradients) -> candle_core::Result<Vec<Self>> {
        let mut bad = Vec::new();
        for (name, gradient) in gradients {
            let numbers: Vec<f64> = gradient.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
            let count = |is: fn(f64) -> bool| numbers.iter().filter(|number| is(**number)).count();
            let (nan, infinite) = (count(f64::is_nan), count(f64::is_infinite));
            if nan + infinite > 0 {
                bad.push(Self { name: name.clone(), numbers: numbers.len(), nan, infinite });
            }
        }
        Ok(bad)
    }
}

impl Divergence {
    /// The fields of its line in `metrics.jsonl`, after step, split and loss. `action` is what followed.
    pub(crate) fn fields(&self, action: &str) -> Vec<(String, Value)> {
        let tensor = |bad: &BadTensor| {
            let BadTensor { name, numbers, nan, infinite } = bad;
            json!({ "name": name, "numbers": numbers, "nan": nan, "infinite": infinite })
        };
        [
            ("action", action.into()),
            ("cause", self.cause.as_str().into()),
            ("batch_losses", self.losses.clone().into()),
            ("gradients", self.tensors.iter().map(tensor).collect()),
            ("cursor", self.cursor.clone()),
        ]
        .map(|(name, value): (_, Value)| (name.to_owned(), value))
        .into()
    }
}

impl fmt::Display for Divergence {
    /// `the loss is NaN; in the gradient of "bias" 1 of 1 numbers are NaN and 0 infinite; its batch is what comes
    /// after the cursor {"drawn":16}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        for BadTensor { name, numbers, nan, infinite } in self.tensors.iter().take(NAMED) {
            write!(
                f,
                "; in the gradient of {name:?} {nan} of {numbers} numbers are NaN and {infinite} infinite"
            )?;
        }
        if let Some(more @ 1..) = self.tensors.len().checked_sub(NAMED) {
            write!(f, "; so it is in {more} more gradients")?;
        }
        write!(f, "; its batch is what comes after the cursor {}", self.cursor)
    }
}

impl std::error::Error for Divergence {}

/// The error of an optimizer that found something not finite, if it is one.
pub(crate) fn is_not_finite(error: &fadam_core::Error) -> bool {
    use fadam_core::Error::{NonFiniteGradient, NonFiniteUpdate};
    matches!(error, NonFiniteGradient { .. } | NonFiniteUpdate { .. })
}

/// A loss that was looked at after its step was taken, as on a GPU, and is not finite.
#[derive(Debug, thiserror::Error)]
#[error("the loss of step {step} is {loss}")]
pub(crate) struct BadLoss {
    pub(crate) step: u64,
    pub(crate) loss: f64,
}

/// Whether an error says that something was not finite.
pub(crate) fn is_divergence(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Divergence>()
            || cause.is::<BadLoss>()
            || cause.downcast_ref::<fadam_core::Error>().is_some_and(is_not_finite)
    })
}

/// What a step moves before the optimizer is asked: to be put back if there is to be no step.
pub(crate) struct BeforeStep {
    /// [`Task::cursor`].
    pub(crate) cursor: Value,
    /// The forward pass may move running statistics, to NaN for example.
    buffers: Vec<(Var, Tensor)>,
}

impl BeforeStep {
    pub(crate) fn of(task: &impl Task) -> candle_core::Result<Self> {
        let mut buffers = Vec::new();
        for (_, var) in task.buffers() {
            let now = var.as_tensor().copy()?;
            buffers.push((var, now));
        }
        Ok(Self { cursor: task.cursor(), buffers })
    }

    /// Whether there are running statistics, which a bad batch spoils.
    pub(crate) fn has_buffers(&self) -> bool {
        !self.buffers.is_empty()
    }

    /// Puts the running statistics back.
    pub(crate) fn restore_buffers(&self) -> candle_core::Result<()> {
        self.buffers.iter().try_for_each(|(var, value)| var.set(value))
    }
}

/// The value of a scalar tensor of any float type.
pub(crate) fn scalar(tensor: &Tensor) -> candle_core::Result<f64> {
    match tensor.dtype() {
        DType::F64 => tensor.to_scalar::<f64>(),
        _ => Ok(tensor.to_dtype(DType::F32)?.to_scalar::<f32>()?.into()),
    }
}

/// Whether numbers can be looked at without waiting for a device.
pub(crate) fn is_at_hand(tensor: &Tensor) -> bool {
    matches!(tensor.device(), Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradients() -> Gradients {
        let of = |numbers: &[f32]| Tensor::new(numbers, &Device::Cpu).unwrap();
        let bad = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::INFINITY];
        let named = [("a", of(&[1.0])), ("b", of(&bad)), ("c", of(&[f32::NAN]))];
        named.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
    }

    #[test]
    fn every_bad_gradient_is_counted_and_the_first_are_named() {
        let tensors = BadTensor::among(&gradients()).unwrap();
        let counts: Vec<_> =
            tensors.iter().map(|t| (t.name.as_str(), t.numbers, t.nan, t.infinite)).collect();
        assert_eq!(counts, [("b", 4, 1, 2), ("c", 1, 1, 0)]);
        let mut divergence = Divergence {
            step: 17,
            cause: "the loss is NaN".to_owned(),
            loss: f64::NAN,
            losses: vec![1.0, f64::NAN],
            tensors,
            cursor: json!({ "drawn": 16 }),
        };
        let text = divergence.to_string();
        let start =
            "the loss is NaN; in the gradient of \"b\" 1 of 4 numbers are NaN and 2 infinite; ";
        assert!(text.starts_with(start), "{text}");
        assert!(
            text.ends_with("; its batch is what comes after the cursor {\"drawn\":16}"),
            "{text}"
        );
        let fields = Value::Object(divergence.fields("skip").into_iter().collect());
        let b = json!({ "name": "b", "numbers": 4, "nan": 1, "infinite": 2 });
        assert_eq!((&fields["action"], &fields["gradients"][0]), (&"skip".into(), &b));
        assert_eq!(fields["batch_losses"], json!([1.0, null]));

        let one = divergence.tensors[0].clone();
        divergence.tensors = vec![one; NAMED];
        assert!(!divergence.to_string().contains("more gradients"));
        divergence.tensors.push(divergence.tensors[0].clone());
        assert!(divergence.to_string().contains("; so it is in 1 more gradients;"));
    }

    #[test]
    fn only_what_is_not_finite_is_a_divergence() {
        let of_optimizer = |name: &str| fadam_core::Error::NonFiniteGradient { name: name.into() };
        assert!(is_divergence(&anyhow::Error::from(of_optimizer("w")).context("evaluation")));
        assert!(is_divergence(&BadLoss { step: 3, loss: f64::INFINITY }.into()));
        let missing = fadam_core::Error::MissingGradient { names: vec!["w".to_owned()] };
        assert!(!is_divergence(&missing.into()));
        assert!(!is_divergence(&anyhow::anyhow!("no space left")));
    }
}
