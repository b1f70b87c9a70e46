//! A document and where it came from.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The file, and for JSON lines the line, that a document was read from. Displayed as `file` or
/// `file:line`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file; documents of one file share the allocation.
    pub file: Arc<Path>,
    /// The line of a JSON-lines file, from 1; `None` when the file is one document.
    pub line: Option<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// One text that stands on its own: attention and statistics may cross into the next one only
/// behind an end-of-text token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The text, never empty when it comes from a [`TextSource`](super::TextSource).
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
}
