//! JSON lines: one object a line, the text in its field `text` (the format of C4).

use std::io::{self, BufRead};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::source::Sink;
use super::{Document, Origin};
use crate::{Error, Result};

/// The one field that is read; the others are ignored.
#[derive(Deserialize)]
struct Record {
    text: String,
}

/// Gives a document for each line of `reader` to `sink`, and says whether that went on to the end. A
/// line of white space is an empty document.
pub(super) fn read_jsonl(
    file: &Arc<Path>,
    mut reader: impl BufRead,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>> {
    let (mut line, mut offset, mut bytes) = (0, 0, Vec::new());
    loop {
        line += 1;
        bytes.clear();
        let read = reader.read_until(b'\n', &mut bytes).map_err(|e| read_error(file, line, e))?;
        if read == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let text = std::str::from_utf8(&bytes).map_err(|e| Error::NotUtf8 {
            path: file.to_path_buf(),
            byte: offset + e.valid_up_to() as u64,
            line,
        })?;
        let text = text.trim_end_matches(['\n', '\r']);
        let text = if line == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        let text = if text.trim().is_empty() { String::new() } else { field(file, line, text)? };
        let origin = Origin { file: file.clone(), line: Some(line) };
        if sink(Document { text, origin })?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        offset += read as u64;
    }
}

/// The string `text` of the object on this line.
fn field(file: &Path, line: usize, text: &str) -> Result<String> {
    // serde also takes an array for a struct: `["abc"]` would be a record.
    if !text.trim_start().starts_with('{') {
        let reason = "the line does not begin with {".to_owned();
        return Err(Error::NotJson { path: file.to_path_buf(), line, reason });
    }
    serde_json::from_str::<Record>(text).map(|record| record.text).map_err(|e| {
        // serde_json counts lines from the beginning of its input, which is one line: keep the
        // column only.
        let whole = e.to_string();
        let message = whole.split(" at line ").next().unwrap_or(&whole);
        let reason = format!("{message} (column {})", e.column());
        let path = file.to_path_buf();
        if e.is_data() {
            Error::NoText { path, line, reason }
        } else {
            Error::NotJson { path, line, reason }
        }
    })
}

/// A read failed: of the file, or of the gzip data in it.
fn read_error(file: &Path, line: usize, cause: io::Error) -> Error {
    let path = file.to_path_buf();
    match cause.kind() {
        io::ErrorKind::UnexpectedEof => Error::TruncatedGzip { path, line },
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            Error::CorruptGzip { path, line, cause }
        }
        _ => Error::Io { action: "read", path, cause },
    }
}
