//! The text files of a stream, and their tokens in the cache.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Instant, UNIX_EPOCH};

use flate2::Crc;

use super::token_file::{Identity, TokenFile, TokenWriter};
use crate::hub::Hub;
use crate::text::files::{self, Format, Place};
use crate::text::source::read_file;
use crate::text::{Document, SourceReport, Tokenizer};
use crate::write_aside::{unwritable, write_aside_or};
use crate::{Error, Result};

/// So many bytes of text are held and encoded at a time.
const GROUP_BYTES: usize = 4 << 20;

/// The files that a stream reads, each called a shard, and the folder where their tokens are kept.
///
/// A shard is downloaded (where it is of the hub), decompressed and encoded once. From then on its
/// tokens are read from the cache, which several runs may share; a file of the hub is not needed
/// any more, and of a branch like `main` the tokens stay those of the day they were made.
#[derive(Debug)]
pub struct Shards {
    files: Vec<(Place, Format)>,
    ignored: Vec<PathBuf>,
    tokenizer: Tokenizer,
    fingerprint: String,
    cache: PathBuf,
    hub: Hub,
}

/// A shard, ready to be read.
pub(super) struct Prepared {
    pub(super) tokens: TokenFile,
    /// What was done for it, in words; `None` when all was there.
    pub(super) note: Option<String>,
}

impl Shards {
    /// The files at `paths` (as of [`TextSource::Paths`](crate::text::TextSource)), in this order.
    ///
    /// # Errors
    /// Those of the paths; nothing is read or downloaded yet.
    pub fn find(
        paths: &[PathBuf],
        tokenizer: &Tokenizer,
        cache: PathBuf,
        hub: Hub,
    ) -> Result<Self> {
        let found = files::find(paths)?;
        if found.files.is_empty() {
            let place = crate::text::TextSource::Paths(paths.to_vec()).to_string();
            let report = SourceReport { ignored_files: found.ignored, ..SourceReport::default() };
            return Err(Error::EmptyCorpus { place, report: Box::new(report) });
        }
        let fingerprint = tokenizer.fingerprint()?;
        let (files, ignored) = (found.files, found.ignored);
        Ok(Self { files, ignored, tokenizer: tokenizer.clone(), fingerprint, cache, hub })
    }

    /// Refuses held-out files that are also here.
    ///
    /// # Errors
    /// The first of them; paths that cannot be followed.
    pub fn check_held_out(&self, held_out: &[PathBuf]) -> Result<()> {
        let here = self.files.iter().map(|(place, _)| place.real());
        let here = here.collect::<Result<HashSet<_>>>()?;
        for (place, _) in files::find(held_out)?.files {
            if here.contains(&place.real()?) {
                return Err(Error::HeldOutOverlap { path: place.to_string().into() });
            }
        }
        Ok(())
    }

    /// How many there are, at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Files in the given folders that are not text.
    pub fn ignored_files(&self) -> &[PathBuf] {
        &self.ignored
    }

    /// What they are, whatever folder they are in.
    pub(super) fn names_crc(&self) -> u32 {
        let names: Vec<String> = self.files.iter().map(|(place, _)| place.file_name()).collect();
        crc(&names.join("\n"))
    }

    /// The tokens of a shard, made if they are not in the cache. `stop` is asked between groups of
    /// documents.
    pub(super) fn prepare(&self, index: usize, stop: &dyn Fn() -> bool) -> Result<Prepared> {
        let (place, format) = &self.files[index];
        let identity = self.identity(place)?;
        let path = self.cache.join(format!(
            "{}-{:08x}-{}.tokens",
            place.file_name(),
            crc(&place.to_string()),
            self.fingerprint
        ));
        if let Ok(Some(tokens)) = TokenFile::open(&path, &identity) {
            return Ok(Prepared { tokens, note: None });
        }
        let _lock = self.lock()?;
        if stop() {
            return Err(Error::Stopped);
        }
        // Again: another run may have made it meanwhile.
        let useless = match TokenFile::open(&path, &identity) {
            Ok(Some(tokens)) => return Ok(Prepared { tokens, note: None }),
            Ok(None) => String::new(),
            Err(reason) => format!("; {} {reason} and was made anew", path.display()),
        };
        let started = Instant::now();
        write_aside_or(&path, |file| {
            let mut out = TokenWriter::new(file, self.tokenizer.vocab_size());
            let report = self.encode(place, *format, stop, |tokens| {
                out.write(tokens).map_err(|cause| unwritable(&path, cause))
            })?;
            out.finish(&identity, &report).map_err(|cause| unwritable(&path, cause))
        })?;
        let reread =
            TokenFile::open(&path, &identity).and_then(|file| file.ok_or("is gone".into()));
        let tokens = reread.map_err(|reason| unwritable(&path, io::Error::other(reason)))?;
        let (report, secs) = (tokens.report(), started.elapsed().as_secs_f64());
        let note = format!("{place}: {report}: {} tokens in {secs:.1} s{useless}", tokens.len());
        Ok(Prepared { tokens, note: Some(note) })
    }

    /// Encodes a file, a group of documents at a time, each on all threads.
    fn encode(
        &self,
        place: &Place,
        format: Format,
        stop: &dyn Fn() -> bool,
        mut write: impl FnMut(&[u32]) -> Result<()>,
    ) -> Result<SourceReport> {
        let mut report = SourceReport { files: 1, ..SourceReport::default() };
        let mut group: Vec<Document> = Vec::new();
        let mut bytes = 0;
        let end = read_file(place, format, &self.hub, &mut |document| {
            if report.count(&document) {
                bytes += document.text.len();
                group.push(document);
            }
            if bytes >= GROUP_BYTES {
                if stop() {
                    return Ok(ControlFlow::Break(()));
                }
                write(&self.tokenizer.encode_documents(&group)?)?;
                group.clear();
                bytes = 0;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if end.is_break() {
            return Err(Error::Stopped);
        }
        write(&self.tokenizer.encode_documents(&group)?)?;
        Ok(report)
    }

    fn identity(&self, place: &Place) -> Result<Identity> {
        let source = match place {
            Place::Hub(file) => file.to_string(),
            Place::Local(path) => {
                let refused = |cause| Error::Io { action: "read", path: path.clone(), cause };
                let about = fs::metadata(path).map_err(refused)?;
                let changed = about.modified().map_err(refused)?;
                let changed = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
                let path = fs::canonicalize(path).map_err(refused)?;
                let (path, bytes) = (path.display(), about.len());
                format!("{path}, {bytes} bytes, changed at {} ns", changed.as_nanos())
            }
        };
        Ok(Identity { source, tokenizer: self.fingerprint.clone() })
    }

    /// Only one at a time makes tokens in this cache; the others then find them made.
    fn lock(&self) -> Result<File> {
        let refused = |action| move |cause| Error::Io { action, path: self.cache.clone(), cause };
        fs::create_dir_all(&self.cache).map_err(refused("create"))?;
        let file = File::create(self.cache.join("lock")).map_err(refused("write"))?;
        file.lock().map_err(refused("lock"))?;
        Ok(file)
    }
}

fn crc(text: &str) -> u32 {
    let mut crc = Crc::new();
    crc.update(text.as_bytes());
    crc.sum()
}
