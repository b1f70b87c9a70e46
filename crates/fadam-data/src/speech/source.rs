//! Where speech comes from, and a report of what was found there.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::embedded::embedded;
use super::utterance::{Audio, Utterance};
use super::{librispeech, manifest, parquet_rows};
use crate::hub::{Hub, HubFile, RepoKind};
use crate::{Error, Result, name_range};

/// What is read, for messages.
const EXPECTED: &str = "a LibriSpeech folder (with .trans.txt files), a manifest ending in .tsv, or a \
                        table ending in .parquet";

/// Where the utterances are.
///
/// | place | utterances |
/// |---|---|
/// | a folder | as LibriSpeech has it, from any level on: the lines `ID TRANSCRIPT` of all `.trans.txt` below it, the sound `ID.flac` (or `.wav`, `.mp3`, `.ogg`) beside each; in the order of the paths |
/// | `.tsv` | a line each under the header `path`, `text` and perhaps `speaker`, `confidence` and `weight`, divided by tabs; paths begin at the manifest's folder |
/// | `.parquet` | a row each: `audio {bytes, path}`, `text`, and perhaps `speaker_id` and `id`, as `openslr/librispeech_asr` has them; pages plain or compressed by SNAPPY or GZIP |
/// | `hub:OWNER/NAME[@REVISION]/FILE.parquet` | the same, of a dataset on the hub ([`Hub::from_env`]) |
///
/// `{0000..0012}` in a name stands for all these numbers. Text is UTF-8.
///
/// ```
/// use fadam_data::speech::SpeechSource;
///
/// let folder = tempfile::tempdir()?;
/// let manifest = folder.path().join("train.tsv");
/// std::fs::write(&manifest, "path\ttext\tspeaker\na.wav\tHello there.\tjoe\nb.wav\tBye!\tjoe\n")?;
/// let (utterances, report) = SpeechSource::Places(vec![manifest]).read()?;
/// assert_eq!(utterances[1].text, "Bye!");
/// assert_eq!(report.to_string(), "2 utterances from 1 file");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpeechSource {
    /// The clips that come with the crate: [`embedded`].
    Embedded,
    /// Files and folders, read in this order.
    Places(Vec<PathBuf>),
}

/// What was found. Its `Display` is one line to print.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceReport {
    /// Files of transcripts that were read; the embedded clips count as one.
    pub files: usize,
    /// Utterances that they name. Whether their sounds exist is not looked at here.
    pub utterances: usize,
    /// Sounds in LibriSpeech folders that no transcript names: not read.
    pub untranscribed: Vec<PathBuf>,
    /// Other files in these folders, and links to folders: not read.
    pub ignored_files: Vec<PathBuf>,
}

impl fmt::Display for SourceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, utterances, untranscribed, ignored_files } = self;
        let s = |count: usize| if count == 1 { "" } else { "s" };
        write!(f, "{utterances} utterance{} from {files} file{}", s(*utterances), s(*files))?;
        if let Some(first) = untranscribed.first() {
            let count = untranscribed.len();
            let first = first.display();
            write!(f, "; {count} sound{} without a transcript, first {first}", s(count))?;
        }
        if let Some(first) = ignored_files.first() {
            let count = ignored_files.len();
            write!(f, "; {count} other file{} ignored, first {}", s(count), first.display())?;
        }
        Ok(())
    }
}

impl SpeechSource {
    /// Reads all transcripts, in an order that depends on nothing but the places. Sounds are not
    /// opened; tables of the hub are downloaded.
    ///
    /// # Errors
    /// A place that is missing, unreadable, given twice or of another kind; text that is not UTF-8; a
    /// line or a table that is not as it must be; a sound that is given twice; not one utterance.
    pub fn read(&self) -> Result<(Vec<Utterance>, SourceReport)> {
        self.read_with(&Hub::from_env(), &|_| {})
    }

