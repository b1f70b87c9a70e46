//! What is wrong with dimensions.

/// The field of a model's configuration that is impossible, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl ConfigError {
    /// `Ok` if this holds, and otherwise the message about the field.
    pub(crate) fn require(
        field: &'static str,
        holds: bool,
        message: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self { field, message: message() }) }
    }
}
