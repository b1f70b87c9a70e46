//! `train-asr`: the paper's section 4.2, a Conformer transducer on speech.

mod config;
mod error_rate;
mod exported;
mod fine_tuning;
mod recogniser;
mod search;
mod speech;
mod task;
mod train;
mod transcripts;

pub use config::{AsrData, SearchKind, TrainAsr, UnitKind};
pub use error_rate::Edits;
pub use exported::{TransducerManifest, export};
pub use fine_tuning::check_weights;
pub use recogniser::{Recogniser, UNITS_FILE};
pub use search::{Heard, Search};
pub use speech::Speech;
pub use task::AsrTask;
pub use train::train;
pub use transcripts::{TRANSCRIPTS_FILE, Transcripts};
