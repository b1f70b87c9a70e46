//! Configuration: TOML and `--set` in, a [`RunConfig`] that cannot be wrong out.
//!
//! ```text
//! file ─toml→ sections (unknown keys and wrong types refused, with their line)
//!      ─--set→ the same, one argument at a time
//!      ─check→ RunConfig (impossible values refused, with the line or argument that set them)
//! ```

mod keys;
mod optimizer;
mod schedule;
mod sections;
mod source;

use std::path::Path;

use fadam_core::AnyConfig;
use fadam_core::schedule::Schedule;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use keys::{COMMON_KEYS, KeyDoc, check_keys, markdown_table};
pub use optimizer::OptimizerOptions;
pub use sections::{CheckpointConfig, FisherEstimate, OnDivergence, ParallelConfig, TrainConfig};
pub use source::Override;

use crate::Error;
use optimizer::RawOptimizer;
use schedule::RawSchedule;
use source::Source;

/// A type that a `[model]` or `[data]` section is read into. Implemented for every type that can be.
///
/// Derive `Deserialize` with `#[serde(default, deny_unknown_fields)]`: every key has a default, and a
/// misspelt key is an error. Declare simple values before tables.
pub trait Section:
    Clone + Default + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned
{
}

impl<T> Section for T where
    T: Clone + Default + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned
{
}

/// What an experiment adds to the common configuration.
///
/// ```
/// use fadam_train::config::{Experiment, FieldError, KeyDoc, RunConfig};
///
/// #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
/// #[serde(default, deny_unknown_fields)]
/// struct Model { width: usize }
/// impl Default for Model {
///     fn default() -> Self { Self { width: 64 } }
/// }
///
/// #[derive(Debug, Default, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
/// #[serde(default, deny_unknown_fields)]
/// struct Data {}
///
/// struct TrainToy;
/// impl Experiment for TrainToy {
///     const NAME: &'static str = "train-toy";
///     type Model = Model;
///     type Data = Data;
///     const KEYS: &'static [KeyDoc] = &[KeyDoc {
///         key: "model.width",
///         kind: "integer",
///         default: "64",
///         range: "≥ 1",
///         meaning: "Hidden units.",
///     }];
///     fn check(config: &RunConfig<Self>) -> Result<(), FieldError> {
///         FieldError::require("model.width", config.model().width >= 1, "must be at least 1")
///     }
/// }
/// fadam_train::config::check_keys::<TrainToy>().unwrap();
///
/// let config = RunConfig::<TrainToy>::from_toml("toy.toml", "[train]\nbatch = 4\n")?;
/// assert_eq!((config.model().width, config.train().batch), (64, 4));
///
/// let err = RunConfig::<TrainToy>::from_toml("toy.toml", "[model]\nwidth = 0\n").unwrap_err();
/// assert_eq!(err.to_string(), "toy.toml:2: model.width must be at least 1");
/// # Ok::<(), fadam_train::Error>(())
/// ```
pub trait Experiment: Sized {
    /// The name of the binary: `train-llm`. It appears in run folders, `summary.json` and hints.
    const NAME: &'static str;

    /// The `[model]` section.
    type Model: Section;

    /// The `[data]` section.
    type Data: Section;

    /// The keys of `[model]` and `[data]`, for the documentation; [`check_keys`] tests the list.
    const KEYS: &'static [KeyDoc];

    /// Keys that decide what an evaluation looks at and how, and not a single weight: `--eval-only` may have other values
    /// than the run.
    const EVALUATION_KEYS: &'static [&'static str] = &[];

    /// Refuses values that cannot work, within and across sections. The common sections were
    /// checked before.
    ///
    /// # Errors
    ///
    /// The first field that is impossible.
    fn check(config: &RunConfig<Self>) -> Result<(), FieldError>;
}

/// A field with an impossible value. Shown as `key message`: `train.batch must be at least 1, got 0`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {message}")]
pub struct FieldError {
    /// The key with its section: `train.batch`.
    pub key: String,
    /// What is wrong, as the rest of a sentence that starts with the key.
    pub message: String,
}

impl FieldError {
    /// An error about `key`; `message` is the rest of a sentence that starts with the key.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }

    /// `Ok` if `holds`, else an error about `key`. Write the condition so that NaN fails.
    ///
    /// # Errors
    ///
    /// When `holds` is false.
    pub fn require(key: &str, holds: bool, message: impl Into<String>) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::new(key, message)) }
    }
}

