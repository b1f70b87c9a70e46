//! Runs as processes: this program again, a few at a time.
//!
//! A run's standard input is a pipe that the sweep holds. When it closes, because the sweep was interrupted or is gone, the
//! run ends after its step and leaves a checkpoint; no signal has to reach it.

use std::fs::OpenOptions;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context;

use super::folder::Folder;
use crate::DeviceChoice;

/// The variable with the number of threads of a process.
const THREADS: &str = "RAYON_NUM_THREADS";

/// The argument that makes this program one run of a sweep.
pub(super) const RUN_ARGUMENT: &str = "--sweep-run";

/// The processes of a sweep.
pub(super) struct Pool<'a> {
    folder: &'a Folder,
    task: String,
    device: DeviceChoice,
    jobs: usize,
    running: Vec<(String, Child)>,
}

impl<'a> Pool<'a> {
    pub(super) fn new(folder: &'a Folder, task: String, device: DeviceChoice, jobs: usize) -> Self {
        Self { folder, task, device, jobs, running: Vec::new() }
    }

    /// Whether another run can be started.
    pub(super) fn has_room(&self) -> bool {
        self.running.len() < self.jobs
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = &str> {
        self.running.iter().map(|(run, _)| run.as_str())
    }

    /// Starts a run with its share of the threads: all threads by runs at a time, at least one.
    pub(super) fn start(&mut self, run: &str) -> anyhow::Result<()> {
        let log = self.folder.log(run);
        let open = OpenOptions::new().create(true).append(true).open(&log);
        let out = open.with_context(|| format!("cannot write {}", log.display()))?;
        let threads = (candle_core::utils::get_num_threads() / self.jobs).max(1);
        let child = Command::new(std::env::current_exe()?)
            .args([RUN_ARGUMENT, &self.task, run, "--device", &self.device.to_string(), "--out"])
            .arg(self.folder.path())
            .env(THREADS, threads.to_string())
            .stdin(Stdio::piped())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()
            .with_context(|| format!("cannot start {run}"))?;
        self.running.push((run.to_owned(), child));
        Ok(())
    }

    /// The runs whose process ended since the last call.
    pub(super) fn ended(&mut self) -> anyhow::Result<Vec<(String, ExitStatus)>> {
        let mut ended = Vec::new();
        let mut running = Vec::new();
        for (run, mut child) in std::mem::take(&mut self.running) {
            match child.try_wait()? {
                Some(status) => ended.push((run, status)),
                None => running.push((run, child)),
            }
        }
        self.running = running;
        Ok(ended)
    }

    /// Asks all runs to end after their step.
    pub(super) fn close(&mut self) {
        for (_, child) in &mut self.running {
            child.stdin = None;
        }
    }
}
