//! A state in several files, each with a range of every tensor: as many processes write a large state at once,
//! and as many or as few read it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use candle_core::Tensor;
use serde::Serialize;

use crate::algorithm::Algorithm;
use crate::tensor_file::{Parsed, TensorFile, wrong_file};
use crate::{NamedOptimizer, Result};

impl<A: Algorithm + Serialize> NamedOptimizer<A> {
    /// Writes part `part` of `of`: of each tensor of `n` elements, taken flat, the range
    /// `n · part / of .. n · (part + 1) / of`. The metadata tells `part`, `of` and the shapes (JSON).
    ///
    /// # Errors
    /// [`Error::StateFile`](crate::Error::StateFile) if `part` is not below `of`, or the file cannot be written.
    pub fn save_part(&self, path: impl AsRef<Path>, part: usize, of: usize) -> Result<()> {
        let path = path.as_ref();
        let contents = self.contents().and_then(|whole| cut(whole, part, of));
        contents.map_err(|reason| wrong_file(path, reason))?.write(path)
    }
}

impl<A: Algorithm> NamedOptimizer<A> {
    /// Reads a state from all its parts, in any order; else as [`load`](Self::load).
    ///
    /// # Errors
    /// As of [`load`](Self::load), and if a part is missing, twice there, or of another state.
    pub fn load_parts(&mut self, paths: &[impl AsRef<Path>]) -> Result<()> {
        self.check()?;
        let mut parts = BTreeMap::new();
        for path in paths.iter().map(AsRef::as_ref) {
            let failed = |reason: String| wrong_file(path, reason);
            let contents = TensorFile::read(path).map_err(failed)?;
            let part = number(&contents.metadata, "part").map_err(failed)?;
            if parts.insert(part, (path, contents)).is_some() {
                return Err(failed(format!("it is part {part}, which another file is, too")));
            }
        }
        let Some(first) = parts.values().next().map(|(path, _): &(&Path, TensorFile)| *path) else {
            return Err(wrong_file(Path::new("(none)"), "no files to read a state from".into()));
        };
        let all: Vec<TensorFile> = parts.into_values().map(|(_, contents)| contents).collect();
        let loaded = join(&all).and_then(|whole| self.parse(whole));
        let (steps, loaded) = loaded.map_err(|reason| wrong_file(first, reason))?;
        self.adopt(steps, loaded);
        Ok(())
    }
}

/// The elements of a part.
fn range(n: usize, part: usize, of: usize) -> Range<usize> {
    n * part / of..n * (part + 1) / of
}

/// One part of a whole.
fn cut(
    TensorFile { tensors, mut metadata }: TensorFile,
    part: usize,
    of: usize,
) -> Parsed<TensorFile> {
    if part >= of {
        return Err(format!("there is no part {part} of {of}; they are counted from 0"));
    }
    let shapes: BTreeMap<&String, &[usize]> = tensors.iter().map(|(k, x)| (k, x.dims())).collect();
    let shapes = serde_json::to_string(&shapes).map_err(|e| e.to_string())?;
    metadata.insert("part".into(), part.to_string());
    metadata.insert("of".into(), of.to_string());
    metadata.insert("shapes".into(), shapes);
    let tensors = tensors.into_iter().map(|(key, tensor)| {
        let range = range(tensor.elem_count(), part, of);
        let flat = tensor.flatten_all().and_then(|x| x.narrow(0, range.start, range.len()));
        // A copy: safetensors wants contiguous tensors that own what they hold.
        Ok((key, flat.and_then(|x| x.copy()).map_err(|e| e.to_string())?))
    });
    Ok(TensorFile { tensors: tensors.collect::<Parsed<_>>()?, metadata })
}

/// The whole that parts, in order, were cut from.
fn join(parts: &[TensorFile]) -> Parsed<TensorFile> {
    let mut metadata = parts[0].metadata.clone();
    let of = number(&metadata, "of")?;
    let missing: Vec<usize> = (0..of)
        .filter(|part| !parts.iter().any(|p| number(&p.metadata, "part") == Ok(*part)))
        .collect();
    if !missing.is_empty() || parts.len() != of {
        return Err(format!("of {of} parts, {} are there; missing: {missing:?}", parts.len()));
    }
    let shapes: BTreeMap<String, Vec<usize>> = metadata
        .remove("shapes")
        .and_then(|shapes| serde_json::from_str(&shapes).ok())
        .ok_or("its metadata has no \"shapes\" of tensors")?;
    for part in parts {
        let same = |key: &str| part.metadata.get(key) == metadata.get(key);
        let other = ["format", "version", "algorithm", "algorithms", "step", "config", "of"];
        if let Some(key) = other.into_iter().find(|key| !same(key)) {
            return Err(format!("its parts are of different states: they differ in {key:?}"));
        }
    }
    let mut tensors = BTreeMap::new();
    for (key, shape) in shapes {
        let pieces: Vec<&Tensor> = parts.iter().filter_map(|part| part.tensors.get(&key)).collect();
        let elements: usize = shape.iter().product();
        if pieces.len() != of || pieces.iter().map(|x| x.elem_count()).sum::<usize>() != elements {
            return Err(format!("its parts do not make up {key:?} of shape {shape:?}"));
        }
        let filled: Vec<&Tensor> = pieces.iter().copied().filter(|x| x.elem_count() > 0).collect();
        let flat = if filled.is_empty() { pieces[0].copy() } else { Tensor::cat(&filled, 0) };
        let whole = flat.and_then(|x| x.reshape(shape));
        tensors.insert(key, whole.map_err(|e| e.to_string())?);
    }
    Ok(TensorFile { tensors, metadata })
}

fn number(metadata: &HashMap<String, String>, key: &str) -> Parsed<usize> {
    let found = metadata.get(key).and_then(|number| number.parse().ok());
    found.ok_or_else(|| format!("its metadata has no {key:?}: not a part of a state"))
}
