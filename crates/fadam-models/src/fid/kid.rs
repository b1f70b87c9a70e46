//! The kernel inception distance: Bińkowski et al., arXiv 1801.01401.
//!
//! The squared maximum mean discrepancy of two sets with the kernel `k(x, y) = (x·y/d + 1)³`, d the width, in its unbiased form
//!
//! ```text
//! MMD² = Σ_{i≠j} k(xᵢ, xⱼ)/(m (m − 1)) + Σ_{i≠j} k(yᵢ, yⱼ)/(n (n − 1)) − 2 Σᵢⱼ k(xᵢ, yⱼ)/(m n)
//! ```
//!
//! Its expectation is that of infinitely many samples however few there are, so that it may be below 0. Subsets say how sure it is.

use candle_core::Tensor;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, get_global_parallelism};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::DistanceError;
use super::moments::rows;
use crate::ConfigError;

/// How [`kid()`] draws its subsets.
///
/// | field | default | what |
/// |---|---|---|
/// | `subsets` | 100 | subsets that are drawn, 1 at least |
/// | `subset_size` | 1000 | vectors of either set in a subset, 2 at least; as many as the smaller set has, where that has fewer |
/// | `seed` | 0 | what they are drawn from |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KidConfig {
    /// Subsets that are drawn.
    pub subsets: usize,
    /// Vectors of either set in a subset.
    pub subset_size: usize,
    /// What they are drawn from.
    pub seed: u64,
}

impl Default for KidConfig {
    fn default() -> Self {
        Self { subsets: 100, subset_size: 1000, seed: 0 }
    }
}

/// A kernel distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kid {
    /// The mean of MMD² over subsets.
    pub mean: f64,
    /// Their standard deviation, divided by their number.
    pub std: f64,
    /// Vectors of either set in a subset, which may be fewer than asked for.
    pub subset_size: usize,
}

/// The kernel distance of features `x [M, D]` and `y [N, D]`: mean and standard deviation of [`squared_mmd`] over random subsets, each
/// drawn without repetition. Where both sets are a subset, there is only one, which is computed once, and the deviation is 0.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_models::fid::{KidConfig, kid};
///
/// let x = Tensor::arange(0f32, 40.0, &Device::Cpu)?.reshape((20, 2))?.sin()?;
/// let y = (&x + 0.5)?;
/// let config = KidConfig { subsets: 10, subset_size: 12, seed: 1 };
/// let distance = kid(&x, &y, &config)?;
/// assert!(distance.mean > 0.0 && distance.std > 0.0 && distance.subset_size == 12);
/// # Ok::<(), fadam_models::fid::DistanceError>(())
/// ```
///
/// # Errors
/// If a set has fewer than two vectors, widths differ, a number is not finite, or the configuration is impossible.
pub fn kid(x: &Tensor, y: &Tensor, config: &KidConfig) -> Result<Kid, DistanceError> {
    ConfigError::require("subsets", config.subsets > 0, || "0, where 1 at least is needed".into())?;
    let size = config.subset_size;
    ConfigError::require("subset_size", size > 1, || {
        format!("{size}, where 2 at least are needed")
    })?;
    let (x, y) = (Set::new(x, None)?, Set::new(y, Some(x))?);
    let size = size.min(x.count).min(y.count);
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    if size == x.count && size == y.count {
        return Ok(Kid { mean: x.squared_mmd(&y), std: 0.0, subset_size: size });
    }
    let values: Vec<f64> = (0..config.subsets)
        .map(|_| x.subset(size, &mut rng).squared_mmd(&y.subset(size, &mut rng)))
        .collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    Ok(Kid { mean, std: variance.sqrt(), subset_size: size })
}

/// The unbiased MMD² of all of `x [M, D]` and `y [N, D]`, whose kernel matrices `[M, M]`, `[N, N]` and `[M, N]` are in memory one after
/// another, f64.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[0f64], [1.0]], &Device::Cpu)?; // k of the two is 1
/// let y = Tensor::new(&[[1f64], [-1.0]], &Device::Cpu)?; // 0; with x 1, 1, 8, 0
/// assert_eq!(fadam_models::fid::squared_mmd(&x, &y)?, 1.0 + 0.0 - 2.0 * 10.0 / 4.0);
/// # Ok::<(), fadam_models::fid::DistanceError>(())
/// ```
///
/// # Errors
/// If a set has fewer than two vectors, widths differ, or a number is not finite.
pub fn squared_mmd(x: &Tensor, y: &Tensor) -> Result<f64, DistanceError> {
    Ok(Set::new(x, None)?.squared_mmd(&Set::new(y, Some(x))?))
}

/// Feature vectors, one after another.
struct Set {
    width: usize,
    count: usize,
    rows: Vec<f64>,
}

impl Set {
    /// Of the width of other features, if there are some.
    fn new(features: &Tensor, like: Option<&Tensor>) -> Result<Self, DistanceError> {
        let width = like.unwrap_or(features).dims().last().copied().unwrap_or(0);
        let rows = rows(features, width)?;
        let count = rows.len() / width;
        if count < 2 {
            return Err(DistanceError::TooFew { count, needed: 2 });
        }
        Ok(Self { width, count, rows })
    }

    /// `size` of these vectors, drawn by the first steps of a Fisher-Yates shuffle.
    fn subset(&self, size: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut places: Vec<usize> = (0..self.count).collect();
        let mut rows = Vec::with_capacity(size * self.width);
        for i in 0..size {
            // Of 64 bits, so that the remainder favours no place by more than 1e-13.
            let other = i + (rng.next_u64() % (self.count - i) as u64) as usize;
            places.swap(i, other);
            rows.extend_from_slice(&self.rows[places[i] * self.width..][..self.width]);
        }
        Self { width: self.width, count: size, rows }
    }

