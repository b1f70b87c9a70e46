//! `train-llm`: the paper's section 4.1, a PaLM-style decoder on text.

mod config;
mod task;
mod text;

pub use config::{LlmData, TrainLlm};
pub use task::LlmTask;
pub use text::Text;
