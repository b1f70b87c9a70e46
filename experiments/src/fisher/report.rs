//! The rows as tables: for the terminal, and tidy CSV.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::agreement::{Agreement, Mean};
use super::diagonal::Estimator;
use super::study::{Cell, Row, Scope};
use super::verdict::{Outcome, Verdict};

/// A cell over all repetitions.
#[derive(Debug, Clone)]
pub struct Summary {
    /// What it is about.
    pub cell: Cell,
    /// `−log P(y|x)`, nats an image.
    pub nats: Mean,
    /// σ of a Gaussian.
    pub sigma: Option<Mean>,
    /// Of single batches, in the order of [`Agreement::NAMES`].
    pub drawn: [Mean; 6],
    /// Of expectations, likewise.
    pub expected: [Mean; 6],
}

/// The rows of each cell together, in the order in which cells come first.
pub fn summaries(rows: &[Row]) -> Vec<Summary> {
    let mut places: HashMap<&Cell, usize> = HashMap::new();
    let mut cells: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        let at = *places.entry(&row.cell).or_insert(cells.len());
        if at == cells.len() {
            cells.push(Vec::new());
        }
        cells[at].push(row);
    }
    cells.iter().map(|rows| Summary::of(rows)).collect()
}

impl Summary {
    fn of(rows: &[&Row]) -> Self {
        let mean = |of: &dyn Fn(&Row) -> f64| {
            Mean::of(&rows.iter().map(|row| of(row)).collect::<Vec<_>>())
        };
        let each = |of: fn(&Row) -> Agreement| {
            std::array::from_fn(|k| mean(&move |row| of(row).values()[k]))
        };
        Self {
            cell: rows[0].cell.clone(),
            nats: mean(&|row| row.nats),
            sigma: rows[0].sigma.map(|_| mean(&|row| row.sigma.unwrap_or(f64::NAN))),
            drawn: each(|row| row.drawn),
            expected: each(|row| row.expected),
        }
    }

    /// Problem, σ and steps: what a table is about.
    pub fn place(&self) -> String {
        let Cell { problem, sigma, steps, .. } = &self.cell;
        let sigma = match (sigma.as_deref(), &self.sigma) {
            (Some("fitted"), Some(mean)) => format!(", σ fitted ({mean})"),
            (Some(given), _) => format!(", σ = {given}"),
            (None, _) => String::new(),
        };
        format!("{problem}{sigma}, after {steps} steps")
    }
}

/// Three tables of each problem and point, B across: the ratio and the shape error of single batches, and the shape error
/// of expectations.
pub fn terminal(summaries: &[Summary]) -> String {
    let all: Vec<&Summary> = summaries.iter().filter(|s| s.cell.scope == Scope::All).collect();
    let mut text = String::new();
    let mut places: Vec<String> = Vec::new();
    for summary in &all {
        let place = summary.place();
        if places.contains(&place) {
            continue;
        }
        let here: Vec<&Summary> = all.iter().copied().filter(|s| s.place() == place).collect();
        let nats = summary.nats;
        writeln!(text, "\n{place}: {nats} nats an image, n = {}", nats.n).expect("a String");
        table(&mut text, "ratio Σf̂/Σf, one batch", &here, |s| s.drawn[0]);
        table(&mut text, "shape error, one batch", &here, |s| s.drawn[4]);
        table(&mut text, "shape error, expectation", &here, |s| s.expected[4]);
        places.push(place);
    }
    text
}

fn table(text: &mut String, title: &str, cells: &[&Summary], of: fn(&Summary) -> Mean) {
    let mut batches: Vec<usize> = cells.iter().map(|s| s.cell.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    let mut estimators: Vec<Estimator> = Vec::new();
    for cell in cells {
        if !estimators.contains(&cell.cell.estimator) {
            estimators.push(cell.cell.estimator);
        }
    }
    // The micro-batches are not there for the smallest B, and so are not met in their order.
    estimators.sort_by_key(|estimator| match estimator {
        Estimator::SampledSquares => 0,
        Estimator::SampledMean => 1,
        Estimator::Squares => 2,
        Estimator::Micro(_) => 3,
        Estimator::Minibatch => 4,
    });
    write!(text, "  {title:<31}").expect("a String");
    for batch in &batches {
        write!(text, "{:>18}", format!("B = {batch}")).expect("a String");
    }
    text.push('\n');
    for estimator in estimators {
        write!(text, "    {:<29}", estimator.name()).expect("a String");
        for batch in &batches {
            let is = |s: &&&Summary| s.cell.estimator == estimator && s.cell.batch == *batch;
            let shown = cells.iter().find(is).map_or("-".to_owned(), |s| of(s).to_string());
            write!(text, "{shown:>18}").expect("a String");
        }
        text.push('\n');
    }
}

/// The verdicts, a line each.
pub fn verdict_lines(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for Verdict { claim, place, steps, difference } in verdicts {
        let outcome = Outcome::of(*difference);
        writeln!(text, "{outcome:<13} {claim:<58} {place:<24} {steps:>6} steps  {difference}")
            .expect("a String");
    }
    text
}

const CELL: [&str; 6] = ["problem", "sigma", "steps", "weights", "estimator", "batch"];

fn cell_fields(cell: &Cell) -> Vec<String> {
    vec![
        cell.problem.to_string(),
        cell.sigma.clone().unwrap_or_default(),
        cell.steps.to_string(),
        cell.scope.name().to_owned(),
        cell.estimator.name(),
        cell.batch.to_string(),
    ]
}

/// A line a cell and repetition: everything that was measured.
///
/// # Errors
/// Only if memory cannot be written.
pub fn rows_csv(rows: &[Row]) -> anyhow::Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let mut head: Vec<String> = CELL.map(str::to_owned).into();
    head.extend(["seed", "nats", "sigma_value"].map(str::to_owned));
    head.extend(Agreement::NAMES.map(str::to_owned));
    head.extend(Agreement::NAMES.map(|name| format!("expected_{name}")));
    csv.write_record(&head)?;
    for row in rows {
        let mut fields = cell_fields(&row.cell);
        fields.extend([row.seed.to_string(), row.nats.to_string()]);
        fields.push(row.sigma.map_or_else(String::new, |sigma| sigma.to_string()));
        fields.extend(row.drawn.values().map(|x| x.to_string()));
        fields.extend(row.expected.values().map(|x| x.to_string()));
        csv.write_record(&fields)?;
    }
    Ok(csv.into_inner()?)
}

/// A line a cell: means over repetitions with their standard errors.
///
/// # Errors
/// Only if memory cannot be written.
pub fn summaries_csv(summaries: &[Summary]) -> anyhow::Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let mut head: Vec<String> = CELL.map(str::to_owned).into();
    head.push("n".to_owned());
    for prefix in ["", "expected_"] {
        for name in Agreement::NAMES {
            head.extend([format!("{prefix}{name}"), format!("{prefix}{name}_se")]);
        }
    }
    csv.write_record(&head)?;
    for summary in summaries {
        let mut fields = cell_fields(&summary.cell);
        fields.push(summary.nats.n.to_string());
        for mean in summary.drawn.iter().chain(&summary.expected) {
            fields.extend([mean.mean.to_string(), mean.error.to_string()]);
        }
        csv.write_record(&fields)?;
    }
    Ok(csv.into_inner()?)
}
