//! `generate`: continues a text with a trained model. See `experiments::generate`.

use std::process::ExitCode;

use clap::Parser;
use experiments::generate::{Args, run};
use fadam_train::run_main;

/// The allocator of the training programs: a forward pass allocates and frees tensors all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run_main(|| run(&Args::parse(), &mut std::io::stdout()))
}
