//! The times of one thing done again and again.

/// Milliseconds, sorted; at least one.
#[derive(Debug)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// `None` without a time.
    pub(crate) fn new(mut ms: Vec<f64>) -> Option<Self> {
        ms.sort_by(f64::total_cmp);
        (!ms.is_empty()).then_some(Self(ms))
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The time that a share `q`, 0 to 1, of the times is not above, interpolated between neighbours as
    /// `numpy.quantile` does.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let place = q * (self.0.len() - 1) as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        self.0[below] + (place - place.floor()) * (self.0[above] - self.0[below])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numpy.quantile([5, 1, 4, 2, 3, 10], q)`.
    #[test]
    fn quantiles_are_numpys() {
        let times = Times::new(vec![5.0, 1.0, 4.0, 2.0, 3.0, 10.0]).unwrap();
        for (q, expected) in [(0.0, 1.0), (0.1, 1.5), (0.5, 3.5), (0.9, 7.5), (1.0, 10.0)] {
            assert!((times.quantile(q) - expected).abs() < 1e-12, "{q}");
        }
        assert_eq!(Times::new(vec![7.0]).unwrap().quantile(0.9), 7.0);
        assert!(Times::new(Vec::new()).is_none());
    }
}
