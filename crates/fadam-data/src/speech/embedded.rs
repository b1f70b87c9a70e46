//! The speech that comes with the crate, so that a first run needs no download.

use crate::Result;

/// A sound file within the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedClip {
    /// Its path in `assets/speech`.
    pub name: &'static str,
    /// What is said, as its publisher wrote it down.
    pub text: &'static str,
    /// Who says it.
    pub speaker: &'static str,
    /// FLAC, of the rate of the original.
    pub bytes: &'static [u8],
}

/// All of them. `build.rs` writes this from `assets/speech/clips.tsv`, a manifest that can also be
/// read from the repository, and refuses one that is not `path, text, speaker`.
static CLIPS: &[EmbeddedClip] = include!(concat!(env!("OUT_DIR"), "/clips.rs"));

/// The 136 embedded clips, 4.2 minutes, in the order of their names.
///
/// | clips | speakers | from | licence |
/// |---|---|---|---|
/// | 126 | 1 | prompts of the Asterisk telephone exchange, 8 kHz | CC-BY-SA-3.0 |
/// | 10 | 2 | test data of `PocketSphinx`, 16 kHz | public domain, BSD-2-Clause |
///
/// `assets/speech` has the notices beside the clips; `scripts/make-speech-asset.sh` says how they
/// were chosen and makes them again.
///
/// ```
/// let clips = fadam_data::speech::embedded()?;
/// assert_eq!(clips.len(), 136);
/// let clip = clips.iter().find(|clip| clip.name == "asterisk/hello-world.flac").unwrap();
/// assert_eq!((clip.text, clip.speaker), ("Hello world.", "allison"));
/// # Ok::<(), fadam_data::Error>(())
/// ```
///
/// # Errors
/// None: a `Result` so that all sources of clips are asked in the same way.
#[allow(clippy::unnecessary_wraps)]
pub fn embedded() -> Result<Vec<EmbeddedClip>> {
    Ok(CLIPS.to_vec())
}
