//! The training engine that the experiments share: configuration, command line, run folder, loop,
//! checkpoints, metrics.
//!
//! ```text
//! TOML + --set ─► config::RunConfig ─┐
//! --out, --resume ─► RunFolder ──────┼─► Trainer ─► metrics.jsonl, events, loss.svg, checkpoints/, summary.json
//! an experiment's Task ──────────────┘
//! ```
//!
//! An experiment brings two things: an [`Experiment`](config::Experiment) (its name and its `[model]`
//! and `[data]` sections) and a [`Task`] (model, data, loss, evaluation). Its `main` is
//!
//! ```no_run
//! # use clap::Parser;
//! # use fadam_train::config::{Experiment, RunConfig};
//! # use fadam_train::{CommonArgs, Outcome, Task, Trainer, run_main};
//! # fn main_of<E: Experiment, T: Task>(build: fn(&RunConfig<E>) -> anyhow::Result<T>)
//! #     -> std::process::ExitCode {
//! # #[derive(Parser)]
//! # struct Args { #[command(flatten)] common: CommonArgs }
//! run_main(move || {
//!     let args = Args::parse().common;
//!     let config = args.load_config::<E>()?;
//!     if args.print_config {
//!         print!("{}", config.to_toml());
//!         return Ok(Outcome::Completed);
//!     }
//!     let options = args.run_options::<E>()?; // refuses a used run folder before any data is read
//!     let task = build(&config)?;
//!     Trainer::new(task, &config, options)?.run()
//! })
//! # }
//! ```
//!
//! [`SavedRun`] reads what a run left: `--eval-only` and `--export` use it
//! ([`CommonArgs::saved_run`], [`CommonArgs::evaluate`]).
//!
//! Many runs at once, over a grid of values and seeds, are a [`sweep`].
//!
//! # What is the same in two runs
//!
//! The same configuration on the same machine gives the same weights, optimizer state and
//! `metrics.jsonl` to the last bit, whether or not the run was stopped, or killed at any moment, and resumed in
//! between. Only what is measured differs: `…_per_s`, `phase_s` and `peak_rss_mb` in `metrics.jsonl`; `…_per_s`, `train_s`, `wall_s`, `phase_s`,
//! `data_…` and `peak_rss_mb` in `summary.json`; `train_secs`, `wall_secs` and `phase_secs` in `state.json`; and TensorBoard's event
//! files, of which there is one a session.
//!
//! # What can go wrong
//!
//! [`checkpoint`] says how a checkpoint is whole or absent, [`checkpoint::last_whole`] which one a run goes on from. One
//! process trains in a run folder at a time. [`config::OnDivergence`] is what follows a step that is not finite.
//!
//! # Exit codes
//!
//! 0: completed, or stopped as asked; 1: failure; 2: bad input, nothing was overwritten; 130:
//! interrupted after writing a checkpoint.

mod atomic;
pub mod checkpoint;
mod checksums;
mod cli;
pub mod config;
mod device;
mod diagnostics;
mod divergence;
mod error;
mod eval_only;
mod gradients;
mod interrupt;
mod lock;
mod metrics;
mod options;
pub mod parallel;
mod phases;
mod plot;
mod progress;
mod run_folder;
mod run_log;
mod runtime;
mod saved_run;
mod stability;
mod state;
mod summary;
pub mod sweep;
mod task;
mod tensorboard;
mod trainer;
mod weights;

pub use atomic::{write as write_atomically, write_folder};
pub use cli::{CommonArgs, SavedArgs};
pub use device::DeviceChoice;
pub use error::{Error, bad_input, describe, exit_code};
pub use interrupt::{EXIT_INTERRUPTED, Interrupt};
pub use options::{Outcome, RunOptions};
pub use run_folder::RunFolder;
pub use runtime::run_main;
pub use saved_run::{Evaluated, SavedRun, Standing};
pub use task::{Evaluation, Objective, Picture, Task};
pub use trainer::Trainer;
pub use weights::{Conversions, load_weights};
