//! The rule by which a claim of the paper holds here or not, stated before the runs.

use super::metric::Metric;
use super::statistics::{Difference, coverage_of_two_errors};

/// What the runs say of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The paper's sign.
    Holds,
    /// The opposite sign.
    Contradicts,
    /// No signal.
    Inconclusive,
    /// Of several contrasts, some hold and some contradict.
    Mixed,
    /// The paper prints the same number twice and so claims no sign.
    NoClaim,
    /// There are no runs.
    NotRun,
}

impl Verdict {
    /// In a word or three.
    pub fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Contradicts => "contradicts",
            Self::Inconclusive => "inconclusive",
            Self::Mixed => "mixed",
            Self::NoClaim => "no claim",
            Self::NotRun => "not run yet",
        }
    }
}

/// Two cells, seen side by side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence {
    /// The first less the second, where both have numbers.
    pub difference: Option<Difference>,
    /// Seeds with which only the first one diverged.
    pub first_diverged: usize,
    /// Seeds with which only the second one diverged.
    pub second_diverged: usize,
}

impl Evidence {
    /// Whether the first is better; none without a signal.
    ///
    /// A signal is a difference of more than two standard errors that is of interest ([`Metric::least_difference`]). A run that diverged is worse than one that did not: where runs diverged on
    /// one side alone, a difference has to have the same sign, and without any difference to see at least two seeds have to agree.
    pub fn is_first_better(&self, metric: &Metric) -> Option<bool> {
        let of_numbers = self
            .difference
            .filter(Difference::is_beyond_two_errors)
            .filter(|difference| difference.mean.abs() >= metric.least_difference())
            .map(|difference| (difference.mean < 0.0) == metric.lower_is_better);
        let of_divergence = match (self.first_diverged, self.second_diverged) {
            (0, 0) => return of_numbers,
            (first, 0) => (false, first),
            (0, second) => (true, second),
            _ => return None,
        };
        let (is_better, seeds) = of_divergence;
        let agrees = match self.difference {
            Some(_) => of_numbers == Some(is_better),
            None => seeds >= 2,
        };
        agrees.then_some(is_better)
    }

    /// The verdict on one contrast, of which the paper says whether the first is better, or nothing.
    pub fn verdict(&self, paper: Option<bool>, metric: &Metric) -> Verdict {
        match (paper, self.is_first_better(metric)) {
            (None, _) => Verdict::NoClaim,
            (_, None) => Verdict::Inconclusive,
            (Some(theirs), Some(ours)) if theirs == ours => Verdict::Holds,
            _ => Verdict::Contradicts,
        }
    }
}

/// What the paper's two numbers say: whether the first is better. NaN is worse than any number; equal numbers say nothing.
///
/// ```
/// use experiments::report::verdict::is_first_better_in_paper;
/// assert_eq!(is_first_better_in_paper(3.8, 3.9, true), Some(true));
/// assert_eq!(is_first_better_in_paper(f64::NAN, 3.9, true), Some(false));
/// assert_eq!(is_first_better_in_paper(6.04, 6.04, true), None);
/// ```
pub fn is_first_better_in_paper(first: f64, second: f64, lower_is_better: bool) -> Option<bool> {
    match (first.is_nan(), second.is_nan()) {
        (true, true) => None,
        (false, false) if first == second => None,
        (false, false) => Some((first < second) == lower_is_better),
        (first_is_nan, _) => Some(!first_is_nan),
    }
}

/// The verdict on a claim that consists of several contrasts: holds if none contradicts and at least half hold, contradicts the other way
/// round, mixed if some do the one and some the other, else inconclusive. Those that were not run count among all.
pub fn overall(contrasts: &[Verdict]) -> Verdict {
    let count = |verdict| contrasts.iter().filter(|other| **other == verdict).count();
    let (hold, contradict) = (count(Verdict::Holds), count(Verdict::Contradicts));
    let total = contrasts.len() - count(Verdict::NoClaim);
    match (hold, contradict) {
        (0, 0) => Verdict::Inconclusive,
        (hold, 0) if 2 * hold >= total => Verdict::Holds,
        (0, contradict) if 2 * contradict >= total => Verdict::Contradicts,
        (0, _) | (_, 0) => Verdict::Inconclusive,
        _ => Verdict::Mixed,
    }
}

