//! Where the numbers are from: every sweep and run that was given, with its configuration, commit, machine and command.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::{CellRuns, CellStatistics, evidence};
use super::answered::{mean, with_error};
use super::charts;
use super::document::{Block, Span, Table, heading, paragraph, slug, text};
use super::metric::Metric;
use super::page::Asked;
use super::records::Provenance;
use super::results::{Outcome, Phase, Run, Status};
use super::settings::LEARNING_RATE;
use super::sweep::{self, Sweep};

/// The id of a sweep's heading.
pub(super) fn id(sweep: &Sweep) -> String {
    format!("from-{}", slug(&sweep.place))
}

/// A section on each sweep and run.
pub(super) fn blocks(sweeps: &[Sweep], asked: &[Asked<'_>]) -> anyhow::Result<Vec<Block>> {
    let mut blocks = vec![heading(2, "sources", "Where the numbers are from")];
    if sweeps.is_empty() {
        blocks.push(paragraph("There are no results yet."));
    }
    for sweep in sweeps {
        blocks.push(heading(3, id(sweep), &sweep.name));
        let answered =
            asked.iter().find(|asked| asked.answers.iter().any(|a| is_same(a.sweep, sweep)));
        blocks.push(Block::Table(facts(sweep)));
        if !sweep.is_single {
            blocks.extend(command(sweep, answered));
        }
        blocks.extend(charts::search(sweep)?.map(Block::Figure));
        blocks.extend(search_table(sweep).map(Block::Table));
        blocks.extend(at_an_edge(sweep));
        if answered.is_none() {
            blocks.extend(own_results(sweep)?);
        }
        blocks.extend(troubles(sweep).map(Block::Table));
        let file = if sweep.is_single { "config.toml" } else { sweep::FILE };
        let summary = format!("Configuration ({file})");
        blocks.push(Block::Details { summary, code: sweep.config.clone() });
    }
    Ok(blocks)
}

fn is_same(a: &Sweep, b: &Sweep) -> bool {
    std::ptr::eq(a, b)
}

/// What does the runs of a sweep again.
fn command(sweep: &Sweep, answered: Option<&Asked<'_>>) -> Vec<Block> {
    let mut words = answered.map_or("", |asked| asked.question.command.as_str()).split_whitespace();
    let program = words.by_ref().skip_while(|word| *word != "--bin").nth(1);
    let Some(program) = program else {
        return vec![paragraph(
            "It answers none of the paper's questions: its runs are of another task, differ in other keys, or are of fewer than two cells of any table.",
        )];
    };
    vec![
        paragraph("The same runs again:"),
        Block::Code(format!(
            "cargo run --release --bin {program} -- --config {}/{} --out runs/{}",
            sweep.place,
            sweep::FILE,
            sweep.name
        )),
    ]
}

fn facts(sweep: &Sweep) -> Table {
    let runs = &sweep.results.runs;
    let every = |fact: &dyn Fn(&Run) -> String| {
        let facts: BTreeSet<String> =
            runs.iter().map(fact).filter(|fact| !fact.is_empty()).collect();
        if facts.is_empty() { "not recorded".to_owned() } else { join(facts) }
    };
    let count = |count: Option<u64>| count.map_or(String::new(), |count| count.to_string());
    let made = |fact: &dyn Fn(&Provenance) -> String| {
        every(&|run| sweep.records.provenance.get(&run.name).map(fact).unwrap_or_default())
    };
    let names: BTreeSet<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let seeds = sweep.seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let machine = made(&|made| match made.threads.as_str() {
        "" => made.device.clone(),
        "1" => format!("{}, 1 thread", made.device),
        threads => format!("{}, {threads} threads", made.device),
    });
    let rows = [
        ("folder", sweep.place.clone()),
        ("program", every(&|run| run.task.clone())),
        ("seeds", seeds),
        ("runs", names.len().to_string()),
        (
            "steps",
            every(&|run| {
                if run.status == Status::Completed { count(run.steps) } else { String::new() }
            }),
        ),
        ("parameters", every(&|run| count(run.params))),
        ("commit", made(&|made| made.commit.clone())),
        ("machine", machine),
    ];
    Table {
        caption: format!("The runs of {}", sweep.name),
        head: vec!["what".to_owned(), "value".to_owned()],
        rows: rows.map(|(what, value)| vec![text(what), text(value)]).to_vec(),
    }
}

fn join(facts: BTreeSet<String>) -> String {
    facts.into_iter().collect::<Vec<_>>().join("; ")
}

/// Held-out loss of each cell at each learning rate that was searched.
fn search_table(sweep: &Sweep) -> Option<Table> {
    let runs: Vec<&Run> = sweep.runs_of(Phase::Search).collect();
    let metric = Metric::of("eval_loss", &runs.first()?.task);
    let mut rates: Vec<(&str, f64)> = runs
        .iter()
        .filter_map(|run| run.settings.get(LEARNING_RATE))
        .filter_map(|text| Some((text.as_str(), text.parse().ok()?)))
        .collect();
    rates.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    rates.dedup_by(|(a, _), (b, _)| a == b);
    let mut cells: Vec<&str> = Vec::new();
    for run in &runs {
        if !cells.contains(&run.cell.as_str()) {
            cells.push(&run.cell);
        }
    }
    let rows = cells.iter().map(|cell| {
        let losses = rates.iter().map(|(rate, _)| {
            let here = |run: &&&Run| {
                run.cell == *cell && run.settings.get(LEARNING_RATE).is_some_and(|own| own == rate)
            };
            text(match runs.iter().find(here).map(|run| run.outcome("eval_loss")) {
                Some(Outcome::Value(loss)) => metric.show(loss),
                Some(Outcome::Diverged) => "NaN".to_owned(),
                Some(Outcome::Absent) | None => "\u{2013}".to_owned(),
            })
        });
        [text(*cell)].into_iter().chain(losses).collect()
    });
    let rows = rows.collect();
    let caption = format!("The search: {} at each learning rate, one seed", metric.title());
    let head = ["cell"].into_iter().chain(rates.into_iter().map(|(rate, _)| rate));
    Some(Table { caption, head: head.map(str::to_owned).collect(), rows })
}

/// Names the cells whose search ended at the first or last of several rates.
fn at_an_edge(sweep: &Sweep) -> Option<Block> {
    let mut searches: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for run in sweep.runs_of(Phase::Search) {
        let rate = run.settings.get(LEARNING_RATE).and_then(|rate| rate.parse().ok());
        let loss =
            if let Outcome::Value(loss) = run.outcome("eval_loss") { loss } else { f64::INFINITY };
        searches.entry(&run.cell).or_default().extend(rate.map(|rate: f64| (rate, loss)));
    }
    let is_at_edge = |points: &[(f64, f64)]| {
        let best = points.iter().min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(rate, _)| *rate);
        let beyond = |is_beyond: &dyn Fn(f64, f64) -> bool| {
            best.is_some_and(|best| points.iter().any(|(rate, _)| is_beyond(*rate, best)))
        };
        points.len() > 1
            && !(beyond(&|rate, best| rate < best) && beyond(&|rate, best| rate > best))
    };
    let cells: Vec<&str> =
        searches.iter().filter(|(_, points)| is_at_edge(points)).map(|(cell, _)| *cell).collect();
    (!cells.is_empty()).then(|| {
        paragraph(format!(
            "The best rate lies at an edge of what was searched, so that a better one may lie beyond, for {}.",
            cells.join(", ")
        ))
    })
}

