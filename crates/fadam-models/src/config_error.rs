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

/// The largest dimension of a model. A product of three of them is a number of 64 bits.
pub const MAX_DIMENSION: usize = 1 << 20;

/// The most numbers that a table of positions has: places by width.
pub const MAX_TABLE: usize = 1 << 26;

impl ConfigError {
    /// `Ok` if this is a dimension: from 1 to [`MAX_DIMENSION`].
    pub(crate) fn dimension(field: &'static str, value: usize) -> Result<(), Self> {
        Self::require(field, value > 0, || "must be at least 1, got 0".to_owned())?;
        let message = || format!("must be at most {MAX_DIMENSION}, got {value}");
        Self::require(field, value <= MAX_DIMENSION, message)
    }

    /// `Ok` if a table of positions of this width is not too large.
    pub(crate) fn table(field: &'static str, places: usize, width: usize) -> Result<(), Self> {
        let message =
            || format!("makes {places} positions of width {width}, more than {MAX_TABLE} numbers");
        let size = places.checked_mul(width);
        Self::require(field, size.is_some_and(|size| size <= MAX_TABLE), message)
    }

    /// `Ok` if this holds, and otherwise the message about the field.
    pub(crate) fn require(
        field: &'static str,
        holds: bool,
        message: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self { field, message: message() }) }
    }
}
