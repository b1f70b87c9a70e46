//! Which runs answer which question of the paper, and what they say.
//!
//! A sweep answers a question if it has runs of the question's task in at least two of its cells, and these differ in nothing but what the
//! cells differ in (and the learning rate). Other runs of the sweep do not matter. Its phases are two answers: at one learning rate for all cells, as in the paper
//! (`fixed`), and at the best rate of each (`final`, after a search).

use std::collections::{BTreeMap, BTreeSet};

use super::metric::Metric;
use super::paper::{Cell, Item, Paper, Question};
use super::results::{Outcome, Phase, Run};
use super::settings::{LEARNING_RATE, is_same};
use super::statistics::{Difference, Mean, holm};
use super::sweep::Sweep;
use super::verdict::{Evidence, Verdict, is_first_better_in_paper, overall};

/// What a sweep says of a question.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Where its runs are from.
    pub sweep: &'a Sweep,
    /// Which of its rows.
    pub phase: Phase,
    /// At which learning rates, in words.
    pub rates: String,
    /// The question's cells that were run, in its order.
    pub cells: Vec<CellRuns<'a>>,
    /// Each metric that the runs have; the first decides.
    pub metrics: Vec<MetricAnswer>,
}

/// The runs of a cell at its learning rate.
#[derive(Debug, Clone)]
pub struct CellRuns<'a> {
    /// The cell's label.
    pub label: &'a str,
    /// The paper's number, as printed.
    pub printed: Option<&'a str>,
    /// As the runs have it; none if it is not known.
    pub rate: Option<String>,
    /// By seed.
    pub runs: BTreeMap<u64, &'a Run>,
}

/// What the runs say in one metric.
#[derive(Debug)]
pub struct MetricAnswer {
    /// The metric.
    pub metric: Metric,
    /// In the order of the answer's cells.
    pub cells: Vec<CellStatistics>,
    /// Of the cells that were run.
    pub contrasts: Vec<Contrast>,
    /// Contrasts of the claim with a cell that was not run.
    pub not_run: usize,
    /// Of all contrasts.
    pub verdict: Verdict,
}

/// A cell in one metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CellStatistics {
    /// Of the seeds with a number.
    pub mean: Option<Mean>,
    /// Seeds that diverged.
    pub diverged: usize,
    /// Seeds without a result.
    pub absent: usize,
}

/// Two cells in one metric.
#[derive(Debug)]
pub struct Contrast {
    /// The label of the cell that the paper favours.
    pub first: String,
    /// The other one's.
    pub second: String,
    /// The paper's two numbers, as printed.
    pub printed: Option<(String, String)>,
    /// What was seen.
    pub evidence: Evidence,
    /// After Holm's correction.
    pub p_value: Option<f64>,
    /// By the rule.
    pub verdict: Verdict,
}

impl Answer<'_> {
    /// That of the metric which decides.
    pub fn verdict(&self) -> Verdict {
        self.metrics.first().map_or(Verdict::Inconclusive, |metric| metric.verdict)
    }
}

/// All that `sweeps` say of a question.
pub fn answers<'a>(item: &'a Item, question: &'a Question, sweeps: &'a [Sweep]) -> Vec<Answer<'a>> {
    let of_phase = |sweep: &'a Sweep, phase: Phase| {
        let runs: Vec<&Run> =
            sweep.runs_of(phase).filter(|run| run.task == question.task).collect();
        let cells = matched(item, question, &runs).filter(|cells| cells.len() >= 2)?;
        let compared: Vec<&Run> =
            cells.iter().flat_map(|cell| cell.runs.values().copied()).collect();
        if !varied(&compared).iter().all(|key| question.may_vary(key)) {
            return None;
        }
        let rates = rates(sweep, phase, &cells);
        Some(answer(question, sweep, phase, rates, cells))
    };
    let sweeps = sweeps.iter().filter(|sweep| !sweep.is_single);
    sweeps
        .flat_map(|sweep| [Phase::Fixed, Phase::Final].map(|phase| of_phase(sweep, phase)))
        .flatten()
        .collect()
}

/// The value of a key in a run, the paper's constant where the run says nothing.
fn value<'a>(run: &'a Run, key: &str) -> Option<&'a str> {
    run.settings.get(key).or_else(|| Paper::get().constants.get(key)).map(String::as_str)
}

/// The keys in which runs differ.
fn varied(runs: &[&Run]) -> Vec<String> {
    let keys: BTreeSet<&String> = runs.iter().flat_map(|run| run.settings.keys()).collect();
    let differs = |key: &str| {
        let first = runs.first().and_then(|run| value(run, key));
        runs.iter().any(|run| match (value(run, key), first) {
            (Some(a), Some(b)) => !is_same(a, b),
            (a, b) => a != b,
        })
    };
    keys.into_iter().filter(|key| differs(key)).cloned().collect()
}

/// The runs of each cell of a question that has any; none if two of them are of the same cell and seed, so that the sweep asks something
/// else.
fn matched<'a>(
    item: &'a Item,
    question: &'a Question,
    runs: &[&'a Run],
) -> Option<Vec<CellRuns<'a>>> {
    let is_of = |run: &Run, cell: &Cell| {
        cell.set.iter().all(|(key, wanted)| value(run, key).is_some_and(|is| is_same(is, wanted)))
    };
    let mut cells = Vec::new();
    for cell in &question.cells {
        let here: Vec<&Run> = runs.iter().copied().filter(|run| is_of(run, cell)).collect();
        let by_seed: BTreeMap<u64, &Run> = here.iter().map(|run| (run.seed, *run)).collect();
        if by_seed.len() < here.len() {
            return None;
        }
        if let Some(first) = here.first() {
            let rate = first.settings.get(LEARNING_RATE).cloned();
            let printed = item.printed(cell);
            cells.push(CellRuns { label: &cell.label, printed, rate, runs: by_seed });
        }
    }
    Some(cells)
}

