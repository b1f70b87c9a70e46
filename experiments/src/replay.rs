//! Steps an optimizer through a recorded gradient trace, so that anyone can compare it with another
//! framework.
//!
//! The input is a safetensors file: metadata `algorithm` and `config` (JSON of the hyper-parameters,
//! `null` or `"off"` for `eps2` and `clip` off), tensors `theta0 [shape]` and `grads [T, shape]`.
//! The output holds `theta`, `m` and `fim`, each `[T, shape]`, after every step, and the metadata of the
//! input with the dtype.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use candle_core::{DType, Device, Tensor, Var, safetensors::Load};
use clap::{Parser, ValueEnum};
use fadam_core::{Algorithm, AnyConfig, AnyOptimizer, Gradients, NamedVars};
use fadam_train::bad_input;
use safetensors::SafeTensors;

/// Steps an optimizer through a recorded gradient trace (safetensors: metadata `algorithm` and `config`,
/// tensors `theta0 [shape]` and `grads [T, shape]`) and writes `theta`, `m` and `fim`, each `[T, shape]`.
#[derive(Debug, Parser)]
#[command(name = "replay", version)]
pub struct Args {
    /// The trace.
    pub input: PathBuf,

    /// The file to write; replaced if it exists, left alone on an error.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,

    /// The dtype of the parameter and its gradients; the state of bf16 is f32.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub dtype: Precision,
}

/// A dtype that a trace can be replayed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 64 bits.
    F64,
    /// 16 bits, 8 of them for the exponent.
    Bf16,
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F64 => Self::F64,
            Precision::Bf16 => Self::BF16,
        }
    }
}

/// A trace, checked.
struct Trace {
    config: AnyConfig,
    metadata: HashMap<String, String>,
    /// `[shape]`
    theta0: Tensor,
    /// `[T, shape]`
    grads: Tensor,
}

/// Replays a trace; returns a line for the user.
///
/// # Errors
///
/// Bad input (exit code 2) if the trace cannot be read, its config has an unknown key or an impossible
/// value, a tensor is missing or has another shape, or a step fails; no output is written then.
pub fn replay(args: &Args) -> anyhow::Result<String> {
    let place = args.input.display().to_string();
    let trace = read(&args.input).map_err(bad_input).with_context(|| place.clone())?;
    let steps = trace.grads.dims()[0];
    let columns = step(&trace, args.dtype.into()).map_err(bad_input).context(place)?;
    let mut metadata = trace.metadata;
    let dtype = format!("{:?}", args.dtype).to_lowercase();
    metadata.insert("dtype".to_owned(), dtype.clone());
    let bytes = safetensors::serialize(&columns, Some(metadata))?;
    fadam_train::write_atomically(&args.output, &bytes).map_err(bad_input)?;
    Ok(format!(
        "{} of {}, {steps} steps in {dtype} -> {}",
        trace.config.name(),
        args.input.display(),
        args.output.display()
    ))
}

/// Reads a trace and checks all of it.
fn read(path: &Path) -> anyhow::Result<Trace> {
    let not_safetensors = |e: &dyn Display| anyhow!("not a whole safetensors file: {e}");
    let bytes = fs::read(path)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| not_safetensors(&e))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| not_safetensors(&e))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let config = parse_config(&metadata)?;

    let tensor = |name: &str, shape: &str| -> anyhow::Result<Tensor> {
        let view = file
            .tensor(name)
            .map_err(|_| anyhow!("no tensor \"{name}\"; expected `{name}` {shape}"))?;
        let tensor = view.load(&Device::Cpu)?;
        if !tensor.dtype().is_float() {
            return Err(anyhow!("`{name}` is {:?}, expected floating point", tensor.dtype()));
        }
        Ok(tensor)
    };
    let theta0 = tensor("theta0", "[shape]")?;
    let grads = tensor("grads", "[T, shape]")?;
    match grads.dims() {
        [steps, shape @ ..] if shape == theta0.dims() && *steps > 0 => {}
        found => {
            return Err(anyhow!(
                "`grads` has shape {found:?}, expected [T, shape] with T at least 1 and the shape of \
                 `theta0`, {:?}",
                theta0.dims()
            ));
        }
    }
    Ok(Trace { config, metadata, theta0, grads })
}

/// The algorithm with its hyper-parameters, from the metadata.
fn parse_config(metadata: &HashMap<String, String>) -> anyhow::Result<AnyConfig> {
    let get = |key: &str| {
        let value = metadata.get(key);
        value.ok_or_else(|| anyhow!("its metadata has no \"{key}\"; expected algorithm and config"))
    };
    let mut config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(get("config")?).context("metadata config is not a JSON object")?;
    config.insert("algorithm".to_owned(), get("algorithm")?.as_str().into());
    let config: AnyConfig =
        serde_json::from_value(config.into()).context("metadata algorithm or config")?;
    config.validate().context("metadata config")?;
    Ok(config)
}

/// `theta`, `m` and `fim`, each `[T, shape]`.
fn step(trace: &Trace, dtype: DType) -> anyhow::Result<BTreeMap<&'static str, Tensor>> {
    let theta = Var::from_tensor(&trace.theta0.to_dtype(dtype)?)?;
    let vars = NamedVars::from_iter([("theta".to_owned(), theta.clone())]);
    let mut optimizer = AnyOptimizer::from_named(vars, trace.config.clone())?;
    let mut columns: BTreeMap<&'static str, Vec<Tensor>> = BTreeMap::new();
    for k in 0..trace.grads.dims()[0] {
        let g = trace.grads.get(k)?.to_dtype(dtype)?;
        optimizer
            .step_named(&Gradients::from([("theta".to_owned(), g)]))
            .with_context(|| format!("step {}", k + 1))?;
        columns.entry("theta").or_default().push(theta.copy()?);
        columns.entry("m").or_default().push(optimizer.momentum("theta")?);
        columns.entry("fim").or_default().push(optimizer.fim("theta")?);
    }
    columns.into_iter().map(|(name, rows)| Ok((name, Tensor::stack(&rows, 0)?))).collect()
}