/// The rule, for the head of a report: a paragraph each.
pub fn rule() -> Vec<String> {
    let coverage: Vec<String> =
        (2..=5).map(|n| format!("{:.0} % with {n}", 100.0 * coverage_of_two_errors(n))).collect();
    vec![
        "A claim is a set of contrasts between two cells, named before the runs. Cells are compared seed by seed: the same seed has the \
         same initial weights and the same batches. Where two cells have no seed in common the difference is that of their means (Welch)."
            .to_owned(),
        "A contrast holds if the mean difference has the paper's sign and is more than two standard errors from zero, contradicts if it \
         has the opposite sign and is as far from zero, and is inconclusive otherwise or with fewer than two pairs: no signal is not a \
         verdict. Where the paper prints the same number twice it claims no sign, and none is judged."
            .to_owned(),
        "A difference of less than one in the last decimal that a metric's means are shown with (0.001 of a loss, 0.01 % of words, 0.01 of a \
         Fr\u{e9}chet distance) is of no interest, and no signal however certain it is. This sentence is younger than the runs of the \
         language model, where certain differences of 0.00002 nats had held or contradicted; of the sweeps of speech and pictures, one \
         ran, and the losses of its first runs had been seen."
            .to_owned(),
        "A run that diverged is a result, NaN, and worse than one that did not. Where runs diverged on one side alone, the numbers that \
         are left have to agree with that, or, where none are left, at least two seeds."
            .to_owned(),
        "A claim of several contrasts holds if none of them contradicts and at least half hold, contradicts the other way round, and is \
         mixed if there are both; contrasts that were not run count as not holding. The metric that decides is the first of those listed that the runs have; others are shown with what the \
         rule says of them."
            .to_owned(),
        format!(
            "Two standard errors are the rule whatever the number of seeds, and are worth less with few: they hold the true difference in \
             {} pairs. So in a table of many contrasts some hold or contradict by chance. Beside each stands the p-value of its t-test \
             after Holm's correction over the contrasts of that table and metric.",
            coverage.join(", ")
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(pairs: &[(f64, f64)], first_diverged: usize, second_diverged: usize) -> Evidence {
        let difference = Difference::paired(pairs);
        Evidence { difference, first_diverged, second_diverged }
    }

    /// In hundredths: a difference of 0.01 is of interest.
    fn metric(lower_is_better: bool) -> Metric {
        Metric { lower_is_better, decimals: 2, ..Metric::of("anything", "") }
    }

    const BETTER: [(f64, f64); 3] = [(1.0, 1.3), (1.1, 1.42), (0.9, 1.19)];
    const NOISE: [(f64, f64); 3] = [(1.0, 1.3), (1.5, 1.2), (0.9, 1.0)];

    #[test]
    fn a_contrast_needs_two_standard_errors() {
        let clear = evidence(&BETTER, 0, 0);
        assert_eq!(clear.verdict(Some(true), &metric(true)), Verdict::Holds);
        assert_eq!(clear.verdict(Some(false), &metric(true)), Verdict::Contradicts);
        assert_eq!(
            clear.verdict(Some(true), &metric(false)),
            Verdict::Contradicts,
            "higher is better"
        );
        assert_eq!(clear.verdict(None, &metric(true)), Verdict::NoClaim);
        assert_eq!(
            evidence(&NOISE, 0, 0).verdict(Some(true), &metric(true)),
            Verdict::Inconclusive
        );
        assert_eq!(
            evidence(&BETTER[..1], 0, 0).verdict(Some(true), &metric(true)),
            Verdict::Inconclusive
        );
        assert_eq!(evidence(&[], 0, 0).verdict(Some(true), &metric(true)), Verdict::Inconclusive);
    }

    #[test]
    fn a_difference_too_small_to_be_shown_is_no_signal() {
        let clear_by =
            |by: f64| evidence(&[(1.0, 1.0 + by), (2.0, 2.0 + by), (0.5, 0.5 + by)], 0, 0);
        assert_eq!(clear_by(0.011).verdict(Some(true), &metric(true)), Verdict::Holds);
        assert_eq!(clear_by(0.009).verdict(Some(true), &metric(true)), Verdict::Inconclusive);
        assert_eq!(clear_by(-0.009).verdict(Some(true), &metric(true)), Verdict::Inconclusive);
        assert_eq!(clear_by(-0.011).verdict(Some(true), &metric(true)), Verdict::Contradicts);
    }

    #[test]
    fn divergence_on_one_side_is_a_sign_if_the_numbers_agree() {
        let first_is_better = |pairs: &[(f64, f64)], first, second| {
            evidence(pairs, first, second).is_first_better(&metric(true))
        };
        assert_eq!(first_is_better(&[], 0, 2), Some(true));
        assert_eq!(first_is_better(&[], 3, 0), Some(false));
        assert_eq!(first_is_better(&[], 0, 1), None, "one seed");
        assert_eq!(first_is_better(&[], 1, 1), None, "both sides");
        assert_eq!(first_is_better(&BETTER, 0, 1), Some(true));
        assert_eq!(first_is_better(&BETTER, 1, 0), None, "against the numbers");
        assert_eq!(first_is_better(&NOISE, 0, 2), None, "the numbers say nothing");
    }

    #[test]
    fn a_claim_is_judged_by_all_its_contrasts() {
        use Verdict::{Contradicts as C, Holds as H, Inconclusive as I, Mixed, NoClaim as N};
        assert_eq!(overall(&[H, H, I]), H);
        assert_eq!(overall(&[H, I]), H);
        assert_eq!(overall(&[H, I, I]), I);
        assert_eq!(overall(&[H, N, N, N]), H);
        assert_eq!(overall(&[C, I]), C);
        assert_eq!(overall(&[C, I, I]), I);
        assert_eq!(overall(&[H, H, C]), Mixed);
        assert_eq!(overall(&[I, N]), I);
        assert_eq!(overall(&[H, Verdict::NotRun, Verdict::NotRun]), I, "a part of the claim");
        assert_eq!(overall(&[]), I);
    }

    #[test]
    fn the_rule_states_the_coverage() {
        let rule = rule().join(" ");
        assert!(rule.contains("70 % with 2, 82 % with 3, 86 % with 4, 88 % with 5"), "{rule}");
    }
}
