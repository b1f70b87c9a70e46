//! `ablate-weight-decay`: the weight decay λ (Tables 5 and 6). See `experiments::ablate`.

use std::process::ExitCode;

use experiments::ablate;
use experiments::allocator::{Allocator, keep_freed_memory};
use fadam_train::run_main;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    keep_freed_memory();
    run_main(|| ablate::WEIGHT_DECAY.run())
}
