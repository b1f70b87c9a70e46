//! Algorithms 2 and 4 on a tensor `[…, n, m]` whose f is kept as row and column sums.
//!
//! `f^ρ = (R_i/ΣR)^ρ · C_j^ρ`: a power for each row and column, and one product an element.

use candle_core::Tensor;
use rayon::prelude::*;

use super::access::{read, write};
use super::descent::Descent;
use super::lanes::{BLOCK, STRIP, Sum, Vectorised, vectorise};
use super::number::{Element, Real, all_finite, inverse};
use super::power::Exponent;
use super::{Measured, Preconditioned, Tensors, clip_factor};
use crate::Result;

/// Rows of a task: enough that its column sums are worth their memory, few enough to add them up in f32.
const ROWS: usize = 64;

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

/// The matrices in a tensor: `outer` of `[n, m]`.
#[derive(Clone, Copy)]
struct Shape {
    outer: usize,
    n: usize,
    m: usize,
}

impl Shape {
    fn of(theta: &Tensor) -> Self {
        let dims = theta.dims();
        let (leading, [n, m]) = dims.split_last_chunk().expect("a factored tensor is a matrix");
        Self { outer: leading.iter().product(), n: *n, m: *m }
    }

    fn elements(self) -> usize {
        self.outer * self.n * self.m
    }

    /// A slice of all elements, cut into tasks: [`ROWS`] rows of one matrix, or what is left of it.
    fn tasks<T>(self, of: &[T]) -> impl Iterator<Item = &[T]> {
        of.chunks(self.n * self.m).flat_map(move |matrix| matrix.chunks(ROWS * self.m))
    }

    fn tasks_mut<T>(self, of: &mut [T]) -> impl Iterator<Item = &mut [T]> {
        of.chunks_mut(self.n * self.m).flat_map(move |matrix| matrix.chunks_mut(ROWS * self.m))
    }

    /// Tasks that a thread should take at once: matrices can be as small as 3 × 3.
    fn at_once(self) -> usize {
        (8192 / (ROWS.min(self.n) * self.m)).max(1)
    }

    fn tasks_of_a_matrix(self) -> usize {
        self.n.div_ceil(ROWS)
    }
}

/// Pass A, in two: R and C after the step, held aside in `scratch`, then the clipping factors.
pub(super) fn measure<C: Real, P: Element, S: Element>(
    t: &Tensors,
    [r, c]: [&Tensor; 2],
    rule: &Preconditioned,
    scratch: &mut Scratch,
) -> Result<Option<Measured>> {
    let shape = Shape::of(t.theta);
    if shape.elements() == 0 {
        return Ok(Some(Measured::start::<C>(rule.eps)));
    }
    let g2 = row_and_column_sums::<C, P>(t, shape, scratch)?;
    t.check_gradient::<P>(g2)?;
    let mut measured = Measured::start::<C>(rule.eps_hat(g2, shape.elements()));
    if !C::CAREFUL && (!g2.is_finite() || rule.needs_care(measured.eps_hat)) {
        return Ok(None);
    }
    average::<C, S>([r, c], shape, rule, scratch)?;
    for (tensor, sums) in [("R", &scratch.rows), ("C", &scratch.columns)] {
        if !all_finite::<f64, S>(sums) {
            return Err(t.not_finite(tensor));
        }
    }
    let [x2, w2] = squares::<C, P>(t, shape, Descent::new(rule, &measured), scratch)?;
    if !(x2 + w2).is_finite() {
        return Ok(None);
    }
    measured.gradient_factor = clip_factor(x2, shape.elements(), rule.clip);
    measured.decay_factor = clip_factor(w2, shape.elements(), rule.clip);
    Ok(Some(measured))
}

