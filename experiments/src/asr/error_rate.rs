//! Word and character error rates, of a whole corpus: edits by edits of the reference.

use std::iter::Sum;
use std::ops::Add;

use serde::Serialize;

/// The fewest edits that turn references into what was recognised.
///
/// ```
/// use experiments::asr::Edits;
///
/// let edits = Edits::words("the cat sat on the mat", "the cat sat on mat");
/// assert_eq!((edits.substitutions, edits.deletions, edits.insertions), (0, 1, 0));
/// assert_eq!(edits.rate(), 1.0 / 6.0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Edits {
    /// Replaced.
    pub substitutions: usize,
    /// In the reference only.
    pub deletions: usize,
    /// In what was recognised only.
    pub insertions: usize,
    /// Words or characters of the reference.
    pub reference: usize,
}

impl Edits {
    /// Of words, which are what stands between spaces.
    pub fn words(reference: &str, recognised: &str) -> Self {
        let words = |text| str::split_whitespace(text).collect::<Vec<_>>();
        Self::between(&words(reference), &words(recognised))
    }

    /// Of characters, spaces included.
    pub fn characters(reference: &str, recognised: &str) -> Self {
        let characters = |text: &str| text.chars().collect::<Vec<_>>();
        Self::between(&characters(reference), &characters(recognised))
    }

    /// By Levenshtein's recursion over prefixes; of ways that are equally short, the one with the most substitutions.
    fn between<T: PartialEq>(reference: &[T], recognised: &[T]) -> Self {
        // A row is a prefix of the reference, an entry one of what was recognised.
        let mut row: Vec<Self> = (0..=recognised.len())
            .map(|insertions| Self { insertions, ..Self::default() })
            .collect();
        for (i, from) in reference.iter().enumerate() {
            let mut diagonal = row[0];
            row[0].deletions = i + 1;
            for (j, to) in recognised.iter().enumerate() {
                let kept = Self {
                    substitutions: diagonal.substitutions + usize::from(from != to),
                    ..diagonal
                };
                let deleted = Self { deletions: row[j + 1].deletions + 1, ..row[j + 1] };
                let inserted = Self { insertions: row[j].insertions + 1, ..row[j] };
                diagonal = row[j + 1];
                row[j + 1] = [deleted, inserted].into_iter().fold(kept, |best, other| {
                    if other.count() < best.count() { other } else { best }
                });
            }
        }
        Self { reference: reference.len(), ..row[recognised.len()] }
    }

    /// All edits.
    pub fn count(&self) -> usize {
        self.substitutions + self.deletions + self.insertions
    }

    /// Edits by the reference's length, which may be above 1; not a number for no reference at all.
    pub fn rate(&self) -> f64 {
        self.count() as f64 / self.reference as f64
    }
}

impl Add for Edits {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            substitutions: self.substitutions + other.substitutions,
            deletions: self.deletions + other.deletions,
            insertions: self.insertions + other.insertions,
            reference: self.reference + other.reference,
        }
    }
}

impl Sum for Edits {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        pairs: Vec<[String; 2]>,
        corpus_wer: f64,
        substitutions: usize,
        deletions: usize,
        insertions: usize,
    }

    /// `goldens/wer.json`, from the Python package jiwer.
    #[test]
    fn words_as_jiwer_counts_them() {
        let golden: Golden =
            serde_json::from_str(include_str!("../../tests/goldens/wer.json")).unwrap();
        let all: Edits = golden.pairs.iter().map(|[a, b]| Edits::words(a, b)).sum();
        assert_eq!(all.substitutions, golden.substitutions);
        assert_eq!(all.deletions, golden.deletions);
        assert_eq!(all.insertions, golden.insertions);
        assert_eq!(all.rate(), golden.corpus_wer);
    }

    #[test]
    fn characters_of_any_script() {
        let edits = Edits::characters("straße", "strase");
        assert_eq!((edits.substitutions, edits.reference), (1, 6));
        assert_eq!(Edits::characters("", "ab").insertions, 2);
        assert_eq!(Edits::characters("ab", "").deletions, 2);
        assert_eq!(Edits::characters("abcdef", "abdefg").count(), 2);
        assert!(Edits::characters("", "").rate().is_nan());
    }
}
