//! `--eval-only`: the numbers of a checkpoint on standard output.

use crate::config::Experiment;
use crate::progress::{evaluation_text, print};
use crate::{CommonArgs, Evaluation, Outcome, SavedRun, Task, metrics};

impl CommonArgs {
    /// Evaluates `run` and prints what came out: for people, or with `--json` as the line that the
    /// run's `metrics.jsonl` has for this evaluation. Nothing is written to the run folder.
    ///
    /// # Errors
    ///
    /// As [`SavedRun::evaluate`].
    pub fn evaluate<E: Experiment>(
        &self,
        run: &SavedRun,
        task: impl Task,
    ) -> anyhow::Result<Outcome> {
        let found = run.evaluate::<E>(task)?;
        let step = found.step;
        if let Some(loss) = found.differs {
            eprintln!(
                "note: at step {step} the run itself had an eval loss of {loss}; the held-out data or the \
                 device is another, or the program"
            );
        }
        if self.saved.json {
            print(&metrics::eval_line(step, &found.evaluation)?);
        } else if self.quiet {
            print(&evaluation_text(step, &Evaluation { sample: None, ..found.evaluation }));
        } else {
            print(&format!("checkpoint: {}", run.checkpoint().display()));
            print(&evaluation_text(step, &found.evaluation));
        }
        Ok(Outcome::Completed)
    }
}
