//! The report: the paper's items in their order, each with what the runs say of it.

use super::answer::{Answer, CellRuns, CellStatistics, Contrast, MetricAnswer, answers};
use super::charts;
use super::document::{Block, Document, Span, Table, heading, paragraph, slug, text};
use super::metric::{Metric, number};
use super::paper::{Item, Paper, Question};
use super::sources;
use super::sweep::Sweep;
use super::verdict::{Verdict, rule};

/// An item's question with its answers.
pub(super) struct Asked<'a> {
    pub(super) item: &'a Item,
    pub(super) question: &'a Question,
    pub(super) answers: Vec<Answer<'a>>,
}

/// The report on `sweeps`.
///
/// # Errors
///
/// None that drawing into memory can have.
pub fn report(sweeps: &[Sweep]) -> anyhow::Result<Document> {
    let paper = Paper::get();
    let asked: Vec<Asked<'_>> = paper
        .items
        .iter()
        .flat_map(|item| item.questions.iter().map(move |question| (item, question)))
        .map(|(item, question)| Asked { item, question, answers: answers(item, question, sweeps) })
        .collect();
    let mut blocks = vec![
        paragraph(
            "Tables 1 to 6 and Figures 1a to 1d of \u{201c}FAdam: Adam is a natural gradient optimizer using diagonal empirical Fisher \
             information\u{201d} (arXiv 2405.12807), the paper's numbers beside those of runs of this repository. The models and data here \
             are small stand-ins: numbers are to be compared within a table, not with the paper's.",
        ),
        heading(2, "verdicts", "What came of it"),
        Block::Table(summary(paper, &asked)),
        heading(2, "rule", "The rule, stated before the runs"),
        Block::List(rule().into_iter().map(text).collect()),
    ];
    for item in &paper.items {
        blocks.extend(item_blocks(item, &asked)?);
    }
    blocks.extend(sources::blocks(sweeps, &asked)?);
    let title = "The FAdam paper's tables and figures, run here".to_owned();
    Ok(Document { title, blocks })
}

fn link(text: &str, to: &str) -> Vec<Span> {
    vec![Span::Link { text: text.to_owned(), to: to.to_owned() }]
}

