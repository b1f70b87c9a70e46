//! From answers to charts: learning curves, a point with error bars for each cell, and what the search for learning rates saw.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::{Answer, CellRuns, MetricAnswer};
use super::document::{Figure, slug};
use super::figure::{Axis, Chart, Point, Series, svg};
use super::metric::Metric;
use super::results::{Outcome, Phase, Run};
use super::settings::LEARNING_RATE;
use super::statistics::Mean;
use super::sweep::Sweep;

/// The points of a curve that are drawn at most.
const MAX_POINTS: usize = 120;

/// The held-out metric by step, a line a cell: mean over seeds, with a band of a standard error; none without curves.
///
/// # Errors
///
/// None that drawing into memory can have.
pub fn curves(
    name: &str,
    sweep: &Sweep,
    cells: &[CellRuns<'_>],
    metric: &Metric,
) -> anyhow::Result<Option<Figure>> {
    let series = cells.iter().map(|cell| Series {
        label: cell.label.to_owned(),
        points: mean_curve(sweep, cell, metric),
        is_line: true,
    });
    let series: Vec<Series> = series.filter(|series| !series.points.is_empty()).collect();
    let labels: Vec<&str> = series.iter().map(|series| series.label.as_str()).collect();
    let description = format!("{} by step: {}", metric.label, labels.join("; "));
    let chart = Chart { x: Axis::Steps, y_label: metric.title(), series, notes: vec![] };
    let seeds = cells.iter().map(|cell| cell.runs.len()).max().unwrap_or(0);
    let spread =
        if seeds > 1 { " Lines are means over seeds, bands a standard error." } else { "" };
    let caption = format!(
        "{} by step, {}.{spread} The first fifth is cut off where it is above the rest.",
        metric.title(),
        sweep.name
    );
    Ok(svg(&chart)?.map(|svg| Figure { name: format!("{name}-curves"), caption, description, svg }))
}

/// The mean over the seeds of a cell at each step that all of its curves have.
fn mean_curve(sweep: &Sweep, cell: &CellRuns<'_>, metric: &Metric) -> Vec<Point> {
    let curves: Vec<BTreeMap<u64, f64>> = cell
        .runs
        .values()
        .filter_map(|run| sweep.records.curves.get(&run.name))
        .map(|points| {
            let known =
                points.iter().filter_map(|p| Some((p.step, *p.values.get(&metric.column)?)));
            known.collect()
        })
        .collect();
    let Some(first) = curves.first() else {
        return Vec::new();
    };
    let steps: Vec<u64> =
        first.keys().copied().filter(|step| curves.iter().all(|c| c.contains_key(step))).collect();
    let every = steps.len().div_ceil(MAX_POINTS).max(1);
    let kept = steps.iter().rev().step_by(every).rev();
    let point = |step: &u64| {
        let values: Vec<f64> = curves.iter().map(|curve| curve[step] * metric.factor).collect();
        let mean = Mean::of(&values)?;
        let error = mean.standard_error.unwrap_or(0.0);
        Some(Point { x: *step as f64, y: mean.mean, error })
    };
    kept.filter_map(point).collect()
}

/// A point for each cell with error bars of two standard errors; none if there is nothing to compare.
///
/// # Errors
///
/// None that drawing into memory can have.
pub fn cells(
    name: &str,
    answer: &Answer<'_>,
    metric: &MetricAnswer,
) -> anyhow::Result<Option<Figure>> {
    let MetricAnswer { metric, cells, .. } = metric;
    let known = cells.iter().enumerate().filter_map(|(k, cell)| Some((k, cell.mean?)));
    let points: Vec<Point> = known
        .map(|(k, mean)| Point {
            x: k as f64,
            y: mean.mean * metric.factor,
            error: 2.0 * mean.standard_error.unwrap_or(0.0) * metric.factor,
        })
        .collect();
    let notes = cells.iter().enumerate().filter(|(_, cell)| cell.diverged > 0);
    let notes = notes.map(|(k, cell)| (k, format!("NaN \u{d7}{}", cell.diverged))).collect();
    let names: Vec<String> = answer.cells.iter().map(|cell| cell.label.to_owned()).collect();
    let described = answer.cells.iter().zip(cells).filter_map(|(cell, statistics)| {
        Some(format!("{} {}", cell.label, metric.show(statistics.mean?.mean)))
    });
    let description = format!("{}: {}", metric.title(), described.collect::<Vec<_>>().join("; "));
    let series = vec![Series { label: String::new(), points, is_line: false }];
    let x = Axis::Categories { label: String::new(), names };
    let chart = Chart { x, y_label: metric.title(), series, notes };
    let caption = format!(
        "{}, {}, {}: mean over seeds, bars of two standard errors.",
        metric.title(),
        answer.sweep.name,
        answer.rates
    );
    Ok(svg(&chart)?.map(|svg| Figure { name: format!("{name}-cells"), caption, description, svg }))
}

/// The runs of a search: held-out loss by learning rate, a line a cell; none without a search.
///
/// # Errors
///
/// None that drawing into memory can have.
pub fn search(sweep: &Sweep) -> anyhow::Result<Option<Figure>> {
    let runs: Vec<(&Run, &str, f64)> = sweep
        .runs_of(Phase::Search)
        .filter_map(|run| {
            let text = run.settings.get(LEARNING_RATE)?;
            Some((run, text.as_str(), text.parse().ok()?))
        })
        .collect();
    let Some((first, _, _)) = runs.first() else {
        return Ok(None);
    };
    let mut rates: Vec<(&str, f64)> = runs.iter().map(|(_, text, rate)| (*text, *rate)).collect();
    rates.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    rates.dedup_by(|(_, a), (_, b)| a == b);
    let metric = Metric::of("eval_loss", &first.task);
    let mut labels: Vec<&str> = Vec::new();
    let mut seen = BTreeSet::new();
    labels
        .extend(runs.iter().map(|(run, _, _)| run.cell.as_str()).filter(|cell| seen.insert(*cell)));
    let series = labels.iter().map(|label| {
        let mut points: Vec<Point> = runs
            .iter()
            .filter(|(run, _, _)| run.cell == *label)
            .filter_map(|(run, _, rate)| {
                let place = rates.iter().position(|(_, other)| other == rate)?;
                let Outcome::Value(y) = run.outcome("eval_loss") else { return None };
                Some(Point { x: place as f64, y, error: 0.0 })
            })
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Series { label: (*label).to_owned(), points, is_line: true }
    });
    let series: Vec<Series> = series.collect();
    let diverged = |rate: f64| {
        runs.iter()
            .filter(|(run, _, at)| *at == rate && run.outcome("eval_loss") == Outcome::Diverged)
            .count()
    };
    let counts = rates.iter().enumerate().map(|(k, (_, rate))| (k, diverged(*rate)));
    let notes =
        counts.filter(|(_, n)| *n > 0).map(|(k, n)| (k, format!("NaN \u{d7}{n}"))).collect();
    let names = rates.iter().map(|(text, _)| (*text).to_owned()).collect();
    let x = Axis::Categories { label: "learning rate".to_owned(), names };
    let chart = Chart { x, y_label: metric.title(), series, notes };
    let caption = format!(
        "The search of {}: {} after a run with one seed at each learning rate.",
        sweep.name,
        metric.title()
    );
    let description = format!("{} by learning rate: {}", metric.label, labels.join("; "));
    let name = format!("{}-search", slug(&sweep.name));
    Ok(svg(&chart)?.map(|svg| Figure { name, caption, description, svg }))
}