/// Results of a sweep that is about no table of the paper: each cell beside the first.
fn own_results(sweep: &Sweep) -> anyhow::Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for phase in [Phase::Fixed, Phase::Final] {
        let cells = own_cells(sweep, phase);
        let Some(run) = cells.first().and_then(|cell| cell.runs.values().next()) else {
            continue;
        };
        let metrics: Vec<Metric> = sweep
            .results
            .metrics
            .iter()
            .map(|column| Metric::of(column, &run.task))
            .filter(|metric| cells.iter().any(|cell| !cell.values(&metric.column).is_empty()))
            .collect();
        blocks.push(Block::Table(own_table(sweep, phase, &cells, &metrics)));
        let name = format!("{}-{}", slug(&sweep.place), phase.name());
        let loss = Metric::of("eval_loss", &run.task);
        blocks.extend(charts::curves(&name, sweep, &cells, &loss)?.map(Block::Figure));
    }
    Ok(blocks)
}

fn own_cells(sweep: &Sweep, phase: Phase) -> Vec<CellRuns<'_>> {
    let mut cells: Vec<CellRuns<'_>> = Vec::new();
    for run in sweep.runs_of(phase) {
        match cells.iter_mut().find(|cell| cell.label == run.cell) {
            Some(cell) => drop(cell.runs.insert(run.seed, run)),
            None => cells.push(CellRuns {
                label: &run.cell,
                printed: None,
                rate: run.settings.get(LEARNING_RATE).cloned(),
                runs: BTreeMap::from([(run.seed, run)]),
            }),
        }
    }
    cells
}

fn own_table(sweep: &Sweep, phase: Phase, cells: &[CellRuns<'_>], metrics: &[Metric]) -> Table {
    let mut head = ["cell", "learning rate", "seeds"].map(str::to_owned).to_vec();
    for metric in metrics {
        head.push(metric.title());
        if cells.len() > 1 {
            head.push("less the first".to_owned());
        }
    }
    let rows = cells.iter().enumerate().map(|(k, cell)| {
        let rate = cell.rate.as_deref().unwrap_or("\u{2013}");
        let mut row = vec![text(cell.label), text(rate), text(cell.runs.len().to_string())];
        for metric in metrics {
            row.push(text(mean(metric, &CellStatistics::of(cell, &metric.column))));
            let difference = evidence(cell, &cells[0], &metric.column).difference.filter(|_| k > 0);
            let shown = difference.map_or(String::new(), |it| with_error(metric, &it));
            if cells.len() > 1 {
                row.push(text(shown));
            }
        }
        row
    });
    let rows = rows.collect();
    let what = if phase == Phase::Fixed { ", at one learning rate" } else { "" };
    let caption = format!("{}{what}: mean \u{b1} standard error over seeds", sweep.name);
    Table { caption, head, rows }
}

/// Runs that did not complete, with what they said.
fn troubles(sweep: &Sweep) -> Option<Table> {
    let mut seen = BTreeSet::new();
    let rows: Vec<Vec<Vec<Span>>> = sweep
        .results
        .runs
        .iter()
        .filter(|run| run.status != Status::Completed && seen.insert(run.name.as_str()))
        .map(|run| {
            let how = if run.status == Status::Diverged { "diverged" } else { "failed" };
            let steps = run.steps.map_or("\u{2013}".to_owned(), |steps| steps.to_string());
            vec![text(&run.name), text(how), text(steps), text(&run.message)]
        })
        .collect();
    let head = ["run", "how", "steps", "message"].map(str::to_owned).to_vec();
    let caption = "Runs that did not complete".to_owned();
    (!rows.is_empty()).then_some(Table { caption, head, rows })
}
