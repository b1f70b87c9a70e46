//! `transcribe`: writes down what is said, with a trained model. See `experiments::transcribe`.

use std::process::ExitCode;

use clap::Parser;
use experiments::allocator::{Allocator, keep_freed_memory};
use experiments::transcribe::{Args, run};
use fadam_train::run_main;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    keep_freed_memory();
    run_main(|| run(&Args::parse()))
}
