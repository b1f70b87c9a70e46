//! A document as Markdown (as GitHub reads it), with its figures as files beside it.

use super::document::{Block, Document, Span, Table};
use super::html;

/// The folder of the figures' files, beside the page.
pub const FIGURES: &str = "figures";

/// The page.
///
/// ```
/// use experiments::report::document::{Document, paragraph};
/// let page = experiments::report::markdown::page(&Document {
///     title: "Tables".to_owned(),
///     blocks: vec![paragraph("a | b, <c>")],
/// });
/// assert_eq!(page, "# Tables\n\na \\| b, &lt;c&gt;\n");
/// ```
pub fn page(document: &Document) -> String {
    let blocks = document.blocks.iter().map(|it| format!("\n{}\n", block(it)));
    let body: String = blocks.collect();
    format!("# {}\n{body}", escaped(&document.title))
}

/// Text that stands for itself.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '\\' | '|' | '*' | '_' | '`' | '[' | ']' | '#' | '~' => safe.extend(['\\', c]),
            '\n' => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// Code within a line, in as many backticks as it takes; a table takes no bar.
fn code(text: &str) -> String {
    let fence = "`".repeat(1 + longest_run(text));
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{}{pad}{fence}", text.replace('|', "\\|"))
}

/// A block of code, in as many backticks as it takes.
fn code_block(text: &str) -> String {
    let fence = "`".repeat(3.max(1 + longest_run(text)));
    format!("{fence}\n{}\n{fence}", text.trim_end())
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

fn block(block: &Block) -> String {
    match block {
        Block::Heading { level, id, text } => {
            let anchor =
                if id.is_empty() { String::new() } else { format!("<a id=\"{id}\"></a>\n\n") };
            format!("{anchor}{} {}", "#".repeat(usize::from(*level)), escaped(text))
        }
        Block::Paragraph(words) => spans(words),
        Block::List(points) => {
            let points: Vec<String> =
                points.iter().map(|point| format!("- {}", spans(point))).collect();
            points.join("\n")
        }
        Block::Code(code) => code_block(code),
        Block::Table(it) => table(it),
        Block::Figure(figure) => {
            let file = format!("{FIGURES}/{}.svg", figure.name);
            format!("![{}]({file})\n\n{}", escaped(&figure.description), escaped(&figure.caption))
        }
        Block::Details { summary, code } => format!(
            "<details><summary>{}</summary>\n\n{}\n\n</details>",
            html::escaped(summary),
            code_block(code)
        ),
    }
}

fn spans(spans: &[Span]) -> String {
    let one = |span: &Span| match span {
        Span::Text(text) => escaped(text),
        Span::Strong(text) => format!("**{}**", escaped(text)),
        Span::Code(text) => code(text),
        Span::Link { text, to } => format!("[{}](#{to})", escaped(text)),
        Span::Verdict(verdict) => format!("**{}**", verdict.name()),
    };
    spans.iter().map(one).collect()
}

fn table(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let align = |k: usize| if html::is_number(table, k) { "---:" } else { "---" }.to_owned();
    let head = line(table.head.iter().map(|text| escaped(text)).collect());
    let rule = line((0..table.head.len()).map(align).collect());
    let rows: String =
        table.rows.iter().map(|row| line(row.iter().map(|cell| spans(cell)).collect())).collect();
    format!("{}\n\n{head}{rule}{}", escaped(&table.caption), rows.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_keeps_its_backticks_and_a_table_its_columns() {
        assert_eq!(code("a|b"), "`a\\|b`");
        assert_eq!(code("`x`"), "`` `x` ``");
        assert_eq!(code_block("```\nx\n"), "````\n```\nx\n````");
        let cells = |texts: [&str; 2]| texts.map(|text| vec![Span::Text(text.to_owned())]).to_vec();
        let table = Table {
            caption: "c".to_owned(),
            head: vec!["a".to_owned(), "b".to_owned()],
            rows: vec![cells(["x|y", "1.5 ± 0.1"]), cells(["z", "NaN"])],
        };
        let text = super::table(&table);
        assert_eq!(text, "c\n\n| a | b |\n| --- | ---: |\n| x\\|y | 1.5 ± 0.1 |\n| z | NaN |");
    }
}
