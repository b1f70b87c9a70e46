//! Folders as LibriSpeech has them.
//!
//! ```text
//! <split>/<speaker>/<chapter>/<speaker>-<chapter>-NNNN.flac
//! <split>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt     one line each: ID TRANSCRIPT
//! ```

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::SourceReport;
use super::utterance::{Audio, Utterance};
use crate::text::utf8;
use crate::{Error, Result};

/// What the names of transcripts end in.
pub(super) const TRANSCRIPTS: &str = ".trans.txt";

/// The endings that a sound may have beside its transcript, in the order in which they are looked for.
const SOUNDS: [&str; 4] = ["flac", "wav", "mp3", "ogg"];

/// Adds what is below `folder`, in the order of the paths; says whether there was a transcript.
pub(super) fn read(
    folder: &Path,
    utterances: &mut Vec<Utterance>,
    report: &mut SourceReport,
) -> Result<bool> {
    let refused = |cause| Error::Io { action: "list", path: folder.to_path_buf(), cause };
    let mut entries =
        fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(refused)?;
    entries.sort_by_key(fs::DirEntry::path);
    let (mut transcripts, mut sounds, mut folders) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        let path = entry.path();
        // Links to folders are not followed: they may lead back up.
        if entry.file_type().map_err(refused)?.is_dir() {
            folders.push(path);
        } else if path.to_string_lossy().ends_with(TRANSCRIPTS) {
            transcripts.push(path);
        } else if is_sound(&path) {
            sounds.push(path);
        } else {
            report.ignored_files.push(path);
        }
    }
    let here: HashSet<PathBuf> = sounds.iter().cloned().collect();
    let mut named = HashSet::new();
    for transcript in &transcripts {
        report.files += 1;
        for (id, text) in lines(transcript)? {
            let sound = sound_of(folder, &id, &here);
            named.insert(sound.clone());
            let speaker = id.split('-').next().map(str::to_owned);
            utterances.push(Utterance::new(id, text, speaker, Audio::File(sound)));
        }
    }
    report.untranscribed.extend(sounds.into_iter().filter(|sound| !named.contains(sound)));
    let mut found = !transcripts.is_empty();
    for folder in folders {
        found |= read(&folder, utterances, report)?;
    }
    Ok(found)
}

fn is_sound(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    SOUNDS.contains(&&*ending) && !path.is_dir()
}

/// The file that `id` names: FLAC, as LibriSpeech has it, unless only another one is there.
fn sound_of(folder: &Path, id: &str, here: &HashSet<PathBuf>) -> PathBuf {
    let with = |ending: &&str| folder.join(format!("{id}.{ending}"));
    let found = SOUNDS.iter().map(with).find(|path| here.contains(path));
    found.unwrap_or_else(|| with(&SOUNDS[0]))
}

/// (ID, transcript) of each line.
fn lines(path: &Path) -> Result<Vec<(String, String)>> {
    let refused = |cause| Error::Io { action: "read", path: path.to_path_buf(), cause };
    let text = utf8(path, fs::read(path).map_err(refused)?)?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let (id, transcript) = line.split_once(' ').unwrap_or((line, ""));
        // The ID becomes the name of a file in this folder.
        if id.is_empty() || id.contains(['/', '\\']) {
            let reason = "expected an ID, one space and the transcript".to_owned();
            return Err(Error::SpeechLine { path: path.to_path_buf(), line: number + 1, reason });
        }
        lines.push((id.to_owned(), transcript.to_owned()));
    }
    Ok(lines)
}
