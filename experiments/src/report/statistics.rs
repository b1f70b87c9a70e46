//! Means, differences and what two standard errors are worth with few seeds.
//!
//! ```text
//! mean ± s/√n                          s² = Σ (x − mean)² / (n − 1)
//! paired:   dᵢ = aᵢ − bᵢ               mean(d) ± s(d)/√n,            ν = n − 1
//! unpaired: mean(a) − mean(b)          ± √(sₐ²/nₐ + s_b²/n_b),       ν of Welch and Satterthwaite
//! p = P(|T_ν| > |d| / se)              by integration, so that ν need not be whole
//! ```

use std::f64::consts::FRAC_PI_2;

/// The mean of a sample with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// n.
    pub n: usize,
    /// The arithmetic mean.
    pub mean: f64,
    /// s/√n; none of a single value.
    pub standard_error: Option<f64>,
}

impl Mean {
    /// The mean of `values`; none of no values.
    ///
    /// ```
    /// use experiments::report::statistics::Mean;
    /// let mean = Mean::of(&[1.0, 2.0, 3.0]).unwrap();
    /// assert_eq!((mean.n, mean.mean, mean.standard_error), (3, 2.0, Some((1.0_f64 / 3.0).sqrt())));
    /// assert_eq!(Mean::of(&[4.0]).unwrap().standard_error, None);
    /// ```
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let count = n as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let standard_error = (n > 1).then(|| (squares / (count - 1.0) / count).sqrt());
        Some(Self { n, mean, standard_error })
    }
}

/// A difference of two samples, with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Pairs; where samples are not paired, the size of the smaller one.
    pub n: usize,
    /// The first less the second.
    pub mean: f64,
    /// None with a single pair, or a sample of one.
    pub standard_error: Option<f64>,
    /// ν, the degrees of freedom of the error.
    pub freedom: f64,
    /// Whether it is of pairs.
    pub is_paired: bool,
}

impl Difference {
    /// The difference within pairs; none of no pairs.
    pub fn paired(pairs: &[(f64, f64)]) -> Option<Self> {
        let differences: Vec<f64> = pairs.iter().map(|(a, b)| a - b).collect();
        let Mean { n, mean, standard_error } = Mean::of(&differences)?;
        Some(Self { n, mean, standard_error, freedom: n as f64 - 1.0, is_paired: true })
    }

    /// The difference of two samples that have nothing in common (Welch); none if one is empty.
    pub fn unpaired(a: &[f64], b: &[f64]) -> Option<Self> {
        let (a, b) = (Mean::of(a)?, Mean::of(b)?);
        let variances = a.standard_error.zip(b.standard_error).map(|(a, b)| (a * a, b * b));
        let freedom = variances.map_or(0.0, |(va, vb)| {
            let parts = va * va / (a.n as f64 - 1.0) + vb * vb / (b.n as f64 - 1.0);
            // Two samples without any spread: as many as both have.
            if parts > 0.0 { (va + vb).powi(2) / parts } else { (a.n + b.n - 2) as f64 }
        });
        Some(Self {
            n: a.n.min(b.n),
            mean: a.mean - b.mean,
            standard_error: variances.map(|(va, vb)| (va + vb).sqrt()),
            freedom,
            is_paired: false,
        })
    }

    /// Whether it is further from zero than two standard errors.
    pub fn is_beyond_two_errors(&self) -> bool {
        self.standard_error.is_some_and(|error| self.mean.abs() > 2.0 * error)
    }

    /// The chance of a difference as large as this if there was none in truth; none where there is no error to compare it with.
    pub fn p_value(&self) -> Option<f64> {
        let error = self.standard_error?;
        if error == 0.0 {
            return Some(if self.mean == 0.0 { 1.0 } else { 0.0 });
        }
        Some(two_sided_p(self.mean / error, self.freedom))
    }
}

/// P(|T| > |t|) of Student's distribution with ν ≥ 1 degrees of freedom.
///
/// With T = √ν cot φ the density of φ is proportional to sin^{ν−1} φ, so that the two-sided tail is a quotient of two integrals of that
/// from 0.
///
/// ```
/// use experiments::report::statistics::two_sided_p;
/// assert!((two_sided_p(12.706_204_736, 1.0) - 0.05).abs() < 1e-9);
/// ```
pub fn two_sided_p(t: f64, freedom: f64) -> f64 {
    if t == 0.0 {
        return 1.0;
    }
    let angle = (freedom.sqrt() / t.abs()).atan();
    sine_power_integral(angle, freedom - 1.0) / sine_power_integral(FRAC_PI_2, freedom - 1.0)
}

