//! What a sweep says of a question, as blocks: a verdict, the cells' numbers, the contrasts in each metric, charts.

use super::answer::{Answer, CellRuns, CellStatistics, Contrast, MetricAnswer};
use super::charts;
use super::document::{Block, Span, Table, heading, slug, text};
use super::metric::{Metric, number};
use super::page::link;
use super::paper::{Item, Question};
use super::sources;
use super::statistics::Difference;
use super::sweep::Sweep;
use super::verdict::Verdict;

/// What an answer says: verdicts, numbers, contrasts, charts.
pub(super) fn blocks(
    item: &Item,
    question: &Question,
    answer: &Answer<'_>,
) -> anyhow::Result<Vec<Block>> {
    let Answer { sweep, phase, rates, cells, metrics } = answer;
    let mut blocks = vec![heading(4, "", format!("{}, {rates}", sweep.name))];
    let Some(first) = metrics.first() else {
        let wanted = question.metrics.join(", ");
        let words = format!("No run of it has a result in any of {wanted}.");
        blocks.push(Block::Paragraph(vec![
            Span::Verdict(Verdict::Inconclusive),
            Span::Text(format!(". {words}")),
        ]));
        return Ok(blocks);
    };
    let mut words = vec![Span::Verdict(answer.verdict())];
    words.push(Span::Text(format!(" in {}: {}. ", first.metric.label, counts(first))));
    for other in &metrics[1..] {
        words.push(Span::Text(format!("In {}: ", other.metric.label)));
        words.push(Span::Verdict(other.verdict));
        words.push(Span::Text(format!(", {}. ", counts(other))));
    }
    let missing: Vec<&str> = question
        .cells
        .iter()
        .map(|cell| cell.label.as_str())
        .filter(|label| !cells.iter().any(|cell| cell.label == *label))
        .collect();
    if !missing.is_empty() {
        words.push(Span::Text(format!("Not run: {}. ", missing.join("; "))));
    }
    words.push(Span::Text("Configuration, commit, machine and command: ".to_owned()));
    words.extend(link(&sweep.name, &sources::id(sweep)));
    words.push(Span::Text(".".to_owned()));
    blocks.push(Block::Paragraph(words));
    blocks.push(Block::Table(cells_table(answer)));
    blocks.extend(metrics.iter().map(|metric| Block::Table(contrasts_table(metric))));
    let name =
        [item.id.as_str(), &slug(&question.name), &slug(&sweep.name), phase.name()].join("-");
    blocks.extend(charts::cells(&name, answer, first)?.map(Block::Figure));
    blocks.extend(charts::curves(&name, sweep, cells, &first.metric)?.map(Block::Figure));
    Ok(blocks)
}

/// `5 of 7 contrasts hold, 1 contradict`
pub(super) fn counts(answer: &MetricAnswer) -> String {
    let MetricAnswer { contrasts, not_run, .. } = answer;
    let count = |verdict| contrasts.iter().filter(|contrast| contrast.verdict == verdict).count();
    let judged = contrasts.len() + not_run - count(Verdict::NoClaim);
    let (hold, contradict) = (count(Verdict::Holds), count(Verdict::Contradicts));
    let mut words = vec![format!("{hold} of {judged} contrasts hold")];
    words.extend((contradict > 0).then(|| format!("{contradict} contradict")));
    words.extend((*not_run > 0).then(|| format!("{not_run} not run")));
    words.join(", ")
}

/// The paper's number and ours for each cell.
fn cells_table(answer: &Answer<'_>) -> Table {
    let has_paper = answer.cells.iter().any(|cell| cell.printed.is_some());
    let mut head = vec!["cell".to_owned()];
    head.extend(has_paper.then(|| "paper".to_owned()));
    head.extend(answer.metrics.iter().map(|metric| metric.metric.title()));
    head.extend(["seeds".to_owned(), "learning rate".to_owned()]);
    let rows = answer.cells.iter().enumerate().map(|(k, cell)| {
        let mut row = vec![text(cell.label)];
        row.extend(has_paper.then(|| text(cell.printed.unwrap_or("\u{2013}"))));
        row.extend(answer.metrics.iter().map(|it| text(mean(&it.metric, &it.cells[k]))));
        let statistics = answer.metrics.first().map(|metric| metric.cells[k]);
        row.push(text(statistics.map_or(String::new(), |s| seeds(&s, cell, answer.sweep))));
        row.push(text(cell.rate.as_deref().unwrap_or("\u{2013}")));
        row
    });
    let caption = "Mean \u{b1} standard error over seeds at the end of the runs".to_owned();
    Table { caption, head, rows: rows.collect() }
}

