//! The paper's tables and figures: `paper.toml`, parsed.
//!
//! An [`Item`] is a table or a figure with every number that is printed in it. Its [`Question`]s, one a task, say which runs answer it: the
//! cells by their configuration, and the contrasts between cells in which its claim consists.

use std::sync::LazyLock;

use serde::{Deserialize, Deserializer};
use toml::Table;

use super::settings::{LEARNING_RATE, Settings, flatten};

/// The tables and figures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// The paper's constants, which a run has unless its configuration says otherwise.
    #[serde(deserialize_with = "settings")]
    pub constants: Settings,
    /// In the order of the report.
    #[serde(rename = "item")]
    pub items: Vec<Item>,
}

/// A table or a figure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// `table-2`, for links.
    pub id: String,
    /// `Table 2`.
    pub title: String,
    /// As printed.
    pub caption: String,
    /// In one sentence; empty where `same_as` is given.
    #[serde(default)]
    pub claim: String,
    /// What a reader should know of it.
    pub note: Option<String>,
    /// The item that answers this one too.
    pub same_as: Option<String>,
    /// The heads of the printed table; empty for a figure.
    #[serde(default)]
    pub columns: Vec<String>,
    /// The printed table, as printed; the first of a row is its name.
    #[serde(default)]
    pub rows: Vec<Vec<String>>,
    /// One a task.
    #[serde(default, rename = "question")]
    pub questions: Vec<Question>,
}

/// What is asked of the runs of a task.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `LLM`.
    pub name: String,
    /// `train-llm`.
    pub task: String,
    /// The paper's model and data.
    pub scale: String,
    /// Columns of `results.csv`; the first that the runs have decides, the others are shown.
    pub metrics: Vec<String>,
    /// What runs it here.
    pub command: String,
    /// Keys beside those of the cells and the learning rate that may differ between cells.
    #[serde(default)]
    free: Vec<String>,
    /// What is compared.
    pub cells: Vec<Cell>,
    /// Pairs of labels.
    #[serde(default)]
    contrasts: Vec<[String; 2]>,
    /// The label of a cell that is compared with each other one.
    against_all: Option<String>,
    /// Where no numbers are printed: in the paper the first of each pair is better.
    #[serde(default)]
    pub first_is_better: bool,
}

/// One configuration of a table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// For a reader.
    pub label: String,
    /// The row and the column where its number is printed.
    pub at: Option<[String; 2]>,
    /// The configuration of its runs.
    #[serde(deserialize_with = "settings")]
    pub set: Settings,
}

fn settings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Settings, D::Error> {
    Ok(flatten(&Table::deserialize(deserializer)?))
}

impl Paper {
    /// arXiv 2405.12807.
    ///
    /// ```
    /// let paper = experiments::report::paper::Paper::get();
    /// let table = paper.items.iter().find(|item| item.title == "Table 2").unwrap();
    /// let llm = &table.questions[0];
    /// assert_eq!(table.printed(&llm.cells[0]), Some("5.4"));
    /// assert_eq!(llm.contrasts()[0], ["ρ 0.5", "ρ 0.3"]);
    /// ```
    ///
    /// # Panics
    ///
    /// Not with the `paper.toml` that is compiled in, which the tests read.
    pub fn get() -> &'static Self {
        static PAPER: LazyLock<Paper> = LazyLock::new(|| {
            toml::from_str(include_str!("paper.toml")).expect("paper.toml is valid")
        });
        &PAPER
    }
}

impl Item {
    /// The number that is printed for a cell, as it is printed: `NaN` where the paper has NaN, none where it has no number.
    pub fn printed(&self, cell: &Cell) -> Option<&str> {
        let [row, column] = cell.at.as_ref()?;
        let column = self.columns.iter().position(|head| head == column)?;
        let row = self.rows.iter().find(|cells| &cells[0] == row)?;
        row.get(column).map(String::as_str)
    }
}

impl Question {
    /// The pairs of cells in which the claim consists, the one that the paper favours first.
    pub fn contrasts(&self) -> Vec<[&str; 2]> {
        let mut pairs: Vec<[&str; 2]> =
            self.contrasts.iter().map(|[a, b]| [a.as_str(), b.as_str()]).collect();
        if let Some(one) = &self.against_all {
            let others = self.cells.iter().filter(|cell| cell.label != *one);
            pairs.extend(others.map(|other| [one.as_str(), other.label.as_str()]));
        }
        pairs
    }

    /// Whether runs that differ in `key` may answer this question.
    pub fn may_vary(&self, key: &str) -> bool {
        key == LEARNING_RATE
            || self.free.iter().any(|free| free == key)
            || self.cells.iter().any(|cell| cell.set.contains_key(key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_a_question_names_is_there() {
        let paper = Paper::get();
        let ids: BTreeSet<&str> = paper.items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids.len(), paper.items.len());
        for item in &paper.items {
            for row in &item.rows {
                assert_eq!(row.len(), item.columns.len(), "{}: {row:?}", item.id);
            }
            let refers = item.same_as.as_deref().is_some_and(|id| ids.contains(id));
            assert!(
                refers != (!item.questions.is_empty() && !item.claim.is_empty()),
                "{}",
                item.id
            );
            for question in &item.questions {
                let has = |label: &str| question.cells.iter().any(|cell| cell.label == label);
                assert!(!question.contrasts().is_empty(), "{}", item.id);
                for [a, b] in question.contrasts() {
                    assert!(has(a) && has(b) && a != b, "{}: {a}, {b}", item.id);
                }
                for cell in &question.cells {
                    let number = item.printed(cell).map(|text| text.parse::<f64>().unwrap());
                    let is_printed = number.is_some();
                    assert_eq!(is_printed, !item.rows.is_empty(), "{}: {}", item.id, cell.label);
                }
                assert_eq!(question.first_is_better, item.rows.is_empty(), "{}", item.id);
            }
        }
    }

    /// Tables 2, 3 and 4 are printed with a cell for every setting: none was forgotten.
    #[test]
    fn every_printed_number_of_a_grid_is_a_cell() {
        for item in &Paper::get().items {
            if !item.columns.iter().any(|head| head == "Metric") {
                continue;
            }
            let cells = item.questions.iter().flat_map(|question| &question.cells);
            assert_eq!(cells.count(), item.rows.len() * (item.columns.len() - 3), "{}", item.id);
        }
    }
}
