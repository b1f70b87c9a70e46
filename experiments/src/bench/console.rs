//! Where a benchmark writes: results on standard output, the rest on standard error.

use std::io::{self, ErrorKind, IsTerminal, Write};

/// How this program was built, as a row calls it. Optimisation itself cannot be asked for; in this
/// workspace debug assertions are what tells the `dev` profile from `release`.
pub(crate) const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };

/// Says loudly, on standard error, that this is no build to measure with, if it is none.
pub(crate) fn warn_of_slow_build() {
    if PROFILE != "release" {
        eprintln!(
            "WARNING: this program was built with debug assertions; its times say nothing about a \
             release build.\nWARNING: use `cargo run --release --bin bench`."
        );
    }
}

/// Writes a line to standard output at once.
///
/// # Errors
///
/// If nobody reads any more, see [`is_closed_pipe`], or the disk is full.
pub(crate) fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Whether `err` is [`print_line`] telling that the reader has gone.
pub(crate) fn is_closed_pipe(err: &anyhow::Error) -> bool {
    err.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == ErrorKind::BrokenPipe)
}

/// What is going on, on one line of standard error that is overwritten; nothing if that is no terminal.
pub(crate) struct Progress {
    at_terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { at_terminal: io::stderr().is_terminal() }
    }

    /// Shows `text` in place of what was shown before; the empty text clears the line.
    pub(crate) fn show(&self, text: &str) {
        if self.at_terminal {
            eprint!("\r\x1b[K{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}
