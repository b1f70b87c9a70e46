//! 1/d of a tensor `[…, n, m]` whose f is kept as row and column sums.
//!
//! `f^ρ = (R_i/ΣR)^ρ · C_j^ρ`: a power for each row and column, and one product an element.

use rayon::prelude::*;

use super::access::{Slice, read};
use super::given::Given;
use super::lanes::{BLOCK, STRIP, Sum, Vectorised, vectorise};
use super::noise::Half;
use super::number::{Real, inverse};
use super::power::Exponent;
use super::stored::{Stored, write_all};
use super::tasks::{Matrices, Task};
use super::{Measured, Rule, Tensors};
use crate::Result;
use crate::terms::Estimate;

/// What a factored tensor holds aside between the passes; allocated at its first step.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// R and C after this step.
    rows: Vec<f64>,
    columns: Vec<f64>,
    /// `(R / ΣR)^ρ`; its product with `C^ρ` is f^ρ.
    row_factors: Vec<f64>,
    work: Work,
}

/// In the compute type: the column sums of each task, later `C^ρ`.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) single: Vec<f32>,
    pub(super) double: Vec<f64>,
}

/// Sums the estimate of the FIM over rows and over columns, into `scratch`. Returns Σ g².
pub(super) fn row_and_column_sums<C: Real>(
    given: &Given<'_>,
    matrices: Matrices,
    tasks: &[Task],
    scratch: &mut Scratch,
) -> f64 {
    let Matrices { outer, n, m } = matrices;
    scratch.rows.resize(outer * n, 0.0);
    scratch.columns.resize(outer * m, 0.0);
    let partial = C::work(&mut scratch.work);
    partial.clear();
    // A task is of whole matrices or within one: so many column sums.
    let width = |task: &Task| task.len.div_ceil(n * m) * m;
    partial.resize(tasks.iter().map(width).sum(), C::zero());
    let (mut rows, mut columns, mut work) = (&mut scratch.rows[..], &mut partial[..], Vec::new());
    for task in tasks {
        let (of_task, rest) = rows.split_at_mut(task.len / m);
        let (partial, left) = columns.split_at_mut(width(task));
        (rows, columns) = (rest, left);
        work.push(RowsAndColumns {
            given: given.task(task),
            n,
            m,
            rows: of_task,
            columns: partial,
        });
    }
    let g2: Vec<f64> = work.into_par_iter().map(vectorise).collect();
    scratch.columns.fill(0.0);
    let mut partial = C::done(&scratch.work);
    for task in tasks {
        let (of_task, rest) = partial.split_at(width(task));
        partial = rest;
        let first = task.start / (n * m) * m;
        for (column, x) in scratch.columns[first..].iter_mut().zip(of_task) {
            *column += x.f64();
        }
    }
    g2.iter().sum()
}

/// Adds up the estimates of some rows into their sums and those of the columns; returns Σ g².
struct RowsAndColumns<'a, C> {
    given: Given<'a>,
    n: usize,
    m: usize,
    rows: &'a mut [f64],
    /// Of each matrix of the task.
    columns: &'a mut [C],
}

impl<C: Real> Vectorised for RowsAndColumns<'_, C> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let Self { given, n, m, rows, columns } = self;
        let of_gradient = matches!(given.estimate, Estimate::OfGradient);
        let mut g2 = Sum::<C>::new();
        for (i, row) in rows.iter_mut().enumerate() {
            let columns = &mut columns[i / n * m..][..m];
            let mut sum = Sum::<C>::new();
            for from in (0..m).step_by(STRIP) {
                let (at, len) = (i * m + from, STRIP.min(m - from));
                let (mut room, mut other) = ([C::zero(); STRIP], [C::zero(); STRIP]);
                let g = given.gradient(at, len, &mut room);
                let columns = &mut columns[from..from + len];
                let squares = sum.strip(len);
                if of_gradient {
                    for i in 0..len {
                        squares[i] = squares[i] + g[i] * g[i];
                        columns[i] = columns[i] + g[i] * g[i];
                    }
                } else {
                    let q = given.estimate(at, len, &mut other);
                    let g2 = g2.strip(len);
                    for i in 0..len {
                        g2[i] = g2[i] + g[i] * g[i];
                        squares[i] = squares[i] + q[i];
                        columns[i] = columns[i] + q[i];
                    }
                }
                if (from + STRIP).is_multiple_of(BLOCK) {
                    sum.flush();
                    g2.flush();
                }
            }
            sum.flush();
            g2.flush();
            *row = sum.total();
        }
        if of_gradient { rows.iter().sum() } else { g2.total() }
    }
}

