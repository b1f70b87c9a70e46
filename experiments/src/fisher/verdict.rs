//! What the measurement says of the paper's claims, by a rule that was fixed before the first run.
//!
//! A claim becomes a number of each repetition that is above 0 if the claim is right. Over the repetitions it **holds** if
//! its mean is more than two standard errors above 0, is **contradicted** if it is more than two below, and is
//! **inconclusive** otherwise. Differences are paired: of one repetition, with the same first weights and batches.

use std::fmt;

use super::agreement::{Agreement, Mean};
use super::diagonal::Estimator;
use super::problem::Problem;
use super::study::{Row, Scope};

/// What a claim comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The difference has the paper's sign, at two standard errors.
    Holds,
    /// It has the other sign, at two standard errors.
    Contradicted,
    /// Neither.
    Inconclusive,
}

/// A claim at one point of training.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What is claimed.
    pub claim: String,
    /// Where: problem, weights.
    pub place: String,
    /// Steps of training.
    pub steps: u64,
    /// Above 0 if the claim is right.
    pub difference: Mean,
}

impl Outcome {
    /// The rule.
    pub fn of(difference: Mean) -> Self {
        if difference.mean > 2.0 * difference.error {
            Self::Holds
        } else if difference.mean < -2.0 * difference.error {
            Self::Contradicted
        } else {
            Self::Inconclusive
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Holds => "holds",
            Self::Contradicted => "contradicted",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// All claims at all points.
pub fn verdicts(rows: &[Row]) -> Vec<Verdict> {
    let mut steps: Vec<u64> = rows.iter().map(|row| row.cell.steps).collect();
    steps.sort_unstable();
    steps.dedup();
    let mut verdicts = Vec::new();
    for at in steps {
        let here: Vec<&Row> = rows.iter().filter(|row| row.cell.steps == at).collect();
        let found = losses(&here).into_iter().chain(batch_sizes(&here));
        verdicts.extend(found.map(|(claim, place, values)| Verdict {
            claim,
            place,
            steps: at,
            difference: Mean::of(&values),
        }));
    }
    verdicts
}

/// A claim, its place, and a number of each repetition.
type Found = (String, String, Vec<f64>);

/// What is looked at, by name.
type Measure<T> = (&'static str, fn(&T) -> f64);

/// Section 3.3.1: empirical approximations cause more problems in continuous distributions. The pixels with L2 and with
/// cross-entropy, by what no learning rate takes away; σ is no more than such a factor.
fn losses(rows: &[&Row]) -> Vec<Found> {
    let mut found = Vec::new();
    let measures: [Measure<Agreement>; 2] =
        [("shape error", |a| a.shape_error), ("log spread", |a| a.log_spread)];
    let batch = middle(rows); // of (57) the expectation is the same for all
    for (name, estimator) in [("(57)", Estimator::Squares), ("(58)", Estimator::Minibatch)] {
        for (measure, of) in measures {
            for scope in [Scope::All, Scope::FirstLayer] {
                let value = |problem, row: &Row| {
                    let cell = &row.cell;
                    let right = cell.problem == problem && cell.scope == scope;
                    (right && cell.estimator == estimator && cell.batch == batch)
                        .then(|| of(&row.expected))
                };
                let values = paired(
                    rows,
                    |row| value(Problem::PixelsL2, row),
                    |row| value(Problem::PixelsCe, row),
                );
                if !values.is_empty() {
                    let claim = format!("{measure} of E{name}: L2 above cross-entropy");
                    found.push((claim, format!("pixels, {}", scope.name()), values));
                }
            }
        }
    }
    found
}

/// Section 3.3: large batches estimate the FIM accurately (by Eq. 58, from one batch and on average), and Eq. 57 is less
/// sensitive to the batch size than Eq. 58.
fn batch_sizes(rows: &[&Row]) -> Vec<Found> {
    let (least, most) = batch_range(rows);
    let mut found = Vec::new();
    for problem in Problem::ALL {
        let at = |estimator, batch, of: fn(&Row) -> f64| {
            move |row: &Row| {
                let cell = &row.cell;
                let right = cell.problem == problem && cell.scope == Scope::All;
                (right && cell.estimator == estimator && cell.batch == batch).then(|| of(row))
            }
        };
        let minibatch = Estimator::Minibatch;
        let kinds: [Measure<Row>; 2] = [
            ("one batch", |row| row.drawn.shape_error),
            ("expectation", |row| row.expected.shape_error),
        ];
        for (kind, of) in kinds {
            let values = paired(rows, at(minibatch, least, of), at(minibatch, most, of));
            if !values.is_empty() {
                let claim = format!("shape error of (58), {kind}: B = {least} above B = {most}");
                found.push((claim, problem.to_string(), values));
            }
        }
        let ln_ratio: fn(&Row) -> f64 = |row| row.drawn.ratio.ln();
        let change =
            |estimator| paired(rows, at(estimator, most, ln_ratio), at(estimator, least, ln_ratio));
        let pairs = change(minibatch).into_iter().zip(change(Estimator::Squares));
        let values: Vec<f64> = pairs.map(|(of_58, of_57)| of_58.abs() - of_57.abs()).collect();
        if !values.is_empty() {
            let claim = format!("|ln ratio(B = {most}) / ratio(B = {least})|: (58) above (57)");
            found.push((claim, problem.to_string(), values));
        }
    }
    found
}

/// The smallest and the largest B.
fn batch_range(rows: &[&Row]) -> (usize, usize) {
    let sizes = || rows.iter().map(|row| row.cell.batch);
    (sizes().min().unwrap_or(1), sizes().max().unwrap_or(1))
}

/// The B in the middle of all sizes.
fn middle(rows: &[&Row]) -> usize {
    let mut sizes: Vec<usize> = rows.iter().map(|row| row.cell.batch).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes.get(sizes.len() / 2).copied().unwrap_or(1)
}

/// `a − b` of each repetition that has both; of several σ the first counts.
fn paired(
    rows: &[&Row],
    a: impl Fn(&Row) -> Option<f64>,
    b: impl Fn(&Row) -> Option<f64>,
) -> Vec<f64> {
    let mut seeds: Vec<u64> = rows.iter().map(|row| row.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let of = |value: &dyn Fn(&Row) -> Option<f64>, seed| {
        rows.iter().filter(|row| row.seed == seed).find_map(|row| value(row))
    };
    seeds.into_iter().filter_map(|seed| Some(of(&a, seed)? - of(&b, seed)?)).collect()
}