/// ∫₀^a sin^k φ dφ by Simpson's rule in u, φ = u⁴, in which the integrand is smooth at 0 for every k ≥ 0.
fn sine_power_integral(a: f64, k: f64) -> f64 {
    const INTERVALS: usize = 8000;
    let h = a.powf(0.25) / INTERVALS as f64;
    let at = |i: usize| {
        let u = i as f64 * h;
        u.powi(4).sin().powf(k) * 4.0 * u.powi(3)
    };
    let inner: f64 = (1..INTERVALS).map(|i| at(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    (at(0) + inner + at(INTERVALS)) * h / 3.0
}

/// How often an interval of two standard errors on either side holds the truth, with `n` pairs.
pub fn coverage_of_two_errors(n: usize) -> f64 {
    1.0 - two_sided_p(2.0, n as f64 - 1.0)
}

/// Holm's correction of p-values that were looked at together: none of them is called significant at level α by chance in more than a
/// share α of all such families. In the order of the argument.
///
/// ```
/// use experiments::report::statistics::holm;
/// assert_eq!(holm(&[0.01, 0.25, 0.02]), [0.03, 0.25, 0.04]);
/// ```
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut corrected = vec![0.0; p_values.len()];
    let mut largest = 0.0_f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max(p_values[i] * (p_values.len() - rank) as f64).min(1.0);
        corrected[i] = largest;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(ours: f64, theirs: f64) {
        assert!((ours - theirs).abs() <= 1e-8 * theirs.abs(), "{ours} is not {theirs}");
    }

    /// `scipy.stats` 1.16: `2 * t.sf(t, nu)`.
    #[test]
    fn tails_are_scipys() {
        for (freedom, expected) in [
            (1.0, [0.704_832_764_699_133_5, 0.295_167_235_300_866_5, 0.042_378_609_269_892_83]),
            (2.0, [0.666_666_666_666_666_7, 0.183_503_419_072_273_97, 0.004_415_032_600_042_053]),
            (3.0, [0.651_447_964_848_151, 0.139_325_968_558_843_05, 0.000_643_119_326_933_665]),
            (10.0, [0.627_893_605_742_973, 0.073_388_034_770_740_37, 3.496_291_436_553_529e-8]),
            (2.5, [0.657_697_919_869_714_8, 0.157_391_495_757_965_9, 0.001_633_309_716_550_348]),
            (1.3, [0.688_507_816_433_973_1, 0.247_455_156_507_416_29, 0.020_466_216_080_818_368]),
            (40.0, [0.619_814_735_233_448_2, 0.052_322_343_215_049_19, 5.107_281_589_968_886e-18]),
        ] {
            for (t, p) in [0.5, 2.0, 15.0].into_iter().zip(expected) {
                near(two_sided_p(t, freedom), p);
                near(two_sided_p(-t, freedom), p);
            }
        }
        near(two_sided_p(1e3, 10.0), 2.460_824_710_173_271_3e-26);
        assert_eq!(two_sided_p(0.0, 2.0), 1.0);
        near(coverage_of_two_errors(2), 0.704_832_764_699_133_5);
        near(coverage_of_two_errors(3), 0.816_496_580_927_726);
    }

    /// `scipy.stats.sem`, `ttest_rel`, and `ttest_ind(equal_var=False)`.
    #[test]
    fn means_and_differences_are_scipys() {
        let (a, b) = ([3.81, 3.79, 3.80, 3.83], [3.90, 3.86, 3.91, 3.92]);
        let mean = Mean::of(&a).unwrap();
        near(mean.mean, 3.807_5);
        near(mean.standard_error.unwrap(), 0.008_539_125_638_299_689);

        let pairs: Vec<(f64, f64)> = a.into_iter().zip(b).collect();
        let paired = Difference::paired(&pairs).unwrap();
        assert!(paired.is_paired && paired.is_beyond_two_errors());
        assert_eq!((paired.n, paired.freedom), (4, 3.0));
        near(paired.mean, -0.09);
        near(paired.standard_error.unwrap(), 0.008_164_965_809_277_358);
        near(paired.p_value().unwrap(), 0.001_599_137_388_563_595_4);

        let welch = Difference::unpaired(&a, &b).unwrap();
        near(welch.freedom, 5.148_139_018_979_543);
        near(welch.p_value().unwrap(), 0.002_041_972_049_928_011_8);
        let uneven = Difference::unpaired(&a, &[3.9, 3.99, 3.7]).unwrap();
        assert!((uneven.n, uneven.is_paired) == (3, false) && !uneven.is_beyond_two_errors());
        near(uneven.freedom, 2.039_775_654_960_866);
        near(uneven.p_value().unwrap(), 0.582_152_364_487_167);
    }

    #[test]
    fn one_value_has_no_error_and_none_has_no_mean() {
        assert!(Mean::of(&[]).is_none() && Difference::paired(&[]).is_none());
        assert!(Difference::unpaired(&[1.0], &[]).is_none());
        let one = Difference::paired(&[(1.0, 9.0)]).unwrap();
        assert_eq!((one.standard_error, one.p_value()), (None, None));
        assert!(!one.is_beyond_two_errors(), "one pair says nothing");
        let half = Difference::unpaired(&[1.0, 2.0], &[9.0]).unwrap();
        assert!(half.standard_error.is_none() && !half.is_beyond_two_errors());
    }

    #[test]
    fn differences_without_spread_are_signals_unless_they_are_zero() {
        let same = Difference::paired(&[(1.0, 1.0), (2.0, 2.0)]).unwrap();
        assert!(!same.is_beyond_two_errors() && same.p_value() == Some(1.0));
        let other = Difference::paired(&[(1.0, 1.5), (2.0, 2.5)]).unwrap();
        assert!(other.is_beyond_two_errors() && other.p_value() == Some(0.0));
    }

    #[test]
    fn holm_is_monotone_and_at_most_one() {
        assert_eq!(holm(&[]), Vec::<f64>::new());
        assert_eq!(holm(&[0.5, 0.4, 0.9]), [1.0, 1.0, 1.0]);
        assert_eq!(holm(&[0.03, 0.02]), [0.04, 0.04]);
    }
}
