//! `ablate-epsilon2`: ε2 of the adaptive ε (Table 4). See `experiments::ablate`.

use std::process::ExitCode;

use experiments::ablate;
use experiments::allocator::{Allocator, keep_freed_memory};
use fadam_train::run_main;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    keep_freed_memory();
    run_main(|| ablate::EPSILON2.run())
}
