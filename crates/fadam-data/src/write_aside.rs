//! Files that are either the old one or the new one, never half of it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Writes `path` through a file beside it, `<name>.<process>-<n>.partial`, that takes the name when all of it is
/// on the disk. Of several that write at a time, in whatever processes, the last one stays.
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
    let partial = partial(path);
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

/// A name beside `path` that nobody else writes to.
fn partial(path: &Path) -> PathBuf {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let n = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}-{n}.partial", std::process::id()));
    path.with_file_name(name)
}

/// A file that cannot be written.
pub(crate) fn unwritable(path: &Path, cause: io::Error) -> Error {
    Error::Io { action: "write", path: path.to_path_buf(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_write_at_a_time_one_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checks.jsonl");
        std::thread::scope(|scope| {
            for letter in b'a'..b'i' {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let line = vec![letter; 50_000];
                        write_aside(path, |file| file.write_all(&line)).unwrap();
                    }
                });
            }
        });
        let kept = fs::read(&path).unwrap();
        assert!(kept.len() == 50_000 && kept.iter().all(|letter| *letter == kept[0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }
}
