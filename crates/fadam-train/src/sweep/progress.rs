//! What a person sees of a sweep: a bar at a terminal, a line a run elsewhere, nothing but the end if asked to be quiet.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::folder::Folder;
use super::record::Record;
use crate::metrics;
use crate::progress::{clock, print, spoken};

const TEMPLATE: &str = "{bar:24} run {pos}/{len}  {msg}";

/// How often the bar looks at what runs wrote.
const LOOK: Duration = Duration::from_millis(500);

/// Less of a run than this says nothing of the time that is left.
const LEAST: f64 = 0.02;

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    started: Instant,
    looked: Instant,
    /// Runs that ended in this session.
    ended: usize,
    /// Steps of the runs that were started.
    steps: HashMap<String, u64>,
}

/// How far a run is.
struct Standing {
    step: u64,
    loss: f64,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        let at_terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is well-formed");
        let bar = (at_terminal && !quiet).then(|| {
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())
                .with_style(style.progress_chars("━╸ "))
        });
        let now = Instant::now();
        Self { bar, quiet, started: now, looked: now, ended: 0, steps: HashMap::new() }
    }

    /// A run of so many steps was started.
    pub(super) fn begins(&mut self, run: &str, steps: u64) {
        self.steps.insert(run.to_owned(), steps);
    }

    /// A run ended, the `done`th of `of`.
    pub(super) fn ends(&mut self, run: &str, record: &Record, done: usize, of: usize) {
        self.ended += 1;
        let mut words = vec![format!("{run}: {}", record.status.name())];
        words.extend(record.eval_loss.map(|loss| format!("loss {loss:.4}")));
        words.extend((!record.message.is_empty()).then(|| record.message.clone()));
        words.extend(record.wall_s.map(spoken));
        let line = words.join(", ");
        let left = self.left(0.0, of.saturating_sub(done)).map(|left| format!("; {left} left"));
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| print(&line)),
            None => print(&format!("{done}/{of}  {line}{}", left.unwrap_or_default())),
        }
    }

    /// Looks at how far the runs are, now and then.
    pub(super) fn look<'a>(
        &mut self,
        folder: &Folder,
        running: impl Iterator<Item = &'a str>,
        done: usize,
        of: usize,
    ) {
        let Some(bar) = &self.bar else {
            return;
        };
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let mut shares = 0.0;
        let mut words = Vec::new();
        for run in running {
            let standing = standing(&folder.run(run));
            if let Some((Standing { step, loss }, steps)) = standing.zip(self.steps.get(run)) {
                shares += step as f64 / *steps as f64;
                words.push(format!("{run} step {step}/{steps} loss {loss:.4}"));
            }
        }
        let left = self.left(shares, of.saturating_sub(done)).map(|left| format!("left {left}"));
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        bar.set_message(left.into_iter().chain(words).collect::<Vec<_>>().join("  "));
    }

    /// The time for `runs` runs of which the share `shares` is done, at the speed of this session.
    fn left(&self, shares: f64, runs: usize) -> Option<String> {
        let work = self.ended as f64 + shares;
        let secs = self.started.elapsed().as_secs_f64() / work * (runs as f64 - shares).max(0.0);
        (work > LEAST).then(|| clock(Duration::try_from_secs_f64(secs).unwrap_or_default()))
    }

    /// Text between the lines.
    pub(super) fn note(&self, text: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| print(text)),
            None => print(text),
        }
    }

    /// Ends the bar and prints the last words, quiet or not.
    pub(super) fn finish(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        print(text);
    }
}

/// The last whole line of a run's metrics.
fn standing(folder: &Path) -> Option<Standing> {
    let text = std::fs::read_to_string(folder.join(metrics::FILE)).ok()?;
    let last = text[..=text.rfind('\n')?].lines().last()?;
    let line: Value = serde_json::from_str(last).ok()?;
    Some(Standing { step: line["step"].as_u64()?, loss: line["loss"].as_f64().unwrap_or(f64::NAN) })
}
