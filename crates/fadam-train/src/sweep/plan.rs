//! What a sweep runs: its cells, the runs of each, and the value that a search chose.
//!
//! ```text
//! cells    = [[cells]] × [axes], in the order in which they are written
//! search:    each cell at each searched value, with the first seed
//! fixed:     each cell at search.fixed, with every seed
//! final:     each cell at its best value (or as it is, without a search), with every seed
//! best     = the value with the lowest held-out loss at the end; the earlier one of equals
//! ```
//!
//! A question (cell, phase, value, seed) is a row of the table. Two questions can have the same run as their answer: the
//! search has run the best value with the first seed already.

use std::collections::{BTreeMap, HashMap, HashSet};

use toml::Value;

use super::SweepTask;
use super::document::Setting;
use super::record::Record;
use super::spec::{SEED, Spec};
use crate::Error;
use crate::config::Override;

/// What is known of finished runs, by the name of the run.
pub(super) type Records = BTreeMap<String, Record>;

/// What a row of the table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Search,
    Fixed,
    Final,
}

impl Phase {
    /// `search`, `fixed` or `final`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Fixed => "fixed",
            Self::Final => "final",
        }
    }
}

/// One contestant.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) name: String,
    settings: Vec<Setting>,
}

/// One question, and the run that answers it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Index of the cell.
    pub(super) cell: usize,
    pub(super) phase: Phase,
    /// Index of the value of the searched key.
    pub(super) value: Option<usize>,
    pub(super) seed: u64,
    /// The name of the run.
    pub(super) run: String,
}

/// All that a sweep can run.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) spec: Spec,
    pub(super) cells: Vec<Cell>,
    /// Of the searched key: those that are searched, then `fixed` if it is none of them.
    pub(super) values: Vec<Setting>,
    searched: usize,
    fixed: Option<usize>,
}

impl Plan {
    pub(super) fn new(spec: Spec) -> Self {
        let mut values = Vec::new();
        let mut fixed = None;
        if let Some(search) = &spec.search {
            values.clone_from(&search.axis.values);
            fixed = search.fixed.as_ref().map(|fixed| {
                values.iter().position(|value| value.value == fixed.value).unwrap_or_else(|| {
                    values.push(fixed.clone());
                    values.len() - 1
                })
            });
        }
        let searched = spec.search.as_ref().map_or(0, |search| search.axis.values.len());
        Self { cells: cells(&spec), values, searched, fixed, spec }
    }

    /// Refuses values that a run's configuration refuses, and cells that are one and the same.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] naming the cell and where the value is written.
    pub(super) fn check(&self, task: &SweepTask) -> Result<(), Error> {
        let mut names = HashSet::new();
        let mut seen: HashMap<String, &str> = HashMap::new();
        for (index, cell) in self.cells.iter().enumerate() {
            if !names.insert(&cell.name) {
                let message = format!("two cells have the name {}", cell.name);
                return Err(Error::Config { place: self.spec.name.clone(), message });
            }
            for value in self.candidates() {
                let config = self.config(task, &self.row(index, Phase::Final, value, 0))?;
                if let Some(other) = seen.insert(config, &cell.name)
                    && other != cell.name
                {
                    let message = format!("cells {other} and {} are the same run", cell.name);
                    return Err(Error::Config { place: self.spec.name.clone(), message });
                }
            }
        }
        Ok(())
    }

    /// The questions that can be asked by now, in the order of the table.
    pub(super) fn rows(&self, records: &Records) -> Vec<Row> {
        let mut rows = Vec::new();
        let seeds = || self.spec.seeds.iter().copied();
        for cell in 0..self.cells.len() {
            let row = |phase, value, seed| self.row(cell, phase, value, seed);
            rows.extend(self.search_rows(cell));
            if self.fixed.is_some() {
                rows.extend(seeds().map(|seed| row(Phase::Fixed, self.fixed, seed)));
            }
            if self.searched == 0 {
                rows.extend(seeds().map(|seed| row(Phase::Final, None, seed)));
            } else if let Some(best) = self.best(cell, records) {
                rows.extend(seeds().map(|seed| row(Phase::Final, Some(best), seed)));
            }
        }
        rows
    }

    /// How many runs there are, as far as that is known: at most, while a search is not over.
    pub(super) fn count(&self, records: &Records) -> usize {
        let rows = self.rows(records);
        let runs: HashSet<&str> = rows.iter().map(|row| row.run.as_str()).collect();
        let open = |cell: &usize| self.searched > 0 && self.best(*cell, records).is_none();
        let open = (0..self.cells.len()).filter(open).count();
        runs.len() + open * (self.spec.seeds.len() - 1)
    }

    /// The index of the value that a cell's search found, once all of them have a result. A value at which the run diverged
    /// is worse than any other; if all did, it is the first.
    pub(super) fn best(&self, cell: usize, records: &Records) -> Option<usize> {
        let rows = self.search_rows(cell);
        let loss = |row: &Row| {
            let record = records.get(&row.run).filter(|record| record.is_result())?;
            Some(record.eval_loss.unwrap_or(f64::INFINITY))
        };
        let losses: Option<Vec<f64>> = rows.iter().map(loss).collect();
        let losses = losses?;
        let lower =
            |best: usize, (i, loss): (usize, &f64)| if *loss < losses[best] { i } else { best };
        (!losses.is_empty()).then(|| losses.iter().enumerate().fold(0, lower))
    }

