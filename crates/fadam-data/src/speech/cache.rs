//! What decoding a sound has shown, kept between runs: a large corpus is decoded once to be checked, and
//! not at each start of a run.
//!
//! A file of JSON lines. The first says what made it; each other one is a sound, by its path, size and
//! time of change, so that a sound that changed is decoded again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::write_aside::write_aside;
use crate::{Error, Result};

/// The name of the file in the folder of caches.
const NAME: &str = "speech-checks.jsonl";

/// The first line. Another version may decode to another number of samples.
const MAKER: &str = concat!("{\"speech_checks\":1,\"crate\":\"", env!("CARGO_PKG_VERSION"), "\"}");

/// What decoding a sound has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Heard {
    /// At 16 kHz.
    pub(super) samples: usize,
    /// In the file.
    pub(super) rate: u32,
    pub(super) channels: usize,
    pub(super) silent: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Its [`stamp`].
    sound: String,
    heard: Heard,
}

/// Sounds that were decoded before, by their [`stamp`].
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Where it is kept; nowhere in a run without a cache.
    path: Option<PathBuf>,
    known: BTreeMap<String, Heard>,
    new: usize,
}

impl Cache {
    /// What a folder keeps; says why what it keeps is of no use.
    pub(super) fn open(folder: &Path) -> Result<(Self, Option<String>)> {
        fs::create_dir_all(folder).map_err(|cause| Error::Io {
            action: "create",
            path: folder.to_path_buf(),
            cause,
        })?;
        let path = folder.join(NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => MAKER.to_owned(),
            // Not UTF-8.
            Err(cause) if cause.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(cause) => return Err(Error::Io { action: "read", path, cause }),
        };
        let (known, note) = match parse(&text) {
            Ok(known) => (known, None),
            Err(reason) => {
                let note = format!("{} {reason}, and is made anew", path.display());
                (BTreeMap::new(), Some(note))
            }
        };
        Ok((Self { path: Some(path), known, new: 0 }, note))
    }

    pub(super) fn get(&self, stamp: &str) -> Option<Heard> {
        self.known.get(stamp).copied()
    }

    pub(super) fn insert(&mut self, stamp: String, heard: Heard) {
        if self.path.is_none() {
            return;
        }
        self.new += usize::from(self.known.insert(stamp, heard) != Some(heard));
    }

    /// Writes it once a good part of it is new, so that a run that is ended early has not looked in
    /// vain.
    pub(super) fn save_now_and_then(&mut self) -> Result<()> {
        if self.new < 4096.max(self.known.len() / 2) { Ok(()) } else { self.save() }
    }

    /// Writes it, if there is something new.
    pub(super) fn save(&mut self) -> Result<()> {
        if std::mem::take(&mut self.new) == 0 {
            return Ok(());
        }
        let Some(path) = &self.path else { return Ok(()) };
        write_aside(path, |file| {
            writeln!(file, "{MAKER}")?;
            for (sound, &heard) in &self.known {
                let line = Line { sound: sound.clone(), heard };
                serde_json::to_writer(&mut *file, &line)?;
                file.write_all(b"\n")?;
            }
            Ok(())
        })
    }
}

fn parse(text: &str) -> std::result::Result<BTreeMap<String, Heard>, String> {
    let mut lines = text.lines();
    match lines.next() {
        Some(MAKER) => {}
        Some(first) if first.starts_with("{\"speech_checks\"") => {
            return Err("is of another version".to_owned());
        }
        _ => return Err("is damaged".to_owned()),
    }
    lines
        .map(|line| {
            let line: Line = serde_json::from_str(line).map_err(|_| "is damaged".to_owned())?;
            Ok((line.sound, line.heard))
        })
        .collect()
}

/// What a file is known by: `identity`, its size and when it changed.
pub(super) fn stamp(identity: &str, about: &fs::Metadata) -> String {
    let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanos = changed.unwrap_or_default().as_nanos();
    format!("{identity}, {} bytes, changed at {nanos} ns", about.len())
}
