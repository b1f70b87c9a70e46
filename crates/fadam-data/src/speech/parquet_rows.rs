//! Tables of the hub, with a sound file in each row: the layout of `openslr/librispeech_asr`.
//!
//! ```text
//! audio: { bytes, path }, text, speaker_id, id, …
//! ```
//!
//! Transcripts are read at once. Sounds are read one by one, when they are asked for: of a row's column
//! chunk only the headers of the pages before it, and the page that it is in.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};

use super::cache::stamp;
use super::utterance::{Audio, Utterance};
use crate::{Error, Result};

/// The columns of [`ParquetFile`] by their place.
#[derive(Debug, Clone, Copy)]
struct Columns {
    sound: usize,
    name: Option<usize>,
    text: usize,
    speaker: Option<usize>,
    id: Option<usize>,
}

/// A table on a disk.
struct ParquetFile {
    /// The place that it was asked for by.
    place: String,
    /// The one path of the file.
    real: PathBuf,
    /// What a cache knows it by.
    stamp: String,
    reader: SerializedFileReader<ByPath>,
    columns: Columns,
}

/// The sound of a row.
#[derive(Clone)]
pub struct ParquetRow {
    file: Arc<ParquetFile>,
    group: usize,
    /// Within the group.
    row: usize,
    /// From the beginning of the file, for messages.
    number: usize,
    /// What the row says that the sound was called.
    name: String,
}

impl ParquetRow {
    /// The bytes of the sound file.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        let wrong = |reason: String| self.file.wrong(&format!("row {}: {reason}", self.number));
        let sound = caught(|| self.file.sound(self.group, self.row).map_err(|e| e.to_string()));
        let sound = sound.map_err(wrong)?;
        sound.ok_or_else(|| wrong("audio.bytes is null".to_owned()))
    }

    /// What a cache knows it by.
    pub(super) fn stamp(&self) -> String {
        format!("row {} of {}", self.number, self.file.stamp)
    }

    /// The one name of this row, whatever place its table was asked for by.
    pub(super) fn identity(&self) -> String {
        format!("{}:{}", self.file.real.display(), self.number)
    }
}

impl fmt::Display for ParquetRow {
    /// The place, the row from 0, and the name of the sound: `hub:…/0000.parquet:17/1-2-0003.flac`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.place, self.number)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, "/{}", self.name) }
    }
}

impl fmt::Debug for ParquetRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParquetRow({self})")
    }
}

/// The utterances of a table, in the order of its rows; `place` is what it is called in messages.
pub(super) fn read(path: &Path, place: &str) -> Result<Vec<Utterance>> {
    let file = Arc::new(ParquetFile::open(path, place)?);
    let mut utterances = Vec::new();
    let mut number = 0;
    for group in 0..file.reader.num_row_groups() {
        let row_group = |column| caught(|| file.strings(group, column)).map_err(|e| file.wrong(&e));
        let texts = row_group(file.columns.text)?;
        let optional = |column: Option<usize>| column.map(row_group).transpose();
        let (names, speakers) = (optional(file.columns.name)?, optional(file.columns.speaker)?);
        let ids = optional(file.columns.id)?;
        for (row, text) in texts.into_iter().enumerate() {
            let of = |column: &Option<Vec<Option<String>>>| column.as_ref()?[row].clone();
            let id = of(&ids).unwrap_or_else(|| format!("{place}:{number}"));
            let name = of(&names).unwrap_or_default();
            let audio = Audio::Row(ParquetRow { file: file.clone(), group, row, number, name });
            let text = text.unwrap_or_default();
            utterances.push(Utterance::new(id, text, of(&speakers), audio));
            number += 1;
        }
    }
    Ok(utterances)
}

/// Some damage makes the parquet crate panic: an error as any other.
fn caught<T>(
    read: impl FnOnce() -> std::result::Result<T, String>,
) -> std::result::Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("the table is damaged: its pages are not what it says".to_owned()))
}

impl ParquetFile {
    fn open(path: &Path, place: &str) -> Result<Self> {
        let refused = |cause| Error::Io { action: "read", path: path.to_path_buf(), cause };
        let about = std::fs::metadata(path).map_err(refused)?;
        let len = about.len();
        let wrong = |reason: String| Error::SpeechTable { place: place.to_owned(), reason };
        let whole = ByPath { path: path.to_path_buf(), len };
        let reader = caught(|| SerializedFileReader::new(whole).map_err(|e| e.to_string()));
        let reader = reader.map_err(wrong)?;
        let columns = Columns::find(&reader).map_err(wrong)?;
        let real = std::fs::canonicalize(path).map_err(refused)?;
        let stamp = stamp(&real.display().to_string(), &about);
        Ok(Self { place: place.to_owned(), real, stamp, reader, columns })
    }

    fn wrong(&self, reason: &str) -> Error {
        Error::SpeechTable { place: self.place.clone(), reason: reason.to_owned() }
    }

