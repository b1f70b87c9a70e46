//! A checkpoint that another process reads is not removed under its hands.
//!
//! The lock is the system's, on the folder itself: shared by those who read, alone for the one who removes. Where folders
//! cannot be locked, as on some network file systems and on Windows, nothing is held, and a reader that loses the
//! race gets an error that names the file.

use std::fs::{File, TryLockError};
use std::path::Path;

/// The lock of a checkpoint, where there are locks, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _lock: Option<File>,
}

impl Held {
    /// Holds the checkpoint in `path` for reading, together with others. `None` if there is none (any more).
    pub(crate) fn to_read(path: &Path) -> Option<Self> {
        let lock = File::open(path).ok().filter(|folder| folder.lock_shared().is_ok());
        // Whoever removes it may have been first. A link that leads nowhere is there, and damaged.
        path.symlink_metadata().is_ok().then_some(Self { _lock: lock })
    }

    /// Holds the checkpoint in `path` alone. `None` if somebody reads it.
    pub(super) fn to_remove(path: &Path) -> Option<Self> {
        let Ok(folder) = File::open(path) else { return Some(Self { _lock: None }) };
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            Ok(()) | Err(TryLockError::Error(_)) => Some(Self { _lock: Some(folder) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    #[test]
    fn it_is_held_by_many_and_removed_when_the_last_has_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (Held::to_read(folder.path()), Held::to_read(folder.path()));
        assert!(first.is_some() && second.is_some());
        drop(first);
        assert!(Held::to_remove(folder.path()).is_none());
        drop(second);
        assert!(Held::to_remove(folder.path()).is_some());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_not_taken_for_one_that_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("step-00000001");
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(Held::to_read(&path).is_some());
        let error = crate::checkpoint::last_whole(folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds no whole checkpoint"), "{error}");
    }

    #[test]
    fn one_that_is_just_removed_is_not_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("step-00000001");
        fs::create_dir(&path).unwrap();
        let alone = Held::to_remove(&path).unwrap();
        thread::scope(|scope| {
            let reader = scope.spawn(|| Held::to_read(&path).is_none());
            fs::rename(&path, folder.path().join("step-00000001.old.tmp")).unwrap();
            drop(alone);
            assert!(reader.join().unwrap());
        });
        assert!(Held::to_read(&path).is_none());
    }
}
