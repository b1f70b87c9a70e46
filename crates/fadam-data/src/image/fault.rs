//! What can be wrong with the bytes of a picture.

use super::Reason;

/// What is wrong with the bytes of a picture, which [`Error::Picture`](crate::Error::Picture) names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not one byte.
    #[error("has no bytes; download or copy the file again")]
    Empty,
    /// Neither JPEG nor PNG nor WebP; with the first bytes.
    #[error("not a picture: it begins with {0}; expected JPEG, PNG or WebP")]
    NotAPicture(String),
    /// The bytes end before the picture does.
    #[error("ends early: {0}; download or copy the file again")]
    Truncated(String),
    /// The decoder refuses it.
    #[error("damaged: {0}; download or copy the file again")]
    Damaged(String),
    /// It is coded in a way that is not read here.
    #[error("cannot be decoded: {0}; write it anew as JPEG, PNG or WebP")]
    Unsupported(String),
    /// It would take more memory than is allowed.
    #[error("too large: {0}")]
    TooLarge(String),
}

impl Fault {
    /// What a report counts it as.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Empty => Reason::Empty,
            Self::Truncated(_) => Reason::Truncated,
            Self::TooLarge(_) => Reason::TooLarge,
            Self::NotAPicture(_) | Self::Damaged(_) | Self::Unsupported(_) => Reason::Unreadable,
        }
    }
}