/// Σ g² over rows and over columns, into `scratch`; returns Σ g².
fn row_and_column_sums<C: Real, P: Element>(
    t: &Tensors,
    shape: Shape,
    scratch: &mut Scratch,
) -> Result<f64> {
    let Shape { outer, n, m } = shape;
    scratch.rows.resize(outer * n, 0.0);
    scratch.columns.resize(outer * m, 0.0);
    let partial = C::work(&mut scratch.work);
    partial.clear();
    partial.resize(outer * shape.tasks_of_a_matrix() * m, C::zero());
    let g = read(t.g)?;
    let rows = scratch.rows.chunks_mut(n).flat_map(|rows| rows.chunks_mut(ROWS));
    let tasks = shape.tasks(g.slice::<P>()?).zip(rows).zip(partial.chunks_mut(m));
    let tasks: Vec<_> = tasks.collect();
    tasks.into_par_iter().with_min_len(shape.at_once()).for_each(|((g, rows), columns)| {
        vectorise(RowsAndColumns { g, rows, columns });
    });
    let matrices = scratch.columns.chunks_mut(m).zip(partial.chunks(shape.tasks_of_a_matrix() * m));
    for (columns, partial) in matrices {
        columns.fill(0.0);
        for partial in partial.chunks(m) {
            for (column, x) in columns.iter_mut().zip(partial) {
                *column += x.f64();
            }
        }
    }
    Ok(scratch.rows.iter().sum())
}

/// Adds the squares of some rows to their sums and to those of the columns.
struct RowsAndColumns<'a, C, P> {
    /// `[rows, columns]`
    g: &'a [P],
    rows: &'a mut [f64],
    columns: &'a mut [C],
}

impl<C: Real, P: Element> Vectorised for RowsAndColumns<'_, C, P> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { g, rows, columns } = self;
        for (g, row) in g.chunks_exact(columns.len()).zip(rows) {
            let mut sum = Sum::<C>::new();
            for (g, columns) in g.chunks(BLOCK).zip(columns.chunks_mut(BLOCK)) {
                for (g, columns) in g.chunks(STRIP).zip(columns.chunks_mut(STRIP)) {
                    let n = g.len();
                    let (columns, squares) = (&mut columns[..n], sum.strip(n));
                    for i in 0..n {
                        let g = g[i].load::<C>();
                        squares[i] = squares[i] + g * g;
                        columns[i] = columns[i] + g * g;
                    }
                }
                sum.flush();
            }
            *row = sum.total();
        }
    }
}

/// R and C after the step from the sums of this step, and the factors of f^ρ.
fn average<C: Real, S: Element>(
    [r, c]: [&Tensor; 2],
    Shape { n, m, .. }: Shape,
    rule: &Preconditioned,
    scratch: &mut Scratch,
) -> Result<()> {
    let Scratch { rows, columns, row_factors, work } = scratch;
    for (sums, old, count) in [(&mut *rows, r, m), (&mut *columns, c, n)] {
        for (sum, old) in sums.iter_mut().zip(read(old)?.slice::<S>()?) {
            let new = *sum + count as f64 * rule.offset;
            *sum = rule.beta * old.load::<f64>() + (1.0 - rule.beta) * new;
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
    Ok(())
}

/// The factors of the rows and of the columns, for each task.
fn factors<C: Real>(shape: Shape, scratch: &Scratch) -> impl Iterator<Item = (&[f64], &[C])> {
    let Shape { outer, n, m } = shape;
    let columns = C::done(&scratch.work)[..outer * m].chunks(m);
    let rows = scratch.row_factors.chunks(n);
    rows.zip(columns).flat_map(|(rows, columns)| rows.chunks(ROWS).map(move |rows| (rows, columns)))
}

/// Σ (g/d)² and Σ (θ/d)² (0 where the decay is not on the manifold).
fn squares<C: Real, P: Element>(
    t: &Tensors,
    shape: Shape,
    numbers: Descent<C>,
    scratch: &Scratch,
) -> Result<[f64; 2]> {
    let (g, theta) = (read(t.g)?, read(t.theta)?);
    let tasks = shape.tasks(g.slice::<P>()?).zip(shape.tasks(theta.slice::<P>()?));
    let tasks: Vec<_> = tasks.zip(factors::<C>(shape, scratch)).collect();
    let sums: Vec<[f64; 2]> = tasks
        .into_par_iter()
        .with_min_len(shape.at_once())
        .map(|((g, theta), factors)| vectorise(Squares { g, theta, factors, numbers }))
        .collect();
    Ok(sums.into_iter().fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]))
}

struct Squares<'a, C, P> {
    g: &'a [P],
    theta: &'a [P],
    /// Of the rows, and of the columns.
    factors: (&'a [f64], &'a [C]),
    numbers: Descent<C>,
}

