//! Optimizer state as a safetensors file.
//!
//! Tensors are called `<parameter>.m`, `.f` (or `.R` and `.C`), and `.t`, the parameter's own step
//! count. 8-bit numbers are `.m.codes` and `.m.scales`; what a compensated bf16 parameter has beside itself is
//! `.theta.low`. The metadata holds `format`, `version`, `algorithm`, `step` and `config` (JSON), and
//! `algorithms` (JSON) for the parameters that have another.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors::Load};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Serialize;

use crate::algorithm::{Algorithm, State};
use crate::kernel::{Code, Noise, Stored, Task};
use crate::math::is_finite;
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
        let failed = |reason: String| state_file(path, reason);
        let mut tensors = BTreeMap::new();
        let mut algorithms = BTreeMap::new();
        for p in &self.params {
            for (key, tensor) in p.kept() {
                tensors.insert(key, tensor.clone());
            }
            let t = i64::try_from(p.t).map_err(|_| failed(format!("t = {} is too large", p.t)))?;
            tensors.insert(format!("{}.t", p.name), Tensor::new(t, &Device::Cpu)?);
            if p.algorithm != self.config.name() {
                algorithms.insert(&p.name, p.algorithm);
            }
        }
        let json = |result: serde_json::Result<String>| result.map_err(|e| failed(e.to_string()));
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("algorithm".to_owned(), self.config.name().to_owned()),
            ("algorithms".to_owned(), json(serde_json::to_string(&algorithms))?),
            ("step".to_owned(), self.steps.to_string()),
            ("config".to_owned(), json(serde_json::to_string(&self.config))?),
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
    /// Reads state and step count from a file written by [`save`](Self::save), on whatever device the parameters
    /// are. The hyper-parameters stay those of this optimizer, so that a run may go on with others; numbers
    /// that were kept in another format (8-bit, bf16, in full) are converted.
    ///
    /// # Errors
    /// [`Error::StateFile`] if the file is no such file, or is of another algorithm, or its names or
    /// shapes are not those of this optimizer, or a number in it is not finite; nothing is changed then.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|e| state_file(path, e.to_string()))?;
        let (steps, loaded) = self.parse(&bytes).map_err(|reason| state_file(path, reason))?;
        self.steps = steps;
        for (param, Loaded { t, state, theta }) in self.params.iter_mut().zip(loaded) {
            (param.t, param.state, param.theta) = (t, state, theta);
        }
        Ok(())
    }

    fn parse(&self, bytes: &[u8]) -> Parsed<(u64, Vec<Loaded>)> {
        let text = |e: &dyn std::fmt::Display| format!("not a whole safetensors file: {e}");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| text(&e))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| text(&e))?;
        let steps = self.check_metadata(header.metadata().as_ref())?;
        let mut file = File { tensors: file.tensors().into_iter().collect() };
        let loaded = self.params.iter().map(|p| file.take_param(p)).collect::<Parsed<_>>()?;
        match file.tensors.into_keys().next() {
            Some(key) => Err(format!("holds {key:?}, which this optimizer does not have")),
            None => Ok((steps, loaded)),
        }
    }

    /// The step count, if the metadata is that of a state of these algorithms.
    fn check_metadata(&self, metadata: Option<&HashMap<String, String>>) -> Parsed<u64> {
        let get = |key: &str| metadata.and_then(|m| m.get(key)).map(String::as_str);
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

/// What a file holds of a parameter.
struct Loaded {
    t: u64,
    state: State<Stored>,
    theta: Stored,
}

/// A value, or what is wrong with the file.
type Parsed<T> = std::result::Result<T, String>;

fn state_file(path: &Path, reason: String) -> Error {
    Error::StateFile { path: path.display().to_string(), reason }
}

/// The tensors of a file that no parameter has taken yet.
struct File<'a> {
    tensors: BTreeMap<String, TensorView<'a>>,
}

