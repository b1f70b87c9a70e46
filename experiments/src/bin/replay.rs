//! `replay`: steps an optimizer through a recorded gradient trace. See `experiments::replay`.

use std::process::ExitCode;

use clap::Parser;
use experiments::replay::{Args, replay};

fn main() -> ExitCode {
    match replay(&Args::parse()) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", fadam_train::describe(&error));
            ExitCode::from(fadam_train::exit_code(&error))
        }
    }
}
