//! What run folders hold beyond `results.csv`: learning curves and where a run was made. Read from the run folders, or from two compact
//! tables that are committed beside `results.csv`, since run folders are not.
//!
//! ```text
//! curves.csv       run,step,eval_loss,[a column a metric]     evaluations of the runs of the final phase, six digits
//! provenance.csv   run,commit,device,threads
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use fadam_train::bad_input;
use serde_json::Value;

/// The table of learning curves.
pub const CURVES: &str = "curves.csv";
/// The table of commits and machines.
pub const PROVENANCE: &str = "provenance.csv";

/// An evaluation on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Steps done.
    pub step: u64,
    /// By column; what was not finite is absent.
    pub values: BTreeMap<String, f64>,
}

/// Where a run was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Provenance {
    /// What its program was built from.
    pub commit: String,
    /// `cpu`, or the accelerator.
    pub device: String,
    /// Threads that it used.
    pub threads: String,
}

/// Both, by the run's name. A run that neither place knows of is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    /// In the order of steps.
    pub curves: BTreeMap<String, Vec<Point>>,
    /// Where each was made.
    pub provenance: BTreeMap<String, Provenance>,
}

impl Records {
    /// The records of the runs `names` of the sweep in `folder`: the committed tables, and over them what the run folders say.
    ///
    /// # Errors
    ///
    /// Bad input (exit code 2) that names file and line, if one of the files that are there cannot be read as what it is.
    pub fn read(folder: &Path, names: &[&str]) -> anyhow::Result<Self> {
        let mut records = Self::default();
        let path = folder.join(CURVES);
        if path.is_file() {
            records.curves = read_curves(&path).with_context(|| path.display().to_string())?;
        }
        let path = folder.join(PROVENANCE);
        if path.is_file() {
            records.provenance =
                read_provenance(&path).with_context(|| path.display().to_string())?;
        }
        for name in names {
            records.add_run(name, &folder.join("runs").join(name))?;
        }
        Ok(records)
    }

    /// Adds what a run folder says, as far as it is there.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn add_run(&mut self, name: &str, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join("metrics.jsonl");
        if path.is_file() {
            let curve = read_metrics(&path).with_context(|| path.display().to_string())?;
            self.curves.insert(name.to_owned(), curve);
        }
        let path = folder.join("summary.json");
        if path.is_file() {
            let summary = read_json(&path).with_context(|| path.display().to_string())?;
            let text = |key: &str| match &summary[key] {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            let [commit, device, threads] = ["commit", "device", "threads"].map(text);
            self.provenance.insert(name.to_owned(), Provenance { commit, device, threads });
        }
        Ok(())
    }

    /// `curves.csv` of the runs `names`.
    ///
    /// # Errors
    ///
    /// None that an in-memory table can have.
    pub fn curves_csv(&self, names: &[&str]) -> anyhow::Result<String> {
        let known: Vec<(&str, &Vec<Point>)> =
            names.iter().filter_map(|name| Some((*name, self.curves.get(*name)?))).collect();
        let points = || known.iter().flat_map(|(_, points)| *points);
        let mut columns: BTreeSet<&str> =
            points().flat_map(|point| point.values.keys().map(String::as_str)).collect();
        columns.remove("eval_loss");
        let columns: Vec<&str> = ["eval_loss"].into_iter().chain(columns).collect();
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["run", "step"].iter().chain(&columns))?;
        for (name, points) in &known {
            for point in *points {
                let value = |column: &&str| point.values.get(*column).map(ToString::to_string);
                let values = columns.iter().map(|column| value(column).unwrap_or_default());
                let start = [(*name).to_owned(), point.step.to_string()];
                writer.write_record(start.into_iter().chain(values))?;
            }
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    /// `provenance.csv` of the runs `names`.
    ///
    /// # Errors
    ///
    /// None that an in-memory table can have.
    pub fn provenance_csv(&self, names: &[&str]) -> anyhow::Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["run", "commit", "device", "threads"])?;
        for name in names {
            if let Some(made) = self.provenance.get(*name) {
                writer.write_record([*name, &made.commit, &made.device, &made.threads])?;
            }
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).map_err(bad_input)?;
    serde_json::from_str(&text).map_err(bad_input)
}

/// The evaluations of a `metrics.jsonl`. A last line that was not written to its end is left out, as the engine does.
fn read_metrics(path: &Path) -> anyhow::Result<Vec<Point>> {
    let text = fs::read_to_string(path).map_err(bad_input)?;
    let mut points = Vec::new();
    for (k, line) in text.split_inclusive('\n').enumerate() {
        if !line.ends_with('\n') {
            continue;
        }
        let bad = |what: &str| bad_input(anyhow!("line {}: {what}", k + 1));
        let line: Value = serde_json::from_str(line).map_err(|error| bad(&error.to_string()))?;
        let fields = line.as_object().ok_or_else(|| bad("is not an object"))?;
        if fields.get("split").and_then(Value::as_str) != Some("eval") {
            continue;
        }
        let step = fields.get("step").and_then(Value::as_u64).ok_or_else(|| bad("has no step"))?;
        let numbers =
            fields.iter().filter(|(name, _)| *name != "step" && !name.ends_with("_per_s"));
        let values = numbers.filter_map(|(name, value)| {
            let column = if name == "loss" { "eval_loss" } else { name };
            Some((column.to_owned(), six_digits(value.as_f64()?)))
        });
        points.push(Point { step, values: values.collect() });
    }
    Ok(points)
}