    /// A column of a row group as text; numbers in decimal.
    fn strings(
        &self,
        group: usize,
        column: usize,
    ) -> std::result::Result<Vec<Option<String>>, String> {
        let name = self.column_name(column);
        let wrong = |e: ParquetError| format!("column {name}: {e}");
        let row_group = self.reader.get_row_group(group).map_err(wrong)?;
        let rows = row_group.metadata().num_rows() as usize;
        let reader = row_group.get_column_reader(column).map_err(wrong)?;
        let values = match reader {
            ColumnReader::ByteArrayColumnReader(reader) => {
                let bytes = self.column(reader, column, rows).map_err(wrong)?;
                let text = |value: Option<ByteArray>| value.map(|bytes| utf8(&bytes)).transpose();
                bytes.into_iter().map(text).collect::<std::result::Result<_, _>>()
            }
            ColumnReader::Int32ColumnReader(reader) => {
                Ok(decimal(self.column(reader, column, rows).map_err(wrong)?))
            }
            ColumnReader::Int64ColumnReader(reader) => {
                Ok(decimal(self.column(reader, column, rows).map_err(wrong)?))
            }
            _ => Err("expected text or whole numbers".to_owned()),
        };
        let values = values.map_err(|reason| format!("column {name}: {reason}"))?;
        if values.len() != rows {
            return Err(format!("column {name}: {} values for {rows} rows", values.len()));
        }
        Ok(values)
    }

    /// The first `rows` values of a column, or what there is of them.
    fn column<T: DataType>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        column: usize,
        rows: usize,
    ) -> ParquetResult<Vec<Option<T::T>>> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let present = schema.column(column).max_def_level();
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (read, ..) = reader.read_records(rows, Some(&mut levels), None, &mut values)?;
        // A column that is never null has no levels.
        levels.resize(read, present);
        let mut values = values.into_iter();
        Ok(levels
            .into_iter()
            .map(|level| if level == present { values.next() } else { None })
            .collect())
    }

    /// The sound of a row, read from the disk.
    fn sound(&self, group: usize, row: usize) -> ParquetResult<Option<Vec<u8>>> {
        let row_group = self.reader.get_row_group(group)?;
        let column = self.columns.sound;
        let ColumnReader::ByteArrayColumnReader(mut reader) =
            row_group.get_column_reader(column)?
        else {
            return Err(ParquetError::General("audio.bytes does not hold bytes".to_owned()));
        };
        let skipped = reader.skip_records(row)?;
        let value = self.column(reader, column, 1)?;
        match value.into_iter().next().filter(|_| skipped == row) {
            Some(value) => Ok(value.map(|bytes| bytes.data().to_vec())),
            None => Err(ParquetError::General("the column ends before it".to_owned())),
        }
    }

    fn column_name(&self, column: usize) -> String {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        schema.column(column).path().string()
    }
}

impl Columns {
    fn find(reader: &SerializedFileReader<ByPath>) -> std::result::Result<Self, String> {
        let schema = reader.metadata().file_metadata().schema_descr();
        let named = |name: &str| {
            let columns = schema.columns();
            let flat = |at: &usize| columns[*at].max_rep_level() == 0;
            columns.iter().position(|column| column.path().string() == name).filter(flat)
        };
        let needed = |name: &str| {
            let columns: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
            named(name).ok_or_else(|| {
                format!(
                    "no column {name}; expected audio {{bytes, path}}, text, and perhaps speaker_id \
                     and id, and it has {}",
                    columns.join(", ")
                )
            })
        };
        let columns = Self {
            sound: needed("audio.bytes")?,
            name: named("audio.path"),
            text: needed("text")?,
            speaker: named("speaker_id"),
            id: named("id"),
        };
        let used =
            [Some(columns.sound), columns.name, Some(columns.text), columns.speaker, columns.id];
        for group in reader.metadata().row_groups() {
            for column in used.into_iter().flatten() {
                let compression = group.column(column).compression();
                if !matches!(
                    compression,
                    Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_)
                ) {
                    return Err(format!(
                        "compressed with {compression}; expected SNAPPY, GZIP or none: write the table \
                         anew with one of them"
                    ));
                }
            }
        }
        Ok(columns)
    }
}

fn decimal<T: ToString>(values: Vec<Option<T>>) -> Vec<Option<String>> {
    values.into_iter().map(|value| value.map(|number| number.to_string())).collect()
}

fn utf8(bytes: &ByteArray) -> std::result::Result<String, String> {
    bytes.as_utf8().map(str::to_owned).map_err(|e| e.to_string())
}

/// A file that is opened anew for each read: threads that share an open file would share its position.
struct ByPath {
    path: PathBuf,
    len: u64,
}

impl ByPath {
    fn open(&self, start: u64) -> ParquetResult<File> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }
}

impl Length for ByPath {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for ByPath {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(self.open(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        // The length is what the file says of itself.
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} are not there")));
        }
        let mut bytes = vec![0; length];
        self.open(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}
