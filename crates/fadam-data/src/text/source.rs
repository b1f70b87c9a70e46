//! Where text comes from, and a report of what was found there.

use std::fmt;
use std::fs::{self, File};
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use super::files::{self, Format, Place};
use super::jsonl::read_jsonl;
use super::{Document, Origin};
use crate::hub::Hub;
use crate::{Error, Result, embedded};

/// Where the documents are.
///
/// | file | documents |
/// |---|---|
/// | `.txt` | the whole file is one |
/// | `.jsonl` | one a line: the string field `text` of a JSON object, other fields ignored |
/// | `.jsonl.gz`, `.json.gz` | the same in gzip (of one or several members): the format of C4 |
/// | a folder | those of all such files below it, sorted by path |
/// | `hub:OWNER/NAME[@REVISION]/FILE` | the same of a file of a dataset on the hub ([`Hub::from_env`]) |
///
/// `{000..123}` in a name stands for all these numbers.
///
/// Text is UTF-8; a byte-order mark at the beginning of a file is dropped, and nothing else is
/// changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextSource {
    /// [`embedded::STATE_OF_THE_UNION`].
    Embedded,
    /// Files and folders, read in this order.
    Paths(Vec<PathBuf>),
}

/// What was read and what was not. Its `Display` is one line to print.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceReport {
    /// Files that were read.
    pub files: usize,
    /// Documents that were read.
    pub documents: usize,
    /// Their UTF-8 bytes.
    pub bytes: u64,
    /// Documents without a single character that is not white space: skipped.
    pub empty_documents: usize,
    /// Files in the given folders that are not text by their ending, and links to folders: not
    /// read.
    pub ignored_files: Vec<PathBuf>,
}

impl fmt::Display for SourceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, documents, bytes, empty_documents, ignored_files } = self;
        let s = |count: usize| if count == 1 { "" } else { "s" };
        write!(f, "{documents} document{}, {bytes} bytes", s(*documents))?;
        write!(f, ", from {files} file{}", s(*files))?;
        if *empty_documents > 0 {
            write!(f, "; {empty_documents} empty document{} skipped", s(*empty_documents))?;
        }
        if let Some(first) = ignored_files.first() {
            let others = ignored_files.len();
            write!(f, "; {others} other file{} ignored, first {}", s(others), first.display())?;
        }
        Ok(())
    }
}

/// Takes documents as they are read, and says whether to go on.
pub(super) type Sink<'a> = dyn FnMut(Document) -> Result<ControlFlow<()>> + 'a;

impl SourceReport {
    /// Counts a document; whether it has text and is to be kept.
    pub(super) fn count(&mut self, document: &Document) -> bool {
        let empty = document.text.trim().is_empty();
        if empty {
            self.empty_documents += 1;
        } else {
            self.documents += 1;
            self.bytes += document.text.len() as u64;
        }
        !empty
    }

    /// Adds what another one counted.
    pub(super) fn add(&mut self, other: &Self) {
        let Self { files, documents, bytes, empty_documents, ignored_files } = other;
        self.files += files;
        self.documents += documents;
        self.bytes += bytes;
        self.empty_documents += empty_documents;
        self.ignored_files.extend_from_slice(ignored_files);
    }
}

impl TextSource {
    /// Reads all documents, in an order that depends on nothing but the paths.
    ///
    /// ```
    /// use fadam_data::text::TextSource;
    ///
    /// let (documents, report) = TextSource::Embedded.read()?;
    /// assert_eq!(documents.len(), 62);
    /// assert_eq!(report.to_string(), "62 documents, 2143019 bytes, from 1 file");
    /// # Ok::<(), fadam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// A path that is missing, given twice, unreadable or of another kind; text that is not UTF-8;
    /// a line that is not JSON or has no text; damaged gzip; not one document in all.
    pub fn read(&self) -> Result<(Vec<Document>, SourceReport)> {
        let mut documents = Vec::new();
        let report = self.read_each(&Hub::from_env(), |document| {
            documents.push(document);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((documents, report))
    }

    /// Gives the documents to `sink` as they are read, until it breaks off; empty ones are only
    /// counted.
    ///
    /// # Errors
    /// As [`TextSource::read`], and those of `sink`.
    pub fn read_each(
        &self,
        hub: &Hub,
        mut sink: impl FnMut(Document) -> Result<ControlFlow<()>>,
    ) -> Result<SourceReport> {
        let mut report = SourceReport::default();
        let mut flow = ControlFlow::Continue(());
        let mut counting = |report: &mut SourceReport, document: Document| {
            flow = if report.count(&document) { sink(document)? } else { flow };
            Ok(flow)
        };
        match self {
            Self::Embedded => {
                let name: Arc<Path> = Path::new(embedded::STATE_OF_THE_UNION_NAME).into();
                let text = embedded::STATE_OF_THE_UNION.as_bytes();
                let _whole =
                    read_jsonl(&name, text, &mut |document| counting(&mut report, document))?;
                report.files = 1;
            }
            Self::Paths(paths) => {
                let found = files::find(paths)?;
                report.ignored_files = found.ignored;
                for (place, format) in &found.files {
                    report.files += 1;
                    let sink = &mut |document| counting(&mut report, document);
                    if read_file(place, *format, hub, sink)?.is_break() {
                        break;
                    }
                }
            }
        }
        if report.documents == 0 {
            return Err(Error::EmptyCorpus { place: self.to_string(), report: Box::new(report) });
        }
        Ok(report)
    }
}

impl fmt::Display for TextSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str(embedded::STATE_OF_THE_UNION_NAME),
            Self::Paths(paths) if paths.is_empty() => f.write_str("(no path given)"),
            Self::Paths(paths) => {
                let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

/// Gives the documents of one file to `sink`, and says whether that went on to the end.
pub(super) fn read_file(
    place: &Place,
    format: Format,
    hub: &Hub,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>> {
    let path = place.fetch(hub)?;
    let refused = |cause| Error::Io { action: "read", path: path.clone(), cause };
    let file: Arc<Path> = path.as_path().into();
    if format == Format::Plain {
        let text = utf8(&path, fs::read(&path).map_err(refused)?)?;
        return sink(Document { text, origin: Origin { file, line: None } });
    }
    let reader = BufReader::new(File::open(&path).map_err(refused)?);
    match format {
        Format::JsonLinesGz => read_jsonl(&file, BufReader::new(MultiGzDecoder::new(reader)), sink),
        _ => read_jsonl(&file, reader, sink),
    }
}

/// The bytes as text, without a byte-order mark.
pub(crate) fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String> {
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let byte = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..byte].split(|&b| b == b'\n').count();
        Error::NotUtf8 { path: path.to_path_buf(), byte: byte as u64, line }
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}
