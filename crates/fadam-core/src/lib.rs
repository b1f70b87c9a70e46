#![doc = include_str!("../README.md")]

mod adafactor;
mod adam;
mod algorithm;
mod config;
mod error;
mod fadafactor;
mod fadam;
#[allow(
    clippy::inline_always,
    clippy::needless_range_loop,
    reason = "a function that is not inlined into pulp's dispatch is not compiled for its instruction set, and \
              loops over lanes by index are what vectorises"
)]
mod kernel;
mod math;
mod optimizer;
mod param;
mod params;
pub mod schedule;
mod state_file;

pub use adafactor::{Adafactor, AdafactorConfig};
pub use adam::{Adam, AdamConfig};
pub use algorithm::{Algorithm, Fim, State, Update};
pub use config::AnyConfig;
pub use error::{Error, Result};
pub use fadafactor::{FAdafactor, FAdafactorConfig};
pub use fadam::{FAdam, FAdamConfig};
pub use optimizer::NamedOptimizer;
pub use param::Backend;
pub use params::{Gradients, NamedVars};
pub use schedule::Schedule;

/// An optimizer whose algorithm is chosen at run time.
pub type AnyOptimizer = NamedOptimizer<AnyConfig>;
