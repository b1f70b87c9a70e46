//! `reconstruct`: pictures through a trained VQ-VAE. See `experiments::reconstruct`.

use std::process::ExitCode;

use clap::Parser;
use experiments::allocator::{Allocator, keep_freed_memory};
use experiments::reconstruct::{Args, run};
use fadam_train::run_main;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    keep_freed_memory();
    run_main(|| run(&Args::parse()))
}
