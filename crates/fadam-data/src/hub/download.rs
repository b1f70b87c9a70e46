//! From the hub into the cache that hf-hub and Python's `huggingface_hub` share.
//!
//! ```text
//! blobs/<etag>                      the bytes; <etag>.part until they are all there, <etag>.lock meanwhile
//! snapshots/<commit>/<file>         a link to them
//! refs/<revision>                   the commit
//! ```
//!
//! The lock is that of hf-hub (`flock` on Unix): of two processes one downloads, and the other waits as
//! long as the part grows.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use hf_hub::CacheRepo;

use super::HubFile;
use super::failure::Failure;
use super::resolve::{About, Client, content_range, is_part};

/// One try: what the cache lacks of the file, and the way to it.
pub(super) fn into_cache(
    client: &Client,
    cache: &CacheRepo,
    file: &HubFile,
    patience: Duration,
) -> Result<PathBuf, Failure> {
    let about = client.about(&file.path_on_hub())?;
    let blob = cache.blob_path(&about.etag);
    let link = cache.pointer_path(&about.commit).join(file.file());
    for path in [&blob, &link] {
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder).map_err(Failure::disk(folder))?;
    }
    let beside = |kind: &str| blob.with_file_name(format!("{}.{kind}", about.etag));
    let part = beside("part");
    let lock = lock(beside("lock"), &part, patience)?;
    let is_whole = |path: &Path| fs::metadata(path).is_ok_and(|file| file.len() == about.size);
    if !is_whole(&link) {
        if !is_whole(&blob) {
            complete(client, &about, &part)?;
            fs::rename(&part, &blob).map_err(Failure::disk(&blob))?;
        }
        point(&link, &blob, file).map_err(Failure::disk(&link))?;
    }
    cache.create_ref(&about.commit).map_err(Failure::disk(cache_of(&blob)))?;
    drop(lock);
    Ok(link)
}

/// The folder of the repository.
fn cache_of(blob: &Path) -> &Path {
    blob.parent().and_then(Path::parent).unwrap_or(blob)
}

/// Makes `part` whole, from where it ends.
fn complete(client: &Client, about: &About, part: &Path) -> Result<(), Failure> {
    let disk = Failure::disk(part);
    let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(&disk)?;
    let result = append(client, about, &mut file, part);
    match result {
        Err(Wrong::Bytes(how)) => {
            // What is there is of another file, or of a page that says why there is none.
            file.set_len(0).map_err(&disk)?;
            Err(Failure::Broken(how))
        }
        Err(Wrong::Way(failure)) => Err(failure),
        Ok(()) => file.sync_data().map_err(&disk),
    }
}

/// Why bytes could not be appended.
enum Wrong {
    /// What is in the part is to be forgotten.
    Bytes(String),
    /// The part is good, as far as it goes.
    Way(Failure),
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self::Way(failure)
    }
}

fn append(client: &Client, about: &About, file: &mut File, part: &Path) -> Result<(), Wrong> {
    let disk = Failure::disk(part);
    let size = about.size;
    let mut got = file.metadata().map_err(&disk)?.len();
    if got >= size {
        // Nothing would be left to ask for.
        file.set_len(0).map_err(&disk)?;
        got = 0;
    }
    let answer = client.follow(about.url.clone(), &format!("bytes={got}-"), |_, _| ());
    let mut answer = match answer {
        Ok((_, answer)) => answer,
        Err(Failure::Status { status: 416, .. }) => {
            return Err(Wrong::Bytes(format!("bytes {got} to {size} are refused (416)")));
        }
        Err(failure) => return Err(failure.into()),
    };
    let is_part = is_part(&answer);
    let (from, total) = match content_range(answer.headers()) {
        Some(range) if is_part => range,
        None if is_part => return Err(Wrong::Bytes("a part without Content-Range came".into())),
        _ => (0, answer.body().content_length()),
    };
    if let Some(total) = total.filter(|&total| total != size) {
        return Err(Wrong::Bytes(format!("{total} bytes came instead of {size}")));
    }
    if from != got && from != 0 {
        return Err(Wrong::Bytes(format!("bytes from {from} came instead of from {got}")));
    }
    if from != got {
        // All of it came where the rest was asked for.
        file.set_len(0).map_err(&disk)?;
        got = 0;
    }
    let mut body = answer.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) if got == size => return Ok(()),
            Ok(0) if is_part && got < size => {
                let how = format!("the connection ended after {got} of {size} bytes");
                return Err(Failure::Broken(how).into());
            }
            Ok(0) => return Err(Wrong::Bytes(format!("{got} bytes came instead of {size}"))),
            Ok(count) => count,
            Err(error) => return Err(Failure::of_request(&error.into(), false).into()),
        };
        got += count as u64;
        if got > size {
            return Err(Wrong::Bytes(format!("more bytes came than the {size} of the file")));
        }
        file.write_all(&buffer[..count]).map_err(&disk)?;
    }
}

/// The lock, once nobody else has it. As long as `part` grows, it is waited for.
fn lock(path: PathBuf, part: &Path, patience: Duration) -> Result<File, Failure> {
    let file = File::create(&path).map_err(Failure::disk(&path))?;
    let length = || fs::metadata(part).map_or(0, |part| part.len());
    let (mut seen, mut since) = (length(), Instant::now());
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(Failure::Disk(path, error)),
            Err(TryLockError::WouldBlock) if length() != seen => {
                (seen, since) = (length(), Instant::now());
            }
            Err(TryLockError::WouldBlock) if since.elapsed() > patience => {
                return Err(Failure::Busy(path));
            }
            Err(TryLockError::WouldBlock) => {
                thread::sleep(patience.min(Duration::from_millis(100)));
            }
        }
    }
}

/// Makes `link` lead to `blob`, or moves the blob there where links cannot be made.
fn point(link: &Path, blob: &Path, file: &HubFile) -> io::Result<()> {
    // One that leads nowhere, or to what is not whole.
    match fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let up = "../".repeat(file.file().split('/').count() + 1);
    let name = blob.file_name().unwrap_or_default();
    symlink(&Path::new(&up).join("blobs").join(name), link).or_else(|_| fs::rename(blob, link))
}

#[cfg(unix)]
fn symlink(to: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, link)
}

#[cfg(windows)]
fn symlink(to: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
