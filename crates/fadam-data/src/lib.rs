//! From files to batches: what the experiments train on.
//!
//! For text, five steps, each usable without the others:
//!
//! ```text
//! TextSource ─read→ Vec<Document> ─Split→ train, eval ─Tokenizer→ Corpus
//! Corpus ─┬→ TrainBatches ─→ TokenBatch ─→ inputs, targets [B, T]
//!         └→ EvalWindows  ─→ TokenBatch ─→ inputs, targets [B, T]
//! ```
//!
//! Text that does not fit in memory is a stream instead, of files on a disk or on the [`hub`]:
//!
//! ```text
//! Shards ─download, tokenize, keep→ token files ─→ StreamBatches ─→ TokenBatch ─→ inputs, targets [B, T]
//! ```
//!
//! ```
//! use fadam_data::text::{BatchSpec, Corpus, Sampling, Split, TextSource, Tokenizer, TrainBatches};
//!
//! let folder = tempfile::tempdir()?;
//! let text = "to be, or not to be: that is the question. ".repeat(40);
//! std::fs::write(folder.path().join("a.txt"), text)?;
//!
//! let (documents, report) = TextSource::Paths(vec![folder.path().into()]).read()?;
//! println!("{report}");
//! let split = Split::by_fraction(documents, 0.25)?;
//! let tokenizer = Tokenizer::train_byte_level_bpe(&split.train, 270)?;
//! let corpus = Corpus::build(&split, &tokenizer)?;
//!
//! let spec = BatchSpec { sampling: Sampling::Windows, batch: 4, seq_len: 16, seed: 0 };
//! let mut batches = TrainBatches::new(corpus.train(), spec)?;
//! let (inputs, targets) = batches.next_batch().tensors(&candle_core::Device::Cpu)?;
//! assert_eq!(inputs.dims(), [4, 16]);
//! assert_eq!(targets.dims(), [4, 16]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Speech goes from recordings and transcripts to features and labels, made ahead on a background thread:
//!
//! ```text
//! SpeechSource ─read→ Vec<Utterance> ─transcripts→ Units
//! Vec<Utterance>, Units ─decode, check→ SpeechSet ─┬→ SpeechBatches ─→ SpeechBatch ─→ features [B, T, 80], targets
//!                                                  └→ EvalBatches   ─→ SpeechBatch
//! ```
//!
//! Pictures go from files to squares of one size, made ahead in the same way:
//!
//! ```text
//! ImageSource ─read→ Vec<Picture> ─decode, check→ ImageSet ─┬→ ImageBatches ─→ ImageBatch ─→ [B, 3, S, S] of u8
//!                                                           └→ EvalImages   ─→ ImageBatch
//! ```
//!
//! Everything is deterministic: the same files, settings and seed give the same bytes, tokens and
//! batches whatever the thread count. Nothing is skipped in silence: [`text::SourceReport`],
//! [`speech::SpeechReport`] and [`image::ImageReport`] count what was left out, and what cannot be right is
//! an [`Error`] that names the file, line or field.

mod draw;
pub mod embedded;
mod error;
mod feed;
pub mod hub;
pub mod image;
mod name_range;
pub mod speech;
mod table;
pub mod text;
mod unpanicked;
mod write_aside;

pub use error::{Error, Result};
