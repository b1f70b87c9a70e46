//! What a program does around its training: settings before candle's first op, threads, exit code.

use std::process::ExitCode;

use crate::error::{describe, exit_code};
use crate::{EXIT_INTERRUPTED, Outcome, parallel};

/// The variable that tells candle's barrier pool how long its workers spin after each op.
const SPIN_LIMIT: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";

/// The variable with the stack size of threads, in bytes.
const STACK_SIZE: &str = "RUST_MIN_STACK";

/// Runs `body` on candle's thread pool and makes its result the program's: `main` is this one call.
///
/// It sets what makes candle fast without the user having to know: candle's workers spin 25,000 times
/// after each op on the core that the matrix product wants, so the limit becomes 100; and `body`
/// runs inside the pool that candle uses, not beside it. That pool's threads get 64 MiB of stack,
/// because candle walks the graph by recursion in `backward`. Variables that are set already
/// (`CANDLE_BARRIER_POOL_SPIN_LIMIT`, `RUST_MIN_STACK`) stay as they are.
///
/// Exit codes: 0; 1 for a failure; 2 for bad input; 130 for an interrupted run that can be resumed.
/// An error is printed as one paragraph, `error: …`, and ends the other processes of the [team](crate::parallel) too.
///
/// Call it first in `main`, before any thread or candle op.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     fadam_train::run_main(|| {
///         println!("parse, build, train");
///         Ok(fadam_train::Outcome::Completed)
///     })
/// }
/// ```
pub fn run_main(body: impl FnOnce() -> anyhow::Result<Outcome> + Send) -> ExitCode {
    set_default(SPIN_LIMIT, "100");
    set_default(STACK_SIZE, "67108864");
    candle_core::utils::with_threadpool(|| match body() {
        Ok(outcome) => {
            parallel::leave(None);
            let interrupted = outcome == Outcome::Interrupted;
            if interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            let code = exit_code(&error);
            parallel::leave(Some((describe(&error), code)));
            ExitCode::from(code)
        }
    })
}

#[allow(unsafe_code)]
fn set_default(variable: &str, value: &str) {
    if std::env::var_os(variable).is_none() {
        // SAFETY: `run_main` is the first thing that `main` does (its contract), so there is no other
        // thread that could read or write the environment meanwhile.
        unsafe { std::env::set_var(variable, value) };
    }
}
