//! Parquet tables as the hub has them, with a file in each row: sounds, pictures.
//!
//! ```text
//! audio: { bytes, path }, text, …        image: { bytes, path }, label
//! ```
//!
//! The files are read one by one, when they are asked for: of a row's column chunk only the headers of
//! the pages before it, and the page that it is in.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};

use crate::unpanicked::unpanicked;
use crate::{Error, Result};

/// A table on a disk.
pub(crate) struct Table {
    /// The place that it was asked for by.
    place: String,
    /// The one path of the file.
    real: PathBuf,
    about: Metadata,
    reader: SerializedFileReader<ByPath>,
    /// What is said of a table (its place) that is not as it must be (why).
    wrong: fn(String, String) -> Error,
}

/// A file in a row of a table: a sound or a picture.
#[derive(Clone)]
pub struct ParquetRow {
    pub(crate) table: Arc<Table>,
    /// The column that holds the bytes.
    pub(crate) column: usize,
    pub(crate) group: usize,
    /// Within the group.
    pub(crate) row: usize,
    /// From the beginning of the file, for messages.
    pub(crate) number: usize,
    /// What the row says that the file was called.
    pub(crate) name: String,
}

impl ParquetRow {
    /// The bytes of the file.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        let Self { table, column, group, row, number, .. } = self;
        let wrong = |reason: String| table.wrong(&format!("row {number}: {reason}"));
        let bytes = caught(|| table.bytes(*group, *column, *row).map_err(|e| e.to_string()));
        bytes
            .map_err(wrong)?
            .ok_or_else(|| wrong(format!("{} is null", table.column_name(*column))))
    }

    /// The one name of this row, whatever place its table was asked for by.
    pub(crate) fn identity(&self) -> String {
        format!("{}:{}", self.table.real.display(), self.number)
    }
}

impl fmt::Display for ParquetRow {
    /// The place, the row from 0, and the name of the file: `hub:…/0000.parquet:17/1-2-0003.flac`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table.place, self.number)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, "/{}", self.name) }
    }
}

impl fmt::Debug for ParquetRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParquetRow({self})")
    }
}

impl Table {
    /// Opens the file at `path`; `place` is what it is called in messages.
    pub(crate) fn open(
        path: &Path,
        place: &str,
        wrong: fn(String, String) -> Error,
    ) -> Result<Self> {
        let refused = |cause| Error::Io { action: "read", path: path.to_path_buf(), cause };
        let about = fs::metadata(path).map_err(refused)?;
        let whole = ByPath { path: path.to_path_buf(), len: about.len() };
        let reader = caught(|| SerializedFileReader::new(whole).map_err(|e| e.to_string()));
        let reader = reader.map_err(|reason| wrong(place.to_owned(), reason))?;
        let real = fs::canonicalize(path).map_err(refused)?;
        Ok(Self { place: place.to_owned(), real, about, reader, wrong })
    }

    /// The one path of the file, and what the system said of it when it was opened.
    pub(crate) fn file(&self) -> (&Path, &Metadata) {
        (&self.real, &self.about)
    }

    /// The error that names this table.
    pub(crate) fn wrong(&self, reason: &str) -> Error {
        (self.wrong)(self.place.clone(), reason.to_owned())
    }

    pub(crate) fn groups(&self) -> usize {
        self.reader.num_row_groups()
    }

    /// Rows of a group.
    pub(crate) fn rows(&self, group: usize) -> usize {
        self.reader.metadata().row_group(group).num_rows() as usize
    }

    /// The column of that path (`audio.bytes`), if there is one with at most one value a row.
    pub(crate) fn column(&self, path: &str) -> Option<usize> {
        let columns = self.reader.metadata().file_metadata().schema_descr().columns();
        let flat = |at: &usize| columns[*at].max_rep_level() == 0;
        columns.iter().position(|column| column.path().string() == path).filter(flat)
    }

    /// The same for a column that must be there, among those that are `expected`.
    pub(crate) fn needed(&self, path: &str, expected: &str) -> Result<usize> {
        self.column(path).ok_or_else(|| {
            let columns = self.reader.metadata().file_metadata().schema_descr().columns();
            let names: Vec<String> = columns.iter().map(|c| c.path().string()).collect();
            self.wrong(&format!(
                "no column {path}; expected {expected}, and it has {}",
                names.join(", ")
            ))
        })
    }

    /// Refuses columns that are compressed in a way that is not read here.
    pub(crate) fn check_compression(&self, columns: &[usize]) -> Result<()> {
        for group in self.reader.metadata().row_groups() {
            for &column in columns {
                let Some(chunk) = group.columns().get(column) else {
                    let name = self.column_name(column);
                    return Err(self.wrong(&format!("a group of rows without column {name}")));
                };
                let compression = chunk.compression();
                if !matches!(
                    compression,
                    Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_)
                ) {
                    return Err(self.wrong(&format!(
                        "compressed with {compression}; expected SNAPPY, GZIP or none: write the table \
                         anew with one of them"
                    )));
                }
            }
        }
        Ok(())
    }

    /// A column of a row group as text; numbers in decimal.
    pub(crate) fn strings(&self, group: usize, column: usize) -> Result<Vec<Option<String>>> {
        caught(|| self.texts(group, column))
            .map_err(|reason| self.wrong(&format!("column {}: {reason}", self.column_name(column))))
    }

    fn texts(
        &self,
        group: usize,
        column: usize,
    ) -> std::result::Result<Vec<Option<String>>, String> {
        let wrong = |e: ParquetError| e.to_string();
        let row_group = self.reader.get_row_group(group).map_err(wrong)?;
        let rows = self.rows(group);
        let reader = row_group.get_column_reader(column).map_err(wrong)?;
        let values: Vec<Option<String>> = match reader {
            ColumnReader::ByteArrayColumnReader(reader) => {
                let bytes = self.values(reader, column, rows).map_err(wrong)?;
                let text = |value: Option<ByteArray>| value.map(|bytes| utf8(&bytes)).transpose();
                bytes.into_iter().map(text).collect::<std::result::Result<_, _>>()?
            }
            ColumnReader::Int32ColumnReader(reader) => {
                decimal(self.values(reader, column, rows).map_err(wrong)?)
            }
            ColumnReader::Int64ColumnReader(reader) => {
                decimal(self.values(reader, column, rows).map_err(wrong)?)
            }
            _ => return Err("expected text or whole numbers".to_owned()),
        };
        if values.len() != rows {
            return Err(format!("{} values for {rows} rows", values.len()));
        }
        Ok(values)
    }

    /// The first `rows` values of a column, or what there is of them.
    fn values<T: DataType>(
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

    /// The bytes in a row, read from the disk.
    fn bytes(&self, group: usize, column: usize, row: usize) -> ParquetResult<Option<Vec<u8>>> {
        let row_group = self.reader.get_row_group(group)?;
        let ColumnReader::ByteArrayColumnReader(mut reader) =
            row_group.get_column_reader(column)?
        else {
            let name = self.column_name(column);
            return Err(ParquetError::General(format!("{name} does not hold bytes")));
        };
        let skipped = reader.skip_records(row)?;
        let value = self.values(reader, column, 1)?;
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

/// Some damage makes the parquet crate panic.
fn caught<T>(
    read: impl FnOnce() -> std::result::Result<T, String>,
) -> std::result::Result<T, String> {
    unpanicked(|| "the table is damaged: its pages are not what it says".to_owned(), read)
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
