//! The language model of the paper's section 4.1: a PaLM-style decoder.

mod cache;
mod config;
mod decoder;
mod generate;

pub use cache::Cache;
pub use config::{Compute, Init, PalmConfig};
pub use decoder::{Palm, Tokens};
pub use generate::{continuation, generate};
