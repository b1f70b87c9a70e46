//! Tensors of a file that `torch.save` wrote, as safetensors: what `scripts/fetch-data.sh features` runs.
//!
//! ```text
//! torch_to_safetensors IN.pth OUT.safetensors
//! ```

use std::path::PathBuf;

use fadam_models::fid::read_torch;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [from, to] = arguments.as_slice() else {
        return Err("usage: torch_to_safetensors IN.pth OUT.safetensors".into());
    };
    let tensors = read_torch(from)?;
    let numbers: usize = tensors.values().map(candle_core::Tensor::elem_count).sum();
    let mut partial = to.clone().into_os_string();
    partial.push(".partial");
    candle_core::safetensors::save(&tensors, &partial)?;
    std::fs::rename(&partial, to)?;
    println!("wrote {}: {} tensors, {numbers} numbers", to.display(), tensors.len());
    Ok(())
}
