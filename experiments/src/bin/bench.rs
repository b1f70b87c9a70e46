//! `bench`: times the parts of this project on this machine. See the module `bench`.

use std::process::ExitCode;

use clap::Parser;
use experiments::bench;
use fadam_train::run_main;

/// The allocator of the training programs, so that a step is timed as a user meets it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run_main(|| bench::run(&bench::Args::parse()))
}
