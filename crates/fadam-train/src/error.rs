//! What the user can get wrong, and how a program ends because of it.

use std::path::{Path, PathBuf};

/// Bad input: a configuration, command line, run folder, checkpoint or file of weights that cannot be used.
///
/// Every message is one paragraph that names the file, line, argument or field. A program that ends
/// with one exits with code 2 (see [`exit_code`]).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that cannot be read, or says something impossible.
    #[error("{place}: {message}")]
    Config {
        /// The file, with the line where there is one: `configs/x.toml:7`.
        place: String,
        /// What is wrong there.
        message: String,
    },

    /// A command-line argument that cannot be used.
    #[error("{argument}: {message}")]
    CommandLine {
        /// The argument as it was typed.
        argument: String,
        /// What is wrong with it.
        message: String,
    },

    /// A run folder that cannot be started in, or continued.
    #[error("run folder {}: {message}", path.display())]
    RunFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },

    /// A checkpoint that is damaged, or belongs to something else.
    #[error("checkpoint {}: {message}", path.display())]
    Checkpoint {
        /// The file, or the folder of the checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },

    /// A file of weights that is damaged, or belongs to another model.
    #[error("weights {}: {message}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

impl Error {
    pub(crate) fn argument(argument: impl Into<String>, message: impl Into<String>) -> Self {
        Self::CommandLine { argument: argument.into(), message: message.into() }
    }

    pub(crate) fn run_folder(path: &Path, message: impl Into<String>) -> Self {
        Self::RunFolder { path: path.to_owned(), message: message.into() }
    }

    pub(crate) fn checkpoint(path: &Path, message: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_owned(), message: message.into() }
    }

    pub(crate) fn weights(path: &Path, message: impl Into<String>) -> Self {
        Self::Weights { path: path.to_owned(), message: message.into() }
    }
}

/// Marks another crate's error as bad input, so that the program exits with code 2.
///
/// ```
/// use fadam_train::{bad_input, exit_code};
/// let read = std::fs::read("no/such/corpus.txt").map_err(bad_input);
/// assert_eq!(exit_code(&read.unwrap_err()), 2);
/// ```
pub fn bad_input(cause: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::Error::new(BadInput(cause.into()))
}

/// The mark that [`bad_input`] leaves in a chain of errors. It shows what it wraps.
#[derive(Debug)]
struct BadInput(anyhow::Error);

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for BadInput {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// The exit code for a program that ends with `error`: 2 if anything in its chain is bad input
/// ([`Error`] or [`bad_input`]), else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let is_bad_input = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Error>() || cause.is::<BadInput>() || cause.is::<crate::config::FieldError>()
    };
    if error.chain().any(is_bad_input) { 2 } else { 1 }
}

/// The longest message, in characters. What is quoted of a hostile file may have any length.
const LONGEST: usize = 2000;

/// `error` as one paragraph: its causes joined with `": "`, each said once. Of a very long one the middle is left out.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    shortened(text)
}

fn shortened(text: String) -> String {
    let length = text.chars().count();
    if length <= LONGEST {
        return text;
    }
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    let (begin, end) = (&text[..at(LONGEST / 2)], &text[at(length - LONGEST / 2)..]);
    format!("{begin} [… {} characters …] {end}", length - 2 * (LONGEST / 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_very_long_message_is_shortened_in_its_middle() {
        let said = |length: usize| {
            let quoted = "é".repeat(length);
            describe(&anyhow::anyhow!("a.csv:2: \"{quoted}\" is no number"))
        };
        assert_eq!(said(1900).chars().count(), 1924);
        let long = said(100_000);
        assert!(long.starts_with("a.csv:2: \"éé") && long.ends_with("éé\" is no number"), "{long}");
        assert!(long.contains(" [… 98024 characters …] "), "{long}");
    }

    #[test]
    fn bad_input_exits_with_2_however_deep_and_the_rest_with_1() {
        let deep = anyhow::Error::from(Error::argument("--set a", "is not key.path=value"))
            .context("while starting");
        assert_eq!(exit_code(&deep), 2);
        assert_eq!(describe(&deep), "while starting: --set a: is not key.path=value");
        assert_eq!(exit_code(&bad_input(anyhow::anyhow!("empty corpus")).context("loading")), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("disk full")), 1);
    }

    #[test]
    fn a_cause_that_was_quoted_already_is_not_repeated() {
        let error = Err::<(), _>(anyhow::anyhow!("no space left"))
            .context("cannot write x: no space left")
            .unwrap_err();
        assert_eq!(describe(&error), "cannot write x: no space left");
    }
}
