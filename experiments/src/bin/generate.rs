//! `generate`: continues a text with a trained model. See `experiments::generate`.

use std::process::ExitCode;

use clap::Parser;
use experiments::allocator::{Allocator, keep_freed_memory};
use experiments::generate::{Args, run};
use fadam_train::run_main;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    keep_freed_memory();
    run_main(|| run(&Args::parse(), &mut std::io::stdout()))
}
