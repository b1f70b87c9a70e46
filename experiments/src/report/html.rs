//! A document as one HTML page that needs nothing else: style and figures are in it, and there is no script.

use super::document::{Block, Document, Figure, Span, Table, slug};

const STYLE: &str = include_str!("style.css");

/// The page.
///
/// ```
/// use experiments::report::document::{Document, paragraph};
/// let page = experiments::report::html::page(&Document {
///     title: "A < B".to_owned(),
///     blocks: vec![paragraph("x & y")],
/// });
/// assert!(page.contains("<title>A &lt; B</title>") && page.contains("<p>x &amp; y</p>"));
/// ```
pub fn page(document: &Document) -> String {
    let title = escaped(&document.title);
    let body: String = document.blocks.iter().map(block).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Text that stands for itself, in an element or in an attribute.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c => safe.push(c),
        }
    }
    safe
}

fn block(block: &Block) -> String {
    match block {
        Block::Heading { level, id, text } if id.is_empty() => {
            format!("<h{level}>{}</h{level}>\n", escaped(text))
        }
        Block::Heading { level, id, text } => {
            format!("<h{level} id=\"{}\">{}</h{level}>\n", escaped(id), escaped(text))
        }
        Block::Paragraph(words) => format!("<p>{}</p>\n", spans(words)),
        Block::List(points) => {
            let points: Vec<String> =
                points.iter().map(|point| format!("<li>{}</li>\n", spans(point))).collect();
            format!("<ul>\n{}</ul>\n", points.concat())
        }
        Block::Code(code) => format!("<pre><code>{}</code></pre>\n", escaped(code)),
        Block::Table(it) => table(it),
        Block::Figure(it) => figure(it),
        Block::Details { summary, code } => format!(
            "<details>\n<summary>{}</summary>\n<pre><code>{}</code></pre>\n</details>\n",
            escaped(summary),
            escaped(code)
        ),
    }
}

fn spans(spans: &[Span]) -> String {
    let one = |span: &Span| match span {
        Span::Text(text) => escaped(text),
        Span::Strong(text) => format!("<strong>{}</strong>", escaped(text)),
        Span::Code(text) => format!("<code>{}</code>", escaped(text)),
        Span::Link { text, to } => format!("<a href=\"#{}\">{}</a>", escaped(to), escaped(text)),
        Span::Verdict(verdict) => {
            format!("<span class=\"verdict {}\">{}</span>", slug(verdict.name()), verdict.name())
        }
    };
    spans.iter().map(one).collect()
}

/// A table in a box of its own, which scrolls where the page is narrow, and can be scrolled by the keyboard.
fn table(table: &Table) -> String {
    let is_number: Vec<bool> = (0..table.head.len()).map(|k| is_number(table, k)).collect();
    let class = |k: usize| if is_number[k] { " class=\"number\"" } else { "" };
    let head: Vec<String> = table
        .head
        .iter()
        .enumerate()
        .map(|(k, text)| format!("<th scope=\"col\"{}>{}</th>", class(k), escaped(text)))
        .collect();
    let cell = |(k, words): (usize, &Vec<Span>)| match k {
        0 => format!("<th scope=\"row\">{}</th>", row_name(words)),
        k => format!("<td{}>{}</td>", class(k), spans(words)),
    };
    let row = |row: &Vec<Vec<Span>>| {
        let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
        format!("<tr>{}</tr>\n", cells.concat())
    };
    let rows: String = table.rows.iter().map(row).collect();
    let (head, caption) = (head.concat(), escaped(&table.caption));
    format!(
        "<div class=\"box\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\">\n<table>\n<caption><span>{caption}</span></caption>\n\
         <thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n"
    )
}

/// Text that no line breaks at its hyphens, as in 1e-12, nor does it in names of runs.
fn row_name(words: &[Span]) -> String {
    match words {
        [Span::Text(text)] => escaped(text).replace('-', "\u{2011}"),
        words => spans(words),
    }
}

/// Whether a column holds numbers: each of its cells that has a digit begins with one, or with a sign.
pub(super) fn is_number(table: &Table, column: usize) -> bool {
    let plain = |cell: &Vec<Span>| match cell.as_slice() {
        [Span::Text(text)] => Some(text.clone()),
        [] => Some(String::new()),
        _ => None,
    };
    let cells: Option<Vec<String>> = table.rows.iter().map(|row| plain(&row[column])).collect();
    let begins =
        |text: &String| text.starts_with(|c: char| c.is_ascii_digit() || "+\u{2212}<".contains(c));
    let has_none = |text: &String| matches!(text.as_str(), "" | "NaN" | "\u{2013}");
    column > 0
        && cells.is_some_and(|cells| {
            cells.iter().any(begins) && cells.iter().all(|text| begins(text) || has_none(text))
        })
}

fn figure(figure: &Figure) -> String {
    let picture = figure.svg.replacen(
        "<svg ",
        &format!("<svg role=\"img\" aria-label=\"{}\" ", escaped(&figure.description)),
        1,
    );
    let caption = escaped(&figure.caption);
    format!("<figure>\n{picture}<figcaption>{caption}</figcaption>\n</figure>\n")
}
