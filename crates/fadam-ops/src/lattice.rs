//! The cells (t, u) of an utterance, 0 ≤ t < T and 0 ≤ u ≤ U, and the paths through them.
//! [`rnnt_loss`](crate::rnnt_loss()) has the equations.
//!
//! α and β of a diagonal, the cells of one t + u, depend on the neighbouring diagonal alone, so that a diagonal is computed in
//! vector instructions. They are sums of hundreds of logarithms and are in f64 whatever the logits are.

use rayon::prelude::*;

use crate::log_add::{exponentials_of_sums, log_add};
use crate::number::Number;
use crate::transducer::{Transducer, Utterance, split};

const NONE: f64 = f64::NEG_INFINITY;

/// What is kept of a cell and its logits z. [`losses`] puts the shares of paths in place of probabilities.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell<T> {
    /// max z
    pub(crate) most: T,
    /// Σ exp(z − max z); then (b + (1 + λ) l) / Σ, what makes p (b + (1 + λ) l) of exp(z − max z). NaN for logits that cannot be.
    pub(crate) scale: T,
    /// log p of the blank; then b, the share of all paths that leave the cell by it.
    pub(crate) blank: T,
    /// log p of the label that comes next, −∞ if there is none; then (1 + λ) l of the share l that leaves by it.
    pub(crate) label: T,
}

impl<T: Number> Cell<T> {
    /// Without a symbol.
    pub(crate) fn none() -> Self {
        Self::new(T::neg_infinity(), T::zero(), T::neg_infinity(), None)
    }

    /// Of max z, `Σ exp(z − max z)` (0 if no symbol is possible, NaN if a logit is), z at the blank, and z at the label if one
    /// comes next.
    pub(crate) fn new(most: T, sum: T, blank: T, label: Option<T>) -> Self {
        if most == T::infinity() || sum.is_nan() {
            return Self { most, scale: T::nan(), blank, label: blank };
        }
        let log_sum = sum.double().ln();
        let log_p = |z: T| {
            let impossible = z == T::neg_infinity(); // perhaps all are: −∞ less −∞ would be NaN
            if impossible { z } else { T::of((z.double() - most.double()) - log_sum) }
        };
        let label = label.map_or(T::neg_infinity(), log_p);
        Self { most, scale: sum, blank: log_p(blank), label }
    }

    /// Whether a logit is NaN or +∞.
    pub(crate) fn is_of_no_logits(&self) -> bool {
        self.scale.is_nan()
    }
}

/// The loss of each utterance from the log-probabilities of its cells, which, if there are to be gradients, become shares.
pub(crate) fn losses<T: Number>(
    utterances: &[Utterance],
    cells: &mut [Cell<T>],
    options: &Transducer,
    with_gradients: bool,
) -> Vec<T> {
    let loss = |(utterance, cells): (&Utterance, &mut [Cell<T>])| {
        let lattice = utterance.lattice();
        if !with_gradients {
            return T::of(-lattice.forward(cells, |_, _| {}));
        }
        let mut alpha = vec![NONE; cells.len()];
        let log_p = lattice.forward(cells, |cell, value| alpha[cell] = value);
        if log_p == NONE {
            for cell in cells {
                (cell.scale, cell.blank, cell.label) = (T::zero(), T::zero(), T::zero());
            }
        } else {
            lattice.shares(cells, &alpha, log_p, 1.0 + options.fast_emit);
        }
        T::of(-log_p)
    };
    utterances.par_iter().zip(split(utterances, cells)).map(loss).collect()
}

/// T frames and U labels. Cells are numbered frame after frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lattice {
    pub(crate) frames: usize,
    pub(crate) labels: usize,
}

impl Lattice {
    pub(crate) fn columns(self) -> usize {
        self.labels + 1
    }

    pub(crate) fn cells(self) -> usize {
        self.frames * self.columns()
    }

    fn cell(self, t: usize, u: usize) -> usize {
        t * self.columns() + u
    }

    /// The last of the diagonals d = t + u.
    fn last(self) -> usize {
        self.frames - 1 + self.labels
    }

    /// The u of diagonal d, whose t are d − u.
    fn diagonal(self, d: usize) -> std::ops::Range<usize> {
        d.saturating_sub(self.frames - 1)..self.labels.min(d) + 1
    }

    /// log P of the labels; `keep(cell, α)` is called once a cell.
    fn forward<T: Number>(self, cells: &[Cell<T>], mut keep: impl FnMut(usize, f64)) -> f64 {
        let n = self.columns();
        // Of paths that arrive at u of the diagonal by the blank, and by label u − 1; −∞ where none can.
        let (mut by_blank, mut by_label) = (vec![NONE; n], vec![NONE; n + 1]);
        let mut alpha = vec![NONE; n];
        by_blank[0] = 0.0;
        for d in 0..=self.last() {
            let at = self.diagonal(d);
            log_add(&mut alpha[at.clone()], &by_blank[at.clone()], &by_label[at.clone()]);
            for u in at {
                let cell = self.cell(d - u, u);
                keep(cell, alpha[u]);
                by_blank[u] = alpha[u] + cells[cell].blank.double();
                by_label[u + 1] = alpha[u] + cells[cell].label.double();
            }
        }
        by_blank[self.labels]
    }

    /// Puts shares of paths in place of log-probabilities; those of labels are multiplied by `emission`.
    fn shares<T: Number>(self, cells: &mut [Cell<T>], alpha: &[f64], log_p: f64, emission: f64) {
        let n = self.columns();
        let mut beta = vec![NONE; n + 1];
        // Of paths that leave u of the diagonal, and of those that arrive there.
        let (mut by_blank, mut by_label) = (vec![NONE; n], vec![NONE; n]);
        let mut before = vec![NONE; n];
        for d in (0..=self.last()).rev() {
            let at = self.diagonal(d);
            if d + 1 >= self.frames {
                // From the last frame, a blank leads to the end or nowhere.
                beta[at.start] = if d == self.last() { 0.0 } else { NONE };
            }
            for u in at.clone() {
                let cell = self.cell(d - u, u);
                before[u] = alpha[cell] - log_p;
                by_blank[u] = cells[cell].blank.double() + beta[u];
                by_label[u] = cells[cell].label.double() + beta[u + 1];
            }
            log_add(&mut beta[at.clone()], &by_blank[at.clone()], &by_label[at.clone()]);
            exponentials_of_sums(&mut by_blank[at.clone()], &before[at.clone()]);
            exponentials_of_sums(&mut by_label[at.clone()], &before[at.clone()]);
            for u in at {
                let cell = &mut cells[self.cell(d - u, u)];
                let (mut blank, mut label) = (by_blank[u], emission * by_label[u]);
                if blank + label < T::min_positive_value().double() {
                    (blank, label) = (0.0, 0.0);
                }
                // A cell without paths may be one without a symbol, whose Σ is 0.
                let share = blank + label;
                let of_p = if share > 0.0 { share / cell.scale.double() } else { 0.0 };
                (cell.scale, cell.blank, cell.label) = (T::of(of_p), T::of(blank), T::of(label));
            }
        }
    }
}
