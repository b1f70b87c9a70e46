#![doc = include_str!("../README.md")]

mod accumulate;
mod adafactor;
mod adam;
mod algorithm;
mod config;
mod ema;
mod error;
mod ewc;
mod fadafactor;
mod fadam;
mod fisher;
mod group;
mod import;
mod inplace;
#[allow(
    clippy::inline_always,
    clippy::needless_range_loop,
    reason = "a function that is not inlined into pulp's dispatch is not compiled for its instruction set, and \
              loops over lanes by index are what vectorises"
)]
mod kernel;
mod math;
#[cfg(feature = "cuda")]
mod on_cuda;
mod optimizer;
mod param;
mod params;
mod parts;
mod report;
pub mod schedule;
mod shard;
mod state_file;
mod step;
mod tensor_file;
mod terms;

pub use accumulate::{Accumulated, Accumulator, global_norm};
pub use adafactor::{Adafactor, AdafactorConfig};
pub use adam::{Adam, AdamConfig};
pub use algorithm::{Algorithm, Fim, Signal, State, Update};
pub use config::AnyConfig;
pub use ema::WeightEma;
pub use error::{Error, Result};
pub use ewc::Ewc;
pub use fadafactor::{FAdafactor, FAdafactorConfig};
pub use fadam::{FAdam, FAdamConfig};
pub use fisher::{Fisher, LossGradients};
pub use group::{Group, Rounding, StateFormat};
pub use optimizer::NamedOptimizer;
pub use param::Backend;
pub use params::{Gradients, NamedVars};
pub use parts::{Parts, PartsConfig};
pub use report::{Measures, Quantiles, StepReport, TensorReport};
pub use schedule::Schedule;

/// An optimizer whose algorithm is chosen at run time.
pub type AnyOptimizer = NamedOptimizer<AnyConfig>;
