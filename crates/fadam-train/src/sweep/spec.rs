//! A sweep as it is written: TOML in, a [`Spec`] out. Every value keeps the text that it was written as, which is what a
//! table shows (`1e-30`), and the line that it stands on, which is what an error names.

use std::collections::HashSet;
use std::path::Path;

use toml::Value;

use super::document::{Document, Setting};
use crate::Error;

/// The keys of `[sweep]`.
const SWEEP_KEYS: [&str; 5] = ["name", "task", "config", "seeds", "jobs"];

/// What a run's seed is.
pub(super) const SEED: &str = "train.seed";

/// A sweep as it is written.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// Its name, which is also that of the default folder.
    pub(super) name: String,
    /// The program of its runs: `train-llm`.
    pub(super) task: Setting,
    /// The seeds of every cell. A search takes the first.
    pub(super) seeds: Vec<u64>,
    /// Runs at a time, unless the command line says otherwise.
    pub(super) jobs: usize,
    /// What all runs have in common.
    pub(super) base: Vec<Setting>,
    /// What is varied, each value with each.
    pub(super) axes: Vec<Axis>,
    /// What is varied by name.
    pub(super) cells: Vec<NamedCell>,
    /// What is looked for in each cell first.
    pub(super) search: Option<Search>,
}

/// One key and its values.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) key: String,
    pub(super) values: Vec<Setting>,
}

/// One of `[[cells]]`.
#[derive(Debug, Clone)]
pub(super) struct NamedCell {
    pub(super) name: String,
    pub(super) settings: Vec<Setting>,
}

/// `[search]`: the key that is searched, and the value at which all cells are compared as well.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) axis: Axis,
    pub(super) fixed: Option<Setting>,
}

impl Spec {
    /// Reads a sweep file.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let text = super::document::read(path)?;
        Self::parse(&name, &text, path.parent())
    }

    /// Parses `text`, which messages call `name`; `sweep.config` is looked for in `folder`.
    pub(super) fn parse(name: &str, text: &str, folder: Option<&Path>) -> Result<Self, Error> {
        let document = Document::parse(name, text)?;
        document.only(&["sweep", "base", "axes", "cells", "search"])?;
        let sweep = document.section("sweep")?;
        for setting in &sweep {
            let key = setting.key.as_str();
            if !SWEEP_KEYS.contains(&key) {
                return Err(
                    setting.error(format!("is unknown, expected {}", SWEEP_KEYS.join(", ")))
                );
            }
        }
        let given = |key: &str| sweep.iter().find(|setting| setting.key == key);
        let needed =
            |key: &str| given(key).ok_or_else(|| document.error(format!("[sweep] has no {key}")));
        let mut base = match given("config") {
            None => Vec::new(),
            Some(config) => base_file(config, folder)?,
        };
        base.extend(document.section("base")?);
        let spec = Self {
            name: safe_name(needed("name")?)?,
            task: string(needed("task")?)?.clone(),
            seeds: seeds(needed("seeds")?)?,
            jobs: given("jobs").map_or(Ok(1), jobs)?,
            base: last_of_each(base),
            axes: document.section("axes")?.iter().map(axis).collect::<Result<_, _>>()?,
            cells: cells(&document)?,
            search: search(&document)?,
        };
        spec.check()?;
        Ok(spec)
    }

    /// Adds a setting to the base, in place of what it had.
    ///
    /// # Errors
    ///
    /// As [`Spec::read`]; also if the sweep varies that key.
    pub(super) fn set(&mut self, setting: Setting) -> Result<(), Error> {
        if self.varied().contains(&setting.key.as_str()) {
            return Err(setting.error("is what this sweep varies"));
        }
        self.base.push(setting);
        self.base = last_of_each(std::mem::take(&mut self.base));
        self.check()
    }

    /// Takes other seeds.
    ///
    /// # Errors
    ///
    /// When one is named twice, or is above what TOML can hold.
    pub(super) fn set_seeds(&mut self, given: &[u64]) -> Result<(), Error> {
        let list: Vec<String> = given.iter().map(u64::to_string).collect();
        self.seeds = seeds(&Setting::list("--seeds", "seeds", &list)?)?;
        Ok(())
    }

    /// The keys that differ between runs, in the order of columns: cells, axes, search.
    pub(super) fn varied(&self) -> Vec<&str> {
        let cells = self.cells.iter().flat_map(|cell| &cell.settings).map(|s| s.key.as_str());
        let axes = self.axes.iter().map(|axis| axis.key.as_str());
        let search = self.search.iter().map(|search| search.axis.key.as_str());
        let mut seen = HashSet::new();
        cells.chain(axes).chain(search).filter(|key| seen.insert(*key)).collect()
    }

    /// What [`Spec::parse`] reads back as the same sweep, with everything in one file.
    pub(super) fn to_toml(&self) -> String {
        let mut text = format!(
            "[sweep]\nname = {}\ntask = {}\nseeds = {:?}\njobs = {}\n",
            Value::String(self.name.clone()),
            self.task.raw,
            self.seeds,
            self.jobs
        );
        let line = |setting: &Setting| format!("\"{}\" = {}\n", setting.key, setting.raw);
        let list = |axis: &Axis| {
            let values: Vec<&str> = axis.values.iter().map(|value| value.raw.as_str()).collect();
            format!("\"{}\" = [{}]\n", axis.key, values.join(", "))
        };
        text += "\n[base]\n";
        text.extend(self.base.iter().map(line));
        if !self.axes.is_empty() {
            text += "\n[axes]\n";
            text.extend(self.axes.iter().map(list));
        }
        if let Some(search) = &self.search {
            text += "\n[search]\n";
            text += &list(&search.axis);
            text.extend(search.fixed.iter().map(|fixed| format!("fixed = {}\n", fixed.raw)));
        }
        for cell in &self.cells {
            text += "\n[[cells]]\nname = ";
            text += &Value::String(cell.name.clone()).to_string();
            text.push('\n');
            text.extend(cell.settings.iter().map(line));
        }
        text
    }

    /// What the parts must not say together.
    fn check(&self) -> Result<(), Error> {
        let of_cells = self.cells.iter().flat_map(|cell| &cell.settings);
        let of_axes = self.axes.iter().chain(self.search.iter().map(|search| &search.axis));
        let of_axes = of_axes.flat_map(|axis| axis.values.iter().take(1));
        for setting in self.base.iter().chain(of_cells.clone()).chain(of_axes.clone()) {
            if setting.key == SEED {
                return Err(setting.error("is what sweep.seeds is for"));
            }
        }
        let mut keys: HashSet<&str> = of_cells.map(|setting| setting.key.as_str()).collect();
        for first in of_axes {
            if !keys.insert(&first.key) {
                return Err(first.error("is varied elsewhere in this sweep already"));
            }
        }
        Ok(())
    }
}

