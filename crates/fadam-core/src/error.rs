//! What can go wrong, and with which parameter.

use candle_core::{DType, Shape};

/// An error of this crate. Every message names the parameter, field or file it is about.
///
/// An error from a step or from [`load`](crate::NamedOptimizer::load) means that nothing was
/// changed: parameters, state and step count are what they were before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hyper-parameter has an impossible value.
    #[error("{field} = {value}: must be {expected}")]
    Config {
        /// The field, under its name in the config type.
        field: &'static str,
        /// What it was set to.
        value: f64,
        /// What would be accepted.
        expected: &'static str,
    },

    /// Parameters that no gradient reached.
    #[error(
        "no gradient for {names:?}; is an op without backward in the path, or are these buffers \
         (see NamedVars::split_buffers)?"
    )]
    MissingGradient {
        /// Every parameter without a gradient, sorted.
        names: Vec<String>,
    },

    /// Parameters that have a gradient but no estimate of the FIM beside it.
    #[error("the Fisher estimator was given nothing for {names:?}")]
    MissingSquares {
        /// Every such parameter, sorted.
        names: Vec<String>,
    },

    /// A gradient holds NaN or infinity.
    #[error("the gradient of {name:?} is not finite")]
    NonFiniteGradient {
        /// The first such parameter in sorted order.
        name: String,
    },

    /// The gradient is finite, but the step would store NaN or infinity.
    #[error(
        "the step would make {tensor} of {name:?} not finite: the gradient is too large for its \
         dtype, or clipping is off"
    )]
    NonFiniteUpdate {
        /// The parameter.
        name: String,
        /// `theta`, `m`, `f`, `R` or `C`.
        tensor: &'static str,
    },

    /// A step that was in order here, and not where another [shard](crate::NamedOptimizer::from_named_shard) is.
    #[error("another shard of the optimizer refused the step")]
    RefusedElsewhere,

    /// A mean of squares that is negative somewhere.
    #[error("the squares given for {name:?} are negative somewhere: no estimate of its FIM")]
    NegativeSquares {
        /// The parameter.
        name: String,
    },

    /// A gradient whose shape is not that of its parameter.
    #[error("the gradient of {name:?} has shape {got:?}, the parameter {expected:?}")]
    GradientShape {
        /// The parameter.
        name: String,
        /// Its shape.
        expected: Shape,
        /// The gradient's shape.
        got: Shape,
    },

    /// A gradient or a request for a name that the optimizer does not hold.
    #[error("{name:?} is not a parameter of this optimizer")]
    UnknownParameter {
        /// The name.
        name: String,
    },

    /// Only f64, f32, f16 and bf16 parameters can be trained.
    #[error("{name:?} is {dtype:?}; only f64, f32, f16 and bf16 parameters can be trained")]
    UnsupportedDType {
        /// The parameter.
        name: String,
        /// Its dtype.
        dtype: DType,
    },

    /// Something that this build or device cannot do for a parameter.
    #[error("{name:?}: {reason}")]
    Unsupported {
        /// The parameter.
        name: String,
        /// What, and why.
        reason: &'static str,
    },

    /// A parameter group that cannot be.
    #[error("parameter group {pattern:?}: {reason}")]
    Group {
        /// Its pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },

    /// Two parameters under one name.
    #[error("two parameters are named {name:?}")]
    DuplicateName {
        /// The name.
        name: String,
    },

    /// Two names for one storage: each step would update it twice.
    #[error("{first:?} and {second:?} share their storage; give tied weights one name")]
    SharedStorage {
        /// The first name in sorted order.
        first: String,
        /// The other name.
        second: String,
    },

    /// A state file that cannot be read or written.
    #[error("optimizer state {path}: {reason}")]
    StateFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },

    /// An error from candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Error> for candle_core::Error {
    fn from(err: Error) -> Self {
        match err {
            Error::Candle(inner) => inner,
            other => Self::wrap(other),
        }
    }
}
