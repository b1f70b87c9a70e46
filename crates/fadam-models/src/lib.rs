//! The networks of the FAdam experiments, as candle modules built from a `VarBuilder`.
//!
//! [`llm`]: the PaLM-style decoder of `train-llm`. [`asr`]: the Conformer transducer of `train-asr`. [`fid`]: how far
//! sets of images are from each other, in features of pretrained networks; [`quality`]: how far an image is from its reconstruction. [`init`]: seeded initial weights, the same on every
//! machine and independent of the order in which a model asks for them.
//!
//! No module that is trained goes through a candle op without backward (`clippy.toml` at the root of the
//! repository lists them).

pub mod asr;
mod config_error;
pub mod fid;
pub mod init;
pub mod llm;
pub mod quality;

pub use config_error::ConfigError;
