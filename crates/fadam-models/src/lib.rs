//! The networks of the FAdam experiments, as candle modules built from a `VarBuilder`.
//!
//! [`llm`]: the PaLM-style decoder of `train-llm`. [`asr`]: the Conformer transducer of `train-asr`. [`init`]: seeded initial weights, the same on every
//! machine and independent of the order in which a model asks for them.
//!
//! No module here goes through a candle op without backward (`clippy.toml` at the root of the
//! repository lists them).

pub mod asr;
mod config_error;
pub mod init;
pub mod llm;

pub use config_error::ConfigError;