impl File<'_> {
    fn take_param(&mut self, p: &Param) -> Parsed<Loaded> {
        let t = self.take(&format!("{}.t", p.name), &Device::Cpu)?;
        let t = t.to_scalar::<i64>().ok().and_then(|t| u64::try_from(t).ok());
        let t =
            t.ok_or_else(|| format!("\"{}.t\" is no step count (a 0-d i64, 0 or more)", p.name))?;
        // The first thing that is wrong is said; `map` only knows the errors of this crate.
        let mut wrong = None;
        let state = p.state.map(|kind, like| {
            let key = format!("{}.{kind}", p.name);
            let noise = Noise::new(&p.name, t);
            Ok(self.take_numbers((&key, kind), like, &p.tasks, noise).unwrap_or_else(|reason| {
                wrong.get_or_insert(reason);
                like.clone()
            }))
        });
        let state = state.map_err(|e| e.to_string())?;
        if let Some(reason) = wrong {
            return Err(reason);
        }
        let theta = match &p.theta {
            Stored::Compensated { high, low } => {
                let key = format!("{}.theta.low", p.name);
                let low = if self.tensors.contains_key(&key) {
                    like(&key, self.take(&key, low.device())?, low)?
                } else {
                    low.zeros_like().map_err(|e| e.to_string())? // nothing was rounded away
                };
                Stored::Compensated { high: high.clone(), low }
            }
            other => {
                self.tensors.remove(&format!("{}.theta.low", p.name));
                other.clone()
            }
        };
        Ok(Loaded { t, state, theta })
    }

    fn take(&mut self, key: &str, device: &Device) -> Parsed<Tensor> {
        let view = self.tensors.remove(key).ok_or_else(|| format!("holds no {key:?}"))?;
        view.load(device).map_err(|e| format!("{key:?}: {e}"))
    }

    /// Numbers as `like` keeps them, converted if the file keeps them otherwise.
    fn take_numbers(
        &mut self,
        (key, kind): (&str, &str),
        own: &Stored,
        tasks: &[Task],
        noise: Noise,
    ) -> Parsed<Stored> {
        let candle = |e: Error| format!("{key:?}: {e}");
        let shape = own.tensors()[0].1;
        let numbers = if self.tensors.contains_key(&format!("{key}.codes")) {
            let blocks = self.take_blocks(key, shape, tasks)?;
            if matches!(own, Stored::Blocks { .. }) {
                return Ok(blocks);
            }
            blocks.decode(tasks).map_err(candle)?
        } else {
            let found = self.take(key, shape.device())?;
            same_shape(key, &found, shape)?;
            if !found.dtype().is_float() || !is_finite(&found).map_err(candle)? {
                return Err(format!("{key:?} is not finite, or no float"));
            }
            found
        };
        if let Stored::Plain(x) | Stored::Stochastic(x) = own
            && x.dtype() == numbers.dtype()
        {
            return own.map(|_, _| Ok(numbers.clone()));
        }
        let new = own.map(|_, tensor| tensor.copy()).map_err(|e| candle(e.into()))?;
        new.replaced(&numbers, tasks, noise, kind).map_err(candle)
    }
}

impl File<'_> {
    /// 8-bit numbers with the scales of their blocks.
    fn take_blocks(&mut self, key: &str, shaped: &Tensor, tasks: &[Task]) -> Parsed<Stored> {
        let code = if key.ends_with(".m") { Code::Signed } else { Code::Positive };
        let (codes_key, scales_key) = (format!("{key}.codes"), format!("{key}.scales"));
        let codes = self.take(&codes_key, &Device::Cpu)?;
        same_shape(&codes_key, &codes, shaped)?;
        let scales = self.take(&scales_key, &Device::Cpu)?;
        let blocks = tasks.last().map_or(0, |task| task.blocks().end);
        let finite = is_finite(&scales).map_err(|e| format!("{scales_key:?}: {e}"))?;
        if codes.dtype() != DType::U8 || scales.dtype() != DType::F32 || !finite {
            return Err(format!("{key:?} is no 8-bit state: u8 codes and finite f32 scales"));
        }
        if scales.dims() != [blocks] {
            let found = scales.dims();
            return Err(format!(
                "{scales_key:?} has shape {found:?}, this optimizer's has [{blocks}]"
            ));
        }
        Ok(Stored::Blocks { codes, scales, code })
    }
}

/// The tensor of the file, if it is shaped and typed as the one it replaces.
fn like(key: &str, found: Tensor, own: &Tensor) -> Parsed<Tensor> {
    same_shape(key, &found, own)?;
    let (theirs, ours): (DType, DType) = (found.dtype(), own.dtype());
    if theirs == ours {
        return Ok(found);
    }
    Err(format!("{key:?} is {theirs:?}, this optimizer's is {ours:?}"))
}

fn same_shape(key: &str, found: &Tensor, own: &Tensor) -> Parsed<()> {
    if found.shape() == own.shape() {
        return Ok(());
    }
    let (found, own) = (found.shape(), own.shape());
    Err(format!("{key:?} has shape {found:?}, this optimizer's has {own:?}"))
}
