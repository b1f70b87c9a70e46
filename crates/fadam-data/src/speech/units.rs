//! What the network writes: characters, or pieces of words, each with a number.
//!
//! Number 0 is the blank of the transducer: it stands for no text, and is never part of a transcript.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pieces::Pieces;
use crate::write_aside::write_aside;
use crate::{Error, Result};

/// The number of the blank.
pub const BLANK: u32 = 0;

/// The symbols that a network can write, numbered from 1; 0 is the [`BLANK`].
///
/// What a transcript has and the training transcripts had not cannot be written: such characters are
/// left out by [`Units::encode`] and counted by [`Units::unknown`].
///
/// ```
/// use fadam_data::speech::Units;
///
/// let units = Units::characters(&["a cab", "bad"])?;
/// assert_eq!(units.size(), 6); // the blank, the space, a, b, c, d
/// assert_eq!(units.encode("dab")?, [5, 2, 3]);
/// assert_eq!(units.decode(&[5, 2, 3])?, "dab");
/// assert_eq!(units.encode("dat")?, [5, 2]);
/// assert_eq!(units.unknown("dat"), ['t']);
///
/// let units = Units::pieces(&["low lower lowest", "slow"], 12)?;
/// assert_eq!(units.decode(&units.encode("slower")?)?, "slower");
/// # Ok::<(), fadam_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Units(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Characters { characters: Vec<char>, numbers: HashMap<char, u32> },
    Pieces(Box<Pieces>),
}

impl Units {
    /// The characters of the training transcripts, in the order of their code points.
    ///
    /// # Errors
    /// Transcripts without any character.
    pub fn characters<S: AsRef<str>>(transcripts: &[S]) -> Result<Self> {
        let seen: BTreeSet<char> = transcripts.iter().flat_map(|t| t.as_ref().chars()).collect();
        if seen.is_empty() {
            return Err(Error::NoUnits);
        }
        Ok(Self::of_characters(seen.into_iter().collect()))
    }

    fn of_characters(characters: Vec<char>) -> Self {
        let numbers = characters.iter().zip(BLANK + 1..).map(|(&c, number)| (c, number)).collect();
        Self(Kind::Characters { characters, numbers })
    }

    /// Pieces of words that byte-pair encoding learns from the training transcripts, `size` numbers in
    /// all with the blank.
    ///
    /// A piece never crosses a space; the space before a word belongs to its first piece. The single
    /// characters of the transcripts are pieces too, so that every word can be written. The same
    /// transcripts give the same pieces.
    ///
    /// # Errors
    /// Transcripts without any character; a `size` that has no room for their characters, or is above
    /// what they give.
    pub fn pieces<S: AsRef<str> + Sync>(transcripts: &[S], size: usize) -> Result<Self> {
        Ok(Self(Kind::Pieces(Box::new(Pieces::learn(transcripts, size)?))))
    }

    /// How many numbers there are, V, with the blank: the width of the network's last layer.
    pub fn size(&self) -> usize {
        1 + match &self.0 {
            Kind::Characters { characters, .. } => characters.len(),
            Kind::Pieces(pieces) => pieces.len(),
        }
    }

    /// The numbers of a transcript, none of them 0; characters that are [unknown](Units::unknown) are
    /// left out.
    ///
    /// # Errors
    /// What the tokenizer library refuses; none for characters.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.0 {
            Kind::Characters { numbers, .. } => {
                Ok(text.chars().filter_map(|c| numbers.get(&c).copied()).collect())
            }
            Kind::Pieces(pieces) => pieces.encode(text),
        }
    }

    /// The characters of a transcript that cannot be written, in their order.
    pub fn unknown(&self, text: &str) -> Vec<char> {
        let knows = |c: &char| match &self.0 {
            Kind::Characters { numbers, .. } => numbers.contains_key(c),
            Kind::Pieces(pieces) => pieces.knows(*c),
        };
        text.chars().filter(|c| !knows(c)).collect()
    }

    /// The text of `numbers`; blanks have none.
    ///
    /// # Errors
    /// A number that is not below [`Units::size`].
    pub fn decode(&self, numbers: &[u32]) -> Result<String> {
        let unknown = |id| Error::UnknownToken { id, vocab_size: self.size() };
        if let Some(&id) = numbers.iter().find(|&&id| id as usize >= self.size()) {
            return Err(unknown(id));
        }
        let written = numbers.iter().filter(|&&id| id != BLANK).map(|&id| id as usize - 1);
        Ok(match &self.0 {
            Kind::Characters { characters, .. } => written.map(|at| characters[at]).collect(),
            Kind::Pieces(pieces) => pieces.join(written),
        })
    }

    /// What a number is written as: a character, or a piece with `▁` for a space.
    /// `None` for the blank and for numbers that there are not.
    pub fn symbol(&self, number: u32) -> Option<String> {
        let at = (number as usize).checked_sub(1).filter(|_| (number as usize) < self.size())?;
        Some(match &self.0 {
            Kind::Characters { characters, .. } => characters[at].to_string(),
            Kind::Pieces(pieces) => pieces.written(at),
        })
    }

    /// Writes one JSON file, `units.json` by custom, that [`Units::load`] reads. It appears whole or
    /// not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let stored = match &self.0 {
            Kind::Characters { characters, .. } => Stored::Characters {
                blank: BLANK,
                characters: characters.iter().map(char::to_string).collect(),
            },
            Kind::Pieces(pieces) => Stored::Pieces { blank: BLANK, model: pieces.model()? },
        };
        write_aside(path, |file| {
            serde_json::to_writer_pretty(&mut *file, &stored).map_err(io::Error::from)?;
            file.write_all(b"\n")
        })
    }

    /// Reads what [`Units::save`] wrote.
    ///
    /// # Errors
    /// A file that is missing or unreadable, or not of this kind.
    pub fn load(path: &Path) -> Result<Self> {
        let json = std::fs::read(path).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => Error::MissingPath { path: path.to_path_buf() },
            _ => Error::Io { action: "read", path: path.to_path_buf(), cause },
        })?;
        let wrong = |reason| Error::MalformedUnits { path: path.to_path_buf(), reason };
        let stored: Stored = serde_json::from_slice(&json).map_err(|e| wrong(e.to_string()))?;
        stored.units().map_err(wrong)
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(tag = "units", rename_all = "snake_case", deny_unknown_fields)]
enum Stored {
    Characters { blank: u32, characters: Vec<String> },
    Pieces { blank: u32, model: serde_json::Value },
}

impl Stored {
    fn units(self) -> std::result::Result<Units, String> {
        let (Self::Characters { blank, .. } | Self::Pieces { blank, .. }) = &self;
        if *blank != BLANK {
            return Err(format!("the blank is {blank}, expected {BLANK}"));
        }
        match self {
            Self::Characters { characters, .. } => {
                let characters: Vec<char> = characters
                    .iter()
                    .map(|text| single(text))
                    .collect::<std::result::Result<_, _>>()?;
                if characters.is_empty() || !characters.is_sorted_by(|a, b| a < b) {
                    return Err("expected characters in the order of their code points, each \
                                once"
                        .to_owned());
                }
                Ok(Units::of_characters(characters))
            }
            Self::Pieces { model, .. } => {
                Ok(Units(Kind::Pieces(Box::new(Pieces::from_model(&model)?))))
            }
        }
    }
}

/// The only character of a text.
fn single(text: &str) -> std::result::Result<char, String> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(c),
        _ => Err(format!("{text:?} is not one character")),
    }
}
