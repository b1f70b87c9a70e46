//! Documents to one row of tokens, in parallel, with an account of the bytes.

use std::ops::ControlFlow;

use super::pieces::pieces;
use super::tokenizer::{PIECE_BYTES, Tokenizer};
use super::{Document, Origin, SourceReport, TextSource};
use crate::hub::Hub;
use crate::{Error, Result};

/// So many bytes of text are encoded at a time; what the library gives back is about 30 times
/// larger.
const ROUND_BYTES: usize = 4 << 20;

/// Token ids, and how many bytes of the source text each stands for.
///
/// The bytes of a document's tokens sum up to its length in UTF-8, whatever the tokenizer does to
/// white space or characters: a token counts the bytes from the end of the text covered before it
/// to its own end, and the last one also what is left after it. So a character that is cut into
/// several tokens counts for the first of them. An EOS counts 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The ids.
    pub tokens: Vec<u32>,
    /// For each of them, the bytes it stands for.
    pub bytes: Vec<u32>,
}

/// A document, or as much of a long one as is encoded at once.
struct Piece<'a> {
    text: &'a str,
    origin: &'a Origin,
    ends_document: bool,
}

impl Tokenizer {
    /// The tokens of all documents in a row, each document followed by EOS.
    ///
    /// A document of more than 256 KiB is encoded in pieces that begin at a space between two
    /// words. For byte-level tokenizers this changes nothing; others may tokenize the words beside
    /// such a cut differently.
    ///
    /// # Errors
    /// When the tokenizer cannot represent a document.
    pub fn encode_documents(&self, documents: &[Document]) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        self.encode_each(documents, PIECE_BYTES, false, |token, _| tokens.push(token))?;
        Ok(tokens)
    }

    /// [`Tokenizer::encode_documents`], with the bytes that each token stands for.
    ///
    /// A document that gives no token at all (a normalizer may drop all of it) has its bytes
    /// counted for its EOS, so that the sum over all tokens is the length of all documents.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_documents`].
    pub fn encode_documents_with_bytes(&self, documents: &[Document]) -> Result<Encoded> {
        let mut encoded = Encoded::default();
        self.encode_each(documents, PIECE_BYTES, true, |token, bytes| {
            encoded.tokens.push(token);
            encoded.bytes.push(bytes);
        })?;
        Ok(encoded)
    }

    /// The tokens of the first documents of `source`, as [`Tokenizer::encode_documents_with_bytes`]:
    /// of as many documents as `at_least` tokens take, or of all of them.
    ///
    /// # Errors
    /// Those of reading and of encoding.
    pub fn encode_first(
        &self,
        source: &TextSource,
        hub: &Hub,
        at_least: usize,
    ) -> Result<(Encoded, SourceReport)> {
        let mut all = Encoded::default();
        let (mut group, mut bytes) = (Vec::new(), 0);
        let mut encode = |group: &mut Vec<Document>| {
            let encoded = self.encode_documents_with_bytes(group)?;
            group.clear();
            all.tokens.extend(encoded.tokens);
            all.bytes.extend(encoded.bytes);
            Ok(all.tokens.len() >= at_least)
        };
        let report = source.read_each(hub, |document| {
            bytes += document.text.len();
            group.push(document);
            // No token of usual text is longer than this on average.
            let enough = bytes >= at_least.saturating_mul(4).min(ROUND_BYTES) && {
                bytes = 0;
                encode(&mut group)?
            };
            Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        encode(&mut group)?;
        Ok((all, report))
    }

    /// Gives (token, bytes) of all documents to `sink`, in order; the bytes mean nothing unless they
    /// are to be `counted`.
    fn encode_each(
        &self,
        documents: &[Document],
        piece_bytes: usize,
        counted: bool,
        mut sink: impl FnMut(u32, u32),
    ) -> Result<()> {
        let mut pieces = documents.iter().flat_map(|document| {
            let mut texts = pieces(&document.text, piece_bytes).peekable();
            std::iter::from_fn(move || {
                let text = texts.next()?;
                let ends_document = texts.peek().is_none();
                Some(Piece { text, origin: &document.origin, ends_document })
            })
        });
        let mut uncounted = 0;
        loop {
            let round = next_round(&mut pieces);
            let (Some(first), Some(last)) = (round.first(), round.last()) else {
                return Ok(());
            };
            let encodings = self
                .encode_batch(round.iter().map(|piece| piece.text).collect(), counted)
                .map_err(|e| Error::encode(first.origin, last.origin, &*e))?;
            for (piece, encoding) in round.iter().zip(encodings) {
                let ends = encoding.get_offsets().iter().map(|&(_, end)| end);
                let bytes = count_bytes(ends, piece.text.len(), &mut uncounted);
                encoding.get_ids().iter().zip(bytes).for_each(|(&id, bytes)| sink(id, bytes));
                if piece.ends_document {
                    sink(self.eos_id(), std::mem::take(&mut uncounted));
                }
            }
        }
    }
}

/// At least one piece, if there is one, and at most about [`ROUND_BYTES`].
fn next_round<'a>(pieces: &mut impl Iterator<Item = Piece<'a>>) -> Vec<Piece<'a>> {
    let mut round = Vec::new();
    let mut bytes = 0;
    while bytes < ROUND_BYTES {
        let Some(piece) = pieces.next() else { break };
        bytes += piece.text.len();
        round.push(piece);
    }
    round
}

