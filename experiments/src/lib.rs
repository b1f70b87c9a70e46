//! The experiments: what each binary runs, one module each.

pub mod allocator;
pub mod bench;
pub mod generate;
pub mod llm;
pub mod replay;

/// The commit that the programs were built from, if the source was a git checkout.
pub const COMMIT: Option<&str> = option_env!("FADAM_COMMIT");