/// A row for each answer, or for a question without one.
fn summary(paper: &Paper, asked: &[Asked<'_>]) -> Table {
    let mut rows = Vec::new();
    for item in &paper.items {
        if let Some(same) = &item.same_as {
            let title = paper.items.iter().find(|other| other.id == *same).map(|it| &it.title);
            let words = format!("see {}", title.map_or("", String::as_str));
            rows.push(vec![link(&item.title, &item.id), text(words), vec![], vec![]]);
        }
        for Asked { question, answers, .. } in asked.iter().filter(|asked| asked.item.id == item.id)
        {
            let row = |how: &str, verdict: Verdict, counts: &str| {
                let verdict = vec![Span::Verdict(verdict), Span::Text(counts.to_owned())];
                vec![link(&item.title, &item.id), text(&question.name), text(how), verdict]
            };
            if answers.is_empty() {
                rows.push(row("", Verdict::NotRun, ""));
            }
            for answer in answers {
                let counts = answer.metrics.first().map(|metric| counts(&metric.contrasts));
                let counts = counts.map_or(String::new(), |counts| format!(": {counts}"));
                let how = format!("{}, {}", answer.sweep.name, answer.rates);
                rows.push(row(&how, answer.verdict(), &counts));
            }
        }
    }
    let head = ["in the paper", "of", "run here as", "verdict"].map(str::to_owned).to_vec();
    Table { caption: "Does the paper's claim hold here?".to_owned(), head, rows }
}

/// `5 of 7 hold, 1 contradicts`
fn counts(contrasts: &[Contrast]) -> String {
    let count = |verdict| contrasts.iter().filter(|contrast| contrast.verdict == verdict).count();
    let judged = contrasts.len() - count(Verdict::NoClaim);
    let (hold, contradict) = (count(Verdict::Holds), count(Verdict::Contradicts));
    let mut words = format!("{hold} of {judged} contrasts hold");
    if contradict > 0 {
        words += &format!(", {contradict} contradict");
    }
    words
}

fn item_blocks(item: &Item, asked: &[Asked<'_>]) -> anyhow::Result<Vec<Block>> {
    let mut blocks = vec![heading(2, &item.id, &item.title)];
    blocks.push(paragraph(format!("\u{201c}{}\u{201d}", item.caption)));
    if let Some(same) = &item.same_as {
        let title = Paper::get().items.iter().find(|other| other.id == *same);
        let title = title.map_or("", |item| item.title.as_str());
        let mut words = text("Drawn from the same runs as ");
        words.extend(link(title, same));
        words.push(Span::Text(", where its curves are.".to_owned()));
        blocks.push(Block::Paragraph(words));
        return Ok(blocks);
    }
    let claim = Span::Text(format!(" {}", item.claim));
    blocks.push(Block::Paragraph(vec![Span::Strong("Claim.".to_owned()), claim]));
    blocks.extend(item.note.as_ref().map(paragraph));
    if !item.rows.is_empty() {
        let rows = item.rows.iter().map(|row| row.iter().map(text).collect()).collect();
        let caption = format!("{} as printed", item.title);
        blocks.push(Block::Table(Table { caption, head: item.columns.clone(), rows }));
    }
    for Asked { question, answers, .. } in asked.iter().filter(|asked| asked.item.id == item.id) {
        blocks.push(heading(3, "", &question.name));
        blocks.push(paragraph(format!("In the paper: {}.", question.scale)));
        if answers.is_empty() {
            let verdict = Span::Verdict(Verdict::NotRun);
            blocks.push(Block::Paragraph(vec![verdict, Span::Text(". What runs it:".to_owned())]));
            blocks.push(Block::Code(question.command.clone()));
        }
        for answer in answers {
            blocks.extend(answer_blocks(item, question, answer)?);
        }
    }
    Ok(blocks)
}

fn answer_blocks(
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
    words.push(Span::Text(format!(" in {}: {}. ", first.metric.label, counts(&first.contrasts))));
    for other in &metrics[1..] {
        words.push(Span::Text(format!("In {}: ", other.metric.label)));
        words.push(Span::Verdict(other.verdict));
        words.push(Span::Text(format!(", {}. ", counts(&other.contrasts))));
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

/// The paper's number and ours for each cell.
fn cells_table(answer: &Answer<'_>) -> Table {
    let has_paper = answer.cells.iter().any(|cell| cell.printed.is_some());
    let mut head = vec!["cell".to_owned()];
    head.extend(has_paper.then(|| "paper".to_owned()));
    head.extend(["learning rate".to_owned(), "seeds".to_owned()]);
    head.extend(answer.metrics.iter().map(|metric| metric.metric.title()));
    let rows = answer.cells.iter().enumerate().map(|(k, cell)| {
        let mut row = vec![text(cell.label)];
        row.extend(has_paper.then(|| text(cell.printed.unwrap_or("\u{2013}"))));
        row.push(text(cell.rate.as_deref().unwrap_or("\u{2013}")));
        let statistics = answer.metrics.first().map(|metric| metric.cells[k]);
        row.push(text(statistics.map_or(String::new(), |s| seeds(&s, cell, answer.sweep))));
        row.extend(answer.metrics.iter().map(|it| text(mean(&it.metric, &it.cells[k]))));
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
    let mut words = n.to_string();
    if n < planned {
        words += &format!(" of {planned}");
    }
    if statistics.diverged > 0 {
        words += &format!(", {} NaN", statistics.diverged);
    }
    if missing > 0 {
        words += &format!(", {missing} missing");
    }
    words
}

/// `3.8075 ± 0.0085`
pub(super) fn mean(metric: &Metric, statistics: &CellStatistics) -> String {
    match statistics.mean {
        Some(mean) => match mean.standard_error {
            Some(error) => format!("{} \u{b1} {}", metric.show(mean.mean), metric.show(error)),
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
        let mut pairs = evidence.difference.map_or(0, |difference| difference.n).to_string();
        for (n, side) in [(evidence.first_diverged, "first"), (evidence.second_diverged, "second")]
        {
            if n > 0 {
                pairs += &format!(", {side} NaN \u{d7}{n}");
            }
        }
        vec![
            text(format!("{} \u{2212} {}", contrast.first, contrast.second)),
            text(paper),
            text(difference),
            text(interval),
            text(pairs),
            text(p),
            vec![Span::Verdict(contrast.verdict)],
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
    let head = [
        "first \u{2212} second",
        "paper",
        "ours",
        "\u{b1} two standard errors",
        counted,
        "p (Holm)",
        "verdict",
    ];
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
    let shown = metric.show_signed(difference.mean);
    match difference.standard_error {
        Some(error) => {
            let [low, high] = [-2.0, 2.0].map(|k| metric.show_signed(difference.mean + k * error));
            (format!("{shown} \u{b1} {}", metric.show(error)), format!("{low} to {high}"))
        }
        None => (shown, dash()),
    }
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { number(p, 3) }
}
