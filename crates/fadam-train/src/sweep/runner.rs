//! The loop of a sweep: start what is missing, take in what ended, until nothing is left.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use toml::Table;

use super::folder::Folder;
use super::plan::{Plan, Records, Row};
use super::pool::Pool;
use super::progress::Progress;
use super::record::{Record, Status};
use super::{SweepTask, answers, curve, table};
use crate::{DeviceChoice, EXIT_INTERRUPTED, Interrupt, Outcome, atomic, bad_input};

/// How often it looks whether a run ended.
const POLL: Duration = Duration::from_millis(20);

/// A sweep on its way.
pub(super) struct Runner<'a> {
    plan: &'a Plan,
    task: &'a SweepTask,
    folder: &'a Folder,
    records: Records,
    progress: Progress,
}

impl<'a> Runner<'a> {
    /// Takes in what ran before.
    pub(super) fn new(
        plan: &'a Plan,
        task: &'a SweepTask,
        folder: &'a Folder,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        let progress = Progress::new(quiet);
        let mut runner = Self { plan, task, folder, records: Records::new(), progress };
        // A search that is over makes more rows known.
        while runner.restore()? > 0 {}
        folder.write_sweep(&plan.spec)?;
        Ok(runner)
    }

    fn restore(&mut self) -> anyhow::Result<usize> {
        let before = self.records.len();
        for row in self.plan.rows(&self.records) {
            if self.records.contains_key(&row.run) {
                continue;
            }
            if self.folder.config(&row.run).exists() {
                let config = self.plan.config(self.task, &row)?;
                self.folder.keep_config(&row.run, &config)?;
            }
            if let Some(record) = self.folder.record(&row.run)?.filter(Record::is_result) {
                self.records.insert(row.run, record);
            }
        }
        Ok(self.records.len() - before)
    }

    /// Runs what is missing.
    pub(super) fn run(
        mut self,
        jobs: usize,
        device: DeviceChoice,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Outcome> {
        self.begin()?;
        let mut pool = Pool::new(self.folder, self.plan.spec.task.text(), device, jobs);
        let mut interrupted = false;
        loop {
            if interrupt.requested() || interrupted {
                interrupted = true;
                pool.close();
            }
            let refused = self.refused().is_some();
            while pool.has_room() && !interrupted && !refused {
                let Some(row) = self.next(&pool) else { break };
                self.start(&mut pool, &row)?;
            }
            if pool.is_empty() {
                break;
            }
            std::thread::sleep(POLL);
            for (run, status) in pool.ended()? {
                interrupted |= self.take(&run, status)?;
            }
            let (done, of) = (self.records.len(), self.plan.count(&self.records));
            self.progress.look(self.folder, pool.runs(), done, of);
        }
        self.end(interrupted)
    }

    fn begin(&self) -> anyhow::Result<()> {
        let (done, of) = (self.records.len(), self.plan.count(&self.records));
        let at_most = if self.plan.spec.search.is_some() { "at most " } else { "" };
        let folder = self.folder.path().display();
        let before = if done > 0 { format!(", {done} of them ran before") } else { String::new() };
        self.progress.note(&format!("{folder}: {at_most}{of} runs{before}"));
        self.write()
    }

    /// The first row of the plan whose run neither ended nor is on its way.
    fn next(&self, pool: &Pool<'_>) -> Option<Row> {
        let busy: BTreeSet<&str> = pool.runs().collect();
        let mut rows = self.plan.rows(&self.records).into_iter();
        rows.find(|row| !self.records.contains_key(&row.run) && !busy.contains(row.run.as_str()))
    }

    fn start(&mut self, pool: &mut Pool<'_>, row: &Row) -> anyhow::Result<()> {
        let config = self.plan.config(self.task, row)?;
        self.folder.keep_config(&row.run, &config)?;
        self.folder.forget(&row.run)?;
        let steps = config.parse::<Table>()?["train"]["steps"].as_integer().unwrap_or(1);
        self.progress.begins(&row.run, steps.max(1) as u64);
        pool.start(&row.run)
    }

    /// Takes in how a run ended; true if it was interrupted.
    fn take(&mut self, run: &str, status: ExitStatus) -> anyhow::Result<bool> {
        let record = match self.folder.record(run)? {
            Some(record) => record,
            None if status.code() == Some(EXIT_INTERRUPTED.into()) => return Ok(true),
            None => {
                let record = Record::failed(format!("ended without a result ({status})"));
                self.folder.write_record(run, &record)?;
                record
            }
        };
        self.records.insert(run.to_owned(), record.clone());
        self.write()?;
        let (done, of) = (self.records.len(), self.plan.count(&self.records));
        self.progress.ends(run, &record, done, of);
        Ok(false)
    }

    /// Writes the tables and the curve.
    fn write(&self) -> anyhow::Result<()> {
        let place = |name: &str| -> PathBuf { self.folder.path().join(name) };
        let (plan, records) = (self.plan, &self.records);
        atomic::write(&place("results.csv"), &table::results(plan, records)?)?;
        atomic::write(&place("times.csv"), &table::times(plan, records)?)?;
        match curve::draw(plan, records)? {
            Some(svg) => atomic::write(&place(curve::FILE), svg.as_bytes()),
            None => Ok(()),
        }
    }

    /// The first run that bad input ended: the others would end so too.
    fn refused(&self) -> Option<(&String, &Record)> {
        self.records.iter().find(|(_, record)| record.bad_input)
    }

    fn end(&self, interrupted: bool) -> anyhow::Result<Outcome> {
        let (done, of) = (self.records.len(), self.plan.count(&self.records));
        let count = |status| self.records.values().filter(|record| record.status == status).count();
        let [completed, diverged, failed] =
            [Status::Completed, Status::Diverged, Status::Failed].map(count);
        let any = completed + diverged > 0;
        let table = any.then(|| answers::table(self.plan, &self.records) + "\n");
        let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let curve = self.folder.path().join(curve::FILE).is_file();
        let curve =
            if curve { format!(", with the curve in {}", curve::FILE) } else { String::new() };
        self.progress.finish(&format!(
            "{}{done} of {of} runs: {completed} completed, {diverged} diverged{failures}\n\
             sweep folder: {}{curve}",
            table.unwrap_or_default(),
            self.folder.path().display(),
        ));
        if let Some((run, record)) = self.refused() {
            return Err(bad_input(anyhow::anyhow!("run {run}: {}", record.message)));
        }
        if interrupted {
            self.progress.finish("interrupted: the same command goes on with what is missing");
            return Ok(Outcome::Interrupted);
        }
        if let Some((run, record)) = self.records.iter().find(|(_, r)| r.status == Status::Failed) {
            anyhow::bail!(
                "{failed} of {of} runs failed; the first is {run}: {} ({}); the same command tries them again",
                record.message,
                self.folder.log(run).display()
            );
        }
        Ok(Outcome::Completed)
    }
}
