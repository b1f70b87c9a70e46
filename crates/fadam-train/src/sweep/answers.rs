//! What came of a sweep: mean and standard error of each cell over its seeds.
//!
//! ```text
//! mean = Σ x / n        standard error = √(Σ (x − mean)² / (n − 1) / n)        x: the held-out loss of a seed
//! ```

use super::plan::{Phase, Plan, Records, Row};
use super::record::{Record, Status};

/// A cell at one value of the searched key, over its seeds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// Index of the cell.
    pub(super) cell: usize,
    pub(super) phase: Phase,
    /// Index of the value of the searched key.
    pub(super) value: Option<usize>,
    /// Held-out losses of the seeds that completed.
    pub(super) losses: Vec<f64>,
    pub(super) diverged: usize,
    pub(super) failed: usize,
}

impl Answer {
    /// Mean and standard error of the losses: NaN if a seed diverged or failed, since a mean over the others would flatter
    /// the cell; no error of one seed.
    pub(super) fn loss(&self) -> (f64, Option<f64>) {
        match self.diverged + self.failed {
            0 => mean_and_error(&self.losses),
            _ => (f64::NAN, None),
        }
    }

    fn shown(&self) -> String {
        let (mean, error) = self.loss();
        let error = error.map(|error| format!(" ± {error:.4}")).unwrap_or_default();
        let others = [(self.diverged, "diverged"), (self.failed, "failed")];
        let others = others.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("  {n} {word}"));
        format!("{mean:.4}{error}{}", others.collect::<String>())
    }
}

/// Mean and standard error; NaN of nothing, no error of one.
pub(super) fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()))
}

/// The answers so far, in the order of the table, without those of the search.
pub(super) fn answers(plan: &Plan, records: &Records) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for row in plan.rows(records) {
        let Some(record) = records.get(&row.run).filter(|_| row.phase != Phase::Search) else {
            continue;
        };
        let Row { cell, phase, value, .. } = row;
        let same = |a: &Answer| a.cell == cell && a.phase == phase;
        if !answers.iter().any(same) {
            let losses = Vec::new();
            answers.push(Answer { cell, phase, value, losses, diverged: 0, failed: 0 });
        }
        add(answers.iter_mut().find(|a| same(a)).expect("it is there now"), record);
    }
    answers
}

fn add(answer: &mut Answer, record: &Record) {
    match (record.status, record.eval_loss) {
        (Status::Completed, Some(loss)) => answer.losses.push(loss),
        (Status::Failed, _) => answer.failed += 1,
        _ => answer.diverged += 1,
    }
}

/// What a phase is called: `at optimizer.lr = 3e-3`; nothing where there is no search.
pub(super) fn phase_words(plan: &Plan, phase: Phase) -> Option<String> {
    let search = plan.spec.search.as_ref()?;
    let key = &search.axis.key;
    Some(match (phase, &search.fixed) {
        (Phase::Fixed, Some(fixed)) => format!("at {key} = {}", fixed.text()),
        _ => format!("at the best {key}"),
    })
}

/// The answers as a table for a terminal.
pub(super) fn table(plan: &Plan, records: &Records) -> String {
    let answers = answers(plan, records);
    let mut parts =
        vec![format!("{}: held-out loss, mean ± standard error over seeds\n", plan.spec.name)];
    for phase in [Phase::Fixed, Phase::Final] {
        let of_phase: Vec<&Answer> = answers.iter().filter(|a| a.phase == phase).collect();
        if of_phase.is_empty() {
            continue;
        }
        parts.extend(phase_words(plan, phase).map(|words| format!("\n{words}:\n")));
        parts.push(block(plan, &of_phase));
    }
    parts.concat()
}

fn block(plan: &Plan, answers: &[&Answer]) -> String {
    let mut lines = vec![["cell".to_owned(), String::new(), "n".to_owned(), "loss".to_owned()]];
    let mut at_edge = false;
    for answer in answers {
        let value = match answer.value.filter(|_| answer.phase == Phase::Final) {
            Some(value) => {
                at_edge |= plan.is_at_edge(value);
                let mark = if plan.is_at_edge(value) { " *" } else { "" };
                plan.values[value].text() + mark
            }
            None => String::new(),
        };
        let n = answer.losses.len() + answer.diverged + answer.failed;
        let cell = plan.cells[answer.cell].name.clone();
        lines.push([cell, value, n.to_string(), answer.shown()]);
    }
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let [cell, value, n] = [0, 1, 2].map(width);
    let row = |[a, b, c, d]: &[String; 4]| format!("  {a:cell$}  {b:value$}  {c:>n$}  {d}\n");
    let mut text: String = lines.iter().map(row).collect();
    if at_edge {
        text += "  * the first or last value that was searched: the best one may lie beyond\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standard_error_is_that_of_the_mean() {
        // 2, 4, 9: mean 5, squares 9 + 1 + 16 = 26, variance 13, over three: √(13/3).
        let (mean, error) = mean_and_error(&[2.0, 4.0, 9.0]);
        assert_eq!(mean, 5.0);
        assert!((error.unwrap() - (13.0_f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(mean_and_error(&[1.5]), (1.5, None));
        assert!(mean_and_error(&[]).0.is_nan());
    }

    #[test]
    fn a_cell_with_a_diverged_seed_has_no_mean() {
        let mut answer = Answer {
            cell: 0,
            phase: Phase::Final,
            value: None,
            losses: vec![1.0, 2.0],
            diverged: 0,
            failed: 0,
        };
        assert_eq!(answer.shown(), "1.5000 ± 0.5000");
        answer.diverged = 1;
        assert_eq!(answer.shown(), "NaN  1 diverged");
    }
}
