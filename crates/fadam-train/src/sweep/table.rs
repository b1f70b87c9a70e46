//! `results.csv` and `times.csv`: a row a question, in the order of the plan, whatever ended first.
//!
//! `results.csv` holds nothing that is measured by a clock, so that the same sweep on the same machine makes the same bytes,
//! killed and restarted or not.

use std::collections::HashSet;

use super::plan::{Plan, Records, Row};
use super::record::Record;

/// The columns before those of the keys that vary.
const BEFORE: [&str; 6] = ["sweep", "run", "task", "cell", "phase", "seed"];

/// The columns between those and the measures.
const AFTER: [&str; 4] = ["status", "steps", "eval_loss", "best_eval_loss"];

/// `results.csv`.
pub(super) fn results(plan: &Plan, records: &Records) -> anyhow::Result<Vec<u8>> {
    let rows = known(plan, records);
    let measures = measures(&rows);
    let mut table = csv::Writer::from_writer(Vec::new());
    let varied = plan.spec.varied();
    let head = BEFORE.iter().chain(&varied).chain(&AFTER).copied();
    let head = head.chain(measures.iter().copied()).chain(["params", "message"]);
    table.write_record(head)?;
    for (row, record) in &rows {
        let mut fields = vec![
            plan.spec.name.clone(),
            row.run.clone(),
            plan.spec.task.text(),
            plan.cells[row.cell].name.clone(),
            row.phase.name().to_owned(),
            row.seed.to_string(),
        ];
        fields.extend(plan.varied(row).into_iter().map(Option::unwrap_or_default));
        fields.extend([
            record.status.name().to_owned(),
            shown(record.steps),
            shown(record.eval_loss),
            shown(record.best_eval_loss),
        ]);
        let measure = |name: &str| record.metrics.iter().find(|(other, _)| other == name);
        fields.extend(measures.iter().map(|name| shown(measure(name).and_then(|(_, x)| *x))));
        fields.extend([shown(record.params), record.message.clone()]);
        table.write_record(fields)?;
    }
    Ok(table.into_inner()?)
}

/// `times.csv`: what the runs took, a row a run.
pub(super) fn times(plan: &Plan, records: &Records) -> anyhow::Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(["run", "status", "train_s", "wall_s", "peak_rss_mb"])?;
    let mut seen = HashSet::new();
    for (row, record) in known(plan, records) {
        if seen.insert(row.run.clone()) {
            let Record { status, train_s, wall_s, peak_rss_mb, .. } = *record;
            let times = [shown(train_s), shown(wall_s), shown(peak_rss_mb)];
            let [train, wall, memory] = times;
            table.write_record([row.run, status.name().to_owned(), train, wall, memory])?;
        }
    }
    Ok(table.into_inner()?)
}

/// The rows whose run ended.
fn known<'a>(plan: &Plan, records: &'a Records) -> Vec<(Row, &'a Record)> {
    let rows = plan.rows(records).into_iter();
    rows.filter_map(|row| Some((records.get(&row.run)?, row))).map(|(r, row)| (row, r)).collect()
}

/// The names of all measures, in the order of their first appearance.
fn measures<'a>(rows: &[(Row, &'a Record)]) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let names = rows.iter().flat_map(|(_, record)| &record.metrics).map(|(name, _)| name.as_str());
    names.filter(|name| seen.insert(*name)).collect()
}

fn shown(value: Option<impl std::fmt::Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