/// The bytes of each token of a piece of `len` bytes, from the ends of the tokens in it. Where
/// there is no token to count for, they are added to `uncounted`, which goes to the next one.
fn count_bytes(ends: impl Iterator<Item = usize>, len: usize, uncounted: &mut u32) -> Vec<u32> {
    let mut covered = 0;
    let count = |end: usize| {
        let before = covered;
        covered = end.clamp(before, len);
        (covered - before) as u32
    };
    let mut bytes: Vec<u32> = ends.map(count).collect();
    let left = (len - covered) as u32;
    if let Some(last) = bytes.last_mut() {
        *last += left;
        bytes[0] += std::mem::take(uncounted);
    } else {
        *uncounted += left;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::{Encoded, count_bytes};
    use crate::text::{Document, Origin, Tokenizer};

    #[test]
    fn every_byte_is_counted_once() {
        let mut uncounted = 0;
        // " to  be ": the token "to" ends at 3, "be" at 7; the space after it is left over.
        assert_eq!(count_bytes([3, 7].into_iter(), 8, &mut uncounted), [3, 5]);
        // "é" in two byte tokens, both with the end of the whole character, then "a".
        assert_eq!(count_bytes([2, 2, 3].into_iter(), 3, &mut uncounted), [2, 0, 1]);
        // A normalizer that moved the ends back, or beyond the text.
        assert_eq!(count_bytes([4, 2, 9].into_iter(), 5, &mut uncounted), [4, 0, 1]);
        // A piece without tokens leaves its bytes to the next token.
        assert_eq!(count_bytes([].into_iter(), 3, &mut uncounted), [0; 0]);
        assert_eq!(count_bytes([1].into_iter(), 1, &mut uncounted), [4]);
        assert_eq!(uncounted, 0);
    }

    fn document(text: &str) -> Document {
        let origin = Origin { file: Path::new("test.txt").into(), line: None };
        Document { text: text.to_owned(), origin }
    }

    fn encode(tokenizer: &Tokenizer, documents: &[Document], piece_bytes: usize) -> Encoded {
        let mut encoded = Encoded::default();
        let keep = |token, bytes| {
            encoded.tokens.push(token);
            encoded.bytes.push(bytes);
        };
        tokenizer.encode_each(documents, piece_bytes, true, keep).unwrap();
        encoded
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_change_no_token(
            words in proptest::collection::vec("[a-z'.,]{1,6}|[0-9]{1,3}", 1..30),
        ) {
            let training = "the one and the other, that's 10 or 100. it's the end's end ";
            let tokenizer = Tokenizer::train_byte_level_bpe(&[document(training)], 275).unwrap();
            let text = [document(&words.join(" "))];
            // 14 bytes are longer than any two words, so that there is always a space to cut at.
            prop_assert_eq!(encode(&tokenizer, &text, 14), encode(&tokenizer, &text, usize::MAX));
        }
    }
}