    /// A vector is a column of this matrix.
    fn columns(&self) -> MatRef<'_, f64> {
        MatRef::from_column_major_slice(&self.rows, self.width, self.count)
    }

    /// `k(xᵢ, yⱼ)`
    fn kernel(&self, other: &Self) -> Mat<f64> {
        let (x, y) = (self.columns(), other.columns());
        let mut kernel = Mat::zeros(self.count, other.count);
        let (share, par) = (1.0 / self.width as f64, get_global_parallelism());
        matmul(kernel.as_mut(), Accum::Replace, x.transpose(), y, share, par);
        for column in kernel.col_iter_mut() {
            column.iter_mut().for_each(|k| *k = (*k + 1.0).powi(3));
        }
        kernel
    }

    fn squared_mmd(&self, other: &Self) -> f64 {
        let sum = |kernel: &Mat<f64>| -> f64 {
            kernel.col_iter().map(|column| column.iter().sum::<f64>()).sum()
        };
        let within = |set: &Self| {
            let kernel = set.kernel(set);
            let diagonal: f64 = kernel.diagonal().column_vector().iter().sum();
            (sum(&kernel) - diagonal) / (set.count as f64 * (set.count - 1) as f64)
        };
        let between = sum(&self.kernel(other)) / (self.count as f64 * other.count as f64);
        within(self) + within(other) - 2.0 * between
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn draw(count: usize, width: usize, phase: f64) -> Tensor {
        let x: Vec<f64> = (0..count * width).map(|i| (i as f64 * 0.731 + phase).sin()).collect();
        Tensor::from_vec(x, (count, width), &Device::Cpu).unwrap()
    }

    /// The definition, pair by pair.
    fn direct(x: &Tensor, y: &Tensor) -> f64 {
        let (x, y) = (x.to_vec2::<f64>().unwrap(), y.to_vec2::<f64>().unwrap());
        let k = |a: &[f64], b: &[f64]| {
            let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            let k = dot / a.len() as f64 + 1.0;
            k * k * k
        };
        let mean = |a: &[Vec<f64>], b: &[Vec<f64>], same: bool| {
            let (mut sum, mut pairs) = (0.0, 0.0);
            for (i, a) in a.iter().enumerate() {
                for (j, b) in b.iter().enumerate() {
                    if !same || i != j {
                        sum += k(a, b);
                        pairs += 1.0;
                    }
                }
            }
            sum / pairs
        };
        mean(&x, &x, true) + mean(&y, &y, true) - 2.0 * mean(&x, &y, false)
    }

    #[test]
    fn all_of_two_sets_is_the_direct_sum() {
        for (m, n, width) in [(2, 2, 1), (7, 5, 3), (30, 41, 17)] {
            let (x, y) = (draw(m, width, 0.1), draw(n, width, 2.0));
            let (ours, wanted) = (squared_mmd(&x, &y).unwrap(), direct(&x, &y));
            assert!((ours - wanted).abs() < 1e-12, "{m} and {n}: {ours}, wanted {wanted}");
        }
    }

    /// Of 5 and 4 vectors with subsets of 4, each set has five or one subset: every value is one of the five, and many draws have their mean.
    #[test]
    fn subsets_are_drawn_evenly_and_without_repetition() {
        let (x, y) = (draw(5, 3, 0.1), draw(4, 3, 2.0));
        let possible: Vec<f64> = (0..5u32)
            .map(|left_out| {
                let places: Vec<u32> = (0..5).filter(|i| *i != left_out).collect();
                let places = Tensor::from_vec(places, 4, &Device::Cpu).unwrap();
                direct(&x.index_select(&places, 0).unwrap(), &y)
            })
            .collect();
        let one = |seed| kid(&x, &y, &KidConfig { subsets: 1, subset_size: 4, seed }).unwrap();
        let mut seen = [false; 5];
        for seed in 0..40 {
            let value = one(seed).mean;
            let which = possible.iter().position(|p| (p - value).abs() < 1e-12).expect("a subset");
            seen[which] = true;
        }
        assert_eq!(seen, [true; 5]);
        let many = kid(&x, &y, &KidConfig { subsets: 4000, subset_size: 9, seed: 3 }).unwrap();
        let mean = possible.iter().sum::<f64>() / 5.0;
        let std = (possible.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / 5.0).sqrt();
        // The mean of 4000 is within four of its own deviations.
        assert!((many.mean - mean).abs() < 4.0 * std / 4000f64.sqrt(), "{many:?}, wanted {mean}");
        assert!((many.std / std - 1.0).abs() < 0.1, "{many:?}, wanted {std}");
        assert_eq!(many.subset_size, 4, "as many as the smaller set has");
    }

    #[test]
    fn whole_sets_and_errors() {
        let (x, y) = (draw(6, 3, 0.1), draw(6, 3, 2.0));
        let whole = kid(&x, &y, &KidConfig::default()).unwrap();
        assert_eq!(whole, Kid { mean: squared_mmd(&x, &y).unwrap(), std: 0.0, subset_size: 6 });
        let refused = |x: &Tensor, y: &Tensor, subsets, subset_size, wanted: &str| {
            let config = KidConfig { subsets, subset_size, seed: 0 };
            let error = kid(x, y, &config).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        };
        refused(&x, &y, 0, 5, "subsets: 0");
        refused(&x, &y, 5, 1, "subset_size: 1");
        refused(&x, &draw(6, 4, 0.0), 5, 5, "[6, 4], where [N, 3]");
        refused(&x, &draw(1, 3, 0.0), 5, 5, "a set has 1");
        let nan = (&y * f64::NAN).unwrap();
        refused(&x, &nan, 5, 5, "feature 0 of sample 0 is NaN");
    }
}