/// The settings of the configuration file that `sweep.config` names.
fn base_file(config: &Setting, folder: Option<&Path>) -> Result<Vec<Setting>, Error> {
    let path = folder.unwrap_or(Path::new("")).join(string(config)?.text());
    let text =
        super::document::read(&path).map_err(|err| config.error(format!("leads to {err}")))?;
    let name = path.display().to_string();
    Document::parse(&name, &text)?.all()
}

/// The last setting of each key, in the order of their first appearance.
fn last_of_each(settings: Vec<Setting>) -> Vec<Setting> {
    let mut kept: Vec<Setting> = Vec::new();
    for setting in settings {
        match kept.iter_mut().find(|earlier| earlier.key == setting.key) {
            Some(earlier) => *earlier = setting,
            None => kept.push(setting),
        }
    }
    kept
}

fn string(setting: &Setting) -> Result<&Setting, Error> {
    match &setting.value {
        Value::String(text) if !text.is_empty() => Ok(setting),
        _ => Err(setting.error("must be a string")),
    }
}

/// A name that can be part of the name of a folder everywhere.
fn safe_name(setting: &Setting) -> Result<String, Error> {
    let name = string(setting)?.text();
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.+=".contains(c);
    if name.chars().all(safe) && !name.starts_with('.') {
        return Ok(name);
    }
    Err(setting.error("must be of letters, digits and - _ + = . (not first), for folders have it"))
}

fn seeds(setting: &Setting) -> Result<Vec<u64>, Error> {
    let wrong = || setting.error("must be a list of different whole numbers, 0 or more");
    let list = setting.value.as_array().filter(|list| !list.is_empty()).ok_or_else(wrong)?;
    let mut seeds = Vec::new();
    for seed in list {
        let seed = seed.as_integer().and_then(|n| u64::try_from(n).ok()).ok_or_else(wrong)?;
        if seeds.contains(&seed) {
            return Err(setting.error(format!("names {seed} twice")));
        }
        seeds.push(seed);
    }
    Ok(seeds)
}

fn jobs(setting: &Setting) -> Result<usize, Error> {
    let jobs = setting.value.as_integer().and_then(|n| usize::try_from(n).ok());
    jobs.filter(|jobs| *jobs >= 1).ok_or_else(|| setting.error("must be a number, 1 or more"))
}

fn axis(setting: &Setting) -> Result<Axis, Error> {
    let values = setting.elements().filter(|values| !values.is_empty());
    let values = values.ok_or_else(|| setting.error("must be a list of values"))?;
    for (i, value) in values.iter().enumerate() {
        if values[..i].iter().any(|earlier| earlier.value == value.value) {
            return Err(setting.error(format!("names {} twice", value.raw)));
        }
    }
    Ok(Axis { key: setting.key.clone(), values })
}

fn cells(document: &Document<'_>) -> Result<Vec<NamedCell>, Error> {
    let mut cells: Vec<NamedCell> = Vec::new();
    for (place, mut settings) in document.tables("cells")? {
        let Some(name) = settings.iter().position(|setting| setting.key == "name") else {
            return Err(Error::Config { place, message: "this cell has no name".to_owned() });
        };
        let setting = settings.remove(name);
        let name = safe_name(&setting)?;
        if cells.iter().any(|cell| cell.name == name) {
            return Err(setting.error("is the name of two cells"));
        }
        cells.push(NamedCell { name, settings });
    }
    Ok(cells)
}

fn search(document: &Document<'_>) -> Result<Option<Search>, Error> {
    let mut settings = document.section("search")?;
    if settings.is_empty() {
        return Ok(None);
    }
    let fixed = settings.iter().position(|setting| setting.key == "fixed");
    let fixed = fixed.map(|at| settings.remove(at));
    let [searched] = settings.as_slice() else {
        return Err(document.error("[search] must have one key with its values, and perhaps fixed"));
    };
    let axis = axis(searched)?;
    let fixed = fixed.map(|fixed| fixed.renamed(&axis.key));
    Ok(Some(Search { axis, fixed }))
}
