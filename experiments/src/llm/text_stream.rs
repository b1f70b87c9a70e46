//! Tokens in, whole characters out.

use fadam_data::text::Tokenizer;
use fadam_train::bad_input;

/// What stands for bytes that are not UTF-8.
const REPLACEMENT: char = '\u{FFFD}';

/// The most bytes of a character that is not whole yet, each at most one [`REPLACEMENT`] when decoded.
const LONGEST_PART: usize = 3;

/// Tokens that are kept to decode the next one after them, and how many more may gather.
const CONTEXT: usize = 16;

/// The text of tokens that come one by one. A token may end within a character: its text is held back
/// until the rest has come, or cannot come any more. All pieces together are the text of all tokens.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    /// The last tokens of the prompt, then of what was pushed. The first token of a text is decoded
    /// otherwise than the same token after others by many tokenizers.
    tokens: Vec<u32>,
    /// What of their text was given out, or belongs to the prompt.
    given: String,
    /// How many of them had been pushed then.
    done: usize,
}

impl<'t> TextStream<'t> {
    /// A stream of what comes after `prompt`, whose text is not given out.
    ///
    /// # Errors
    /// Bad input: an id that the vocabulary does not have.
    pub fn after(tokenizer: &'t Tokenizer, prompt: &[u32]) -> anyhow::Result<Self> {
        let mut stream = Self { tokenizer, tokens: prompt.to_vec(), given: String::new(), done: 0 };
        stream.forget()?;
        Ok(stream)
    }

    /// Takes the next token; gives the text that is certain now, often none.
    ///
    /// # Errors
    /// Bad input: an id that the vocabulary does not have.
    pub fn push(&mut self, token: u32) -> anyhow::Result<String> {
        self.tokens.push(token);
        let text = self.text()?;
        let certain = without_part(&text);
        let new = certain[self.given.len().min(certain.len())..].to_owned();
        self.given.push_str(&new);
        if certain.len() == text.len() {
            self.done = self.tokens.len();
            if self.done > 2 * CONTEXT {
                self.forget()?;
            }
        }
        Ok(new)
    }

    /// Gives what was held back; bytes that are no character become U+FFFD.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(mut self) -> anyhow::Result<String> {
        let text = self.text()?;
        Ok(text[self.given.len()..].to_owned())
    }

    /// The text of the tokens, which begins with what was given.
    fn text(&mut self) -> anyhow::Result<String> {
        let text = self.decode()?;
        if text.starts_with(&self.given) {
            return Ok(text);
        }
        // Tokenizers that fall back to bytes take a whole row of such tokens for no text if one byte is
        // none, and so take back characters that they gave: what is new is decoded by itself then.
        self.tokens.drain(..self.done);
        (self.given, self.done) = (String::new(), 0);
        self.decode()
    }

    fn decode(&self) -> anyhow::Result<String> {
        self.tokenizer.decode(&self.tokens).map_err(bad_input)
    }

    /// Keeps the last tokens only, all of which were given.
    fn forget(&mut self) -> anyhow::Result<()> {
        self.tokens.drain(..self.tokens.len().saturating_sub(CONTEXT));
        self.done = self.tokens.len();
        self.given = self.decode()?;
        Ok(())
    }
}

/// `text` without what may be the beginning of a character.
fn without_part(text: &str) -> &str {
    let mut certain = text;
    for _ in 0..LONGEST_PART {
        certain = certain.strip_suffix(REPLACEMENT).unwrap_or(certain);
    }
    certain
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fadam_data::text::{Document, Origin};

    use super::*;

    /// 256 bytes and end of text: each byte of a character is a token.
    fn bytes() -> Tokenizer {
        let origin = Origin { file: Path::new("test").into(), line: None };
        let documents = [Document { text: "aé€🎉".to_owned(), origin }];
        Tokenizer::train_byte_level_bpe(&documents, 257).unwrap()
    }

    fn pieces(tokenizer: &Tokenizer, prompt: &[u32], tokens: &[u32]) -> Vec<String> {
        let mut stream = TextStream::after(tokenizer, prompt).unwrap();
        let mut pieces: Vec<_> = tokens.iter().map(|t| stream.push(*t).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn a_character_comes_with_its_last_byte() {
        let tokenizer = bytes();
        let tokens = tokenizer.encode("aé€🎉b").unwrap();
        assert_eq!(tokens.len(), 11);
        let expected = ["a", "", "é", "", "", "€", "", "", "", "🎉", "b", ""];
        assert_eq!(pieces(&tokenizer, &tokens[..1], &tokens), expected);
    }

    #[test]
    fn all_pieces_are_the_text_of_all_tokens_also_when_that_is_no_text() {
        let tokenizer = bytes();
        let character = tokenizer.encode("🎉").unwrap();
        let a = tokenizer.encode("a").unwrap();
        // Cut characters before a letter, before another character, and at the end; longer than CONTEXT.
        let tokens = [&character[..3], &a, &character[1..], &character, &character[..2]].concat();
        for tokens in [tokens.clone(), tokens.repeat(20)] {
            let pieces = pieces(&tokenizer, &a, &tokens);
            assert_eq!(pieces.concat(), tokenizer.decode(&tokens).unwrap());
            assert_eq!(pieces.concat().matches('🎉').count(), tokens.len() / 13);
            assert!(pieces.last().unwrap().ends_with(REPLACEMENT), "{pieces:?}");
        }
    }

    #[test]
    fn what_never_becomes_text_is_not_held_back_for_ever() {
        let tokenizer = bytes();
        let inner = tokenizer.encode("🎉").unwrap()[1]; // a byte that no character begins with
        let pieces = pieces(&tokenizer, &tokenizer.encode("a").unwrap(), &[inner; 50]);
        assert_eq!(pieces[..50].concat().chars().count(), 50 - LONGEST_PART);
        assert_eq!(pieces.concat(), REPLACEMENT.to_string().repeat(50));
    }

    /// A tokenizer that falls back to bytes, as those of Llama 2 do.
    #[test]
    fn a_character_that_its_tokenizer_takes_back_stays() {
        let bytes = [0xc3, 0xa9, 0xff].map(|byte: u8| format!("<0x{byte:02X}>"));
        let vocab: serde_json::Map<String, serde_json::Value> = ["</s>", "a"]
            .into_iter()
            .map(str::to_owned)
            .chain(bytes)
            .zip((0..).map(Into::into))
            .collect();
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [{"id": 0, "content": "</s>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true},
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokenizer.json");
        std::fs::write(&file, json.to_string()).unwrap();
        let tokenizer = Tokenizer::load(&file, None).unwrap();
        assert_eq!(
            tokenizer.decode(&[2, 3, 4]).unwrap().chars().count(),
            3,
            "no é: it was taken back"
        );
        assert_eq!(pieces(&tokenizer, &[1], &[2, 3, 4, 1]).concat(), "é\u{FFFD}a");
    }
}
