//! The record of a run as it goes: `metrics.jsonl`, and the same and more for TensorBoard.

use std::path::Path;

use serde_json::Value as Json;

use crate::diagnostics::Diagnostics;
use crate::metrics::{Curves, DIVERGENCE, MetricsLog};
use crate::tensorboard::{EventFile, Value, image, scalar, text};
use crate::{Evaluation, summary};

/// The open `metrics.jsonl` of a run, and its event file if there is one. Each says the same.
#[derive(Debug)]
pub(crate) struct RunLog {
    metrics: MetricsLog,
    events: Option<EventFile>,
}

impl RunLog {
    /// Goes on after the first `keep` lines of `folder/metrics.jsonl`; see [`MetricsLog::open`].
    pub(crate) fn open(
        folder: &Path,
        keep: u64,
        events: Option<EventFile>,
    ) -> anyhow::Result<Self> {
        Ok(Self { metrics: MetricsLog::open(folder, keep)?, events })
    }

    /// A record that is kept by another process.
    pub(crate) fn silent() -> Self {
        Self { metrics: MetricsLog::silent(), events: None }
    }

    /// Whether there is an event file.
    pub(crate) fn has_events(&self) -> bool {
        self.events.is_some()
    }

    /// The configuration, for TensorBoard's text.
    pub(crate) fn write_config(&mut self, toml: &str) -> anyhow::Result<()> {
        self.show(0, || vec![text("config", toml)])
    }

    /// A line: `step`, `split`, `loss`, then `fields`.
    pub(crate) fn write(
        &mut self,
        step: u64,
        split: &str,
        loss: f64,
        fields: impl IntoIterator<Item = (String, Json)>,
    ) -> anyhow::Result<()> {
        let fields: Vec<_> = fields.into_iter().collect();
        self.metrics.write(step, split, loss, fields.iter().cloned())?;
        self.show(step, || match split {
            DIVERGENCE => vec![divergence(&fields)],
            _ => scalars(split, loss, &fields),
        })
    }

    /// The line of an evaluation, with its sample and pictures for TensorBoard.
    pub(crate) fn write_eval(&mut self, step: u64, evaluation: &Evaluation) -> anyhow::Result<()> {
        self.metrics.write_eval(step, evaluation)?;
        self.show(step, || {
            let measures = evaluation.metrics.iter();
            let mut values = vec![scalar("eval/loss", evaluation.loss)];
            values.extend(measures.map(|(name, number)| scalar(format!("eval/{name}"), *number)));
            values.extend(evaluation.sample.as_deref().map(|sample| text("sample", sample)));
            values.extend(evaluation.pictures.iter().map(image));
            values
        })
    }

    /// The line about the optimizer's last step, with histograms for TensorBoard.
    pub(crate) fn write_diagnostics(&mut self, step: u64, of: &Diagnostics) -> anyhow::Result<()> {
        self.metrics.write_without_loss(step, "optimizer", of.fields())?;
        self.show(step, || of.values())
    }

    /// For a run that goes back to where it had taken `step` steps and had `keep` lines; see [`MetricsLog::go_back`].
    pub(crate) fn go_back(&mut self, keep: u64, step: u64) -> anyhow::Result<()> {
        self.metrics.go_back(keep)?;
        self.events.as_mut().map_or(Ok(()), |events| events.go_back(step + 1))
    }

    /// Waits until all is on the disk.
    pub(crate) fn sync(&self) -> anyhow::Result<()> {
        self.metrics.sync()?;
        self.events.as_ref().map_or(Ok(()), EventFile::sync)
    }

    /// The lines of `metrics.jsonl`.
    pub(crate) fn lines(&self) -> u64 {
        self.metrics.lines()
    }

    pub(crate) fn curves(&self) -> &Curves {
        self.metrics.curves()
    }

    /// Writes an event, if there is a file for it.
    fn show(&mut self, step: u64, values: impl FnOnce() -> Vec<Value>) -> anyhow::Result<()> {
        self.events.as_mut().map_or(Ok(()), |events| events.write(step, values()))
    }
}

/// The numbers of a line, each under its tag. What is null is not known: there is no point then, but for a loss that is not finite.
fn scalars(split: &str, loss: f64, fields: &[(String, Json)]) -> Vec<Value> {
    let mut values = vec![scalar(format!("{split}/loss"), loss)];
    for (name, field) in fields {
        match field {
            Json::Object(phases) if name == "phase_s" => {
                let phases =
                    phases.iter().filter_map(|(phase, secs)| Some((phase, secs.as_f64()?)));
                values.extend(phases.map(|(phase, secs)| scalar(format!("time/{phase}_s"), secs)));
            }
            field => values.extend(field.as_f64().map(|number| scalar(tag(split, name), number))),
        }
    }
    values
}

/// The tag of a field: by its line, but for some that are better looked at together.
fn tag(split: &str, field: &str) -> String {
    match field {
        "clipped" => "clip/clipped".to_owned(),
        summary::PEAK_MEMORY => format!("memory/{field}"),
        _ => format!("{split}/{field}"),
    }
}

/// What a divergence was, as text.
fn divergence(fields: &[(String, Json)]) -> Value {
    let line = |(name, value): &(String, Json)| match value {
        Json::String(text) => format!("{name}: {text}\n"),
        value => format!("{name}: {value}\n"),
    };
    text(DIVERGENCE, &fields.iter().map(line).collect::<String>())
}
