//! Text: files to documents, to tokens, to batches of next-token targets.

mod batches;
mod corpus;
mod document;
mod encode;
mod eval;
mod files;
mod jsonl;
mod pieces;
mod source;
mod split;
mod stream;
mod tokenizer;

pub use batches::{BatchSpec, Cursor, Sampling, TokenBatch, TrainBatches};
pub use corpus::{Corpus, unigram_entropy_nats};
pub use document::{Document, Origin};
pub use encode::Encoded;
pub use eval::EvalWindows;
pub use source::{SourceReport, TextSource};
pub use split::Split;
pub use stream::{Shards, StreamBatches, StreamCursor, StreamReport, StreamSpec};
pub use tokenizer::{END_OF_TEXT, Tokenizer};

pub(crate) use batches::same;
pub(crate) use source::utf8;
