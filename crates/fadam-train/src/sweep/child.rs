//! One run of a sweep, in a process of its own.

use std::fs;

use anyhow::Context;
use clap::Parser;

use super::SweepTask;
use super::folder::Folder;
use super::record::Record;
use crate::{CommonArgs, DeviceChoice, Outcome, checkpoint};

/// The command line that the program of the task would have.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    common: CommonArgs,
}

/// Begins or continues a run and keeps how it ended, unless it ended before.
///
/// # Errors
///
/// Those of the run, once they are kept.
pub(super) fn run(
    folder: &Folder,
    task: &SweepTask,
    run: &str,
    device: DeviceChoice,
) -> anyhow::Result<Outcome> {
    let _lock = folder.lock_run(run)?;
    if folder.record(run)?.is_some_and(|record| record.is_result()) {
        return Ok(Outcome::Completed);
    }
    let place = folder.run(run);
    let resume = checkpoint::latest(&place.join(checkpoint::FOLDER))?.is_some();
    if !resume && place.exists() {
        // Of a run that was killed before its first checkpoint: nothing in it can be continued.
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    let (config, out, device) = (folder.config(run), place.clone(), device.to_string());
    let mut words = vec!["run".into(), "--config".into(), config.into_os_string()];
    words.extend(["--out".into(), out.into_os_string(), "--device".into(), device.into()]);
    words.push("--until-closed".into());
    if resume {
        words.push("--resume".into());
    }
    let ended = (task.train)(&Line::try_parse_from(words)?.common);
    let record = match &ended {
        Ok(Outcome::Interrupted | Outcome::Stopped) => return ended,
        Ok(Outcome::Completed) => Record::of(&place, None)?,
        Err(error) => Record::of(&place, Some(error))?,
    };
    folder.write_record(run, &record)?;
    ended
}
