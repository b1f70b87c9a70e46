//! `ablate-parts`: each part of FAdam taken from it and added to Adam. See `experiments::ablate`.

use std::process::ExitCode;

use experiments::ablate;
use experiments::allocator::{Allocator, keep_freed_memory};
use fadam_train::run_main;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    keep_freed_memory();
    run_main(|| ablate::PARTS.run())
}
