//! Speech: recordings and transcripts to batches of features and targets.
//!
//! ```text
//! bytes ─decode→ Sound (mono, 16 kHz) ─change_speed→ samples ─LogMel→ Features [frames, 80]
//! Features ─normalise, SpecAugment→ Features
//!
//! SpeechSource ─read→ Vec<Utterance> ─transcripts→ Units
//!     Vec<Utterance>, Units ─build→ SpeechSet ─┬→ SpeechBatches ─→ SpeechBatch ─→ features [B, T, 80], targets
//!                                              └→ EvalBatches   ─→ SpeechBatch
//! ```
//!
//! ```
//! use fadam_data::speech::{LogMel, decode, embedded};
//!
//! let clip = embedded()?.into_iter().find(|clip| clip.text == "Hello world.").unwrap();
//! let decoded = decode(clip.bytes.to_vec(), clip.name)?;
//! let mut features = LogMel::new().compute(decoded.sound.samples());
//! features.normalise();
//! // 10 ms a frame.
//! assert_eq!(features.frames, 1 + decoded.sound.samples().len() / 160);
//! # Ok::<(), fadam_data::Error>(())
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
mod resample;
mod set;
mod sound;
mod source;
mod store;
mod stream;
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
