//! `metrics.jsonl`: one JSON object a line, flushed as it is written.
//!
//! ```text
//! {"step":0,"split":"eval","loss":7.62,"bits_per_byte":3.1}
//! {"step":10,"split":"train","loss":7.1,"lr":0.001,"tokens":20480,"tokens_per_s":4812.3}
//! ```
//!
//! A training line's `loss` is the mean over the steps since the line before; `loss_median`, `loss_excess`,
//! `spikes` and `skipped` are explained in `stability.rs`. `grad_norm` is the norm of all gradients together in the line's last step, before
//! anything is clipped, and `clipped` the share of tensors whose natural gradient that step clipped; null if it was skipped. A line with
//! `"split":"optimizer"` has more of that step: `diagnostics.rs`. A line with `"split":"divergence"` is of a step that was
//! not finite: `divergence.rs`. NaN and infinity are null.
//!
//! Measured are the rates (`…_per_s`), `phase_s`, the seconds since the training line before by phase (`phases.rs`), and `peak_rss_mb`, the
//! most memory so far in 10⁶ bytes (null where it is not known), so that two runs that agree bit for bit differ in them alone.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::{Evaluation, atomic};

pub(crate) const FILE: &str = "metrics.jsonl";

/// The third kind of line, beside `train` and `eval`: a step that was not finite.
pub(crate) const DIVERGENCE: &str = "divergence";

/// A JSON object whose fields stay in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Record(Vec<(String, Value)>);

impl Record {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a field. A float that is NaN or infinite becomes null.
    pub(crate) fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    pub(crate) fn with_all(mut self, fields: impl IntoIterator<Item = (String, Value)>) -> Self {
        self.0.extend(fields);
        self
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn line(
    step: u64,
    split: &str,
    loss: Option<f64>,
    fields: impl IntoIterator<Item = (String, Value)>,
) -> serde_json::Result<String> {
    let loss = loss.map(|loss| ("loss".to_owned(), loss.into()));
    let record = Record::new().with("step", step).with("split", split).with_all(loss);
    serde_json::to_string(&record.with_all(fields))
}

fn fields(evaluation: &Evaluation) -> impl Iterator<Item = (String, Value)> {
    evaluation.metrics.iter().map(|(name, value)| (name.clone(), (*value).into()))
}

/// The line of an evaluation, without its end.
pub(crate) fn eval_line(step: u64, evaluation: &Evaluation) -> serde_json::Result<String> {
    line(step, "eval", Some(evaluation.loss), fields(evaluation))
}

/// The losses of a run so far, as `(step, loss)`: what the curve is drawn from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Curves {
    pub(crate) train: Vec<(u64, f64)>,
    pub(crate) eval: Vec<(u64, f64)>,
}

impl Curves {
    /// Adds a point; what is not finite cannot be drawn.
    fn add(&mut self, split: &str, step: u64, loss: f64) {
        if loss.is_finite() {
            match split {
                "eval" => self.eval.push((step, loss)),
                "train" => self.train.push((step, loss)),
                _ => {}
            }
        }
    }

    fn add_line(&mut self, line: &str) {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            return;
        };
        if let (Some(split), Some(step), Some(loss)) =
            (line["split"].as_str(), line["step"].as_u64(), line["loss"].as_f64())
        {
            self.add(split, step, loss);
        }
    }
}

/// The open `metrics.jsonl` of a run.
#[derive(Debug)]
pub(crate) struct MetricsLog {
    path: PathBuf,
    /// Open once a line was written.
    file: Option<File>,
    /// The lines that are kept, until the first one is written after them.
    kept: String,
    lines: u64,
    curves: Curves,
    /// Whether lines are only counted: those of a rank but 0.
    silent: bool,
}

impl MetricsLog {
    /// One that writes nothing.
    pub(crate) fn silent() -> Self {
        let (path, kept) = (PathBuf::new(), String::new());
        Self { path, file: None, kept, lines: 0, curves: Curves::default(), silent: true }
    }

