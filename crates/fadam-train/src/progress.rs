//! What a person sees: a bar at a terminal, lines elsewhere, and nothing but the end if asked to be
//! quiet.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::task::Evaluation;

const TEMPLATE: &str = "{bar:24} step {pos}/{len}  {msg}  left {eta}";

/// Shows how a run goes. A closed pipe (`| head`) is no reason to end a run, so that errors of
/// writing to standard output are ignored.
pub(crate) struct Progress {
    view: View,
    unit: &'static str,
    stop_at: u64,
}

enum View {
    /// Not even the last words.
    Silent,
    Quiet,
    Lines,
    Bar(ProgressBar),
}

/// What a training line says.
pub(crate) struct StepReport {
    pub(crate) step: u64,
    pub(crate) loss: f64,
    pub(crate) lr: f64,
    pub(crate) units_per_s: f64,
    pub(crate) secs_per_step: f64,
}

impl Progress {
    pub(crate) fn new(quiet: bool, unit: &'static str, step: u64, stop_at: u64) -> Self {
        let at_terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let view = match (quiet, at_terminal) {
            (true, _) => View::Quiet,
            (false, false) => View::Lines,
            (false, true) => View::Bar(bar(step, stop_at)),
        };
        Self { view, unit, stop_at }
    }

    /// That of a rank but 0.
    pub(crate) fn silent(unit: &'static str) -> Self {
        Self { view: View::Silent, unit, stop_at: 0 }
    }

    /// Moves the bar.
    pub(crate) fn step(&self, step: u64) {
        if let View::Bar(bar) = &self.view {
            bar.set_position(step);
        }
    }

    /// A training line.
    pub(crate) fn train(&self, report: &StepReport) {
        let StepReport { step, loss, lr, units_per_s, secs_per_step } = *report;
        let rate = format!("{} {}/s", grouped(units_per_s), self.unit);
        match &self.view {
            View::Silent | View::Quiet => {}
            View::Bar(bar) => bar.set_message(format!("loss {loss:.4}  {rate}")),
            View::Lines => {
                let left = (self.stop_at - step) as f64 * secs_per_step;
                let left = clock(Duration::try_from_secs_f64(left).unwrap_or_default());
                let stop = self.stop_at;
                print(&format!(
                    "step {step}/{stop}  loss {loss:.4}  lr {lr:.3e}  {rate}  left {left}"
                ));
            }
        }
    }

    /// An evaluation.
    pub(crate) fn evaluation(&self, step: u64, evaluation: &Evaluation) {
        self.note(&evaluation_text(step, evaluation));
    }

    /// Text between the lines.
    pub(crate) fn note(&self, text: &str) {
        match &self.view {
            View::Silent | View::Quiet => {}
            View::Lines => print(text),
            View::Bar(bar) => bar.suspend(|| print(text)),
        }
    }

    /// Ends the bar and prints the last words, quiet or not.
    pub(crate) fn finish(&self, text: &str) {
        self.clear();
        if !matches!(self.view, View::Silent) {
            print(text);
        }
    }

    /// Ends the bar.
    pub(crate) fn clear(&self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

fn bar(step: u64, stop_at: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE).expect("the template is well-formed");
    let bar = ProgressBar::with_draw_target(Some(stop_at), ProgressDrawTarget::stderr())
        .with_style(style.progress_chars("━╸ "))
        .with_position(step);
    bar.reset_eta();
    bar
}

/// An evaluation for people: its numbers, then its sample, indented.
pub(crate) fn evaluation_text(step: u64, evaluation: &Evaluation) -> String {
    let mut words = vec![format!("step {step}  eval loss {:.4}", evaluation.loss)];
    words.extend(evaluation.metrics.iter().map(|(name, value)| format!("{name} {value:.4}")));
    let mut text = words.join("  ");
    if let Some(sample) = &evaluation.sample {
        for line in sample.lines() {
            text += "\n    | ";
            text.extend(line.chars().filter(|c| !c.is_control()));
        }
    }
    text
}

pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout();
    // A reader that went away is no error of the run.
    let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A rounded number with its digits in groups of three: `4,812`; one decimal below 100.
pub(crate) fn grouped(value: f64) -> String {
    if !value.is_finite() || value.abs() < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `6:20`, or `1:06:20`.
pub(crate) fn clock(time: Duration) -> String {
    let secs = time.as_secs();
    let (hours, minutes, secs) = (secs / 3600, secs / 60 % 60, secs % 60);
    match hours {
        0 => format!("{minutes}:{secs:02}"),
        _ => format!("{hours}:{minutes:02}:{secs:02}"),
    }
}

/// `5 minutes`.
pub(crate) fn spoken(secs: f64) -> String {
    HumanDuration(Duration::try_from_secs_f64(secs).unwrap_or_default()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_written_for_people() {
        assert_eq!(grouped(12.34), "12.3");
        assert_eq!(grouped(999.6), "1,000");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(grouped(f64::NAN), "NaN");
        assert_eq!(clock(Duration::from_secs(380)), "6:20");
        assert_eq!(clock(Duration::from_secs(3980)), "1:06:20");
    }
}
