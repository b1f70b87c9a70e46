//! Optimizer state as a safetensors file.
//!
//! Tensors are called `<parameter>.m`, `.f` (or `.R` and `.C`), and `.t`, the parameter's own step
//! count. The metadata holds `format`, `version`, `algorithm`, `step` and `config` (JSON).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor, safetensors::Load};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Serialize;

use crate::algorithm::{Algorithm, State};
use crate::{Error, NamedOptimizer, Result};

const FORMAT: &str = "fadam-state";
const VERSION: &str = "1";

impl<A: Algorithm + Serialize> NamedOptimizer<A> {
    /// Writes state, step count and hyper-parameters to a safetensors file, aside first and then
    /// renamed, so that an older file at `path` is replaced by a whole one or not at all.
    ///
    /// # Errors
    /// [`Error::StateFile`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |reason: String| state_file(path, reason);
        let mut tensors = BTreeMap::new();
        for p in &self.params {
            for (kind, tensor) in p.state.tensors() {
                tensors.insert(format!("{}.{kind}", p.name), tensor.clone());
            }
            let t = i64::try_from(p.t).map_err(|_| failed(format!("t = {} is too large", p.t)))?;
            tensors.insert(format!("{}.t", p.name), Tensor::new(t, &Device::Cpu)?);
        }
        let config = serde_json::to_string(&self.config).map_err(|e| failed(e.to_string()))?;
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("algorithm".to_owned(), self.config.name().to_owned()),
            ("step".to_owned(), self.steps.to_string()),
            ("config".to_owned(), config),
        ]);
        let aside = path.with_added_extension("tmp");
        safetensors::serialize_to_file(&tensors, Some(metadata), &aside)
            .map_err(|e| failed(e.to_string()))?;
        fs::File::open(&aside)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&aside, path))
            .map_err(|e| failed(e.to_string()))
    }
}

impl<A: Algorithm> NamedOptimizer<A> {
    /// Reads state and step count from a file written by [`save`](Self::save). The hyper-parameters
    /// stay those of this optimizer, so that a run may go on with others.
    ///
    /// # Errors
    /// [`Error::StateFile`] if the file is no such file, or is of another algorithm, or its names,
    /// shapes or dtypes are not those of this optimizer; nothing is changed then.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|e| state_file(path, e.to_string()))?;
        let (steps, states) = self.parse(&bytes).map_err(|reason| state_file(path, reason))?;
        self.steps = steps;
        for (param, (t, state)) in self.params.iter_mut().zip(states) {
            param.t = t;
            param.state = state;
        }
        Ok(())
    }

    fn parse(&self, bytes: &[u8]) -> Parsed<(u64, Vec<(u64, State)>)> {
        let text = |e: &dyn std::fmt::Display| format!("not a whole safetensors file: {e}");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| text(&e))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| text(&e))?;
        let steps = self.check_metadata(header.metadata().as_ref())?;

        let mut tensors: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
        let mut states = Vec::with_capacity(self.params.len());
        for p in &self.params {
            let mut take = |kind: &str| {
                let key = format!("{}.{kind}", p.name);
                tensors.remove(&key).ok_or_else(|| format!("holds no {key:?}"))
            };
            let t = read_t(&p.name, &take("t")?)?;
            let mut wrong = None;
            let state = p.state.map(|kind, like| {
                let loaded = take(kind).and_then(|view| read_like(&p.name, kind, &view, like));
                Ok(loaded.unwrap_or_else(|reason| {
                    wrong.get_or_insert(reason);
                    like.clone()
                }))
            });
            states.push((t, state.map_err(|e| e.to_string())?));
            if let Some(reason) = wrong {
                return Err(reason);
            }
        }
        match tensors.into_keys().next() {
            Some(key) => Err(format!("holds {key:?}, which this optimizer does not have")),
            None => Ok((steps, states)),
        }
    }

    /// The step count, if the metadata is that of a state of this algorithm.
    fn check_metadata(&self, metadata: Option<&HashMap<String, String>>) -> Parsed<u64> {
        let get = |key: &str| metadata.and_then(|m| m.get(key)).map(String::as_str);
        if get("format") != Some(FORMAT) {
            return Err(format!("its metadata has no format {FORMAT:?}; not an optimizer state"));
        }
        if get("version") != Some(VERSION) {
            let found = get("version").unwrap_or("none");
            return Err(format!("its version is {found}, this library reads {VERSION}"));
        }
        let (found, own) = (get("algorithm").unwrap_or("none"), self.config.name());
        if found != own {
            return Err(format!("it is a state of {found}, this optimizer is {own}"));
        }
        get("step")
            .and_then(|step| step.parse().ok())
            .ok_or_else(|| "its metadata has no step count \"step\"".to_owned())
    }
}

/// A value, or what is wrong with the file.
type Parsed<T> = std::result::Result<T, String>;

fn state_file(path: &Path, reason: String) -> Error {
    Error::StateFile { path: path.display().to_string(), reason }
}

fn read_t(name: &str, view: &TensorView<'_>) -> Parsed<u64> {
    let t = view.load(&Device::Cpu).and_then(|t| t.to_scalar::<i64>());
    t.ok()
        .and_then(|t| u64::try_from(t).ok())
        .ok_or_else(|| format!("\"{name}.t\" is no step count (a 0-d i64, 0 or more)"))
}

/// The tensor of the file, which must be shaped and typed as the one it replaces.
fn read_like(name: &str, kind: &str, view: &TensorView<'_>, like: &Tensor) -> Parsed<Tensor> {
    let key = format!("{name}.{kind}");
    let tensor = view.load(like.device()).map_err(|e| format!("{key:?}: {e}"))?;
    if tensor.shape() != like.shape() {
        let (found, own) = (tensor.shape(), like.shape());
        return Err(format!("{key:?} has shape {found:?}, this optimizer's has {own:?}"));
    }
    if tensor.dtype() != like.dtype() {
        let (found, own) = (tensor.dtype(), like.dtype());
        return Err(format!("{key:?} is {found:?}, this optimizer's is {own:?}"));
    }
    Ok(tensor)
}
