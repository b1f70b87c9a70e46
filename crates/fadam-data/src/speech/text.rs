//! Transcripts as the network is to write them.

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// What is done to a transcript before it is learned, and to both sides before words are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Words in lower case and nothing else: what is spoken, without what is only written.
    ///
    /// In this order:
    ///
    /// 1. Unicode NFC: a letter and its accents have one spelling.
    /// 2. Lower case, as Unicode defines it for every script, at the end of a Greek word too ("ΣΟΦΟΣ" is
    ///    "σοφος").
    /// 3. Typographic apostrophes (’ ‘ ʼ ′, grave and acute accents that stand alone, and the full-width one) are `'`.
    /// 4. Characters that show nothing (soft hyphens, joiners, directions, variants of a glyph) are
    ///    left out: what stands on their two sides is one word.
    /// 5. Letters and digits of all scripts and their combining marks stay, and so does an apostrophe
    ///    between two of them. Everything else (quotes, dashes, any other punctuation, symbols, white
    ///    space, marks with nothing to stand on) ends a word.
    /// 6. One space between words, none at the ends, and NFC once more.
    ///
    /// Doing it twice is doing it once.
    #[default]
    Standard,
    /// The transcript as it is.
    None,
}

impl Normalisation {
    /// The normalised transcript.
    ///
    /// ```
    /// use fadam_data::speech::Normalisation;
    ///
    /// let text = "“Don’t,”  she said — ‘’tis well-known: 3.5 KM!”";
    /// assert_eq!(Normalisation::Standard.apply(text), "don't she said tis well known 3 5 km");
    /// assert_eq!(Normalisation::Standard.apply("ΠΟΎ, «ΕΊΝΑΙ»;"), "πού είναι");
    /// assert_eq!(Normalisation::Standard.apply("你好，世界！"), "你好 世界");
    /// assert_eq!(Normalisation::None.apply(text), text);
    /// ```
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::Standard => standard(text),
            Self::None => text.to_owned(),
        }
    }
}

fn standard(text: &str) -> String {
    // As a whole: the lower case of a letter may depend on its neighbours (the Greek final sigma).
    let lower = text.nfc().collect::<String>().to_lowercase();
    let seen = lower.nfc().filter(|&c| !shows_nothing(c));
    let chars: Vec<char> = seen.map(|c| if is_apostrophe(c) { '\'' } else { c }).collect();
    let mut words = String::with_capacity(lower.len());
    for (at, &c) in chars.iter().enumerate() {
        // Whether a word goes on here.
        let within = words.chars().next_back().is_some_and(|before| before != ' ');
        let kept = match c {
            '\'' => within && chars.get(at + 1).is_some_and(|&next| next.is_alphanumeric()),
            _ if is_combining_mark(c) => within,
            _ => c.is_alphanumeric(),
        };
        if kept {
            words.push(c);
        } else if within {
            words.push(' ');
        }
    }
    words.trim_end_matches(' ').nfc().collect()
}

fn is_apostrophe(c: char) -> bool {
    matches!(
        c,
        '\'' | '`'
            | '\u{b4}'   // acute accent
            | '\u{2bc}'  // modifier letter apostrophe
            | '\u{2018}' // left single quotation mark
            | '\u{2019}' // right single quotation mark
            | '\u{201b}' // the reversed one
            | '\u{2032}' // prime
            | '\u{ff07}' // full-width apostrophe
    )
}

/// Format characters and variation selectors.
fn shows_nothing(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' // soft hyphen
            | '\u{61c}'
            | '\u{180b}'..='\u{180f}' // Mongolian variants
            | '\u{200b}'..='\u{200f}' // zero width, joiners, directions
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' // variants
            | '\u{feff}'
            | '\u{e0100}'..='\u{e01ef}' // variants of ideographs
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Normalisation, is_combining_mark, standard};

    #[test]
    fn apostrophes_stay_within_words() {
        assert_eq!(standard("it's the dogs' rock 'n' roll"), "it's the dogs rock n roll");
        assert_eq!(standard("it’s itʼs it`s it′s it＇s"), "it's it's it's it's it's");
        assert_eq!(standard("o''clock '''"), "o clock");
        assert_eq!(standard("l'été d’\u{ad}hiver"), "l'été d'hiver");
    }

    #[test]
    fn punctuation_and_dashes_end_words() {
        assert_eq!(standard("well-known—or not…yes/no"), "well known or not yes no");
        assert_eq!(standard("\t a \r\n b\u{a0}c\u{3000}d "), "a b c d");
        assert_eq!(standard("¡Hola! ¿Qué tal? 100% #1 _x_"), "hola qué tal 100 1 x");
        assert_eq!(standard("…—“”!?🙂\u{301}"), "");
    }

    #[test]
    fn one_spelling_of_an_accent() {
        // Composed, decomposed, marks in another order, and marks that have no composed form.
        assert_eq!(standard("CAFÉ"), "caf\u{e9}");
        assert_eq!(standard("CAFE\u{301}"), "caf\u{e9}");
        assert_eq!(standard("a\u{323}\u{302}"), standard("a\u{302}\u{323}"));
        assert_eq!(standard("x\u{304}y \u{301}z"), "x\u{304}y z");
        // The mark stands on the letter once what was between them is gone.
        assert_eq!(standard("e\u{200d}\u{301}"), "\u{e9}");
        // U+212A is the kelvin sign, U+212B the sign for ångström.
        assert_eq!(standard("\u{212a} \u{212b}"), "k å");
        assert_eq!(standard("İ"), "i\u{307}");
    }

    #[test]
    fn scripts_of_the_world() {
        assert_eq!(standard("ΣΟΦΌΣ ΣΟΦΌΣ."), "σοφός σοφός");
        assert_eq!(standard("Я ЛЮБЛЮ м’ята"), "я люблю м'ята");
        assert_eq!(standard("नमस्ते, दुनिया।"), "नमस्ते दुनिया");
        assert_eq!(standard("مرحبا، كيف حالك؟"), "مرحبا كيف حالك");
        assert_eq!(standard("これは、ペンです。"), "これは ペンです");
        assert_eq!(standard("สวัสดี"), "สวัสดี");
    }

    proptest! {
        #[test]
        fn twice_is_once(text in "\\PC{0,12}|[a-cA-C'’ \u{300}-\u{340}\u{345}\u{200d}σΣςİK]{0,12}") {
            let once = standard(&text);
            prop_assert_eq!(&standard(&once), &once);
            prop_assert_eq!(Normalisation::None.apply(&text), text);
        }

        #[test]
        fn what_is_left_is_words(text in any::<String>()) {
            for word in standard(&text).split(' ') {
                let allowed = |c: char| c == '\'' || c.is_alphanumeric() || is_combining_mark(c);
                prop_assert!(word.chars().all(allowed));
                prop_assert!(!word.starts_with('\'') && !word.ends_with('\''));
            }
            prop_assert!(!standard(&text).contains("  "));
        }
    }
}
