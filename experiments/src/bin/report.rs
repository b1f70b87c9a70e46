//! `report`: the paper's tables and figures beside ours. See `experiments::report`.

use std::process::ExitCode;

use clap::Parser;
use experiments::report::{Args, run};

fn main() -> ExitCode {
    match run(&Args::parse()) {
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