/// At which learning rates cells were run, in words.
fn rates(sweep: &Sweep, phase: Phase, cells: &[CellRuns<'_>]) -> String {
    let was_searched = sweep.runs_of(Phase::Search).next().is_some();
    if phase == Phase::Final && was_searched {
        return "each cell at the learning rate that its search found best".to_owned();
    }
    let same = |a: &CellRuns<'_>| match (&a.rate, &cells[0].rate) {
        (Some(a), Some(b)) => is_same(a, b),
        (a, b) => a == b,
    };
    match &cells[0].rate {
        Some(rate) if cells.iter().all(same) => format!("at one learning rate, {rate}"),
        None if cells.iter().all(same) => "at the learning rate of the sweep".to_owned(),
        _ => "each cell at the learning rate that the sweep gives it".to_owned(),
    }
}

fn answer<'a>(
    question: &Question,
    sweep: &'a Sweep,
    phase: Phase,
    rates: String,
    cells: Vec<CellRuns<'a>>,
) -> Answer<'a> {
    let has = |column: &&String| {
        let mut runs = cells.iter().flat_map(|cell| cell.runs.values());
        runs.any(|run| run.values.contains_key(*column))
    };
    let columns = question.metrics.iter().filter(has);
    let metrics = columns.map(|column| of_metric(question, &cells, column)).collect();
    Answer { sweep, phase, rates, cells, metrics }
}

fn of_metric(question: &Question, cells: &[CellRuns<'_>], column: &str) -> MetricAnswer {
    let metric = Metric::of(column, &question.task);
    let find = |label: &str| cells.iter().find(|cell| cell.label == label);
    let asked = question.contrasts();
    let mut contrasts: Vec<Contrast> = asked
        .iter()
        .filter_map(|[first, second]| Some((find(first)?, find(second)?)))
        .map(|(first, second)| contrast(question, first, second, &metric))
        .collect();
    let tested: Vec<usize> =
        (0..contrasts.len()).filter(|&k| contrasts[k].p_value.is_some()).collect();
    let p_values: Vec<f64> = tested.iter().filter_map(|&k| contrasts[k].p_value).collect();
    for (k, corrected) in tested.into_iter().zip(holm(&p_values)) {
        contrasts[k].p_value = Some(corrected);
    }
    let not_run = asked.len() - contrasts.len();
    let mut verdicts: Vec<Verdict> = contrasts.iter().map(|contrast| contrast.verdict).collect();
    verdicts.resize(asked.len(), Verdict::NotRun);
    let cells = cells.iter().map(|cell| CellStatistics::of(cell, column)).collect();
    MetricAnswer { metric, cells, contrasts, not_run, verdict: overall(&verdicts) }
}

fn contrast(
    question: &Question,
    first: &CellRuns<'_>,
    second: &CellRuns<'_>,
    metric: &Metric,
) -> Contrast {
    let evidence = evidence(first, second, &metric.column);
    let printed = first.printed.zip(second.printed);
    // The paper's numbers are all such that lower is better.
    let number = |text: &str| text.parse::<f64>().expect("a test reads every printed number");
    let paper = match printed {
        Some((a, b)) => is_first_better_in_paper(number(a), number(b), true),
        None => question.first_is_better.then_some(true),
    };
    Contrast {
        first: first.label.to_owned(),
        second: second.label.to_owned(),
        printed: printed.map(|(a, b)| (a.to_owned(), b.to_owned())),
        evidence,
        p_value: evidence.difference.and_then(|difference| difference.p_value()),
        verdict: evidence.verdict(paper, metric),
    }
}

/// Two cells side by side, seed by seed, or by their means where no seed is in both.
pub fn evidence(first: &CellRuns<'_>, second: &CellRuns<'_>, column: &str) -> Evidence {
    let common: Vec<u64> =
        first.runs.keys().filter(|seed| second.runs.contains_key(seed)).copied().collect();
    if common.is_empty() {
        let diverged = |cell: &CellRuns<'_>| CellStatistics::of(cell, column).diverged;
        let difference = Difference::unpaired(&first.values(column), &second.values(column));
        return Evidence {
            difference,
            first_diverged: diverged(first),
            second_diverged: diverged(second),
        };
    }
    let (mut pairs, mut first_diverged, mut second_diverged) = (Vec::new(), 0, 0);
    for seed in common {
        match (first.runs[&seed].outcome(column), second.runs[&seed].outcome(column)) {
            (Outcome::Value(a), Outcome::Value(b)) => pairs.push((a, b)),
            (Outcome::Diverged, Outcome::Value(_)) => first_diverged += 1,
            (Outcome::Value(_), Outcome::Diverged) => second_diverged += 1,
            _ => {}
        }
    }
    Evidence { difference: Difference::paired(&pairs), first_diverged, second_diverged }
}

impl CellRuns<'_> {
    /// The numbers of a metric, in the order of seeds.
    pub fn values(&self, column: &str) -> Vec<f64> {
        let outcomes = self.runs.values().map(|run| run.outcome(column));
        let number = |outcome| if let Outcome::Value(value) = outcome { Some(value) } else { None };
        outcomes.filter_map(number).collect()
    }
}

impl CellStatistics {
    /// A cell in one metric.
    pub fn of(cell: &CellRuns<'_>, column: &str) -> Self {
        let count = |wanted: Outcome| {
            cell.runs.values().filter(|run| run.outcome(column) == wanted).count()
        };
        Self {
            mean: Mean::of(&cell.values(column)),
            diverged: count(Outcome::Diverged),
            absent: count(Outcome::Absent),
        }
    }
}