/// R and C after the step from the sums of this step, and the factors of f^ρ. Returns the name of the first that
/// is not finite, if one is.
pub(super) fn average<C: Real>(
    t: &Tensors<'_>,
    [r, c]: [&Stored; 2],
    Matrices { n, m, .. }: Matrices,
    rule: &Rule,
    scratch: &mut Scratch,
) -> Result<Option<&'static str>> {
    let Scratch { rows, columns, row_factors, work } = scratch;
    let single = !t.is_f64();
    for (name, sums, old, count) in [("R", &mut *rows, r, m), ("C", &mut *columns, c, n)] {
        let old = read(old.shaped())?;
        let old = old.slice()?;
        for (i, sum) in sums.iter_mut().enumerate() {
            let old = match old {
                Slice::F64(x) => x[i],
                Slice::F32(x) => f64::from(x[i]),
                _ => f64::NAN, // R and C are never stored otherwise
            };
            let new = *sum + count as f64 * rule.offset;
            *sum = rule.beta() * old + (1.0 - rule.beta()) * new;
        }
        let largest = if single { f64::from(f32::MAX) } else { f64::MAX };
        if !sums.iter().all(|x| x.abs() <= largest) {
            return Ok(Some(name));
        }
    }
    let exponent = Exponent::of(rule.rho);
    row_factors.clear();
    for rows in rows.chunks(n) {
        let total: f64 = rows.iter().sum();
        row_factors.extend(rows.iter().map(|r| exponent.apply(r * inverse(total))));
    }
    let column_factors = C::work(work);
    column_factors.clear();
    column_factors.extend(columns.iter().map(|c| C::of(exponent.apply(*c))));
    Ok(None)
}

/// R and C after the step, put where they are stored.
pub(super) fn store(r_c: [&Stored; 2], scratch: &Scratch) -> Result<()> {
    write_all(&r_c, |columns| {
        let none = [0; STRIP]; // R and C are rounded to the nearest
        for (mut column, new) in columns.into_iter().zip([&scratch.rows, &scratch.columns]) {
            for (k, strip) in new.chunks(STRIP).enumerate() {
                column.store(k * STRIP, strip, &none, Half::Low);
            }
        }
        Ok(())
    })
}

/// f^ρ of a task, as factors of its rows and columns.
#[derive(Clone, Copy)]
pub(super) struct FactoredTask<'a, C> {
    /// Of the rows of the task.
    rows: &'a [f64],
    /// From the first matrix of the task on.
    columns: &'a [C],
    /// Rows of the first matrix that come before the task.
    before: usize,
    n: usize,
    m: usize,
    /// ε̂^{2ρ}
    floor: C,
}

impl<'a, C: Real> FactoredTask<'a, C> {
    pub(super) fn new(
        task: &Task,
        Matrices { n, m, .. }: Matrices,
        rule: &Rule,
        measured: &Measured,
        scratch: &'a Scratch,
    ) -> Self {
        let first_row = task.start / m;
        Self {
            rows: &scratch.row_factors[first_row..first_row + task.len / m],
            columns: &C::done(&scratch.work)[first_row / n * m..],
            before: first_row % n,
            n,
            m,
            floor: C::of(rule.floor(measured)),
        }
    }

    /// 1/d of a strip.
    #[inline(always)]
    pub(super) fn inverse(&self, at: usize, len: usize, inverses: &mut [C; STRIP]) {
        let (mut row, mut column, mut done) = (at / self.m, at % self.m, 0);
        while done < len {
            let run = (self.m - column).min(len - done);
            let first = (self.before + row) / self.n * self.m + column;
            let factor = C::of(self.rows[row]);
            let columns = &self.columns[first..first + run];
            for (inverted, column) in inverses[done..done + run].iter_mut().zip(columns) {
                *inverted = inverse(factor * *column + self.floor);
            }
            (row, column, done) = (row + 1, 0, done + run);
        }
    }
}
