//! `results.csv` of a sweep: one row a run.
//!
//! ```text
//! sweep,run,task,cell,phase,seed,[a column an axis],status,steps,eval_loss,best_eval_loss,[a column a metric],params,message
//! ```

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use csv::StringRecord;
use fadam_train::bad_input;

use super::settings::Settings;

/// The file of a sweep folder.
pub const FILE: &str = "results.csv";

/// Columns that every `results.csv` has.
const REQUIRED: [&str; 9] =
    ["run", "task", "cell", "phase", "seed", "status", "steps", "eval_loss", "best_eval_loss"];

/// A run, as its row says.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its folder's name.
    pub name: String,
    /// The program.
    pub task: String,
    /// Its cell of the sweep.
    pub cell: String,
    /// What it is for.
    pub phase: Phase,
    /// The seed.
    pub seed: u64,
    /// How it ended.
    pub status: Status,
    /// Steps done.
    pub steps: Option<u64>,
    /// The last evaluation by column, `eval_loss` among them, and `best_eval_loss`; what was not measured is absent.
    pub values: BTreeMap<String, f64>,
    /// What its row says of its configuration.
    pub settings: Settings,
    /// Parameters.
    pub params: Option<u64>,
    /// Of a run that did not complete.
    pub message: String,
}

/// What a row is for. One run can be the answer to several, and then has several rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// To find the learning rate of its cell.
    Search,
    /// All cells at one learning rate.
    Fixed,
    /// Each cell at its own.
    Final,
}

impl Phase {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Fixed => "fixed",
            Self::Final => "final",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As planned.
    Completed,
    /// A loss or gradient was not finite.
    Diverged,
    /// For another reason: no result.
    Failed,
}

/// What a run says of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// A number.
    Value(f64),
    /// NaN: a result too.
    Diverged,
    /// Nothing: it failed, or does not measure this.
    Absent,
}

impl Run {
    /// The last value of a metric.
    pub fn outcome(&self, metric: &str) -> Outcome {
        match (self.status, self.values.get(metric)) {
            (Status::Completed, Some(value)) if value.is_finite() => Outcome::Value(*value),
            (Status::Completed, Some(_)) | (Status::Diverged, _) => Outcome::Diverged,
            _ => Outcome::Absent,
        }
    }
}

/// The rows of a `results.csv`, in their order, and its metrics' columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// The runs.
    pub runs: Vec<Run>,
    /// `eval_loss` and the columns after `best_eval_loss`.
    pub metrics: Vec<String>,
}

impl Results {
    /// Reads and checks a `results.csv`; `place` is what messages call it.
    ///
    /// # Errors
    ///
    /// Bad input (exit code 2) that names the file, the line and the column: a missing column, a row of another length, a value that is
    /// none, two rows of one run, no row at all.
    pub fn read(path: &Path, place: &str) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).context(place.to_owned()).map_err(bad_input)?;
        Self::parse(&text, place).map_err(bad_input)
    }

    fn parse(text: &str, place: &str) -> anyhow::Result<Self> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let columns = Columns::of(reader.headers().context(place.to_owned())?)
            .with_context(|| format!("{place}:1"))?;
        let mut names = HashSet::new();
        let mut runs = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|error| at_line(&error, place))?;
            let line = record.position().map_or(0, csv::Position::line);
            let run = columns.run(&record).with_context(|| format!("{place}:{line}"))?;
            if !names.insert((run.name.clone(), run.phase)) {
                bail!("{place}:{line}: column run: a second row of \"{}\" in this phase", run.name);
            }
            runs.push(run);
        }
        if runs.is_empty() {
            bail!("{place}: holds no run");
        }
        let metrics = ["eval_loss".to_owned()].into_iter().chain(columns.metrics).collect();
        Ok(Self { runs, metrics })
    }
}

/// An error of the reader with its line where it belongs.
fn at_line(error: &csv::Error, place: &str) -> anyhow::Error {
    match (error.kind(), error.position()) {
        (csv::ErrorKind::UnequalLengths { expected_len, len, .. }, Some(position)) => anyhow!(
            "{place}:{}: has {len} columns where the first line has {expected_len}",
            position.line()
        ),
        _ => anyhow!("{place}: {error}"),
    }
}

/// Where which column is.
struct Columns {
    places: BTreeMap<String, usize>,
    /// Between `seed` and `status`.
    axes: Vec<String>,
    /// After `best_eval_loss`, without `params` and `message`.
    metrics: Vec<String>,
}

impl Columns {
    fn of(head: &StringRecord) -> anyhow::Result<Self> {
        let mut places = BTreeMap::new();
        for (k, name) in head.iter().enumerate() {
            if places.insert(name.to_owned(), k).is_some() {
                bail!("two columns are called \"{name}\"");
            }
        }
        for name in REQUIRED {
            if !places.contains_key(name) {
                bail!("there is no column \"{name}\"; expected {}", REQUIRED.join(", "));
            }
        }
        let between = |from: usize, to: usize| {
            head.iter().take(to).skip(from + 1).map(str::to_owned).collect::<Vec<String>>()
        };
        let mut metrics = between(places["best_eval_loss"], head.len());
        metrics.retain(|name| !matches!(name.as_str(), "params" | "message"));
        Ok(Self { axes: between(places["seed"], places["status"]), metrics, places })
    }

