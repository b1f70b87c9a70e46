//! Ctrl-C: the first asks the run to end after its step, the second ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a run that was interrupted and can be resumed, as shells use it for Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 130;

/// A request to end the run after the current step. Clones share one flag.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// One that only [`request`](Interrupt::request) sets.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that Ctrl-C (SIGINT), SIGTERM and SIGHUP set. A second signal ends the program at once
    /// with exit code [`EXIT_INTERRUPTED`]; the last whole checkpoint stays.
    ///
    /// # Errors
    ///
    /// When the program has a handler already.
    pub fn on_signals() -> anyhow::Result<Self> {
        let interrupt = Self::new();
        let shared = interrupt.clone();
        ctrlc::set_handler(move || {
            if shared.0.swap(true, Ordering::Relaxed) {
                std::process::exit(EXIT_INTERRUPTED.into());
            }
            eprintln!("\ninterrupted: ending after this step (again to end at once)");
        })?;
        Ok(interrupt)
    }

    /// Requests it once `input` ends: the other end of a pipe that whoever started this program holds.
    pub(crate) fn at_end_of(&self, mut input: impl std::io::Read + Send + 'static) {
        let interrupt = self.clone();
        std::thread::spawn(move || {
            // However it ends, nobody holds it any more.
            let _ended = std::io::copy(&mut input, &mut std::io::sink());
            interrupt.request();
        });
    }

    /// Asks the run to end after the current step.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the run was asked to end.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
