//! Event files of TensorBoard: what is in `metrics.jsonl`, and what a line of JSON cannot show.
//!
//! ```text
//! events.out.tfevents.<seconds since 1970>.fadam.<process>     one a session; the names are in the order of time
//! ```
//!
//! | tag | kind | what |
//! |---|---|---|
//! | `train/…`, `eval/…` | scalar | the numbers of lines of `metrics.jsonl` |
//! | `clip/clipped` | scalar | `clipped` of training lines |
//! | `time/…_s`, `memory/peak_rss_mb` | scalar | `phase_s` and `peak_rss_mb` of training lines |
//! | `fim/log10_f/KIND` | histogram | log₁₀ of the Fisher information of all parameters of a kind, those above 0 |
//! | `fim/log10_f_mean/KIND` | scalar | its mean |
//! | `fim/zeros` | scalar | the share of the Fisher information that is 0 |
//! | `clip/log10_rms_natural` | histogram | log₁₀ RMS(ḡ) before clipping, a number a tensor |
//! | `sample`, `config`, `divergence` | text | an evaluation's sample, `config.toml`, steps that were not finite |
//! | `reconstructions`, … | image | an evaluation's pictures |
//!
//! Parameters whose names differ in numbers alone are of one kind: `blocks.3.attn.q` is a `blocks.*.attn.q`.
//!
//! A session begins with an event that tells TensorBoard to forget what an earlier one wrote after the checkpoint that
//! this one goes on from, and so does a run that goes back. (The evaluation of a run that was stopped with `--steps` between two that are due
//! stays, which `metrics.jsonl` drops: it was of that step.) Nothing in a run reads an event file, and two runs that agree to the last
//! bit differ in the times in them.

mod histogram;
mod messages;
mod record;
#[cfg(test)]
mod tests;
mod value;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

pub(crate) use self::histogram::LogHistogram;
pub(crate) use self::messages::Value;
use self::messages::{Event, SessionLog, Status, Summary, What};
pub(crate) use self::value::{image, scalar, text};

/// What the names of all event files begin with. TensorBoard looks for `tfevents` and reads in the order of names.
const PREFIX: &str = "events.out.tfevents.";

/// The event file of a session, made when the first event is written.
#[derive(Debug)]
pub(crate) struct EventFile {
    folder: PathBuf,
    /// The first step whose events are new.
    first: u64,
    file: Option<(PathBuf, File)>,
}

impl EventFile {
    /// A file in `folder` for a session whose events are of `first` and later steps: older ones of those steps do not count any more.
    pub(crate) fn new(folder: &Path, first: u64) -> Self {
        Self { folder: folder.to_owned(), first, file: None }
    }

    /// Appends an event, in one piece, so that TensorBoard shows it while the run goes on.
    pub(crate) fn write(&mut self, step: u64, values: Vec<Value>) -> anyhow::Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.append(step, What::Summary(Summary { values }))
    }

    /// From here on, events of `first` and later steps take the place of those before.
    pub(crate) fn go_back(&mut self, first: u64) -> anyhow::Result<()> {
        if self.file.is_some() { self.append(first, start()) } else { Ok(()) }
    }

    /// Waits until all events are on the disk.
    pub(crate) fn sync(&self) -> anyhow::Result<()> {
        let Some((path, file)) = &self.file else {
            return Ok(());
        };
        file.sync_all().with_context(|| cannot_write(path))
    }

    fn append(&mut self, step: u64, what: What) -> anyhow::Result<()> {
        let wall_time =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        let mut bytes = Vec::new();
        let mut record = |step: u64, what: What| {
            record::append(
                &Event { wall_time, step: step.cast_signed(), what: Some(what) },
                &mut bytes,
            );
        };
        if self.file.is_none() {
            record(0, What::FileVersion("brain.Event:2".to_owned()));
            record(self.first, start());
        }
        record(step, what);
        let (path, file) = match &mut self.file {
            Some(file) => file,
            none => none.insert(create(&self.folder)?),
        };
        file.write_all(&bytes).with_context(|| cannot_write(path))
    }
}

fn start() -> What {
    What::Session(SessionLog { status: Status::Start.into() })
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// A file whose name comes after those of all event files in the folder, whatever the clock says.
fn create(folder: &Path) -> anyhow::Result<(PathBuf, File)> {
    let newest = newest(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let seconds = newest.map_or(now, |newest| now.max(newest.saturating_add(1)));
    let path = folder.join(format!("{PREFIX}{seconds:010}.fadam.{}", std::process::id()));
    let file = File::create_new(&path).with_context(|| cannot_write(&path))?;
    Ok((path, file))
}

/// The seconds in the name of the newest event file.
fn newest(folder: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let seconds = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok());
        newest = newest.max(seconds);
    }
    Ok(newest)
}