    /// Opens `folder/metrics.jsonl` to go on after its first `keep` lines. Those after them, which a
    /// run wrote after its last checkpoint, are dropped when the next line is written.
    pub(crate) fn open(folder: &Path, keep: u64) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let mut log = Self { path, silent: false, ..Self::silent() };
        for line in log.read()?.take(usize::try_from(keep)?) {
            log.keep(&line?);
        }
        Ok(log)
    }

    /// The same, for a run that goes back to where it had `keep` lines: of those after them, the ones about
    /// steps that were not finite stay, since no checkpoint tells of them.
    pub(crate) fn go_back(&mut self, keep: u64) -> anyhow::Result<()> {
        if self.silent {
            return Ok(());
        }
        let mut log = Self::open(self.folder(), keep)?;
        for line in self.read()?.skip(usize::try_from(keep)?) {
            let line = line?;
            let json: Value = serde_json::from_str(&line).unwrap_or_default();
            if json["split"] == DIVERGENCE {
                log.keep(&line);
            }
        }
        *self = log;
        Ok(())
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The lines of the file, none if it does not exist.
    fn read(&self) -> anyhow::Result<impl Iterator<Item = anyhow::Result<String>> + use<>> {
        let path = self.path.clone();
        let file = match File::open(&path) {
            Ok(file) => Some(file),
            Err(err) if err.kind() == ErrorKind::NotFound => None,
            Err(err) => return Err(err).with_context(|| format!("cannot read {}", path.display())),
        };
        let lines = file.into_iter().flat_map(|file| BufReader::new(file).lines());
        Ok(lines.map(move |line| line.with_context(|| format!("cannot read {}", path.display()))))
    }

    fn keep(&mut self, line: &str) {
        self.curves.add_line(line);
        self.kept.push_str(line);
        self.kept.push('\n');
        self.lines += 1;
    }

    /// Appends a line: `step`, `split`, `loss`, then `fields`.
    pub(crate) fn write(
        &mut self,
        step: u64,
        split: &str,
        loss: f64,
        fields: impl IntoIterator<Item = (String, Value)>,
    ) -> anyhow::Result<()> {
        self.append(line(step, split, Some(loss), fields)?)?;
        self.curves.add(split, step, loss);
        Ok(())
    }

    /// Appends a line without a loss: `step`, `split`, then `fields`.
    pub(crate) fn write_without_loss(
        &mut self,
        step: u64,
        split: &str,
        fields: impl IntoIterator<Item = (String, Value)>,
    ) -> anyhow::Result<()> {
        self.append(line(step, split, None, fields)?)
    }

    fn append(&mut self, mut line: String) -> anyhow::Result<()> {
        if self.silent {
            return Ok(());
        }
        line.push('\n');
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.create()?,
        };
        file.write_all(line.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.file = Some(file);
        self.lines += 1;
        Ok(())
    }

    /// Appends the line of an evaluation.
    pub(crate) fn write_eval(&mut self, step: u64, evaluation: &Evaluation) -> anyhow::Result<()> {
        self.write(step, "eval", evaluation.loss, fields(evaluation))
    }

    /// The file with the kept lines alone.
    fn create(&mut self) -> anyhow::Result<File> {
        atomic::write(&self.path, std::mem::take(&mut self.kept).as_bytes())?;
        OpenOptions::new()
            .append(true)
            .open(&self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Waits until all lines are on the disk.
    pub(crate) fn sync(&self) -> anyhow::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        file.sync_all().with_context(|| format!("cannot write {}", self.path.display()))
    }

    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    pub(crate) fn curves(&self) -> &Curves {
        &self.curves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_order_nan_is_null_and_reopening_drops_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), 0).unwrap();
        log.write(0, "eval", 2.5, [("bits".to_owned(), f64::NAN.into())]).unwrap();
        log.write(1, "train", 2.25, [("lr".to_owned(), 0.5.into())]).unwrap();
        log.write(2, "train", f64::INFINITY, []).unwrap();
        log.write(2, "divergence", 7.0, []).unwrap();
        assert_eq!((log.curves().eval.len(), log.curves().train.len()), (1, 1));
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert_eq!(
            text,
            "{\"step\":0,\"split\":\"eval\",\"loss\":2.5,\"bits\":null}\n\
             {\"step\":1,\"split\":\"train\",\"loss\":2.25,\"lr\":0.5}\n\
             {\"step\":2,\"split\":\"train\",\"loss\":null}\n\
             {\"step\":2,\"split\":\"divergence\",\"loss\":7.0}\n"
        );

        let mut log = MetricsLog::open(folder.path(), 2).unwrap();
        let expected = Curves { train: vec![(1, 2.25)], eval: vec![(0, 2.5)] };
        assert_eq!((log.lines(), log.curves()), (2, &expected));
        log.write(3, "train", 2.0, []).unwrap();
        let reopened = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        let first_two: String = text.split_inclusive('\n').take(2).collect();
        let third = "{\"step\":3,\"split\":\"train\",\"loss\":2.0}\n";
        assert_eq!(reopened, first_two + third);
    }

    #[test]
    fn going_back_drops_all_lines_but_those_about_divergences() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), 0).unwrap();
        for (step, split) in [(1, "train"), (2, "train"), (3, DIVERGENCE), (3, "eval")] {
            log.write(step, split, 0.5, []).unwrap();
        }
        log.go_back(1).unwrap();
        assert_eq!((log.lines(), &log.curves().train[..]), (2, &[(1, 0.5)][..]));
        log.write(2, "train", 0.25, []).unwrap();
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        let steps: Vec<&str> = text.lines().map(|line| &line[..9]).collect();
        assert_eq!(steps, ["{\"step\":1", "{\"step\":3", "{\"step\":2"]);
    }
}
