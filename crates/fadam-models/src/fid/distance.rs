//! The Fréchet distance of two sets of features, taken as normal distributions: Dowson and Landau, 1982; Heusel et al., arXiv 1706.08500.
//!
//! ```text
//! d = ‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)
//! ```
//!
//! Σ₁ Σ₂ is not symmetric, but with Σ₁ = U Λ Uᵀ and B = U Λ^½ its eigenvalues other than 0 are those of the symmetric Bᵀ Σ₂ B (a product's
//! are those of the product turned round), so that `Tr (Σ₁ Σ₂)^½ = Σ √eig(Bᵀ Σ₂ B)`: two symmetric eigenvalue problems, of which the
//! second needs no vectors, and no complex numbers.
//!
//! A covariance of n samples has a rank of n − 1 at most. Eigenvalues beyond that are rounding, about 1e-16 of the largest, and their roots
//! would be 1e-8 of it each, so they are left out: of Λ, for which the smaller set is taken as the first, and of the last sum.
//!
//! The eigenvalues are those of `faer`: its blocked, parallel solver. `docs/performance.md` has what it was weighed against.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Side, get_global_parallelism};

use super::{DistanceError, FeatureMoments};

/// `‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)`, in f64, 0 at least; covariances are divided by n − 1.
///
/// In Inception features this is the FID; see [`FeatureNetwork::distance_name`](super::FeatureNetwork::distance_name). Time goes with the
/// cube of the width.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_models::fid::{FeatureMoments, frechet_distance};
///
/// let moments = |x: &[[f64; 1]; 2]| {
///     let mut moments = FeatureMoments::new(1);
///     moments.add(&Tensor::new(x, &Device::Cpu)?)?;
///     Ok::<_, Box<dyn std::error::Error>>(moments)
/// };
/// // Means 1 and 4, variances 2 and 8: (1 − 4)² + (√2 − √8)².
/// let distance = frechet_distance(&moments(&[[0.0], [2.0]])?, &moments(&[[2.0], [6.0]])?)?;
/// assert!((distance - 11.0).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If a set has fewer than two vectors, widths differ, or the eigenvalues do not converge.
pub fn frechet_distance(a: &FeatureMoments, b: &FeatureMoments) -> Result<f64, DistanceError> {
    a.same_width(b)?;
    let (a, b) = if a.count() <= b.count() { (a, b) } else { (b, a) };
    let (of_a, of_b) = (a.covariance_matrix()?, b.covariance_matrix()?);
    let means = a.mean().iter().zip(b.mean()).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let trace = |x: &Mat<f64>| x.diagonal().column_vector().iter().sum::<f64>();
    let root = trace_of_root(&of_a, &of_b, a.count() - 1)?;
    Ok((means + (trace(&of_a) + trace(&of_b) - 2.0 * root)).max(0.0))
}

