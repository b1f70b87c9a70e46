//! How near an estimate of the diagonal FIM is to the exact one, and means with their standard errors.

/// An estimate beside the exact diagonal, over all P parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// `Σ f̂ / Σ f`: 1 without bias of the scale.
    pub ratio: f64,
    /// The slope of the regression of f̂ on f.
    pub slope: f64,
    /// The correlation of f̂ and f.
    pub correlation: f64,
    /// `‖f̂ − f‖ / ‖f‖`
    pub error: f64,
    /// `min_k ‖k f̂ − f‖ / ‖f‖`, the error that no factor takes away: √(1 − cos²) of the angle between the two. A
    /// factor of f is a factor of the learning rate.
    pub shape_error: f64,
    /// The standard deviation of `ln(f̂/f)` over the parameters whose f is not 0: every parameter counts the same, a
    /// factor does not matter, and the step of a parameter is off by half of it (ρ = ½). Infinite where an f̂ is 0.
    pub log_spread: f64,
}

impl Agreement {
    /// What the columns of a table are called, in the order of [`values`](Self::values).
    pub const NAMES: [&'static str; 6] =
        ["ratio", "slope", "correlation", "error", "shape_error", "log_spread"];

    /// The numbers, in the order of [`NAMES`](Self::NAMES).
    pub fn values(&self) -> [f64; 6] {
        let Self { ratio, slope, correlation, error, shape_error, log_spread } = *self;
        [ratio, slope, correlation, error, shape_error, log_spread]
    }

    /// Of an estimate f̂ and the exact f.
    ///
    /// # Panics
    /// If they are not as many.
    pub fn of(estimate: &[f64], exact: &[f64]) -> Self {
        assert_eq!(estimate.len(), exact.len());
        let n = exact.len() as f64;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / n;
        let (of_estimate, of_exact) = (mean(estimate), mean(exact));
        let (ee, ff, ef) = (dot(estimate, estimate), dot(exact, exact), dot(estimate, exact));
        let covariance = ef / n - of_estimate * of_exact;
        let variances = (ee / n - of_estimate * of_estimate, ff / n - of_exact * of_exact);
        let cosine = ef / (ee * ff).sqrt();
        let off = estimate.iter().zip(exact).map(|(e, f)| (e - f) * (e - f)).sum::<f64>();
        Self {
            ratio: of_estimate / of_exact,
            slope: covariance / variances.1,
            correlation: covariance / (variances.0 * variances.1).sqrt(),
            error: (off / ff).sqrt(),
            shape_error: (1.0 - cosine * cosine).max(0.0).sqrt(),
            log_spread: log_spread(estimate, exact),
        }
    }

    /// The mean of each number.
    pub fn mean(all: &[Self]) -> Self {
        let at = |k: usize| all.iter().map(|a| a.values()[k]).sum::<f64>() / all.len() as f64;
        Self {
            ratio: at(0),
            slope: at(1),
            correlation: at(2),
            error: at(3),
            shape_error: at(4),
            log_spread: at(5),
        }
    }
}

fn log_spread(estimate: &[f64], exact: &[f64]) -> f64 {
    let pairs = || estimate.iter().zip(exact).filter(|(_, f)| **f > 0.0);
    if pairs().any(|(e, _)| *e <= 0.0) {
        return f64::INFINITY;
    }
    let logs: Vec<f64> = pairs().map(|(e, f)| (e / f).ln()).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    (logs.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n).sqrt()
}

/// A mean over independent repetitions and its standard error, `√(variance / n)` with n − 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// The standard error; NaN of one repetition.
    pub error: f64,
    /// n.
    pub n: usize,
}

impl Mean {
    /// Of these numbers.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
        Self { mean, error: (squares / (n as f64 - 1.0) / n as f64).sqrt(), n }
    }
}

impl std::fmt::Display for Mean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.mean.is_finite() {
            f.pad(&format!("{} ± {}", short(self.mean), short(self.error)))
        } else {
            f.pad("-")
        }
    }
}

/// Three digits, without an exponent where that is short.
fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        size if !(0.001..10_000.0).contains(&size) => format!("{x:.1e}"),
        size if size < 0.1 => format!("{x:.4}"),
        size if size < 10.0 => format!("{x:.3}"),
        size if size < 100.0 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_by_hand() {
        // f̂ = 2 f + 1: the slope is 2 and the correlation 1, and no factor makes it f.
        let a = Agreement::of(&[3.0, 5.0, 9.0], &[1.0, 2.0, 4.0]);
        let near = |x: f64, y: f64| (x - y).abs() < 1e-12;
        assert!(near(a.ratio, 17.0 / 7.0) && near(a.slope, 2.0) && near(a.correlation, 1.0));
        assert!(near(a.error, ((4.0 + 9.0 + 25.0f64) / 21.0).sqrt()));
        // The best k is f̂·f / f̂·f̂ = 49 / 115.
        let k = 49.0 / 115.0;
        let rest = (3.0 * k - 1.0f64).powi(2) + (5.0 * k - 2.0).powi(2) + (9.0 * k - 4.0).powi(2);
        assert!(near(a.shape_error, (rest / 21.0).sqrt()));
        let logs = [3f64.ln(), 2.5f64.ln(), 2.25f64.ln()];
        let mean = logs.iter().sum::<f64>() / 3.0;
        let spread = logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 3.0;
        assert!(near(a.log_spread, spread.sqrt()));
    }

    #[test]
    fn a_factor_is_all_in_the_ratio() {
        let a = Agreement::of(&[0.5, 0.0, 2.0], &[1.0, 0.0, 4.0]);
        assert_eq!((a.ratio, a.slope, a.error), (0.5, 0.5, 0.5));
        assert!(
            a.shape_error < 1e-7 && a.log_spread < 1e-12 && (a.correlation - 1.0).abs() < 1e-12
        );
        assert_eq!(Agreement::of(&[1.0, 0.0], &[1.0, 1.0]).log_spread, f64::INFINITY);
    }

    #[test]
    fn means_have_the_error_of_n_minus_1() {
        let mean = Mean::of(&[1.0, 2.0, 6.0]);
        assert_eq!((mean.mean, mean.n), (3.0, 3));
        assert!((mean.error - (7.0f64 / 3.0).sqrt()).abs() < 1e-12, "variance 14/2");
        assert_eq!(format!("{mean}"), "3.000 ± 1.528");
        assert!(Mean::of(&[1.0]).error.is_nan());
    }
}
