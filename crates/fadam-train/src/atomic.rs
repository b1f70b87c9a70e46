//! Files that are whole or not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;

use crate::bad_input;

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
        .inspect_err(|_| {
            // The first error is the one to report; half a file only takes the space that is missing.
            let _gone = fs::remove_file(&aside);
        })
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Removes what killed processes left aside in a folder that nobody else writes to.
pub(crate) fn remove_left_aside(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !is_aside(&path) {
            continue;
        }
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Whether a name is that of something not finished: `*.tmp`, or fadam-data's `*.partial`.
pub(crate) fn is_aside(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp" || extension == "partial")
}

/// Makes the folder `path` with what `fill` writes into it: aside, as `.<name>.<process>.tmp`, then
/// renamed. On an error nothing is left.
///
/// ```
/// use fadam_train::write_folder;
/// let place = tempfile::tempdir()?;
/// let folder = place.path().join("model");
/// write_folder(&folder, |aside| Ok(std::fs::write(aside.join("a.txt"), "whole")?))?;
/// assert_eq!(std::fs::read_to_string(folder.join("a.txt"))?, "whole");
/// assert!(write_folder(&folder, |_| Ok(())).is_err(), "it exists");
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
///
/// Bad input (exit code 2) when `path` exists or cannot be made; the error of `fill`.
pub fn write_folder(
    path: &Path,
    fill: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let place = path.display();
    if path.symlink_metadata().is_ok() {
        return Err(bad_input(anyhow::anyhow!("{place}: exists already; name a new folder")));
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let aside = parent.join(name);
    fs::create_dir_all(parent)
        .and_then(|()| fs::create_dir(&aside))
        .with_context(|| format!("{place}: cannot be made"))
        .map_err(bad_input)?;
    let filled = fill(&aside).and_then(|()| {
        sync_folder(&aside)?;
        fs::rename(&aside, path)?;
        Ok(sync_folder(parent)?)
    });
    filled.with_context(|| format!("cannot write {place}")).inspect_err(|_| {
        // The first error is the one to report.
        let _gone = fs::remove_dir_all(&aside);
    })
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
        // Nor when it cannot be put in its place.
        fs::create_dir(folder.path().join("taken")).unwrap();
        write(&folder.path().join("taken"), b"new").unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_was_left_aside_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["metrics.jsonl", "metrics.jsonl.tmp", "tokenizer.json.partial"] {
            fs::write(path(name), "").unwrap();
        }
        fs::create_dir_all(path("step-00000005.tmp/below")).unwrap();
        fs::create_dir_all(path("step-00000004")).unwrap();
        remove_left_aside(folder.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, [path("metrics.jsonl"), path("step-00000004")]);
    }

    #[test]
    fn a_folder_is_whole_or_not_there() {
        let place = tempfile::tempdir().unwrap();
        let entries = || fs::read_dir(place.path()).unwrap().count();
        let folder = place.path().join("new");
        let failed = write_folder(&folder, |aside| {
            fs::write(aside.join("half"), "")?;
            anyhow::bail!("no space left")
        });
        let text = crate::describe(&failed.unwrap_err());
        assert!(text.ends_with("new: no space left"), "{text}");
        assert_eq!(entries(), 0, "something was left");

        fs::create_dir(&folder).unwrap();
        let refused = write_folder(&folder, |_| panic!("it must not be filled")).unwrap_err();
        assert_eq!(crate::exit_code(&refused), 2);
        assert!(refused.to_string().contains("new: exists already"), "{refused}");
        assert_eq!(entries(), 1);
        let below = write_folder(&place.path().join("a/b/c"), |_| Ok(()));
        assert!(below.is_ok() && place.path().join("a/b/c").is_dir());
    }

    #[test]
    fn an_error_names_the_file() {
        let err = write(Path::new("no/such/folder/x.json"), b"").unwrap_err();
        assert!(err.to_string().contains("no/such/folder/x.json"));
    }
}
