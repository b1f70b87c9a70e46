//! Which files hold the text: named ones, and those found in folders.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The endings that are read, for messages.
const ENDINGS: &str = ".txt, .jsonl, .jsonl.gz or .json.gz";

/// How a file holds documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// The file is one document.
    Plain,
    /// One JSON object a line.
    JsonLines,
    /// The same, compressed. C4's own files end in `.json.gz`.
    JsonLinesGz,
}

impl Format {
    /// By the ending of the name, in any case.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let ends = |ending: &str| name.ends_with(ending);
        if ends(".txt") {
            Some(Self::Plain)
        } else if ends(".jsonl") {
            Some(Self::JsonLines)
        } else if ends(".jsonl.gz") || ends(".json.gz") {
            Some(Self::JsonLinesGz)
        } else {
            None
        }
    }
}

/// The files to read, in order, and what in the folders was not text.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) files: Vec<(PathBuf, Format)>,
    pub(super) ignored: Vec<PathBuf>,
}

/// Follows the given paths: a file is itself, a folder all the text files below it, sorted by path.
pub(super) fn find(paths: &[PathBuf]) -> Result<Found> {
    let mut found = Found::default();
    for path in paths {
        let about = fs::metadata(path).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => Error::MissingPath { path: path.clone() },
            _ => Error::Io { action: "read", path: path.clone(), cause },
        })?;
        if about.is_dir() {
            walk(path, &mut found)?;
        } else {
            let format = Format::of(path).ok_or_else(|| Error::UnsupportedExtension {
                path: path.clone(),
                expected: ENDINGS,
            })?;
            found.files.push((path.clone(), format));
        }
    }
    reject_duplicates(&found.files)?;
    Ok(found)
}

/// Adds the files below `folder`. Links to folders are not followed (they may lead back up) but
/// listed as ignored.
fn walk(folder: &Path, found: &mut Found) -> Result<()> {
    let refused = |cause| Error::Io { action: "list", path: folder.to_path_buf(), cause };
    let mut entries =
        fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(refused)?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().map_err(refused)?.is_dir() {
            walk(&path, found)?;
        } else if let Some(format) = Format::of(&path).filter(|_| !path.is_dir()) {
            found.files.push((path, format));
        } else {
            found.ignored.push(path);
        }
    }
    Ok(())
}

/// A file read twice would be in the training and in the held-out text.
fn reject_duplicates(files: &[(PathBuf, Format)]) -> Result<()> {
    let mut seen = HashSet::new();
    for (path, _) in files {
        let real = fs::canonicalize(path).map_err(|cause| Error::Io {
            action: "read",
            path: path.clone(),
            cause,
        })?;
        if !seen.insert(real) {
            return Err(Error::DuplicateFile { path: path.clone() });
        }
    }
    Ok(())
}
