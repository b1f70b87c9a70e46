//! Mean and covariance of features that come in batches, in f64.
//!
//! A set of n vectors with mean μ keeps S = Σ (x − μ)(x − μ)ᵀ. Two sets are one by (Chan, Golub and LeVeque, 1979)
//!
//! ```text
//! δ = μ₂ − μ₁,   μ = μ₁ + δ n₂/(n₁ + n₂),   S = S₁ + S₂ + δ δᵀ n₁ n₂/(n₁ + n₂)
//! ```
//!
//! which has no differences of large sums, so that it is exact up to rounding in whatever parts the vectors come.

use candle_core::{DType, Device, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, get_global_parallelism};

use super::DistanceError;

/// The number, mean and covariance of feature vectors seen so far.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_models::fid::FeatureMoments;
///
/// let mut moments = FeatureMoments::new(2);
/// moments.add(&Tensor::new(&[[1f32, 0.0], [3.0, 0.0]], &Device::Cpu)?)?;
/// moments.add(&Tensor::new(&[[5f32, 6.0]], &Device::Cpu)?)?;
/// assert_eq!(moments.count(), 3);
/// assert_eq!(moments.mean(), [3.0, 2.0]);
/// assert_eq!(moments.covariance()?, [4.0, 6.0, 6.0, 12.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct FeatureMoments {
    count: usize,
    mean: Vec<f64>,
    /// S, `[D, D]`
    scatter: Mat<f64>,
}

impl FeatureMoments {
    /// Of no vectors yet; those to come have this width.
    pub fn new(width: usize) -> Self {
        Self { count: 0, mean: vec![0.0; width], scatter: Mat::zeros(width, width) }
    }

    /// Adds `features [N, D]`, of any float dtype, on any device.
    ///
    /// # Errors
    /// If they are of another width, or one is not finite. Nothing is then changed.
    pub fn add(&mut self, features: &Tensor) -> Result<(), DistanceError> {
        let width = self.width();
        let rows = rows(features, width)?;
        let count = rows.len() / width.max(1);
        if count == 0 {
            return Ok(());
        }
        let mut centred = rows;
        let mut mean = vec![0.0; width];
        // The second time it is the mean of what rounding left in the sum of many large numbers.
        for _ in 0..2 {
            let rest = mean_of_rows(&centred, width);
            for row in centred.chunks_exact_mut(width) {
                row.iter_mut().zip(&rest).for_each(|(x, rest)| *x -= rest);
            }
            mean.iter_mut().zip(rest).for_each(|(mean, rest)| *mean += rest);
        }
        // A row is a column of this matrix.
        let x = MatRef::from_column_major_slice(&centred, width, count);
        let par = get_global_parallelism();
        matmul(self.scatter.as_mut(), Accum::Add, x, x.transpose(), 1.0, par);
        self.shift(count, &mean);
        Ok(())
    }

    /// Adds the vectors of another set, as if they had been given to this one.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use fadam_models::fid::FeatureMoments;
    ///
    /// let (mut a, mut b) = (FeatureMoments::new(1), FeatureMoments::new(1));
    /// a.add(&Tensor::new(&[[1f64]], &Device::Cpu)?)?;
    /// b.add(&Tensor::new(&[[4f64]], &Device::Cpu)?)?;
    /// a.merge(&b)?;
    /// assert_eq!((a.mean(), a.covariance()?), (&[2.5][..], vec![4.5]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If its vectors are of another width.
    pub fn merge(&mut self, other: &Self) -> Result<(), DistanceError> {
        self.same_width(other)?;
        if other.count > 0 {
            self.scatter += other.scatter.as_ref();
            self.shift(other.count, &other.mean);
        }
        Ok(())
    }

    /// What remains of a merge once S₁ + S₂ is there: the term of δ, the mean and the count.
    fn shift(&mut self, count: usize, mean: &[f64]) {
        let total = self.count + count;
        let weight = self.count as f64 * (count as f64 / total as f64);
        let delta: Vec<f64> = mean.iter().zip(&self.mean).map(|(new, old)| new - old).collect();
        if weight > 0.0 {
            for (j, column) in self.scatter.col_iter_mut().enumerate() {
                let factor = weight * delta[j];
                column.iter_mut().zip(&delta).for_each(|(s, delta)| *s += factor * delta);
            }
        }
        let share = count as f64 / total as f64;
        self.mean.iter_mut().zip(&delta).for_each(|(mean, delta)| *mean += share * delta);
        self.count = total;
    }

    /// Vectors seen so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// D.
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// μ, `[D]`; zeros before the first vector.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Σ = S/(n − 1), `[D, D]`, symmetric, row by row.
    ///
    /// # Errors
    /// Of fewer than two vectors.
    pub fn covariance(&self) -> Result<Vec<f64>, DistanceError> {
        let covariance = self.covariance_matrix()?;
        Ok(covariance.col_iter().flat_map(|column| column.iter().copied()).collect())
    }

    pub(super) fn covariance_matrix(&self) -> Result<Mat<f64>, DistanceError> {
        if self.count < 2 {
            return Err(DistanceError::TooFew { count: self.count, needed: 2 });
        }
        let share = 1.0 / (self.count - 1) as f64;
        // Rounding may differ on the two sides of the diagonal.
        Ok(Mat::from_fn(self.width(), self.width(), |i, j| {
            f64::midpoint(self.scatter[(i, j)], self.scatter[(j, i)]) * share
        }))
    }

    pub(super) fn same_width(&self, other: &Self) -> Result<(), DistanceError> {
        let (width, got) = (self.width(), vec![other.count, other.width()]);
        if got[1] == width { Ok(()) } else { Err(DistanceError::Shape { width, got }) }
    }
}

fn mean_of_rows(rows: &[f64], width: usize) -> Vec<f64> {
    let mut mean = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    let count = (rows.len() / width) as f64;
    for mean in &mut mean {
        *mean /= count;
    }
    mean
}

/// Rows of `[N, width]` in f64, all of them finite.
pub(super) fn rows(features: &Tensor, width: usize) -> Result<Vec<f64>, DistanceError> {
    if !matches!(*features.dims(), [_, of] if of == width) || width == 0 {
        return Err(DistanceError::Shape { width, got: features.dims().to_vec() });
    }
    let rows = features.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?;
    let rows = rows.to_vec1::<f64>()?;
    match rows.iter().position(|x| !x.is_finite()) {
        Some(i) => {
            let (sample, column) = (i / width, i % width);
            Err(DistanceError::NotFinite { sample, column, value: rows[i] })
        }
        None => Ok(rows),
    }
}
