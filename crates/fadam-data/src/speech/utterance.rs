//! One recording, and what is said in it.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use super::parquet_rows::ParquetRow;
use super::sound::{self, Decoded};
use crate::Result;

/// One recording, and what is said in it.
#[derive(Debug, Clone)]
pub struct Utterance {
    /// Its name in the corpus: `1272-128104-0000`, the path in a manifest, the row of a table.
    pub id: String,
    /// The transcript as it was read.
    pub text: String,
    /// Who speaks, where the corpus says so.
    pub speaker: Option<String>,
    /// The recording.
    pub audio: Audio,
    /// How sure whoever wrote the transcript was, from 0 to 1: the manifest's column `confidence`.
    pub confidence: Option<f64>,
    /// The manifest's column `weight`, at least 0. Batches do not use it.
    pub weight: Option<f64>,
}

impl Utterance {
    pub(super) fn new(id: String, text: String, speaker: Option<String>, audio: Audio) -> Self {
        Self { id, text, speaker, audio, confidence: None, weight: None }
    }
}

/// Where the bytes of a recording are.
#[derive(Debug, Clone)]
pub enum Audio {
    /// A sound file, which need not exist: [`SpeechSet`](super::SpeechSet) looks.
    File(PathBuf),
    /// A sound file that the program holds.
    Embedded {
        /// What it is called where a file would have its path.
        name: String,
        /// The whole file.
        bytes: &'static [u8],
    },
    /// A sound file in a row of a table.
    Row(ParquetRow),
}

impl Audio {
    /// Reads and decodes it.
    ///
    /// # Errors
    /// A file that cannot be read, or is no sound.
    pub fn decode(&self) -> Result<Decoded> {
        match self {
            Self::File(path) => sound::read(path),
            Self::Embedded { name, bytes } => sound::decode(bytes.to_vec(), name),
            Self::Row(row) => sound::decode(row.read()?, &row.to_string()),
        }
    }

    /// Its one name, whatever path leads there.
    pub(super) fn identity(&self) -> String {
        match self {
            // What does not exist has the name that it was given.
            Self::File(path) => {
                fs::canonicalize(path).unwrap_or_else(|_| path.clone()).display().to_string()
            }
            Self::Embedded { name, .. } => name.clone(),
            Self::Row(row) => row.identity(),
        }
    }
}

impl fmt::Display for Audio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Embedded { name, .. } => f.write_str(name),
            Self::Row(row) => write!(f, "{row}"),
        }
    }
}
