//! A safetensors file as a whole: read at once, and written aside and renamed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor, safetensors::Load};
use safetensors::SafeTensors;

use crate::{Error, Result};

/// Tensors, on the CPU when they are read, and metadata.
pub(crate) struct TensorFile {
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) metadata: HashMap<String, String>,
}

/// A value, or what is wrong with the file.
pub(crate) type Parsed<T> = std::result::Result<T, String>;

/// What is wrong with a file, as the crate's error.
pub(crate) fn wrong_file(path: &Path, reason: String) -> Error {
    Error::StateFile { path: path.display().to_string(), reason }
}

impl TensorFile {
    pub(crate) fn read(path: &Path) -> Parsed<Self> {
        Self::parse(&fs::read(path).map_err(|e| e.to_string())?)
    }

    /// From the bytes of a file.
    pub(crate) fn parse(bytes: &[u8]) -> Parsed<Self> {
        let text = |e: safetensors::SafeTensorError| format!("not a whole safetensors file: {e}");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(text)?;
        let file = SafeTensors::deserialize(bytes).map_err(text)?;
        let mut tensors = BTreeMap::new();
        for (key, view) in file.tensors() {
            let tensor = view.load(&Device::Cpu).map_err(|e| format!("{key:?}: {e}"))?;
            tensors.insert(key, tensor);
        }
        Ok(Self { tensors, metadata: header.metadata().clone().unwrap_or_default() })
    }

    /// The bytes of a file.
    pub(crate) fn into_bytes(self) -> Parsed<Vec<u8>> {
        safetensors::serialize(&self.tensors, Some(self.metadata)).map_err(|e| e.to_string())
    }

    /// An older file at `path` is replaced by a whole one or not at all.
    pub(crate) fn write(self, path: &Path) -> Result<()> {
        let failed = |reason: String| wrong_file(path, reason);
        let aside = path.with_added_extension("tmp");
        safetensors::serialize_to_file(&self.tensors, Some(self.metadata), &aside)
            .map_err(|e| failed(e.to_string()))?;
        fs::File::open(&aside)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&aside, path))
            .map_err(|e| failed(e.to_string()))
    }

    /// The metadata under this key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Whether it is of this format and version; `otherwise` says what it is not.
    pub(crate) fn check(&self, format: &str, version: &str, otherwise: &str) -> Parsed<()> {
        if self.get("format") != Some(format) {
            return Err(format!("its metadata has no format {format:?}; {otherwise}"));
        }
        if self.get("version") != Some(version) {
            let found = self.get("version").unwrap_or("none");
            return Err(format!("its version is {found}, this library reads {version}"));
        }
        Ok(())
    }

    /// The step count of the metadata.
    pub(crate) fn step(&self) -> Parsed<u64> {
        self.get("step")
            .and_then(|step| step.parse().ok())
            .ok_or_else(|| "its metadata has no step count \"step\"".to_owned())
    }

    /// Takes a tensor to a device.
    pub(crate) fn take(&mut self, key: &str, device: &Device) -> Parsed<Tensor> {
        let tensor = self.tensors.remove(key).ok_or_else(|| format!("holds no {key:?}"))?;
        tensor.to_device(device).map_err(|e| format!("{key:?}: {e}"))
    }

    /// That all tensors were taken; `owner` is who does not have what is left.
    pub(crate) fn check_empty(&self, owner: &str) -> Parsed<()> {
        match self.tensors.keys().next() {
            Some(key) => Err(format!("holds {key:?}, which {owner}")),
            None => Ok(()),
        }
    }
}

/// That a tensor of the file is shaped as `own`, which is introduced by `owner`.
pub(crate) fn same_shape(key: &str, found: &Tensor, own: &Tensor, owner: &str) -> Parsed<()> {
    if found.shape() == own.shape() {
        return Ok(());
    }
    let (found, own) = (found.shape(), own.shape());
    Err(format!("{key:?} has shape {found:?}, {owner} {own:?}"))
}

/// That a tensor of the file is shaped and typed as `own`.
pub(crate) fn same(key: &str, found: &Tensor, own: &Tensor, owner: &str) -> Parsed<()> {
    same_shape(key, found, own, &format!("{owner} has"))?;
    if found.dtype() == own.dtype() {
        return Ok(());
    }
    let (found, own) = (found.dtype(), own.dtype());
    Err(format!("{key:?} is {found:?}, {owner} is {own:?}"))
}
