//! What is wrong with sets of features.

/// Why a distance cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum DistanceError {
    /// A covariance and an unbiased estimate need two samples.
    #[error("a set has {count} feature vectors, where a distance needs {needed} at least")]
    TooFew {
        /// Samples of the set.
        count: usize,
        /// Samples that are needed.
        needed: usize,
    },
    /// Features of different networks, or no features.
    #[error("features of shape {got:?}, where [N, {width}] is expected")]
    Shape {
        /// The width of the features that they are compared with.
        width: usize,
        /// Their own shape.
        got: Vec<usize>,
    },
    /// NaN or an infinity.
    #[error("feature {column} of sample {sample} is {value}; the set was not changed")]
    NotFinite {
        /// Place in the features that were given.
        sample: usize,
        /// Place in the vector.
        column: usize,
        /// What it is.
        value: f64,
    },
    /// A subset size or a number of subsets that is impossible.
    #[error("{0}")]
    Config(#[from] crate::ConfigError),
    /// The eigenvalues did not converge.
    #[error("the eigenvalues of a {width} × {width} covariance did not converge")]
    Eigenvalues {
        /// Its width.
        width: usize,
    },
    /// candle failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
