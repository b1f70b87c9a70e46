//! The networks of the FAdam experiments, as candle modules built from a `VarBuilder`.
//!
//! [`llm`]: the PaLM-style decoder of `train-llm`. [`asr`]: the Conformer transducer of `train-asr`.
//! [`vqvae`]: the ViT VQ-VAE of `train-vqvae`. [`fid`]: how far sets of images are from each other, in
//! features of pretrained networks; [`quality`]: how far an image is from its reconstruction. [`init`]:
//! seeded initial weights, the same on every machine and independent of the order in which a model asks
//! for them.
//!
//! No module that is trained goes through a candle op without backward (`clippy.toml` at the root of the
//! repository lists them).

pub mod asr;
mod config_error;
pub mod fid;
pub mod init;
mod layers;
pub mod llm;
pub mod quality;
pub mod vqvae;

pub use config_error::{ConfigError, MAX_DIMENSION, MAX_TABLE};
