//! Files that are either the old one or the new one, never half of it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
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
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = File::create(&partial).and_then(|file| {
        let mut buffered = BufWriter::new(file);
        write(&mut buffered)?;
        buffered.flush()?;
        buffered.get_ref().sync_all()?;
        fs::rename(&partial, path)
    });
    written.map_err(|cause| {
        // The write error is the one to report; a partial file that cannot be removed either says
        // nothing new.
        let _ = fs::remove_file(&partial);
        Error::Io { action: "write", path: path.to_path_buf(), cause }
    })
}