/// The configuration of a run: parsed, checked, every default filled in. It is only ever handed out
/// by reference, so what was checked stays true.
pub struct RunConfig<E: Experiment> {
    model: E::Model,
    data: E::Data,
    optimizer: AnyConfig,
    optimizer_options: OptimizerOptions,
    schedule: Schedule,
    train: TrainConfig,
    checkpoint: CheckpointConfig,
    parallel: ParallelConfig,
}

/// The sections as they are written: what TOML is parsed into, and what a resolved config prints.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, bound(deserialize = "M: Section, D: Section"))]
struct RawConfig<M, D> {
    model: M,
    data: D,
    optimizer: RawOptimizer,
    schedule: RawSchedule,
    train: TrainConfig,
    checkpoint: CheckpointConfig,
    parallel: ParallelConfig,
}

impl<M: Section, D: Section> Default for RawConfig<M, D> {
    fn default() -> Self {
        Self {
            model: M::default(),
            data: D::default(),
            optimizer: RawOptimizer::default(),
            schedule: RawSchedule::default(),
            train: TrainConfig::default(),
            checkpoint: CheckpointConfig::default(),
            parallel: ParallelConfig::default(),
        }
    }
}

impl<E: Experiment> RunConfig<E> {
    /// Reads `path` (no file: every key has its default), then applies `overrides` in order.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] with file and line, or [`Error::CommandLine`] with the override, when there
    /// is an unknown key, a wrong type or an impossible value.
    pub fn load(path: Option<&Path>, overrides: &[Override]) -> Result<Self, Error> {
        Self::from_source(&Source::read(path, overrides)?)
    }

    /// Parses `text`, which messages call `name`.
    ///
    /// # Errors
    ///
    /// As [`RunConfig::load`].
    pub fn from_toml(name: &str, text: &str) -> Result<Self, Error> {
        let source = Source { name: name.to_owned(), text: text.to_owned(), overrides: &[] };
        Self::from_source(&source)
    }

    /// The same configuration with `overrides` applied, for sweeps.
    ///
    /// # Errors
    ///
    /// As [`RunConfig::load`].
    pub fn with(&self, overrides: &[Override]) -> Result<Self, Error> {
        let source = Source { name: "resolved config".into(), text: self.to_toml(), overrides };
        Self::from_source(&source)
    }

    fn from_source(source: &Source<'_>) -> Result<Self, Error> {
        let raw: RawConfig<E::Model, E::Data> = source.parse()?;
        Self::checked(raw).map_err(|err| source.explain(&err))
    }

    fn checked(raw: RawConfig<E::Model, E::Data>) -> Result<Self, FieldError> {
        let RawConfig { model, data, optimizer, schedule, train, checkpoint, parallel } = raw;
        train.check()?;
        checkpoint.check()?;
        parallel.check()?;
        let (optimizer, optimizer_options) = optimizer.resolve()?;
        let schedule = schedule.resolve()?;
        let config = Self {
            model,
            data,
            optimizer,
            optimizer_options,
            schedule,
            train,
            checkpoint,
            parallel,
        };
        E::check(&config)?;
        Ok(config)
    }

    /// The `[model]` section.
    pub fn model(&self) -> &E::Model {
        &self.model
    }

    /// The `[data]` section.
    pub fn data(&self) -> &E::Data {
        &self.data
    }

    /// The optimizer that `[optimizer]` describes.
    pub fn optimizer(&self) -> &AnyConfig {
        &self.optimizer
    }

    /// What `[optimizer]` says beside that.
    pub fn optimizer_options(&self) -> &OptimizerOptions {
        &self.optimizer_options
    }

    /// The learning-rate schedule that `[schedule]` describes.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The `[train]` section.
    pub fn train(&self) -> &TrainConfig {
        &self.train
    }

    /// The `[checkpoint]` section.
    pub fn checkpoint(&self) -> &CheckpointConfig {
        &self.checkpoint
    }

    /// The `[parallel]` section.
    pub fn parallel(&self) -> &ParallelConfig {
        &self.parallel
    }

    /// Every key with its value, as TOML that parses to the same configuration.
    ///
    /// # Panics
    ///
    /// If a `[model]` or `[data]` type holds what TOML cannot (a map with keys that are not strings).
    pub fn to_toml(&self) -> String {
        let raw = RawConfig {
            model: &self.model,
            data: &self.data,
            optimizer: RawOptimizer::of(&self.optimizer, &self.optimizer_options),
            schedule: RawSchedule::from(&self.schedule),
            train: self.train.clone(),
            checkpoint: self.checkpoint.clone(),
            parallel: self.parallel.clone(),
        };
        toml::to_string(&raw).expect("sections are structs of plain values")
    }
}

impl<E: Experiment> std::fmt::Debug for RunConfig<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_toml())
    }
}

#[cfg(test)]
mod tests;
