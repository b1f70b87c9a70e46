//! Hostile and odd input: every format that is read, damaged at random. Readers answer with what they read or with one clear
//! message; none panics, hangs, or takes memory beyond a bound (docs/reliability.md).
//!
//! `FADAM_FUZZ_CASES=20000 FADAM_FUZZ_SEED=2 cargo test --release --workspace --test hostile` looks longer and elsewhere.

#![allow(unreachable_pub, reason = "modules of a test binary, which exports nothing")]

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod data;
mod engine;
mod watch;

use std::fs;
use std::path::Path;

use fadam_train::describe;

/// Gives `read` a file of this name with these bytes, alone in a folder.
fn in_file(
    name: &str,
    bytes: &[u8],
    read: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    read(&path)
}

/// What a person is told.
fn said(error: impl Into<anyhow::Error>) -> String {
    describe(&error.into())
}
