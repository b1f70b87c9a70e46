//! Speech: recordings and transcripts to batches of features and targets.
//!
//! ```text
//! SpeechSource ─read→ Vec<Utterance> ─transcripts→ Units
//!     Vec<Utterance>, Units ─build→ SpeechSet ─┬→ SpeechBatches ─→ SpeechBatch ─→ features [B, T, 80], targets
//!                                              └→ EvalBatches   ─→ SpeechBatch
//! ```

mod augment;
mod batches;
mod cache;
mod embedded;
mod eval;
mod features;
mod librispeech;
mod look;
mod manifest;
mod parquet_rows;
mod pieces;
mod plan;
mod prefetch;
mod report;
mod set;
mod sound;
mod source;
mod store;
mod text;
mod units;
mod utterance;

pub use augment::{SpecAugment, change_speed};
pub use batches::{BatchReport, SpeechBatch, SpeechBatches, SpeechCursor, SpeechSpec};
pub use embedded::{EmbeddedClip, embedded};
pub use eval::{EvalBatches, EvalIter};
pub use features::{BINS, Features, LogMel};
pub use parquet_rows::ParquetRow;
pub use report::{LeftOut, Reason, SpeechReport};
pub use set::{Clip, SetSpec, SpeechSet, transcripts};
pub use sound::{Decoded, RATE, Sound, decode, duration, read};
pub use source::{SourceReport, SpeechSource, check_held_out};
pub use text::Normalisation;
pub use units::{BLANK, Units};
pub use utterance::{Audio, Utterance};
