//! Tables of the hub, with a sound file in each row: the layout of `openslr/librispeech_asr`.
//!
//! ```text
//! audio: { bytes, path }, text, speaker_id, id, …
//! ```
//!
//! Transcripts are read at once, sounds when they are asked for.

use std::path::Path;
use std::sync::Arc;

use super::cache;
use super::utterance::{Audio, Utterance};
pub use crate::table::ParquetRow;
use crate::table::Table;
use crate::{Error, Result};

/// What the table holds, for messages.
const EXPECTED: &str = "audio {bytes, path}, text, and perhaps speaker_id and id";

/// The utterances of a table, in the order of its rows; `place` is what it is called in messages.
pub(super) fn read(path: &Path, place: &str) -> Result<Vec<Utterance>> {
    let wrong = |place, reason| Error::SpeechTable { place, reason };
    let table = Arc::new(Table::open(path, place, wrong)?);
    let sound = table.needed("audio.bytes", EXPECTED)?;
    let text = table.needed("text", EXPECTED)?;
    let [name, speaker, id] = ["audio.path", "speaker_id", "id"].map(|path| table.column(path));
    let used: Vec<usize> =
        [Some(sound), name, Some(text), speaker, id].into_iter().flatten().collect();
    table.check_compression(&used)?;

    let mut utterances = Vec::new();
    let mut number = 0;
    for group in 0..table.groups() {
        let texts = table.strings(group, text)?;
        let optional =
            |column: Option<usize>| column.map(|column| table.strings(group, column)).transpose();
        let (names, speakers, ids) = (optional(name)?, optional(speaker)?, optional(id)?);
        for (row, text) in texts.into_iter().enumerate() {
            let of = |column: &Option<Vec<Option<String>>>| column.as_ref()?[row].clone();
            let id = of(&ids).unwrap_or_else(|| format!("{place}:{number}"));
            let name = of(&names).unwrap_or_default();
            let (table, column) = (table.clone(), sound);
            let audio = Audio::Row(ParquetRow { table, column, group, row, number, name });
            let text = text.unwrap_or_default();
            utterances.push(Utterance::new(id, text, of(&speakers), audio));
            number += 1;
        }
    }
    Ok(utterances)
}

/// What a cache knows a row by.
pub(super) fn stamp(row: &ParquetRow) -> String {
    let (path, about) = row.table.file();
    format!("row {} of {}", row.number, cache::stamp(&path.display().to_string(), about))
}
