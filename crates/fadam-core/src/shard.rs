//! A shard: one of several optimizers in as many processes, each of which keeps the state of some of the parameters
//! and steps those (stage 1 of `ZeRO`, Rajbhandari et al., arXiv 1910.02054).
//!
//! Every algorithm here looks at one tensor at a time: RMS, clipping and ε̂ are a tensor's own. So a shard of whole
//! parameters steps them to the bits of the whole optimizer; what is of all parameters together is the norm of the
//! gradients, which every shard is given, and whether a step is taken, which [`step_agreed`] settles.
//!
//! [`step_agreed`]: NamedOptimizer::step_agreed

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

#[cfg(doc)]
use crate::Error;
use crate::algorithm::Algorithm;
use crate::tensor_file::{Parsed, TensorFile, wrong_file};
use crate::{NamedOptimizer, NamedVars, Result};

/// What a state file has of a parameter, by the ends of its keys.
const ENDS: [&str; 9] = ["t", "m", "f", "R", "C", "m.codes", "m.scales", "f.codes", "f.scales"];

impl<A: Algorithm> NamedOptimizer<A> {
    /// As [`from_named`](Self::from_named), but the parameters for which `is_mine` does not hold are stepped by other
    /// processes, each of which is given all of them too: here they have no state. A step wants the gradients of all,
    /// and leaves the others' parameters as they are; [`report`](Self::report), [`fim`](Self::fim) and
    /// [`momentum`](Self::momentum) know of its own alone.
    ///
    /// ```
    /// use candle_core::{Device, Tensor, Var};
    /// use fadam_core::{FAdam, FAdamConfig, NamedVars};
    ///
    /// let var = |x: f32| Var::new(&[x, -x], &Device::Cpu);
    /// let vars: NamedVars = [("a".to_owned(), var(1.0)?), ("b".to_owned(), var(2.0)?)].into_iter().collect();
    /// let mut shard = FAdam::from_named_shard(vars.clone(), FAdamConfig::default(), |name| name == "a")?;
    /// let gradients = vars.iter().map(|(name, var)| (name.to_owned(), var.as_tensor().copy().unwrap())).collect();
    /// shard.step_named(&gradients)?;
    /// assert_eq!(shard.names().collect::<Vec<_>>(), ["a"]);
    /// assert_ne!(vars.get("a").unwrap().to_vec1::<f32>()?, [1.0, -1.0]);
    /// assert_eq!(vars.get("b").unwrap().to_vec1::<f32>()?, [2.0, -2.0]); // another process has its new numbers
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As of [`from_named`](Self::from_named).
    pub fn from_named_shard(
        vars: NamedVars,
        config: A,
        is_mine: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let (mine, others): (Vec<_>, Vec<_>) =
            vars.into_iter().partition(|(name, _)| is_mine(name));
        let mut shard = Self::from_named(NamedVars::new(), config)?;
        shard.others = others.into_iter().collect();
        shard.arrange(mine.into_iter().collect(), Vec::new())?;
        Ok(shard)
    }

    /// Whether other processes step some of the parameters.
    pub fn is_shard(&self) -> bool {
        !self.others.is_empty()
    }

    /// The parameters that other processes step.
    pub(crate) fn others(&self) -> impl Iterator<Item = &str> {
        self.others.iter().map(|(name, _)| name).filter(|name| self.frozen.get(name).is_none())
    }

    /// Whether another process steps this parameter.
    pub(crate) fn is_of_another(&self, name: &str) -> bool {
        self.others.get(name).is_some() && self.frozen.get(name).is_none()
    }

    /// Takes what a whole state has of the others' parameters out of it.
    pub(crate) fn pass_over_others(&self, file: &mut TensorFile) -> Parsed<()> {
        for name in self.others() {
            let mut found = false;
            for end in ENDS.iter().chain(&["theta.low"]) {
                found |= file.tensors.remove(&format!("{name}.{end}")).is_some();
            }
            if !found {
                return Err(format!("holds nothing of {name:?}"));
            }
        }
        Ok(())
    }
}

impl<A: Algorithm + Serialize> NamedOptimizer<A> {
    /// The state of this shard, as the bytes of a file: what [`save_joined`](Self::save_joined) takes.
    ///
    /// # Errors
    /// [`Error::StateFile`] if steps on a device are not checked yet.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes = self.own_contents().and_then(TensorFile::into_bytes);
        bytes.map_err(|reason| wrong_file(Path::new("(in memory)"), reason))
    }

    /// Writes the state of all shards, this one and `others`, to the one file that a whole optimizer in their place
    /// would write: [`load`](Self::load) of a whole optimizer or of any shard reads it.
    ///
    /// # Errors
    /// [`Error::StateFile`] if the file cannot be written, a parameter is in none of the shards or in two, or they
    /// are not of one step.
    pub fn save_joined(&self, path: impl AsRef<Path>, others: &[Vec<u8>]) -> Result<()> {
        let path = path.as_ref();
        let joined = self.own_contents().and_then(|own| self.join(own, others));
        joined.map_err(|reason| wrong_file(path, reason))?.write(path)
    }

    fn join(&self, mut whole: TensorFile, others: &[Vec<u8>]) -> Parsed<TensorFile> {
        let parse = |file: &TensorFile| -> Parsed<BTreeMap<String, String>> {
            serde_json::from_str(file.get("algorithms").unwrap_or("{}")).map_err(|e| e.to_string())
        };
        let mut algorithms = parse(&whole)?;
        for bytes in others {
            let shard = TensorFile::parse(bytes)?;
            for key in ["format", "version", "algorithm", "step"] {
                if shard.get(key) != whole.get(key) {
                    return Err(format!(
                        "the shards are of different states: they differ in {key:?}"
                    ));
                }
            }
            algorithms.extend(parse(&shard)?);
            for (key, tensor) in shard.tensors {
                if whole.tensors.insert(key.clone(), tensor).is_some() {
                    return Err(format!("two shards have {key:?}"));
                }
            }
        }
        let algorithms = serde_json::to_string(&algorithms).map_err(|e| e.to_string())?;
        whole.metadata.insert("algorithms".to_owned(), algorithms);
        match self.others().find(|name| !whole.tensors.contains_key(&format!("{name}.t"))) {
            Some(name) => Err(format!("no shard has {name:?}")),
            None => Ok(whole),
        }
    }
}
