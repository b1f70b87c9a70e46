//! Panics of the libraries that read formats: a file that they were not made for is an error like others, in a set of a million.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `read` answers, or `gave_up` if it panics. What `read` changes must be of no use afterwards.
pub(crate) fn unpanicked<T, E>(
    gave_up: impl FnOnce() -> E,
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(gave_up()))
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
    }
}
