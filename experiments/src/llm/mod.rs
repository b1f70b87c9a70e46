//! `train-llm`: the paper's section 4.1, a PaLM-style decoder on text.

mod config;
mod exported;
mod fine_tuning;
mod language_model;
mod task;
mod text;
mod text_stream;
mod train;

pub use config::{LlmData, TrainLlm};
pub use exported::{DecoderManifest, export};
pub use fine_tuning::check_weights;
pub use language_model::{LanguageModel, TOKENIZER_FILE};
pub use task::LlmTask;
pub use text::Text;
pub use text_stream::TextStream;
pub use train::{describe, train};
