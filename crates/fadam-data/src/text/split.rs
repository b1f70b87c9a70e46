//! The held-out text: chosen without chance, and never trained on.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Document;
use crate::{Error, Result};

/// From so many documents on, whole ones are held out.
const WHOLE_DOCUMENTS: usize = 10;

/// The documents to train on and those to evaluate on. No byte of a document is in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// To train on, the tokenizer included.
    pub train: Vec<Document>,
    /// Held out, to evaluate on.
    pub eval: Vec<Document>,
}

impl Split {
    /// Holds out about the fraction `eval_fraction` of the bytes; the same documents give the same
    /// split.
    ///
    /// From ten documents on, whole documents are held out, spread evenly: going through them in
    /// order, a document is held out when that brings the held-out bytes nearer to `eval_fraction`
    /// of the bytes so far. Where that misses the fraction by more than half of it (few or very
    /// unequal documents), and below ten documents, the end of each document is held out instead:
    /// from the exact place, or from the last line break (else the last space) before it if that
    /// makes the end at most a tenth longer.
    ///
    /// ```
    /// use fadam_data::text::{Split, TextSource};
    ///
    /// let (documents, _) = TextSource::Embedded.read()?;
    /// let split = Split::by_fraction(documents, 0.05)?;
    /// assert_eq!(split.eval.len(), 4);
    /// assert_eq!(split.eval[0].origin.to_string(), "embedded:sotu-1961-2021.jsonl:9");
    /// # Ok::<(), fadam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// A fraction that is not between 0 and 1, or a text so small that one side would be empty.
    pub fn by_fraction(documents: Vec<Document>, eval_fraction: f64) -> Result<Self> {
        if !(eval_fraction > 0.0 && eval_fraction < 1.0) {
            return Err(Error::EvalFraction { value: eval_fraction });
        }
        let chosen = choose_whole(&documents, eval_fraction);
        let split = if let Some(chosen) = chosen {
            Self::whole(documents, &chosen)
        } else {
            Self::tails(documents, eval_fraction)
        };
        if split.train.is_empty() || split.eval.is_empty() {
            let bytes = total(&split.train) + total(&split.eval);
            return Err(Error::TooSmallToSplit { bytes, eval_fraction });
        }
        Ok(split)
    }

    /// Evaluates on documents that the user chose.
    ///
    /// # Errors
    /// When a file is in both.
    pub fn explicit(train: Vec<Document>, eval: Vec<Document>) -> Result<Self> {
        let trained = files(&train);
        match files(&eval).into_iter().find(|file| trained.contains(file)) {
            Some(path) => Err(Error::HeldOutOverlap { path }),
            None => Ok(Self { train, eval }),
        }
    }

    fn whole(documents: Vec<Document>, held_out: &[bool]) -> Self {
        let mut split = Self { train: Vec::new(), eval: Vec::new() };
        for (document, &held_out) in documents.into_iter().zip(held_out) {
            if held_out {
                split.eval.push(document);
            } else {
                split.train.push(document);
            }
        }
        split
    }

    fn tails(documents: Vec<Document>, eval_fraction: f64) -> Self {
        let mut split = Self { train: Vec::new(), eval: Vec::new() };
        for Document { mut text, origin } in documents {
            let tail = text.split_off(tail_start(&text, eval_fraction));
            if !tail.is_empty() {
                split.eval.push(Document { text: tail, origin: origin.clone() });
            }
            if !text.is_empty() {
                split.train.push(Document { text, origin });
            }
        }
        split
    }
}

/// Which documents to hold out, or none of it where whole documents do not come near the fraction.
fn choose_whole(documents: &[Document], eval_fraction: f64) -> Option<Vec<bool>> {
    let (mut seen, mut held) = (0.0, 0.0);
    let choose = |document: &Document| {
        let bytes = document.text.len() as f64;
        seen += bytes;
        // Nearer to the target with this document than without: |held + bytes − target| < |held −
        // target|.
        let hold_out = eval_fraction * seen - held > bytes / 2.0;
        held += if hold_out { bytes } else { 0.0 };
        hold_out
    };
    let chosen: Vec<bool> = documents.iter().map(choose).collect();
    let near = (held / seen - eval_fraction).abs() <= eval_fraction / 2.0;
    let both = chosen.contains(&true) && chosen.contains(&false);
    (documents.len() >= WHOLE_DOCUMENTS && near && both).then_some(chosen)
}

/// Where the held-out end of a text begins.
fn tail_start(text: &str, eval_fraction: f64) -> usize {
    let tail = text.len() as f64 * eval_fraction;
    let at_char = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let exact = at_char((text.len() as f64 - tail) as usize);
    let earliest = at_char((text.len() as f64 - 1.1 * tail).max(0.0) as usize);
    let window = &text[earliest..exact];
    // Behind a line break; before a space, which byte-level tokenizers join to the word after it.
    let line = window.rfind('\n').map(|at| at + 1);
    line.or_else(|| window.rfind(' ')).map_or(exact, |at| earliest + at)
}

fn total(documents: &[Document]) -> u64 {
    documents.iter().map(|document| document.text.len() as u64).sum()
}

/// The files of the documents, by their one real path where they have one.
fn files(documents: &[Document]) -> HashSet<PathBuf> {
    let named: HashSet<&Path> = documents.iter().map(|document| &*document.origin.file).collect();
    named.into_iter().map(|file| fs::canonicalize(file).unwrap_or_else(|_| file.into())).collect()
}
