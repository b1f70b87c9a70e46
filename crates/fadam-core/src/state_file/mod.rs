//! Optimizer state as a safetensors file.
//!
//! Tensors are called `<parameter>.m`, `.f` (or `.R` and `.C`), and `.t`, the parameter's own step
//! count. 8-bit numbers are `.m.codes` and `.m.scales`; what a compensated bf16 parameter has beside itself is
//! `.theta.low`. The metadata holds `format`, `version`, `algorithm`, `step` and `config` (JSON), and
//! `algorithms` (JSON) for the parameters that have another.
//!
//! A state can be saved in parts of each tensor, too: [`NamedOptimizer::save_part`].

mod parts;
mod take;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor, safetensors::Load};
use safetensors::SafeTensors;
use serde::Serialize;

use self::take::{Loaded, Tensors};
use crate::algorithm::Algorithm;
use crate::param::Param;
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
        let contents = self.contents().map_err(|reason| state_file(path, reason))?;
        write(path, contents)
    }

    /// All that is saved.
    fn contents(&self) -> Parsed<Contents> {
        #[cfg(feature = "cuda")]
        if self.cuda.unchecked() > 0 {
            return Err("steps on the CUDA device are not checked yet; call check() first".into());
        }
        let (mut tensors, mut algorithms) = (BTreeMap::new(), BTreeMap::new());
        for p in &self.params {
            for (key, tensor) in p.kept() {
                tensors.insert(key, tensor.clone());
            }
            let t = i64::try_from(p.t).map_err(|_| format!("t = {} is too large", p.t))?;
            let t = Tensor::new(t, &Device::Cpu).map_err(|e| e.to_string())?;
            tensors.insert(format!("{}.t", p.name), t);
            if p.algorithm != self.config.name() {
                algorithms.insert(&p.name, p.algorithm);
            }
        }
        let json = |result: serde_json::Result<String>| result.map_err(|e| e.to_string());
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("algorithm".to_owned(), self.config.name().to_owned()),
            ("algorithms".to_owned(), json(serde_json::to_string(&algorithms))?),
            ("step".to_owned(), self.steps.to_string()),
            ("config".to_owned(), json(serde_json::to_string(&self.config))?),
        ]);
        Ok(Contents { tensors, metadata })
    }
}

impl<A: Algorithm> NamedOptimizer<A> {
    /// Reads state and step count from a file written by [`save`](Self::save), on whatever device the parameters
    /// are. The hyper-parameters stay those of this optimizer, so that a run may go on with others; numbers
    /// that were kept in another format (8-bit, bf16, in full) are converted.
    ///
    /// # Errors
    /// [`Error::StateFile`] if the file is no such file, or is of another algorithm, or its names or
    /// shapes are not those of this optimizer, or a number in it is not finite; nothing is changed then.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.check()?;
        let loaded = read(path).and_then(|contents| self.parse(contents));
        let (steps, loaded) = loaded.map_err(|reason| state_file(path, reason))?;
        self.adopt(steps, loaded);
        Ok(())
    }

    fn adopt(&mut self, steps: u64, loaded: Vec<Loaded>) {
        self.steps = steps;
        for (param, Loaded { t, state, theta }) in self.params.iter_mut().zip(loaded) {
            (param.t, param.state, param.theta) = (t, state, theta);
        }
    }

    fn parse(&self, Contents { tensors, metadata }: Contents) -> Parsed<(u64, Vec<Loaded>)> {
        let steps = self.check_metadata(&metadata)?;
        let mut tensors = Tensors(tensors);
        let loaded = self.params.iter().map(|p| tensors.take_param(p)).collect::<Parsed<_>>()?;
        match tensors.0.into_keys().next() {
            Some(key) => Err(format!("holds {key:?}, which this optimizer does not have")),
            None => Ok((steps, loaded)),
        }
    }

    /// The step count, if the metadata is that of a state of these algorithms.
    fn check_metadata(&self, metadata: &HashMap<String, String>) -> Parsed<u64> {
        let get = |key: &str| metadata.get(key).map(String::as_str);
        if get("format") != Some(FORMAT) {
            return Err(format!("its metadata has no format {FORMAT:?}; not an optimizer state"));
        }
        if get("version") != Some(VERSION) {
            let found = get("version").unwrap_or("none");
            return Err(format!("its version is {found}, this library reads {VERSION}"));
        }
        let algorithm = get("algorithm").unwrap_or("none");
        if self.params.is_empty() && algorithm != self.config.name() {
            let own = self.config.name();
            return Err(format!("it is a state of {algorithm}, this optimizer is {own}"));
        }
        let others: BTreeMap<String, String> =
            serde_json::from_str(get("algorithms").unwrap_or("{}"))
                .map_err(|e| format!("its metadata \"algorithms\" cannot be read: {e}"))?;
        for p in &self.params {
            let found = others.get(&p.name).map_or(algorithm, String::as_str);
            if found != p.algorithm {
                let own = p.algorithm;
                let (name, all) = (&p.name, others.is_empty() && own == self.config.name());
                return Err(if all {
                    format!("it is a state of {found}, this optimizer is {own}")
                } else {
                    format!("it is a state of {found} for {name:?}, this optimizer has {own}")
                });
            }
        }
        get("step")
            .and_then(|step| step.parse().ok())
            .ok_or_else(|| "its metadata has no step count \"step\"".to_owned())
    }
}

impl Param {
    /// All that is kept of it beside θ, by the keys of a file.
    fn kept(&self) -> Vec<(String, &Tensor)> {
        let mut kept = Vec::new();
        for (kind, stored) in self.state.named() {
            for (end, tensor) in stored.tensors() {
                kept.push((format!("{}.{kind}{end}", self.name), tensor));
            }
        }
        for (end, tensor) in self.theta.tensors() {
            if !end.is_empty() {
                kept.push((format!("{}.theta{end}", self.name), tensor));
            }
        }
        kept
    }
}

/// What a file holds.
struct Contents {
    tensors: BTreeMap<String, Tensor>,
    metadata: HashMap<String, String>,
}

/// A value, or what is wrong with the file.
type Parsed<T> = std::result::Result<T, String>;

fn state_file(path: &Path, reason: String) -> Error {
    Error::StateFile { path: path.display().to_string(), reason }
}

/// Writes a file aside and renames it.
fn write(path: &Path, Contents { tensors, metadata }: Contents) -> Result<()> {
    let failed = |reason: String| state_file(path, reason);
    let aside = path.with_added_extension("tmp");
    safetensors::serialize_to_file(&tensors, Some(metadata), &aside)
        .map_err(|e| failed(e.to_string()))?;
    fs::File::open(&aside)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&aside, path))
        .map_err(|e| failed(e.to_string()))
}

/// Reads a whole file.
fn read(path: &Path) -> Parsed<Contents> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let text = |e: safetensors::SafeTensorError| format!("not a whole safetensors file: {e}");
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(text)?;
    let file = SafeTensors::deserialize(&bytes).map_err(text)?;
    let mut tensors = BTreeMap::new();
    for (key, view) in file.tensors() {
        let tensor = view.load(&Device::Cpu).map_err(|e| format!("{key:?}: {e}"))?;
        tensors.insert(key, tensor);
    }
    Ok(Contents { tensors, metadata: header.metadata().clone().unwrap_or_default() })
}
