//! Files that are either the old one or the new one, never half of it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// Writes `path` through a file beside it, `<name>.partial`, that takes the name when all of it is
/// on the disk.
///
/// # Errors
/// [`Error::Io`] when creating, writing or renaming fails; the partial file is then removed and
/// `path` is as it was.
pub(crate) fn write_aside(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    write_aside_or(path, |file| write(file).map_err(|cause| unwritable(path, cause)))
}

/// The same where more than writing can fail.
///
/// # Errors
/// As [`write_aside`], and those of `write`.
pub(crate) fn write_aside_or(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let refused = |cause| unwritable(path, cause);
    let written = File::create(&partial).map_err(refused).and_then(|file| {
        let mut buffered = BufWriter::new(file);
        write(&mut buffered)?;
        buffered.flush().and_then(|()| buffered.get_ref().sync_all()).map_err(refused)?;
        fs::rename(&partial, path).map_err(refused)
    });
    if written.is_err() {
        // That error is the one to report; a partial file that cannot be removed either says nothing
        // new.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// A file that cannot be written.
pub(crate) fn unwritable(path: &Path, cause: io::Error) -> Error {
    Error::Io { action: "write", path: path.to_path_buf(), cause }
}
