//! A folder of results: what a sweep left, or a single run.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, anyhow};
use fadam_train::bad_input;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::records::Records;
use super::results::{self, Phase, Results, Run, Status};
use super::settings::{Settings, flatten};

/// The resolved configuration of a sweep, in its folder.
pub const FILE: &str = "sweep.toml";

/// The results of a sweep, or of a single run, which is a sweep of one.
#[derive(Debug)]
pub struct Sweep {
    /// Where it is.
    pub folder: PathBuf,
    /// That for a reader, without what only this machine has.
    pub place: String,
    /// Its name.
    pub name: String,
    /// The seeds that each cell is to be run with.
    pub seeds: Vec<u64>,
    /// Its runs, and which metrics they have.
    pub results: Results,
    /// Learning curves, commits and machines.
    pub records: Records,
    /// `sweep.toml`, or of a single run `config.toml`, as it is.
    pub config: String,
    /// Whether it is a single run.
    pub is_single: bool,
}

impl Sweep {
    /// Reads a folder: of a sweep (`sweep.toml`, `results.csv`) or of a run (`config.toml`, `summary.json`).
    ///
    /// # Errors
    ///
    /// Bad input (exit code 2) that names the file, and the line where there is one.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let place = shown(folder);
        let has = |file: &str| folder.join(file).is_file();
        if has(FILE) && has(results::FILE) {
            Self::read_sweep(folder, &place)
        } else if has("config.toml") && has("summary.json") {
            Self::read_run(folder, &place)
        } else {
            Err(bad_input(anyhow!(
                "{}: is neither the folder of a sweep, with {FILE} and {}, nor that of a run that ended, with config.toml and summary.json",
                folder.display(),
                results::FILE
            )))
        }
    }

    fn read_sweep(folder: &Path, place: &str) -> anyhow::Result<Self> {
        let file = format!("{place}/{FILE}");
        let (config, table) = read_toml(&folder.join(FILE), &file)?;
        let wrong = |what: &str| bad_input(anyhow!("{file}: {what}"));
        let head = table
            .get("sweep")
            .and_then(Value::as_table)
            .ok_or_else(|| wrong("there is no [sweep]"))?;
        let name = head
            .get("name")
            .and_then(Value::as_str)
            .ok_or_else(|| wrong("[sweep] has no `name`, a text"))?;
        let seeds = head.get("seeds").and_then(Value::as_array).and_then(|seeds| {
            seeds.iter().map(|seed| u64::try_from(seed.as_integer()?).ok()).collect()
        });
        let seeds =
            seeds.ok_or_else(|| wrong("[sweep] has no `seeds`, a list of whole numbers"))?;
        let results_file = format!("{place}/{}", results::FILE);
        let mut results = Results::read(&folder.join(results::FILE), &results_file)?;
        for run in &mut results.runs {
            run.settings = settings_of(run, &table);
        }
        let mut sweep = Self {
            folder: folder.to_owned(),
            place: place.to_owned(),
            name: name.to_owned(),
            seeds,
            results,
            records: Records::default(),
            config,
            is_single: false,
        };
        sweep.records = Records::read(folder, &sweep.compared())?;
        Ok(sweep)
    }

    fn read_run(folder: &Path, place: &str) -> anyhow::Result<Self> {
        let (config, table) =
            read_toml(&folder.join("config.toml"), &format!("{place}/config.toml"))?;
        let file = folder.join("summary.json");
        let summary = fs::read_to_string(&file)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(serde_json::from_str::<serde_json::Map<String, Json>>(&text)?))
            .with_context(|| format!("{place}/summary.json"))
            .map_err(bad_input)?;
        let name = place.rsplit('/').next().unwrap_or(place).to_owned();
        let mut records = Records::default();
        records.add_run(&name, folder)?;
        let last = records.curves.get(&name).and_then(|points| points.last());
        let columns = last.into_iter().flat_map(|at| at.values.keys());
        let columns = columns.filter(|name| *name != "eval_loss").cloned();
        let metrics: Vec<String> = ["eval_loss".to_owned()].into_iter().chain(columns).collect();
        let run = run_of(&name, &summary, &metrics, flatten(&table));
        Ok(Self {
            folder: folder.to_owned(),
            place: place.to_owned(),
            name,
            seeds: vec![run.seed],
            results: Results { runs: vec![run], metrics },
            records,
            config,
            is_single: true,
        })
    }

    /// The rows of a phase, of all tasks.
    pub fn runs_of(&self, phase: Phase) -> impl Iterator<Item = &Run> {
        self.results.runs.iter().filter(move |run| run.phase == phase)
    }

    /// The names of the runs that are compared, in their order: those of search alone are left out.
    pub fn compared(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for run in self.results.runs.iter().filter(|run| run.phase != Phase::Search) {
            if !names.contains(&run.name.as_str()) {
                names.push(&run.name);
            }
        }
        names
    }
}

