//! Stand-in until the embedded clips are merged: there are none.

use crate::Result;

/// A clip that comes with the crate.
#[derive(Debug, Clone)]
pub struct EmbeddedClip {
    /// Its name.
    pub name: &'static str,
    /// What is said.
    pub text: &'static str,
    /// Who says it.
    pub speaker: &'static str,
    /// A sound file.
    pub bytes: &'static [u8],
}

/// All of them.
///
/// # Errors
/// None here.
pub fn embedded() -> Result<Vec<EmbeddedClip>> {
    Ok(Vec::new())
}