    /// Whether `value` is the first or the last of several that were searched: the best one may lie beyond.
    pub(super) fn is_at_edge(&self, value: usize) -> bool {
        self.searched > 1 && (value == 0 || value + 1 == self.searched)
    }

    /// The configuration of a run, resolved, as TOML.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] naming the cell and where the value is written.
    pub(super) fn config(&self, task: &SweepTask, row: &Row) -> Result<String, Error> {
        let cell = &self.cells[row.cell];
        let of_cell = format!(" (cell {})", cell.name);
        let seed = i64::try_from(row.seed).expect("it came from TOML").into();
        let base = self.spec.base.iter().map(|setting| setting.as_override(""));
        let varied = cell.settings.iter().chain(row.value.map(|i| &self.values[i]));
        let varied = varied.map(|setting| setting.as_override(&of_cell));
        let seed = Override::from_place("sweep.seeds", SEED, seed);
        let overrides: Vec<Override> = base.chain(varied).chain([seed]).collect();
        (task.resolve)(&overrides).map_err(|err| match err {
            Error::CommandLine { argument, message } if argument.contains(&of_cell) => {
                Error::Config { place: argument, message }
            }
            Error::CommandLine { argument, message } => {
                Error::Config { place: format!("{argument}{of_cell}"), message }
            }
            other => other,
        })
    }

    /// The values of the keys that vary, as they are written; nothing where a cell leaves a key alone.
    pub(super) fn varied(&self, row: &Row) -> Vec<Option<String>> {
        let cell = self.cells[row.cell].settings.iter();
        let settings: Vec<&Setting> = cell.chain(row.value.map(|i| &self.values[i])).collect();
        let base = &self.spec.base;
        let find = |key: &str| {
            let mine = settings.iter().copied().find(|setting| setting.key == key);
            mine.or_else(|| base.iter().find(|setting| setting.key == key)).map(Setting::text)
        };
        self.spec.varied().into_iter().map(find).collect()
    }

    /// The values of the only axis, if there is one and they are different numbers.
    pub(super) fn numeric_axis(&self) -> Option<Vec<f64>> {
        let [axis] = self.spec.axes.as_slice() else {
            return None;
        };
        let numbers: Option<Vec<f64>> = axis.values.iter().map(|v| number(&v.value)).collect();
        numbers.filter(|numbers| numbers.len() > 1)
    }

    /// Where a cell stands in a curve over the only axis: the name of its group, if there are any, and its number.
    pub(super) fn point(&self, cell: usize) -> (Option<String>, Option<f64>) {
        let Cell { name, settings } = &self.cells[cell];
        let Some(on_axis) = settings.last() else {
            return (None, None);
        };
        let group = name.strip_suffix(&assignment(&self.spec, on_axis));
        let group = group.map(|group| group.trim_end_matches('_').to_owned());
        (group.filter(|group| !group.is_empty()), number(&on_axis.value))
    }

    fn search_rows(&self, cell: usize) -> Vec<Row> {
        let seed = self.spec.seeds[0];
        (0..self.searched).map(|value| self.row(cell, Phase::Search, Some(value), seed)).collect()
    }

    /// Each value of the searched key; one nothing if none is searched.
    fn candidates(&self) -> Vec<Option<usize>> {
        if self.values.is_empty() { vec![None] } else { (0..self.values.len()).map(Some).collect() }
    }

    fn row(&self, cell: usize, phase: Phase, value: Option<usize>, seed: u64) -> Row {
        let value_of = value.map(|i| assignment(&self.spec, &self.values[i]));
        let parts = [Some(self.cells[cell].name.clone()), value_of, Some(format!("seed={seed}"))];
        let run = parts.into_iter().flatten().collect::<Vec<_>>().join("_");
        Row { cell, phase, value, seed, run }
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|n| n as f64))
}

/// `[[cells]]` × `[axes]`, the last axis changing fastest.
fn cells(spec: &Spec) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    cells.extend(
        spec.cells.iter().map(|c| Cell { name: c.name.clone(), settings: c.settings.clone() }),
    );
    if cells.is_empty() {
        cells.push(Cell { name: String::new(), settings: Vec::new() });
    }
    for axis in &spec.axes {
        let with = |cell: &Cell, value: &Setting| {
            let mut name = cell.name.clone();
            if !name.is_empty() {
                name.push('_');
            }
            name += &assignment(spec, value);
            Cell { name, settings: cell.settings.iter().chain([value]).cloned().collect() }
        };
        cells =
            cells.iter().flat_map(|cell| axis.values.iter().map(move |v| with(cell, v))).collect();
    }
    for cell in &mut cells {
        if cell.name.is_empty() {
            "base".clone_into(&mut cell.name);
        }
    }
    cells
}

/// `rho=0.3`, as a part of a folder's name: the key without its section, if no other ends so.
fn assignment(spec: &Spec, setting: &Setting) -> String {
    let short = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let mine = short(&setting.key);
    let alone = spec.varied().into_iter().filter(|key| short(key) == mine).count() == 1;
    let key = if alone { mine } else { setting.key.clone() };
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '-' };
    format!("{key}={}", setting.text().chars().map(safe).collect::<String>())
}
