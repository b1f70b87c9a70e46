//! `ablate-fisher`: estimators of the Fisher information beside the exact one. See the module `fisher`.

use std::process::ExitCode;

use clap::Parser;
use experiments::allocator::{Allocator, keep_freed_memory};
use experiments::fisher;
use fadam_train::run_main;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    keep_freed_memory();
    run_main(|| fisher::run(&fisher::Args::parse()))
}
