//! One process at a time trains in a run folder.
//!
//! The lock is the system's, on the file `lock`, so that it ends with the process however that ends; the file
//! itself says nothing but which process has it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::Error;

/// The file that is locked, in the run folder.
pub(crate) const FILE: &str = "lock";

/// The right to write to a run folder, until it is dropped.
#[derive(Debug)]
pub(crate) struct RunLock {
    file: File,
    path: PathBuf,
    /// Whether this file system tells files apart by number, which some do not.
    numbered: bool,
}

/// How often the file may be removed by another process between opening and locking.
const TRIES: usize = 10;

impl RunLock {
    /// Takes the lock of a run folder. A file system that has no locks is no reason not to train: a line on
    /// standard error says that nothing watches.
    ///
    /// # Errors
    ///
    /// [`Error::RunFolder`] when another process has it, or the file cannot be written.
    pub(crate) fn take(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let mut tries = 0..TRIES;
        loop {
            let file = OpenOptions::new().read(true).append(true).create(true).open(&path);
            let file = file.map_err(|err| {
                Error::run_folder(folder, format!("its file {FILE} cannot be written: {err}"))
            })?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(in_use(folder)),
                Err(TryLockError::Error(err)) => eprintln!(
                    "note: {} cannot be locked ({err}): see to it that no other process trains in this folder",
                    path.display()
                ),
            }
            let mut lock = Self { file, path: path.clone(), numbered: true };
            // The process that had it before may have removed the file since it was opened here.
            lock.numbered = lock.is_in_place();
            if lock.numbered || tries.next().is_none() {
                lock.sign();
                return Ok(lock);
            }
        }
    }

    /// Says which process this is. For a person only, so that a full disk does not matter.
    fn sign(&mut self) {
        let text = format!("process {}\n", std::process::id());
        let _unwritable = self.file.set_len(0).and_then(|()| self.file.write_all(text.as_bytes()));
    }

    /// Whether the folder is still the one that was locked: neither gone nor replaced.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("")).display();
        anyhow::ensure!(
            self.is_in_place(),
            "run folder {folder}: it was removed or replaced while this process trained in it (its file {FILE} is gone)"
        );
        Ok(())
    }

    fn is_in_place(&self) -> bool {
        let same = || -> io::Result<bool> {
            let there = fs::metadata(&self.path)?;
            Ok(!self.numbered || same_file(&self.file.metadata()?, &there))
        };
        same().unwrap_or(false)
    }
}

impl Drop for RunLock {
    /// The file goes while it is still locked, so that nobody can lock it and lose it.
    fn drop(&mut self) {
        if self.is_in_place() {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// Refuses a folder that another process trains in.
pub(crate) fn refuse_if_taken(folder: &Path) -> Result<(), Error> {
    let taken = File::open(folder.join(FILE))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)));
    if taken { Err(in_use(folder)) } else { Ok(()) }
}

fn in_use(folder: &Path) -> Error {
    let holder = fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
    let message =
        format!("is in use: {holder} trains in it; wait for it or stop it, or give another --out");
    Error::run_folder(folder, message)
}

#[cfg(unix)]
fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn same_file(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_with_the_name_of_the_first_until_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        refuse_if_taken(folder.path()).unwrap();
        let first = RunLock::take(folder.path()).unwrap();
        let own = format!("is in use: process {} trains in it", std::process::id());
        for refused in [RunLock::take(folder.path()).err(), refuse_if_taken(folder.path()).err()] {
            let text = refused.unwrap().to_string();
            assert!(text.contains(&own), "{text}");
        }
        drop(first);
        assert!(!folder.path().join(FILE).exists());
        refuse_if_taken(folder.path()).unwrap();
        RunLock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_file_that_a_killed_process_left_is_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "process 1\n").unwrap();
        refuse_if_taken(folder.path()).unwrap();
        let _lock = RunLock::take(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert_eq!(text, format!("process {}\n", std::process::id()));
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_was_removed_or_replaced_is_noticed_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("run");
        fs::create_dir(&folder).unwrap();
        let lock = RunLock::take(&folder).unwrap();
        lock.check().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(lock.check().unwrap_err().to_string().contains("run: it was removed or replaced"));
        fs::create_dir(&folder).unwrap();
        let other = RunLock::take(&folder).unwrap();
        assert!(lock.check().is_err());
        drop(lock);
        other.check().unwrap();
    }
}