    /// [`SpeechSource::read`] with another way to the hub. `tell` gets a line before each file of the hub,
    /// which may have to be downloaded.
    ///
    /// # Errors
    /// As there.
    pub fn read_with(
        &self,
        hub: &Hub,
        tell: &dyn Fn(&str),
    ) -> Result<(Vec<Utterance>, SourceReport)> {
        let (mut utterances, mut report) = (Vec::new(), SourceReport::default());
        match self {
            Self::Embedded => {
                report.files = 1;
                utterances = embedded()?.into_iter().map(Utterance::from).collect();
            }
            Self::Places(places) => {
                let places = places.iter().map(|place| name_range::expand(place));
                let places = places.collect::<Result<Vec<_>>>()?.concat();
                for (at, place) in places.iter().enumerate() {
                    if HubFile::is_meant(place) {
                        tell(&format!("{}: file {} of {}", place.display(), at + 1, places.len()));
                    }
                    read_place(place, hub, &mut utterances, &mut report)?;
                }
            }
        }
        report.utterances = utterances.len();
        if utterances.is_empty() {
            return Err(Error::NoUtterances { place: self.to_string(), report: Box::new(report) });
        }
        reject_duplicates(&utterances)?;
        Ok((utterances, report))
    }
}

impl fmt::Display for SpeechSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded speech"),
            Self::Places(places) if places.is_empty() => f.write_str("(no place given)"),
            Self::Places(places) => {
                let names: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

impl From<super::embedded::EmbeddedClip> for Utterance {
    fn from(clip: super::embedded::EmbeddedClip) -> Self {
        let audio = Audio::Embedded { name: format!("embedded:{}", clip.name), bytes: clip.bytes };
        Self::new(clip.name.to_owned(), clip.text.to_owned(), Some(clip.speaker.to_owned()), audio)
    }
}

/// Refuses held-out speech that is also trained on.
///
/// # Errors
/// The first recording that is in both.
pub fn check_held_out(train: &[Utterance], held_out: &[Utterance]) -> Result<()> {
    let trained: HashSet<String> = train.iter().map(|u| u.audio.identity()).collect();
    match held_out.iter().find(|u| trained.contains(&u.audio.identity())) {
        Some(both) => Err(Error::HeldOutClip { clip: both.audio.to_string() }),
        None => Ok(()),
    }
}

fn read_place(
    place: &Path,
    hub: &Hub,
    utterances: &mut Vec<Utterance>,
    report: &mut SourceReport,
) -> Result<()> {
    let unsupported = || Error::NoSpeechPlace { path: place.to_path_buf(), expected: EXPECTED };
    let ends = |ending: &str| place.to_string_lossy().to_lowercase().ends_with(ending);
    if HubFile::is_meant(place) {
        let file = HubFile::parse(&place.to_string_lossy(), RepoKind::Dataset, None)?;
        if !ends(".parquet") {
            return Err(unsupported());
        }
        report.files += 1;
        utterances.extend(parquet_rows::read(&hub.fetch(&file)?, &file.to_string())?);
        return Ok(());
    }
    let about = fs::metadata(place).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => Error::MissingPath { path: place.to_path_buf() },
        _ => Error::Io { action: "read", path: place.to_path_buf(), cause },
    })?;
    if about.is_dir() {
        let found = librispeech::read(place, utterances, report)?;
        return if found { Ok(()) } else { Err(unsupported()) };
    }
    report.files += 1;
    if ends(".tsv") {
        utterances.extend(manifest::read(place)?);
    } else if ends(".parquet") {
        utterances.extend(parquet_rows::read(place, &place.display().to_string())?);
    } else {
        return Err(unsupported());
    }
    Ok(())
}

/// A sound given twice would count twice, or be trained on and held out.
fn reject_duplicates(utterances: &[Utterance]) -> Result<()> {
    let mut seen = HashSet::new();
    match utterances.iter().find(|u| !seen.insert(u.audio.identity())) {
        Some(twice) => Err(Error::DuplicateClip { clip: twice.audio.to_string() }),
        None => Ok(()),
    }
}
