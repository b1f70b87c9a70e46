//! Histograms of the logarithm of numbers that lie many decades apart.

use super::messages::{Histogram, Value};
use super::value;

/// Buckets a decade.
const PER_DECADE: f64 = 4.0;

/// No f64 above 0 is below 1e-324, and none above 1e309.
const LEAST: f64 = -324.0;
const BUCKETS: usize = 634 * PER_DECADE as usize;

/// Counts numbers by log₁₀, four buckets a decade. Zeros have no logarithm: they are counted apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogHistogram {
    counts: Vec<u64>,
    zeros: u64,
    /// Of the logarithms.
    min: f64,
    max: f64,
    sum: f64,
    sum_squares: f64,
}

impl Default for LogHistogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            zeros: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: 0.0,
            sum_squares: 0.0,
        }
    }
}

impl LogHistogram {
    /// Adds numbers, which are finite and not negative.
    pub(crate) fn add(&mut self, numbers: impl IntoIterator<Item = f64>) {
        for number in numbers {
            if number <= 0.0 {
                self.zeros += 1;
                continue;
            }
            let log = number.log10();
            self.counts[((log - LEAST) * PER_DECADE) as usize] += 1;
            self.min = self.min.min(log);
            self.max = self.max.max(log);
            self.sum += log;
            self.sum_squares += log * log;
        }
    }

    /// How many zeros were added.
    pub(crate) fn zeros(&self) -> u64 {
        self.zeros
    }

    /// How many numbers above 0 were added.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The mean logarithm, which is that of the geometric mean; `None` without a number above 0.
    pub(crate) fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum / count as f64)
    }

    /// From the first bucket with something in it to the last; `None` if there is none.
    pub(crate) fn value(&self, tag: String) -> Option<Value> {
        let first = self.counts.iter().position(|count| *count > 0)?;
        let last = self.counts.iter().rposition(|count| *count > 0)?;
        let edge = |bucket: usize| LEAST + (bucket + 1) as f64 / PER_DECADE;
        let histogram = Histogram {
            min: self.min,
            max: self.max,
            num: self.count() as f64,
            sum: self.sum,
            sum_squares: self.sum_squares,
            limits: (first..=last).map(edge).collect(),
            counts: self.counts[first..=last].iter().map(|count| *count as f64).collect(),
        };
        Some(value::histogram(tag, histogram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensorboard::messages::Content;

    fn histogram_of(numbers: &[f64]) -> (LogHistogram, Option<Histogram>) {
        let mut histogram = LogHistogram::default();
        histogram.add(numbers.iter().copied());
        let value = histogram.value("t".to_owned());
        let content = value.map(|value| match value.content {
            Some(Content::Histogram(histogram)) => histogram,
            other => panic!("{other:?}"),
        });
        (histogram, content)
    }

    #[test]
    fn buckets_are_quarters_of_decades_and_zeros_are_apart() {
        // log₁₀ 2 = 0.301, log₁₀ 5 = 0.699.
        let (counted, written) = histogram_of(&[2e-12, 0.0, 2e-12, 5e-12, 1.5e-11, 0.0]);
        let written = written.unwrap();
        assert_eq!(written.limits, [-11.5, -11.25, -11.0, -10.75]);
        assert_eq!(written.counts, [2.0, 1.0, 0.0, 1.0]);
        let logs = [2e-12f64, 2e-12, 5e-12, 1.5e-11].map(f64::log10);
        assert_eq!((written.min, written.max, written.num), (logs[0], logs[3], 4.0));
        assert_eq!(written.sum, logs.iter().sum::<f64>());
        assert_eq!(written.sum_squares, logs.iter().map(|log| log * log).sum::<f64>());
        assert_eq!((counted.zeros(), counted.count()), (2, 4));
        assert_eq!(counted.mean(), Some(written.sum / 4.0));
    }

    #[test]
    fn every_positive_number_has_a_bucket_around_it() {
        for number in [5e-324, 1e-30, f64::MIN_POSITIVE, 0.999, 1.0, 1e30, f64::MAX] {
            let written = histogram_of(&[number]).1.unwrap();
            let [right] = written.limits[..] else { panic!("{:?}", written.limits) };
            assert!((right - 0.25..=right).contains(&number.log10()), "{number}: {right}");
        }
        let (zeros, none) = histogram_of(&[0.0, 0.0]);
        assert_eq!((none, zeros.mean(), zeros.zeros()), (None, None, 2));
    }
}
