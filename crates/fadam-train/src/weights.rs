//! Weights in a safetensors file, taken by name: all of them or none.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{DType, Tensor, Var};
use fadam_core::NamedVars;
use safetensors::SafeTensors;

use crate::config::TrainConfig;
use crate::{Error, RunFolder};

/// Tensors that were read as another float type than their variables have: how many of each.
///
/// ```
/// assert_eq!(fadam_train::Conversions::default().to_string(), "nothing converted");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversions(BTreeMap<&'static str, usize>);

impl Conversions {
    /// Whether every tensor was of its variable's type.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Conversions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing converted");
        }
        for (i, (dtype, count)) in self.0.iter().enumerate() {
            let (comma, tensors) =
                (if i > 0 { ", " } else { "" }, if *count == 1 { "tensor" } else { "tensors" });
            write!(f, "{comma}{count} {tensors} converted from {dtype}")?;
        }
        Ok(())
    }
}

/// Sets the variables of `model` to the tensors of a safetensors file. Names and shapes must be those of
/// the model exactly; bf16, f16, f32 and f64 are converted to what the variable has.
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use fadam_core::NamedVars;
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("model.safetensors");
/// let bias = Tensor::new(&[1f32, 2.0], &Device::Cpu)?.to_dtype(DType::BF16)?;
/// bias.save_safetensors("bias", &file)?;
///
/// let mut model = NamedVars::new();
/// model.insert("bias", Var::zeros(2, DType::F32, &Device::Cpu)?)?;
/// let converted = fadam_train::load_weights(&file, &model)?;
/// assert_eq!(converted.to_string(), "1 tensor converted from bf16");
/// assert_eq!(model.get("bias").unwrap().to_vec1::<f32>()?, [1.0, 2.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::Weights`] when the file cannot be read, or naming every tensor that is missing, unknown, of
/// another shape, not of a float type, or not finite; no variable is changed then.
pub fn load_weights(file: &Path, model: &NamedVars) -> Result<Conversions, Error> {
    let failed = |message: String| Error::weights(file, message);
    if file.is_dir() {
        return Err(failed("is a folder: name the .safetensors file in it".to_owned()));
    }
    let read = Weights::read(file, model, Dtypes::AnyFloat).map_err(failed)?;
    let bad: Vec<&str> = read
        .tensors
        .iter()
        .filter(|(_, _, tensor)| !is_finite(tensor))
        .map(|(name, ..)| *name)
        .collect();
    if !bad.is_empty() {
        return Err(failed(format!("holds numbers that are not finite: {}", bad.join("; "))));
    }
    let converted = read.converted.clone();
    read.store().map_err(failed)?;
    Ok(converted)
}

/// Sets a new run's model to the weights of `train.init`, if it names some; says what was done. A
/// continued run has its weights in the checkpoint, and needs the file no more.
pub(crate) fn initial(
    train: &TrainConfig,
    folder: &RunFolder,
    model: &NamedVars,
) -> Result<Option<String>, Error> {
    let Some(file) = train.init().filter(|_| !folder.is_resumed()) else {
        return Ok(None);
    };
    let converted = load_weights(file, model)?;
    let (file, tensors) = (file.display(), model.len());
    Ok(Some(format!("initial weights: {tensors} tensors of {file}, {converted}")))
}

/// Whether 0 · x is 0 for every number, which it is not for NaN and infinities.
fn is_finite(tensor: &Tensor) -> bool {
    let sum = (tensor * 0.0).and_then(|zeros| zeros.sum_all()?.to_dtype(DType::F64)?.to_scalar());
    sum.is_ok_and(|sum: f64| sum == 0.0)
}

/// What may be read into a variable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtypes {
    /// Its own type alone.
    Exact,
    /// bf16, f16, f32 or f64, converted.
    AnyFloat,
}

/// The tensors of a file beside the variables they are for: checked, on their devices, of their types.
pub(crate) struct Weights<'m> {
    tensors: Vec<(&'m str, &'m Var, Tensor)>,
    converted: Conversions,
}

impl<'m> Weights<'m> {
    /// Reads a whole file. The error is the rest of a sentence that starts with the file.
    pub(crate) fn read(path: &Path, model: &'m NamedVars, dtypes: Dtypes) -> Result<Self, String> {
        let bytes = fs::read(path).map_err(|err| format!("cannot be read: {err}"))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|err| format!("is not a whole safetensors file: {err}"))?;
        let mut differences: Vec<String> = file
            .names()
            .into_iter()
            .filter(|name| model.get(name).is_none())
            .map(|name| format!("{name} is not in this model"))
            .collect();
        differences.sort();
        let mut weights =
            Self { tensors: Vec::with_capacity(model.len()), converted: Conversions::default() };
        for (name, var) in model.iter() {
            let taken = match file.tensor(name).map(|view| view.load(var.device())) {
                Err(_) => Err("is missing".to_owned()),
                Ok(Err(err)) => Err(format!("cannot be used: {err}")),
                Ok(Ok(tensor)) => weights.take(name, var, &tensor, dtypes),
            };
            differences.extend(taken.err().map(|why| format!("{name} {why}")));
        }
        if differences.is_empty() {
            return Ok(weights);
        }
        Err(format!("is of another model: {}", differences.join("; ")))
    }

    fn take(
        &mut self,
        name: &'m str,
        var: &'m Var,
        tensor: &Tensor,
        dtypes: Dtypes,
    ) -> Result<(), String> {
        let (from, to) = (tensor.dtype(), var.dtype());
        let known = matches!(from, DType::BF16 | DType::F16 | DType::F32 | DType::F64);
        if tensor.shape() != var.shape() || from != to && (dtypes == Dtypes::Exact || !known) {
            return Err(format!("is {}, in this model {}", kind(tensor), kind(var)));
        }
        let converted = tensor.to_dtype(to).map_err(|err| format!("cannot be converted: {err}"))?;
        if from != to {
            *self.converted.0.entry(from.as_str()).or_default() += 1;
        }
        self.tensors.push((name, var, converted));
        Ok(())
    }

    /// Sets the variables.
    pub(crate) fn store(self) -> Result<(), String> {
        for (name, var, tensor) in self.tensors {
            var.set(&tensor).map_err(|err| format!("{name} cannot be set: {err}"))?;
        }
        Ok(())
    }
}

fn kind(tensor: &Tensor) -> String {
    format!("{:?} {:?}", tensor.dtype(), tensor.dims())
}
