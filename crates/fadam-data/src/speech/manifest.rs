//! Manifests: tables of sound files and transcripts, a line each, the columns divided by tabs.

use std::fs;
use std::path::{Path, PathBuf};

use super::utterance::{Audio, Utterance};
use crate::text::utf8;
use crate::{Error, Result};

/// The columns that there may be.
const COLUMNS: [&str; 5] = ["path", "text", "speaker", "confidence", "weight"];

/// Where the columns are in a line.
struct Header {
    columns: Vec<&'static str>,
}

/// The utterances of a manifest, in their order.
pub(super) fn read(manifest: &Path) -> Result<Vec<Utterance>> {
    let refused = |cause| Error::Io { action: "read", path: manifest.to_path_buf(), cause };
    let text = utf8(manifest, fs::read(manifest).map_err(refused)?)?;
    let wrong = |line: usize, reason| Error::SpeechLine {
        path: manifest.to_path_buf(),
        line: line + 1,
        reason,
    };
    // `lines` takes a carriage return with the line feed.
    let mut lines = text.lines().enumerate();
    let header = Header::parse(lines.next().map_or("", |(_, line)| line));
    let header = header.map_err(|reason| wrong(0, reason))?;
    let folder = manifest.parent().unwrap_or(Path::new(""));
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(at, line)| header.utterance(line, folder).map_err(|reason| wrong(at, reason)))
        .collect()
}

impl Header {
    fn parse(line: &str) -> std::result::Result<Self, String> {
        let mut columns = Vec::new();
        for name in line.split('\t') {
            let known = COLUMNS.iter().find(|known| **known == name.trim());
            let known = known.ok_or_else(|| {
                format!(
                    "no header: unknown column {name:?}; expected path and text, and perhaps \
                     speaker, confidence and weight, divided by tabs"
                )
            })?;
            if columns.contains(known) {
                return Err(format!("the column {known} is there twice"));
            }
            columns.push(*known);
        }
        match ["path", "text"].into_iter().find(|needed| !columns.contains(needed)) {
            Some(missing) => Err(format!("the header has no column {missing}")),
            None => Ok(Self { columns }),
        }
    }

    fn utterance(&self, line: &str, folder: &Path) -> std::result::Result<Utterance, String> {
        let fields: Vec<&str> = line.split('\t').collect();
        let (here, expected) = (fields.len(), self.columns.len());
        if here != expected {
            return Err(format!(
                "{here} fields, and the header has {expected} columns; a transcript cannot hold a tab"
            ));
        }
        let field = |name: &str| {
            let at = self.columns.iter().position(|column| *column == name)?;
            Some(fields[at])
        };
        let path = field("path").unwrap_or_default();
        if path.trim().is_empty() {
            return Err("the path is empty".to_owned());
        }
        let number = |name: &str, most: f64| -> std::result::Result<Option<f64>, String> {
            let Some(text) = field(name).map(str::trim).filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            let value = text.parse::<f64>().ok().filter(|x| (0.0..=most).contains(x));
            let range = if most == 1.0 { "from 0 to 1" } else { "of at least 0" };
            value.map(Some).ok_or_else(|| format!("{name} {text:?}: expected a number {range}"))
        };
        let (confidence, weight) = (number("confidence", 1.0)?, number("weight", f64::MAX)?);
        let speaker = field("speaker").filter(|name| !name.trim().is_empty()).map(str::to_owned);
        let text = field("text").unwrap_or_default().to_owned();
        // An absolute path stays what it is.
        let audio = Audio::File(folder.join(PathBuf::from(path)));
        let id = path.to_owned();
        Ok(Utterance { id, text, speaker, audio, confidence, weight })
    }
}
