#![doc = include_str!("../README.md")]

mod adafactor;
mod adam;
mod algorithm;
mod config;
mod error;
mod fadafactor;
mod fadam;
mod math;
mod optimizer;
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
pub use params::{Gradients, NamedVars};
pub use schedule::Schedule;

/// An optimizer whose algorithm is chosen at run time.
pub type AnyOptimizer = NamedOptimizer<AnyConfig>;
