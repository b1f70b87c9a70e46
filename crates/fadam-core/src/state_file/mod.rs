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
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Serialize;

pub(crate) use self::take::Loaded;
use self::take::take_param;
use crate::algorithm::Algorithm;
use crate::param::Param;
use crate::tensor_file::{Parsed, TensorFile, wrong_file};
use crate::{NamedOptimizer, Result};

const FORMAT: &str = "fadam-state";
const VERSION: &str = "1";

impl<A: Algorithm + Serialize> NamedOptimizer<A> {
    /// Writes state, step count and hyper-parameters to a safetensors file, aside first and then
    /// renamed, so that an older file at `path` is replaced by a whole one or not at all.
    ///
    /// # Errors
    /// [`Error::StateFile`](crate::Error::StateFile) if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.contents().map_err(|reason| wrong_file(path, reason))?.write(path)
    }

    /// All that is saved.
    fn contents(&self) -> Parsed<TensorFile> {
        if self.is_shard() {
            return Err(
                "this optimizer is a shard; save_joined() writes a state of all shards".into()
            );
        }
        self.own_contents()
    }

    /// All that there is of the parameters of this optimizer, or of this shard.
    pub(crate) fn own_contents(&self) -> Parsed<TensorFile> {
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
            if p.algorithm != self.config.kept_as() {
                algorithms.insert(&p.name, p.algorithm);
            }
        }
        let json = |result: serde_json::Result<String>| result.map_err(|e| e.to_string());
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("algorithm".to_owned(), self.config.kept_as().to_owned()),
            ("algorithms".to_owned(), json(serde_json::to_string(&algorithms))?),
            ("step".to_owned(), self.steps.to_string()),
            ("config".to_owned(), json(serde_json::to_string(&self.config))?),
        ]);
        Ok(TensorFile { tensors, metadata })
    }
}

impl<A: Algorithm> NamedOptimizer<A> {
    /// Reads state and step count from a file written by [`save`](Self::save), on whatever device the parameters
    /// are. The hyper-parameters stay those of this optimizer, so that a run may go on with others; numbers
    /// that were kept in another format (8-bit, bf16, in full) are converted.
    ///
    /// # Errors
    /// [`Error::StateFile`](crate::Error::StateFile) if the file is no such file, or is of another algorithm, or its names or
    /// shapes are not those of this optimizer, or a number in it is not finite; nothing is changed then.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.check()?;
        let loaded = TensorFile::read(path).and_then(|file| self.parse(file));
        let (steps, loaded) = loaded.map_err(|reason| wrong_file(path, reason))?;
        self.adopt(steps, loaded);
        Ok(())
    }

    /// Takes over what was loaded, in the order of the parameters.
    pub(crate) fn adopt(&mut self, steps: u64, loaded: Vec<Loaded>) {
        self.steps = steps;
        for (param, Loaded { t, state, theta }) in self.params.iter_mut().zip(loaded) {
            (param.t, param.state, param.theta) = (t, state, theta);
        }
    }

    fn parse(&self, mut file: TensorFile) -> Parsed<(u64, Vec<Loaded>)> {
        let steps = self.check_metadata(&file)?;
        let loaded = self.params.iter().map(|p| take_param(&mut file, p)).collect::<Parsed<_>>()?;
        self.pass_over_others(&mut file)?;
        file.check_empty("this optimizer does not have")?;
        Ok((steps, loaded))
    }

    /// The step count, if the metadata is that of a state of these algorithms.
    fn check_metadata(&self, file: &TensorFile) -> Parsed<u64> {
        file.check(FORMAT, VERSION, "not an optimizer state")?;
        let algorithm = file.get("algorithm").unwrap_or("none");
        if self.params.is_empty() && algorithm != self.config.kept_as() {
            let own = self.config.kept_as();
            return Err(format!("it is a state of {algorithm}, this optimizer is {own}"));
        }
        let others: BTreeMap<String, String> =
            serde_json::from_str(file.get("algorithms").unwrap_or("{}"))
                .map_err(|e| format!("its metadata \"algorithms\" cannot be read: {e}"))?;
        for p in &self.params {
            let found = others.get(&p.name).map_or(algorithm, String::as_str);
            if found != p.algorithm {
                let own = p.algorithm;
                let (name, all) = (&p.name, others.is_empty() && own == self.config.kept_as());
                return Err(if all {
                    format!("it is a state of {found}, this optimizer is {own}")
                } else {
                    format!("it is a state of {found} for {name:?}, this optimizer has {own}")
                });
            }
        }
        file.step()
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
