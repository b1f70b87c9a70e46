//! A report before it is HTML or Markdown: blocks of text, tables and figures. Both pages are made from the same document, so that they say
//! the same.

use super::verdict::Verdict;

/// A report.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The title.
    pub title: String,
    /// In their order.
    pub blocks: Vec<Block>,
}

/// A part of a report.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// A heading; the title has level 1.
    Heading {
        /// 2, 3 or 4.
        level: u8,
        /// For links; empty if nothing links here.
        id: String,
        /// The heading.
        text: String,
    },
    /// Running text.
    Paragraph(Vec<Span>),
    /// Points without an order.
    List(Vec<Vec<Span>>),
    /// A command.
    Code(String),
    /// A table.
    Table(Table),
    /// A picture.
    Figure(Figure),
    /// A text that is shown when it is asked for.
    Details {
        /// What is seen at first.
        summary: String,
        /// The text.
        code: String,
    },
}

/// A piece of running text.
#[derive(Debug, Clone, PartialEq)]
pub enum Span {
    /// Plain.
    Text(String),
    /// What matters.
    Strong(String),
    /// What is typed.
    Code(String),
    /// To a heading of this document.
    Link {
        /// What is seen.
        text: String,
        /// The heading's id.
        to: String,
    },
    /// A verdict, marked by more than its colour.
    Verdict(Verdict),
}

/// A table, whose first column names its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// The heads of its columns.
    pub head: Vec<String>,
    /// Its rows, each as long as the head.
    pub rows: Vec<Vec<Vec<Span>>>,
}

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its file's name without `.svg`.
    pub name: String,
    /// What it shows.
    pub caption: String,
    /// What it shows, in words for who cannot see it.
    pub description: String,
    /// The picture, in the colour of the text around it.
    pub svg: String,
}

/// Plain text as spans.
pub fn text(text: impl Into<String>) -> Vec<Span> {
    vec![Span::Text(text.into())]
}

/// A paragraph of plain text.
pub fn paragraph(words: impl Into<String>) -> Block {
    Block::Paragraph(text(words))
}

/// A heading with an id.
pub fn heading(level: u8, id: impl Into<String>, text: impl Into<String>) -> Block {
    Block::Heading { level, id: id.into(), text: text.into() }
}

/// A name as a part of an address or of a file's name: small letters and digits, the rest as single hyphens.
///
/// ```
/// assert_eq!(experiments::report::document::slug("VQ-VAE, losses"), "vq-vae-losses");
/// ```
pub fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            _ if !slug.ends_with('-') && !slug.is_empty() => slug.push('-'),
            _ => {}
        }
    }
    slug.trim_end_matches('-').to_owned()
}
