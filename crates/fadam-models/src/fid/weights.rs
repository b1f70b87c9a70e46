//! Weights of a network from a file.

use std::path::Path;

use candle_core::{DType, Device, Result};
use candle_nn::VarBuilder;

use super::torch_file::{is_torch, read_torch};

/// The tensors of a file of `torch.save` or of safetensors, whichever it is; f32.
pub(super) fn builder(path: &Path, device: &Device) -> Result<VarBuilder<'static>> {
    let tensors = if is_torch(path)? {
        read_torch(path)?
    } else {
        candle_core::safetensors::load(path, &Device::Cpu).map_err(|error| error.with_path(path))?
    };
    Ok(VarBuilder::from_tensors(tensors, DType::F32, device))
}
