//! Panics of the libraries that read formats: a file that they were not made for is an error like others, in a set of a million.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread reads what may panic.
    static IS_READING: Cell<bool> = const { Cell::new(false) };
}

/// What `read` answers, or `gave_up` if it panics, of which nothing is printed. What `read` changes must be of no use afterwards.
pub(crate) fn unpanicked<T, E>(
    gave_up: impl FnOnce() -> E,
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    keep_quiet();
    let before = IS_READING.replace(true);
    let answer = catch_unwind(AssertUnwindSafe(read));
    IS_READING.set(before);
    answer.unwrap_or_else(|_| Err(gave_up()))
}

/// From now on, what a panic prints is not printed of a thread that reads.
fn keep_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let printed = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_READING.get() {
                printed(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let read = |at: usize| {
            unpanicked(|| "gave up", || if at > 9 { Err("far") } else { Ok([5, 6][at]) })
        };
        assert_eq!([read(1), read(10), read(2)], [Ok(6), Err("far"), Err("gave up")]);
        assert!(!IS_READING.get());
    }
}
