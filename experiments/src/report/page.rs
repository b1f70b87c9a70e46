//! The report: the paper's items in their order, each with what the runs say of it.

use super::answer::{Answer, answers};
use super::answered;
use super::document::{Block, Document, Span, Table, heading, paragraph, text};
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
    let mut asked: Vec<Asked<'_>> = paper
        .items
        .iter()
        .flat_map(|item| item.questions.iter().map(move |question| (item, question)))
        .map(|(item, question)| Asked { item, question, answers: answers(item, question, sweeps) })
        .collect();
    leave_out_parts(&mut asked);
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

/// Leaves out answers with some of a question's cells from sweeps that have all cells of another question, which is the one they are about.
fn leave_out_parts(asked: &mut [Asked<'_>]) {
    let has_all =
        |asked: &Asked<'_>, answer: &Answer<'_>| answer.cells.len() == asked.question.cells.len();
    let about: Vec<&Sweep> = asked
        .iter()
        .flat_map(|asked| asked.answers.iter().filter(|answer| has_all(asked, answer)))
        .map(|answer| answer.sweep)
        .collect();
    for Asked { question, answers, .. } in asked {
        answers.retain(|answer| {
            answer.cells.len() == question.cells.len()
                || !about.iter().any(|sweep| std::ptr::eq(*sweep, answer.sweep))
        });
    }
}

pub(super) fn link(text: &str, to: &str) -> Vec<Span> {
    vec![Span::Link { text: text.to_owned(), to: to.to_owned() }]
}

/// A row for each answer, or for a question without one.
fn summary(paper: &Paper, asked: &[Asked<'_>]) -> Table {
    let mut rows = Vec::new();
    for item in &paper.items {
        if let Some(same) = &item.same_as {
            let title = paper.items.iter().find(|other| other.id == *same).map(|it| &it.title);
            let words = format!("see {}", title.map_or("", String::as_str));
            rows.push(vec![link(&item.title, &item.id), text(words), vec![]]);
        }
        for Asked { question, answers, .. } in asked.iter().filter(|asked| asked.item.id == item.id)
        {
            let row = |verdict: Verdict, how: String| {
                let mut name = link(&item.title, &item.id);
                name.push(Span::Text(format!(", {}", question.name)));
                vec![name, vec![Span::Verdict(verdict)], text(how)]
            };
            if answers.is_empty() {
                rows.push(row(Verdict::NotRun, String::new()));
            }
            for answer in answers {
                let counts = answer.metrics.first().map(answered::counts).unwrap_or_default();
                let how = format!("{}, {}: {counts}", answer.sweep.name, answer.rates);
                rows.push(row(answer.verdict(), how));
            }
        }
    }
    let head = ["in the paper", "verdict", "run here as"].map(str::to_owned).to_vec();
    Table { caption: "Does the paper's claim hold here?".to_owned(), head, rows }
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
            blocks.extend(answered::blocks(item, question, answer)?);
        }
    }
    Ok(blocks)
}