    fn run(&self, record: &StringRecord) -> anyhow::Result<Run> {
        let text = |name: &str| self.places.get(name).map_or("", |&k| &record[k]);
        let bad = |name: &str, expected: &str| {
            anyhow!("column {name}: \"{}\" is not {expected}", text(name))
        };
        let count = |name: &str| match text(name) {
            "" => Ok(None),
            digits => digits.parse::<u64>().map(Some).map_err(|_| bad(name, "a whole number")),
        };
        if text("run").is_empty() {
            bail!("column run: is empty");
        }
        let phase = match text("phase") {
            "search" => Phase::Search,
            "fixed" => Phase::Fixed,
            "final" => Phase::Final,
            _ => return Err(bad("phase", "search, fixed or final")),
        };
        let status = match text("status") {
            "completed" => Status::Completed,
            "diverged" => Status::Diverged,
            "failed" => Status::Failed,
            _ => return Err(bad("status", "completed, diverged or failed")),
        };
        let mut values = BTreeMap::new();
        let measured = ["eval_loss", "best_eval_loss"].into_iter();
        for name in measured.chain(self.metrics.iter().map(String::as_str)) {
            if !text(name).is_empty() {
                let value = text(name).parse::<f64>().map_err(|_| bad(name, "a number"))?;
                values.insert(name.to_owned(), value);
            }
        }
        let given = self.axes.iter().filter(|axis| !text(axis).is_empty());
        Ok(Run {
            name: text("run").to_owned(),
            task: text("task").to_owned(),
            cell: text("cell").to_owned(),
            phase,
            seed: count("seed")?.ok_or_else(|| anyhow!("column seed: is empty"))?,
            status,
            steps: count("steps")?,
            values,
            settings: given.map(|axis| (axis.clone(), text(axis).to_owned())).collect(),
            params: count("params")?,
            message: text("message").to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "sweep,run,task,cell,phase,seed,optimizer.rho,status,steps,eval_loss,\
                        best_eval_loss,wer,params,message";

    fn parse(rows: &str) -> Result<Results, String> {
        Results::parse(&format!("{HEAD}\n{rows}"), "s/results.csv").map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn rows_are_read_as_they_stand() {
        let results = parse(
            "s,a,train-asr,x,final,1,0.5,completed,40,1.5,1.25,0.5,100,\n\
             s,b,train-asr,y,search,2,,diverged,7,,,,,\"loss, NaN\"\n\
             s,c,train-asr,y,final,2,,completed,7,NaN,1,,,\n\
             s,d,train-asr,y,final,3,,failed,7,1.5,1,,,no disk\n",
        )
        .unwrap();
        assert_eq!(results.metrics, ["eval_loss", "wer"]);
        let [a, b, c, d] = results.runs.as_slice() else { panic!("{results:?}") };
        assert_eq!((a.seed, a.steps, a.params), (1, Some(40), Some(100)));
        assert_eq!(a.settings["optimizer.rho"], "0.5");
        assert_eq!(
            (a.outcome("eval_loss"), a.outcome("wer")),
            (Outcome::Value(1.5), Outcome::Value(0.5))
        );
        assert!(b.phase == Phase::Search && b.settings.is_empty() && b.message == "loss, NaN");
        assert_eq!(b.outcome("wer"), Outcome::Diverged);
        assert_eq!(
            (c.outcome("eval_loss"), c.outcome("wer")),
            (Outcome::Diverged, Outcome::Absent)
        );
        assert_eq!(d.outcome("eval_loss"), Outcome::Absent);
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_column() {
        let good = "s,a,train-asr,x,final,1,0.5,completed,40,1.5,1.25,0.5,100,\n";
        let cases = [
            (
                good.replace("final,1", "final,x"),
                "s/results.csv:3: column seed: \"x\" is not a whole",
            ),
            (
                good.replace("final", "last"),
                "s/results.csv:3: column phase: \"last\" is not search,",
            ),
            (good.replace("completed", "fine"), "s/results.csv:3: column status: \"fine\" is not"),
            (
                good.replace("1.5,1.25", "1.5,1.2.5"),
                "column best_eval_loss: \"1.2.5\" is not a number",
            ),
            (good.replace(",a,", ",,"), "s/results.csv:3: column run: is empty"),
            (
                good.replace("1.5,1.25", "1.5"),
                "s/results.csv:3: has 13 columns where the first line has 14",
            ),
            (good.to_owned(), "s/results.csv:3: column run: a second row of \"a\""),
        ];
        for (row, expected) in cases {
            let message = parse(&format!("{good}{row}")).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        assert!(parse("").unwrap_err().contains("s/results.csv: holds no run"));
        let no_seed = HEAD.replace(",seed", "");
        let message = format!("{:#}", Results::parse(&no_seed, "r.csv").unwrap_err());
        assert!(message.contains("r.csv:1: there is no column \"seed\""), "{message}");
        let twice = HEAD.replace("wer", "cell");
        let message = format!("{:#}", Results::parse(&twice, "r.csv").unwrap_err());
        assert!(message.contains("r.csv:1: two columns are called \"cell\""), "{message}");
    }
}
