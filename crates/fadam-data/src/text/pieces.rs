//! Long texts in pieces, so that the tokenizer's memory (about 100 bytes a token) stays bounded and
//! one long file keeps all threads busy.

/// Cuts `text` into pieces of at most `limit` bytes (an empty text is one empty piece).
///
/// A cut is made before a space between two printable ASCII characters, the last one that fits: the
/// GPT-2 pattern always begins a new word there, so a byte-level tokenizer gives the same tokens as
/// for the whole text. Without such a place the cut is between two characters.
pub(super) fn pieces(text: &str, limit: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let left = rest?;
        let (piece, after) = left.split_at(cut(left, limit));
        rest = Some(after).filter(|after| !after.is_empty());
        Some(piece)
    })
}

/// Where the first piece of `text` ends: above 0, at most `limit` unless the first character is
/// longer.
fn cut(text: &str, limit: usize) -> usize {
    if text.len() <= limit {
        return text.len();
    }
    let bytes = text.as_bytes();
    let between_words = |&at: &usize| {
        bytes[at] == b' ' && bytes[at - 1].is_ascii_graphic() && bytes[at + 1].is_ascii_graphic()
    };
    (1..=limit.min(text.len() - 2)).rev().find(between_words).unwrap_or_else(|| {
        let back = (1..=limit).rev().find(|&at| text.is_char_boundary(at));
        back.unwrap_or_else(|| text.chars().next().map_or(1, char::len_utf8))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::pieces;

    #[test]
    fn cuts_before_the_last_space_that_fits() {
        let cut: Vec<_> = pieces("to be or not", 7).collect();
        assert_eq!(cut, ["to be", " or not"]);
        // No place between two words: between two characters.
        assert_eq!(pieces("ééé", 3).collect::<Vec<_>>(), ["é", "é", "é"]);
        assert_eq!(pieces("a  b", 3).collect::<Vec<_>>(), ["a  ", "b"]);
        assert_eq!(pieces("", 3).collect::<Vec<_>>(), [""]);
    }

    proptest! {
        #[test]
        fn pieces_make_up_the_text(text in "(\\PC|[ \n]){0,60}", limit in 1usize..20) {
            let cut: Vec<_> = pieces(&text, limit).collect();
            prop_assert_eq!(cut.concat(), text.as_str());
            prop_assert!(text.is_empty() || cut.iter().all(|piece| !piece.is_empty()));
            prop_assert!(cut.iter().all(|p| p.len() <= limit.max(4)));
        }
    }
}
