//! Files that are whole or not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;

/// Replaces `path` by `contents`: written aside as `<name>.tmp`, synced, renamed. A crash leaves the
/// old file or the new one, never a mixture.
///
/// # Errors
///
/// When the file cannot be written (no space, no permission, folder gone), naming it.
pub fn write(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let aside = path.with_file_name(name);
    write_synced(&aside, contents)
        .and_then(|()| fs::rename(&aside, path))
        .and_then(|()| sync_folder(path.parent().unwrap_or(Path::new("."))))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Waits until the names in a folder are on the disk, where the system can do that.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path)?.sync_all()
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        write(&path, b"old, and longer").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_error_names_the_file() {
        let err = write(Path::new("no/such/folder/x.json"), b"").unwrap_err();
        assert!(err.to_string().contains("no/such/folder/x.json"));
    }
}
