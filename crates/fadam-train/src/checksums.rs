//! `SHA256SUMS`: what the files of a checkpoint have to be, as the program `sha256sum` writes it, so that
//! `sha256sum -c SHA256SUMS` in the folder says the same.
//!
//! A rename makes a checkpoint whole or absent in the eyes of other processes; what a disk does to it
//! afterwards, or a person, shows here.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, atomic};

/// The file with the checksums, in the folder that it is about.
pub(crate) const FILE: &str = "SHA256SUMS";

/// Writes the checksums of `names` in `folder`, and waits until they are on the disk.
pub(crate) fn write(folder: &Path, names: &[&str]) -> anyhow::Result<()> {
    let mut text = String::new();
    for name in names {
        writeln!(text, "{}  {name}", sum(&folder.join(name))?)?;
    }
    Ok(atomic::write_synced(&folder.join(FILE), text.as_bytes())?)
}

/// Compares `names` in `folder` with the checksums there. False if there are no checksums to compare with.
///
/// # Errors
///
/// [`Error::Checkpoint`] naming the first file that is not what it was.
pub(crate) fn check(folder: &Path, names: &[&str]) -> Result<bool, Error> {
    let list = folder.join(FILE);
    let text = match fs::read_to_string(&list) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(err) => return Err(Error::checkpoint(&list, format!("cannot be read: {err}"))),
    };
    for name in names {
        let Some(expected) = listed(&text, name) else {
            let message = format!("is damaged: it has no whole line about {name}");
            return Err(Error::checkpoint(&list, message));
        };
        let path = folder.join(name);
        let found =
            sum(&path).map_err(|err| Error::checkpoint(&path, format!("cannot be read: {err}")))?;
        if found != expected {
            let message = format!("is damaged: its checksum is not that in {FILE}");
            return Err(Error::checkpoint(&path, message));
        }
    }
    Ok(true)
}

/// The checksum of `name` in a list.
fn listed<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let is_sum = |sum: &&str| sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
    let of_name = |line: &'t str| line.strip_suffix(name)?.strip_suffix("  ").filter(is_sum);
    text.lines().find_map(of_name)
}

/// The SHA-256 of a file in hexadecimal digits.
fn sum(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        // The examples of FIPS 180-4 for "abc" and for nothing.
        fs::write(folder.path().join("a"), "abc").unwrap();
        fs::write(folder.path().join("b"), "").unwrap();
        write(folder.path(), &["a", "b"]).unwrap();
        assert_eq!(
            fs::read_to_string(folder.path().join(FILE)).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  b\n"
        );
        assert!(check(folder.path(), &["a", "b"]).unwrap());
    }

    #[test]
    fn a_changed_bit_an_absent_file_and_a_cut_list_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), [7; 1000]).unwrap();
        assert!(!check(folder.path(), &["a"]).unwrap(), "nothing to compare with");
        write(folder.path(), &["a"]).unwrap();
        let message = || check(folder.path(), &["a"]).unwrap_err().to_string();

        let mut changed = [7; 1000];
        changed[999] ^= 1;
        fs::write(path("a"), changed).unwrap();
        assert!(message().ends_with("/a: is damaged: its checksum is not that in SHA256SUMS"));
        fs::remove_file(path("a")).unwrap();
        assert!(message().contains("/a: cannot be read"), "{}", message());
        fs::write(path("a"), [7; 1000]).unwrap();
        let list = fs::read_to_string(path(FILE)).unwrap();
        for cut in [0, 10, 63, 64, 66] {
            fs::write(path(FILE), &list[..cut]).unwrap();
            assert!(message().contains("SHA256SUMS: is damaged"), "{cut}: {}", message());
        }
    }
}
