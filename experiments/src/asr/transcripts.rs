//! References beside what was recognised.

use std::fmt::Write as _;
use std::path::Path;

use fadam_train::write_atomically;

use super::error_rate::Edits;

/// The transcripts of the last evaluation, in the run folder, the worst first.
pub const TRANSCRIPTS_FILE: &str = "transcripts.tsv";

/// Of all utterances of an evaluation.
#[derive(Debug, Clone, Default)]
pub struct Transcripts {
    rows: Vec<Row>,
}

#[derive(Debug, Clone)]
struct Row {
    id: String,
    reference: String,
    recognised: String,
    words: Edits,
    characters: Edits,
}

impl Transcripts {
    /// Adds an utterance.
    pub fn add(&mut self, id: impl Into<String>, reference: &str, recognised: &str) {
        self.rows.push(Row {
            id: id.into(),
            words: Edits::words(reference, recognised),
            characters: Edits::characters(reference, recognised),
            reference: reference.to_owned(),
            recognised: recognised.to_owned(),
        });
    }

    /// Edits of words, of all utterances.
    pub fn words(&self) -> Edits {
        self.rows.iter().map(|row| row.words).sum()
    }

    /// Edits of characters, of all utterances.
    pub fn characters(&self) -> Edits {
        self.rows.iter().map(|row| row.characters).sum()
    }

    /// Pairs for people, spread over all utterances.
    pub fn sample(&self, pairs: usize) -> String {
        let every = (self.rows.len() / pairs.max(1)).max(1);
        let mut text = String::new();
        for row in self.rows.iter().step_by(every).take(pairs) {
            let _infallible =
                write!(text, "\n  said  {}\n  heard {}", row.reference, row.recognised);
        }
        text
    }

    /// Writes a table, the utterances with most edits of words first: `edits, words, characters edited, characters, id,
    /// reference, recognised`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.words.count(), row.characters.count())));
        let mut text =
            "word_edits\twords\tcharacter_edits\tcharacters\tid\treference\trecognised\n"
                .to_owned();
        for Row { id, reference, recognised, words, characters } in rows {
            let _infallible = writeln!(
                text,
                "{}\t{}\t{}\t{}\t{}\t{}\t{}",
                words.count(),
                words.reference,
                characters.count(),
                characters.reference,
                in_a_cell(id),
                in_a_cell(reference),
                in_a_cell(recognised)
            );
        }
        write_atomically(file, text.as_bytes())
    }
}

/// Without what would end a cell of the table.
fn in_a_cell(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_come_first() {
        let mut transcripts = Transcripts::default();
        transcripts.add("a", "one two", "one two");
        transcripts.add("b\tc", "one two three", "four");
        transcripts.add("d", "one", "two");
        assert_eq!(transcripts.words().count(), 4);
        assert_eq!(transcripts.words().reference, 6);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.tsv");
        transcripts.write(&file).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        let ids: Vec<&str> = text.lines().map(|line| line.split('\t').nth(4).unwrap()).collect();
        assert_eq!(ids, ["id", "b c", "d", "a"]);
        assert_eq!(transcripts.sample(2).matches("heard").count(), 2);
    }
}
