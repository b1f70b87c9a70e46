//! Which files hold the text: named ones, those found in folders, and those of the hub.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::hub::{Hub, HubFile, RepoKind};
use crate::{Error, Result, name_range};

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

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// On a disk.
    Local(PathBuf),
    /// On the hub, or already in its cache.
    Hub(HubFile),
}

impl Place {
    /// Where it can be read, after a download if need be.
    pub(super) fn fetch(&self, hub: &Hub) -> Result<PathBuf> {
        match self {
            Self::Local(path) => Ok(path.clone()),
            Self::Hub(file) => hub.fetch(file),
        }
    }

    /// The one name of a file that may be reached by several paths.
    pub(super) fn real(&self) -> Result<Self> {
        let Self::Local(path) = self else { return Ok(self.clone()) };
        let refused = |cause| Error::Io { action: "read", path: path.clone(), cause };
        fs::canonicalize(path).map(Self::Local).map_err(refused)
    }

    /// The last part of its name.
    pub(super) fn file_name(&self) -> String {
        let path = match self {
            Self::Local(path) => path.as_path(),
            Self::Hub(file) => Path::new(file.file()),
        };
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Hub(file) => write!(f, "{file}"),
        }
    }
}

/// The files to read, in order, and what in the folders was not text.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) files: Vec<(Place, Format)>,
    pub(super) ignored: Vec<PathBuf>,
}

/// Follows the given paths: a file is itself, a folder all the text files below it, sorted by path;
/// what begins with `hub:` is a file of a dataset there. `{000..123}` in a name stands for many.
pub(super) fn find(paths: &[PathBuf]) -> Result<Found> {
    let mut found = Found::default();
    for path in paths {
        for path in name_range::expand(path)? {
            if HubFile::is_meant(&path) {
                let file = HubFile::parse(&path.to_string_lossy(), RepoKind::Dataset, None)?;
                found.files.push((Place::Hub(file), format(&path)?));
            } else {
                local(path, &mut found)?;
            }
        }
    }
    reject_duplicates(&found.files)?;
    Ok(found)
}

/// Adds a file, or the files below a folder.
fn local(path: PathBuf, found: &mut Found) -> Result<()> {
    let about = fs::metadata(&path).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => Error::MissingPath { path: path.clone() },
        _ => Error::Io { action: "read", path: path.clone(), cause },
    })?;
    if about.is_dir() {
        return walk(&path, found);
    }
    let format = format(&path)?;
    found.files.push((Place::Local(path), format));
    Ok(())
}

/// The format of a file that was named, which must be text.
fn format(path: &Path) -> Result<Format> {
    let path = path.to_path_buf();
    Format::of(&path).ok_or(Error::UnsupportedExtension { path, expected: ENDINGS })
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
            found.files.push((Place::Local(path), format));
        } else {
            found.ignored.push(path);
        }
    }
    Ok(())
}

/// A file read twice would be in the training and in the held-out text.
fn reject_duplicates(files: &[(Place, Format)]) -> Result<()> {
    let mut seen = HashSet::new();
    for (place, _) in files {
        let real = place.real()?;
        if !seen.insert(real) {
            return Err(Error::DuplicateFile { path: place.to_string().into() });
        }
    }
    Ok(())
}