impl<C: Real, P: Element> Vectorised for Squares<'_, C, P> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run(self) -> [f64; 2] {
        let Self { g, theta, factors: (rows, columns), numbers } = self;
        let m = columns.len();
        let (mut x2, mut w2) = (Sum::<C>::new(), Sum::<C>::new());
        for ((g, theta), row) in g.chunks_exact(m).zip(theta.chunks_exact(m)).zip(rows) {
            let row = C::of(*row);
            let strips = g.chunks(STRIP).zip(theta.chunks(STRIP)).zip(columns.chunks(STRIP));
            for ((g, theta), columns) in strips {
                let n = g.len();
                let (theta, columns) = (&theta[..n], &columns[..n]);
                let (a, b) = (x2.strip(n), w2.strip(n));
                for i in 0..n {
                    let [x, w] = numbers.measured(row * columns[i], g[i].load(), theta[i].load());
                    a[i] = a[i] + x * x;
                    b[i] = b[i] + w * w;
                }
            }
            x2.flush();
            w2.flush();
        }
        [x2.total(), w2.total()]
    }
}

/// Pass B: R, C, m and θ in place.
pub(super) fn apply<C: Real, P: Element, S: Element>(
    t: &Tensors,
    [r, c]: [&Tensor; 2],
    rule: &Preconditioned,
    measured: &Measured,
    scratch: &Scratch,
) -> Result<()> {
    let shape = Shape::of(t.theta);
    if shape.elements() == 0 {
        return Ok(());
    }
    for (tensor, new) in [(r, &scratch.rows), (c, &scratch.columns)] {
        write::<S, _>(tensor, |old| {
            for (old, new) in old.iter_mut().zip(new) {
                *old = S::store(*new);
            }
            Ok(())
        })?;
    }
    let numbers = Descent::<C>::new(rule, measured);
    let g = read(t.g)?;
    let g = g.slice::<P>()?;
    write::<P, _>(t.theta, |theta| {
        write::<S, _>(&t.state.m, |m| {
            let tasks = shape.tasks_mut(theta).zip(shape.tasks_mut(m)).zip(shape.tasks(g));
            let tasks: Vec<_> = tasks.zip(factors::<C>(shape, scratch)).collect();
            let tasks = tasks.into_par_iter().with_min_len(shape.at_once());
            tasks.for_each(|(((theta, m), g), factors)| {
                vectorise(Step { g, theta, m, factors, numbers });
            });
            Ok(())
        })
    })
}

struct Step<'a, C, P, S> {
    g: &'a [P],
    theta: &'a mut [P],
    m: &'a mut [S],
    /// Of the rows, and of the columns.
    factors: (&'a [f64], &'a [C]),
    numbers: Descent<C>,
}

impl<C: Real, P: Element, S: Element> Vectorised for Step<'_, C, P, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { g, theta, m, factors: (rows, columns), numbers } = self;
        let width = columns.len();
        let all = theta.chunks_exact_mut(width).zip(m.chunks_exact_mut(width));
        for (((theta, m), g), row) in all.zip(g.chunks_exact(width)).zip(rows) {
            let row = C::of(*row);
            let n = g.len();
            let (theta, m, columns) = (&mut theta[..n], &mut m[..n], &columns[..n]);
            for i in 0..n {
                let new = numbers.step(row * columns[i], g[i].load(), m[i].load(), theta[i].load());
                m[i] = S::store(new[0]);
                theta[i] = P::store(new[1]);
            }
        }
    }
}

/// The first of m and θ that pass B would make not finite.
pub(super) fn verify<C: Real, P: Element, S: Element>(
    t: &Tensors,
    rule: &Preconditioned,
    measured: &Measured,
    scratch: &Scratch,
) -> Result<Option<&'static str>> {
    let shape = Shape::of(t.theta);
    if shape.elements() == 0 {
        return Ok(None);
    }
    let numbers = Descent::<C>::new(rule, measured);
    let (g, theta, m) = (read(t.g)?, read(t.theta)?, read(&t.state.m)?);
    let tasks = shape.tasks(g.slice::<P>()?).zip(shape.tasks(theta.slice::<P>()?));
    let mut tasks = tasks.zip(shape.tasks(m.slice::<S>()?)).zip(factors::<C>(shape, scratch));
    Ok(tasks.find_map(|(((g, theta), m), factors)| {
        // The step of a copy of the task.
        let (mut theta, mut m) = (theta.to_vec(), m.to_vec());
        vectorise(Step { g, theta: &mut theta, m: &mut m, factors, numbers });
        let finite = |what, finite: bool| (!finite).then_some(what);
        finite("m", m.iter().all(|x| x.finite()))
            .or_else(|| finite("theta", theta.iter().all(|x| x.finite())))
    }))
}