/// `Tr (A B)^½`, where A, and so the product, has this rank at most.
fn trace_of_root(a: &Mat<f64>, b: &Mat<f64>, rank: usize) -> Result<f64, DistanceError> {
    let width = a.nrows();
    let rank = rank.min(width);
    let failed = |_| DistanceError::Eigenvalues { width };
    let eigen = a.self_adjoint_eigen(Side::Lower).map_err(failed)?;
    let (values, vectors) = (eigen.S().column_vector(), eigen.U());
    // They come from the smallest to the largest.
    let first = width - rank;
    let half = Mat::from_fn(width, rank, |i, j| {
        vectors[(i, first + j)] * values[first + j].max(0.0).sqrt()
    });
    let par = get_global_parallelism();
    let mut product = Mat::zeros(width, rank);
    matmul(product.as_mut(), Accum::Replace, b, &half, 1.0, par);
    let mut symmetric = Mat::zeros(rank, rank);
    matmul(symmetric.as_mut(), Accum::Replace, half.transpose(), &product, 1.0, par);
    let values = symmetric.self_adjoint_eigenvalues(Side::Lower).map_err(failed)?;
    Ok(values.into_iter().map(|value| value.max(0.0).sqrt()).sum())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::super::test_support::golden;
    use super::*;

    fn moments(x: &Tensor) -> FeatureMoments {
        let mut moments = FeatureMoments::new(x.dim(1).unwrap());
        moments.add(x).unwrap();
        moments
    }

    /// SciPy's `sqrtm` of the product, in `frechet.safetensors`: more samples than features, fewer (both covariances singular), and the
    /// same set twice.
    #[test]
    fn distances_are_scipys() {
        let golden = golden("frechet.safetensors");
        for k in 0..3 {
            let (a, b) = (moments(&golden[&format!("a_{k}")]), moments(&golden[&format!("b_{k}")]));
            let wanted = golden[&format!("distance_{k}")].to_vec1::<f64>().unwrap()[0];
            let both = [frechet_distance(&a, &b).unwrap(), frechet_distance(&b, &a).unwrap()];
            for ours in both {
                if k == 2 {
                    let width = a.width();
                    let trace: f64 =
                        a.covariance().unwrap().iter().step_by(width + 1).copied().sum();
                    assert!((0.0..=1e-6 * trace).contains(&ours), "{ours:e} of {trace}");
                } else {
                    let off = (ours - wanted).abs() / wanted;
                    assert!(off < 1e-6, "case {k}: {ours}, wanted {wanted}, off by {off:e}");
                }
            }
        }
    }

    /// A set that is shifted by v and scaled by s has the distance `‖(s − 1) μ + v‖² + (s − 1)² Tr Σ` from itself, singular or not.
    #[test]
    fn a_scaled_and_shifted_set() {
        let golden = golden("frechet.safetensors");
        for name in ["a_0", "a_1"] {
            let x = &golden[name];
            let (a, b) = (moments(x), moments(&x.affine(1.5, 0.25).unwrap()));
            let covariance = a.covariance().unwrap();
            let trace: f64 = covariance.iter().step_by(a.width() + 1).sum();
            let shift: f64 = a.mean().iter().map(|m| (0.5 * m + 0.25).powi(2)).sum();
            let wanted = shift + 0.25 * trace;
            let ours = frechet_distance(&a, &b).unwrap();
            assert!((ours - wanted).abs() < 1e-10 * wanted, "{name}: {ours}, wanted {wanted}");
        }
    }

    #[test]
    fn moments_are_the_same_in_any_parts() {
        let golden = golden("frechet.safetensors");
        // A mean that is far from 0: sums of squares would lose 1e-8 of the covariance here.
        let x = golden["a_0"].affine(1.0, 1e4).unwrap();
        let whole = moments(&x);
        let (mut parts, mut last) = (FeatureMoments::new(16), FeatureMoments::new(16));
        let mut at = 0;
        for (i, size) in [1, 99, 0, 7, 193, 200].into_iter().enumerate() {
            let part = x.narrow(0, at, size).unwrap();
            if i < 3 {
                parts.add(&part).unwrap();
            } else {
                last.add(&part).unwrap();
            }
            at += size;
        }
        parts.merge(&last).unwrap();
        parts.merge(&FeatureMoments::new(16)).unwrap();
        assert_eq!((at, parts.count(), whole.count()), (500, 500, 500));
        let close =
            |a: &[f64], b: &[f64], to: f64| a.iter().zip(b).all(|(a, b)| (a - b).abs() < to);
        // Differences of numbers near 1e4 have an error of 1e-12 each.
        assert!(close(parts.mean(), whole.mean(), 1e-11));
        assert!(close(&parts.covariance().unwrap(), &whole.covariance().unwrap(), 1e-10));
    }

    #[test]
    fn what_cannot_be_compared() {
        let cpu = &Device::Cpu;
        let mut set = moments(&Tensor::new(&[[1f32, 2.0], [2.0, 1.0]], cpu).unwrap());
        let before = (set.count(), set.mean().to_vec());
        for (bad, wanted) in [
            (Tensor::new(&[[1f32, 2.0], [3.0, f32::NAN]], cpu), "feature 1 of sample 1 is NaN"),
            (Tensor::new(&[[f32::NEG_INFINITY, 2.0]], cpu), "feature 0 of sample 0 is -inf"),
            (Tensor::new(&[[1f32, 2.0, 3.0]], cpu), "[1, 3], where [N, 2]"),
            (Tensor::new(&[1f32, 2.0], cpu), "[2], where [N, 2]"),
        ] {
            let error = set.add(&bad.unwrap()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!((set.count(), set.mean().to_vec()), before, "a refused batch changed the set");
        let one = moments(&Tensor::new(&[[1f32, 2.0]], cpu).unwrap());
        for (a, b) in [(&set, &one), (&one, &set), (&FeatureMoments::new(2), &set)] {
            let error = frechet_distance(a, b).unwrap_err();
            assert!(matches!(error, DistanceError::TooFew { needed: 2, .. }), "{error}");
        }
        let error = frechet_distance(&set, &FeatureMoments::new(3)).unwrap_err();
        assert!(matches!(error, DistanceError::Shape { width: 2, .. }), "{error}");
    }
}
