//! `train-llm`: the paper's section 4.1, a PaLM-style decoder on text.

mod config;
mod task;

pub use config::{LlmData, TrainLlm};
pub use task::{LlmTask, Text};
