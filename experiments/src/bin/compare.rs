//! `compare`: the optimizers of the paper against each other (Figures 1a to 1c, Table 1). See `experiments::ablate`.

use std::process::ExitCode;

use experiments::ablate;
use experiments::allocator::{Allocator, keep_freed_memory};
use fadam_train::run_main;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    keep_freed_memory();
    run_main(|| ablate::COMPARE.run())
}
