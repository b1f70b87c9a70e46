//! The backward pass of [`conv2d`](crate::conv2d()).
//!
//! ∂L/∂W is added up in at most [`PARTS`] parts. The frames of ∂L/∂x are shared out among the tasks; what a task has of the frames of
//! others is handed back and added in the order of tasks. So nothing depends on the number of threads.

use rayon::prelude::*;

use crate::conv2d::Plan;
use crate::frames::{self, Run};
use crate::lanes::{Vectorised, vectorise};
use crate::matrix::{Into, Matrix, Threads, product_into};
use crate::number::Number;
use crate::rows::{new_rows, sum_of};

/// Parts of ∂L/∂W, at most.
const PARTS: usize = 16;

/// The backward pass.
pub(crate) struct Reverse<'a, T> {
    pub(crate) plan: &'a Plan,
    pub(crate) x: &'a [T],
    pub(crate) w: &'a [T],
    pub(crate) y: &'a [T],
    pub(crate) g: &'a [T],
    pub(crate) wants_x: bool,
    pub(crate) wants_w: bool,
}

/// A run of output frames, and the frames of ∂L/∂x that are its own: those before the next run's first window.
struct Task<'a, T> {
    run: Run,
    from: usize,
    own: &'a mut [T],
}

/// What some tasks give: parts of ∂L/∂W and ∂L/∂b, and of ∂L/∂x what is of other tasks' frames, each with its place.
struct Part<T> {
    dw: Vec<T>,
    db: Vec<T>,
    beyond: Vec<(usize, Vec<T>)>,
}

impl<T: Number> Reverse<'_, T> {
    /// ∂L/∂x, ∂L/∂W and ∂L/∂b; the first two are empty where they are not wanted.
    pub(crate) fn run(&self) -> (Vec<T>, Vec<T>, Vec<T>) {
        let frame = self.plan.windows.frame();
        let mut dx = new_rows(if self.wants_x { self.x.len() } else { 0 }, frame, |_, _| ());
        let mut tasks = self.tasks(&mut dx);
        let group = tasks.len().div_ceil(PARTS).max(1);
        let parts: Vec<Part<T>> =
            tasks.par_chunks_mut(group).map(|tasks| self.part(tasks)).collect();
        let (mut dw, mut db) = (Vec::new(), Vec::new());
        for part in parts {
            dw.push(part.dw);
            db.push(part.db);
            for (at, beyond) in part.beyond {
                dx[at..].iter_mut().zip(beyond).for_each(|(dx, beyond)| *dx += beyond);
            }
        }
        let of_w = if self.wants_w { self.w.len() } else { 0 };
        (dx, sum_of(dw, of_w), sum_of(db, self.plan.filters))
    }

    /// All real output frames, with the real frames of dx shared out among them.
    fn tasks<'d>(&self, dx: &'d mut [T]) -> Vec<Task<'d, T>> {
        let Plan { windows, frames, lengths, out_lengths, .. } = self.plan;
        let (mut rest, mut at) = (dx, 0);
        let task = |run: Run| {
            let (len, end) = (lengths[run.utterance], run.first + run.count);
            let end = if end == out_lengths[run.utterance] {
                len
            } else {
                windows.reach(end).0.max(0).cast_unsigned().min(len)
            };
            let first = run.utterance * frames;
            let from = if run.first == 0 { 0 } else { at - first };
            let mut take = |frames: usize| {
                let count = if self.wants_x { frames * windows.frame() } else { 0 };
                rest.split_off_mut(..count).expect("frames of dx")
            };
            take(first + from - at);
            at = first + end;
            Task { run, from, own: take(end - from) }
        };
        frames::runs(out_lengths, self.plan.task()).into_iter().map(task).collect()
    }

    fn part(&self, tasks: &mut [Task<'_, T>]) -> Part<T> {
        let Plan { windows, filters, .. } = *self.plan;
        let window = windows.window();
        let of_w = if self.wants_w { self.w.len() } else { 0 };
        let (dw, db) = (vec![T::zero(); of_w], vec![T::zero(); filters]);
        let mut part = Part { dw, db, beyond: Vec::new() };
        let (mut rows, mut h) = (Vec::new(), Vec::new());
        for Task { run, from, own } in tasks {
            self.gradient(*run, &mut h, &mut part.db);
            let count = run.count * windows.out_bands;
            let h = Matrix::new(&h, count, filters);
            if self.wants_w {
                windows.gather(self.plan.real(self.x, run.utterance), *run, &mut rows);
                let (rows, dw) = (Matrix::new(&rows, count, window), &mut part.dw);
                product_into(h.t(), rows, T::one(), dw, window, Into::Add, Threads::One);
            }
            if self.wants_x {
                let w = Matrix::new(self.w, filters, window);
                rows.resize(count * window, T::zero());
                product_into(h, w, T::one(), &mut rows, window, Into::Overwrite, Threads::One);
                windows.scatter(&rows, *run, *from, own);
                part.beyond.extend(self.beyond(&rows, *run, *from + own.len() / windows.frame()));
            }
        }
        part
    }

    /// h of a run, and its sum onto `db`.
    fn gradient(&self, run: Run, h: &mut Vec<T>, db: &mut [T]) {
        let frame = self.plan.out_frame();
        let at = (run.utterance * self.plan.out_frames + run.first) * frame;
        let (y, g) = (&self.y[at..], &self.g[at..][..run.count * frame]);
        h.clear();
        h.extend_from_slice(g);
        vectorise(Begin { h, db, y, relu: self.plan.relu });
    }

    /// What the windows of a run have of the real frames from `from` on, and where it is to be added.
    fn beyond(&self, rows: &[T], run: Run, from: usize) -> Option<(usize, Vec<T>)> {
        let Plan { windows, frames, lengths, .. } = self.plan;
        let end = windows.reach(run.first + run.count - 1).1.max(0).cast_unsigned();
        let count = end.min(lengths[run.utterance]).saturating_sub(from);
        if count == 0 {
            return None;
        }
        let mut beyond = vec![T::zero(); count * windows.frame()];
        windows.scatter(rows, run, from, &mut beyond);
        Some(((run.utterance * frames + from) * windows.frame(), beyond))
    }
}

/// `h = h φ'`, where h begins as g and φ' is told by y; `db += h`
struct Begin<'a, T> {
    h: &'a mut [T],
    db: &'a mut [T],
    y: &'a [T],
    relu: bool,
}

impl<T: Number> Vectorised for Begin<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { h, db, y, relu } = self;
        let filters = db.len();
        for (h, y) in h.chunks_exact_mut(filters).zip(y.chunks_exact(filters)) {
            if relu {
                for (h, y) in h.iter_mut().zip(y) {
                    *h = if *y > T::zero() { *h } else { T::zero() };
                }
            }
            db.iter_mut().zip(h).for_each(|(db, h)| *db += *h);
        }
    }
}