/// `3`, or `1 of 3, 2 NaN`.
fn seeds(statistics: &CellStatistics, cell: &CellRuns<'_>, sweep: &Sweep) -> String {
    let n = statistics.mean.map_or(0, |mean| mean.n);
    let planned = sweep.seeds.len().max(cell.runs.len());
    let missing = planned - n - statistics.diverged;
    let diverged = statistics.diverged;
    let mut words = vec![if n < planned { format!("{n} of {planned}") } else { n.to_string() }];
    words.extend((diverged > 0).then(|| format!("{diverged} NaN")));
    words.extend((missing > 0).then(|| format!("{missing} missing")));
    words.join(", ")
}

/// `3.8075 ± 0.0085`
pub(super) fn mean(metric: &Metric, statistics: &CellStatistics) -> String {
    match statistics.mean {
        Some(mean) => match mean.standard_error {
            Some(error) => {
                let shown = number(mean.mean * metric.factor, metric.decimals_for(error));
                format!("{shown} \u{b1} {}", metric.show_error(error))
            }
            None => metric.show(mean.mean),
        },
        None if statistics.diverged > 0 => "NaN".to_owned(),
        None => "\u{2013}".to_owned(),
    }
}

fn contrasts_table(answer: &MetricAnswer) -> Table {
    let MetricAnswer { metric, contrasts, .. } = answer;
    let row = |contrast: &Contrast| {
        let evidence = &contrast.evidence;
        let paper = match &contrast.printed {
            Some((a, b)) => format!("{a} \u{2212} {b}"),
            None => "first is lower".to_owned(),
        };
        let (difference, interval) = difference(metric, contrast);
        let p = contrast.p_value.map_or("\u{2013}".to_owned(), p_value);
        let diverged =
            [("first", evidence.first_diverged), ("second", evidence.second_diverged)].into_iter();
        let diverged = diverged.filter(|(_, n)| *n > 0);
        let mut pairs = vec![evidence.difference.map_or(0, |it| it.n).to_string()];
        pairs.extend(diverged.map(|(side, n)| format!("{side} NaN \u{d7}{n}")));
        vec![
            text(format!("{} \u{2212} {}", contrast.first, contrast.second)),
            vec![Span::Verdict(contrast.verdict)],
            text(difference),
            text(interval),
            text(pairs.join(", ")),
            text(p),
            text(paper),
        ]
    };
    let of_pairs = contrasts.iter().all(|c| c.evidence.difference.is_none_or(|d| d.is_paired));
    let (how, counted) =
        if of_pairs { ("paired by seed", "pairs") } else { ("not paired: no seed in common", "n") };
    let better = if metric.lower_is_better {
        "negative: the first is better"
    } else {
        "positive: the first is better"
    };
    let caption = format!("Differences in {}, {how}; {better}", metric.title());
    let interval = "\u{b1} two standard errors";
    let head = ["first \u{2212} second", "verdict", "ours", interval, counted, "p (Holm)", "paper"];
    Table {
        caption,
        head: head.map(str::to_owned).to_vec(),
        rows: contrasts.iter().map(row).collect(),
    }
}

/// `−0.0900 ± 0.0082` and `−0.1063 to −0.0737`.
fn difference(metric: &Metric, contrast: &Contrast) -> (String, String) {
    let dash = || "\u{2013}".to_owned();
    let Some(difference) = contrast.evidence.difference else {
        return (dash(), dash());
    };
    let standard_error = difference.standard_error;
    let show = |value: f64| metric.show_signed(value, standard_error);
    match standard_error {
        Some(error) => {
            let [low, high] = [-2.0, 2.0].map(|k| show(difference.mean + k * error));
            (with_error(metric, &difference), format!("{low} to {high}"))
        }
        None => (show(difference.mean), dash()),
    }
}

/// `−0.0900 ± 0.0082`
pub(super) fn with_error(metric: &Metric, difference: &Difference) -> String {
    let Difference { mean, standard_error, .. } = *difference;
    let mut words = metric.show_signed(mean, standard_error);
    if let Some(error) = standard_error {
        words += " \u{b1} ";
        words += &metric.show_error(error);
    }
    words
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { number(p, 3) }
}
