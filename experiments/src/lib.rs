//! The experiments: what each binary runs, one module each.

pub mod allocator;
pub mod asr;
pub mod bench;
pub mod exported;
pub mod generate;
pub mod llm;
pub mod model_place;
pub mod reconstruct;
pub mod replay;
pub mod transcribe;
pub mod vqvae;

/// The commit that the programs were built from, if the source was a git checkout.
pub const COMMIT: Option<&str> = option_env!("FADAM_COMMIT");