/// A path for a reader: as it was given if it is relative, else its last part.
fn shown(folder: &Path) -> String {
    let names = folder.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".to_owned()),
        _ => None,
    });
    let names: Vec<String> = names.collect();
    let whole = folder.is_relative() && !names.is_empty();
    if whole { names.join("/") } else { names.last().cloned().unwrap_or_default() }
}

/// The text of a TOML file and what it says.
fn read_toml(path: &Path, place: &str) -> anyhow::Result<(String, Table)> {
    let text = fs::read_to_string(path).with_context(|| place.to_owned()).map_err(bad_input)?;
    match text.parse::<Table>() {
        Ok(table) => Ok((text, table)),
        Err(error) => {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text[..start].split('\n').count();
            Err(bad_input(anyhow!("{place}:{line}: {}", error.message())))
        }
    }
}

/// What is known of a run's configuration: the sweep's base, over it its cell's overrides, over them its row.
fn settings_of(run: &Run, sweep: &Table) -> Settings {
    let mut settings = sweep.get("base").and_then(Value::as_table).map(flatten).unwrap_or_default();
    let cells = sweep.get("cells").and_then(Value::as_array).into_iter().flatten();
    let named = |cell: &&Table| cell.get("name").and_then(Value::as_str) == Some(&run.cell);
    if let Some(cell) = cells.filter_map(Value::as_table).find(named) {
        for (key, value) in flatten(cell).into_iter().filter(|(key, _)| key != "name") {
            let key = ["set.", "overrides."]
                .iter()
                .find_map(|prefix| key.strip_prefix(prefix))
                .unwrap_or(&key)
                .to_owned();
            settings.insert(key, value);
        }
    }
    settings.extend(run.settings.clone());
    settings
}

/// A run by its `summary.json`, which holds the metrics of the last evaluation.
fn run_of(
    name: &str,
    summary: &serde_json::Map<String, Json>,
    metrics: &[String],
    settings: Settings,
) -> Run {
    let text = |key: &str| summary.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let count = |key: &str| summary.get(key).and_then(Json::as_u64);
    let columns = metrics.iter().map(String::as_str).chain(["best_eval_loss"]);
    let number = |key: &str| Some((key.to_owned(), summary.get(key)?.as_f64()?));
    let values = columns.filter_map(number).collect();
    let status = match text("outcome").as_str() {
        "failed" => Status::Failed,
        "diverged" => Status::Diverged,
        _ => Status::Completed,
    };
    Run {
        name: name.to_owned(),
        task: text("experiment"),
        cell: text("optimizer"),
        phase: Phase::Final,
        seed: count("seed").unwrap_or_default(),
        status,
        steps: count("steps"),
        values,
        settings,
        params: count("params"),
        message: text("error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_this_machine_are_not_shown() {
        assert_eq!(shown(Path::new("docs/results/rho/")), "docs/results/rho");
        assert_eq!(shown(Path::new("./runs/rho")), "runs/rho");
        assert_eq!(shown(Path::new("/home/someone/rho")), "rho");
    }
}
