//! Text from files to batches, module by module.

mod batches;
mod corpus;
mod real_formats;
mod source;
mod split;
mod tokenizer;

use std::path::Path;

use fadam_data::text::{Document, Origin};

/// A document of a file that need not exist.
fn document(file: &str, text: &str) -> Document {
    let origin = Origin { file: Path::new(file).into(), line: None };
    Document { text: text.to_owned(), origin }
}

/// The first 60,000 bytes of the embedded text.
fn speech() -> Vec<Document> {
    let (documents, _) = fadam_data::text::TextSource::Embedded.read().unwrap();
    documents
        .into_iter()
        .take(2)
        .map(|d| Document { text: d.text[..30_000].to_owned(), ..d })
        .collect()
}