/// What a curve needs, so that it is the same from a run folder and from `curves.csv`.
fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().expect("a number as it was just written")
}

fn read_curves(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<Point>>> {
    let mut reader = csv::Reader::from_path(path).map_err(bad_input)?;
    let head = reader.headers().map_err(bad_input)?.clone();
    expect_columns(&head, &["run", "step", "eval_loss"])?;
    let mut curves: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(bad_input)?;
        let line = record.position().map_or(0, csv::Position::line);
        let bad = |column: &str, text: &str| {
            bad_input(anyhow!("line {line}: column {column}: \"{text}\" is not a number"))
        };
        let step = record[1].parse().map_err(|_| bad("step", &record[1]))?;
        let mut values = BTreeMap::new();
        for (column, text) in head.iter().zip(&record).skip(2).filter(|(_, text)| !text.is_empty())
        {
            values.insert(column.to_owned(), text.parse().map_err(|_| bad(column, text))?);
        }
        curves.entry(record[0].to_owned()).or_default().push(Point { step, values });
    }
    Ok(curves)
}

fn read_provenance(path: &Path) -> anyhow::Result<BTreeMap<String, Provenance>> {
    let mut reader = csv::Reader::from_path(path).map_err(bad_input)?;
    expect_columns(reader.headers().map_err(bad_input)?, &["run", "commit", "device", "threads"])?;
    let mut runs = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(bad_input)?;
        let [commit, device, threads] = [1, 2, 3].map(|k| record[k].to_owned());
        runs.insert(record[0].to_owned(), Provenance { commit, device, threads });
    }
    Ok(runs)
}

fn expect_columns(head: &csv::StringRecord, expected: &[&str]) -> anyhow::Result<()> {
    if head.iter().take(expected.len()).eq(expected.iter().copied()) {
        return Ok(());
    }
    Err(bad_input(anyhow!("line 1: expected the columns {}", expected.join(","))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "{\"step\":0,\"split\":\"eval\",\"loss\":7.1234567,\"wer\":null}\n\
                           {\"step\":5,\"split\":\"train\",\"loss\":7.0,\"lr\":0.1}\n\
                           {\"step\":10,\"split\":\"eval\",\"loss\":2.5,\"wer\":0.25,\"clips_per_s\":3}\n\
                           {\"step\":20,\"sp";

    #[test]
    fn the_tables_say_what_the_run_folders_say() {
        let place = tempfile::tempdir().unwrap();
        let run = place.path().join("runs/a");
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join("metrics.jsonl"), METRICS).unwrap();
        let summary = "{\"commit\":\"abc\",\"device\":\"cpu\",\"threads\":2}";
        fs::write(run.join("summary.json"), summary).unwrap();
        let records = Records::read(place.path(), &["a", "b"]).unwrap();
        let steps: Vec<u64> = records.curves["a"].iter().map(|point| point.step).collect();
        assert_eq!(steps, [0, 10]);
        assert_eq!(records.provenance["a"].threads, "2");

        let curves = records.curves_csv(&["a", "b"]).unwrap();
        assert_eq!(curves, "run,step,eval_loss,wer\na,0,7.12346,\na,10,2.5,0.25\n");
        fs::write(place.path().join(CURVES), curves).unwrap();
        let provenance = records.provenance_csv(&["a", "b"]).unwrap();
        assert_eq!(provenance, "run,commit,device,threads\na,abc,cpu,2\n");
        fs::write(place.path().join(PROVENANCE), provenance).unwrap();
        fs::remove_dir_all(place.path().join("runs")).unwrap();
        assert_eq!(Records::read(place.path(), &["a", "b"]).unwrap(), records);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let place = tempfile::tempdir().unwrap();
        let message_of = |file: &str, text: &str| {
            fs::create_dir_all(place.path().join("runs/a")).unwrap();
            fs::write(place.path().join(file), text).unwrap();
            let error = Records::read(place.path(), &["a"]).unwrap_err();
            fs::remove_file(place.path().join(file)).unwrap();
            assert_eq!(fadam_train::exit_code(&error), 2);
            fadam_train::describe(&error)
        };
        for (file, text, expected) in [
            (
                CURVES,
                "run,step,eval_loss\na,0,1\na,x,2\n",
                "curves.csv: line 3: column step: \"x\"",
            ),
            (CURVES, "run,loss\n", "curves.csv: line 1: expected the columns run,step,eval_loss"),
            (PROVENANCE, "run,commit\n", "provenance.csv: line 1: expected the columns run,commit"),
            (
                "runs/a/metrics.jsonl",
                "{}\n{\"split\":\"eval\"}\n",
                "metrics.jsonl: line 2: has no step",
            ),
            ("runs/a/metrics.jsonl", "nonsense\n", "metrics.jsonl: line 1: "),
            ("runs/a/summary.json", "{", "summary.json: "),
        ] {
            let message = message_of(file, text);
            assert!(message.contains(expected), "{message}");
        }
    }
}
