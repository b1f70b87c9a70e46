//! How a tensor is cut into tasks: by its shape alone, so that sums and blocks are the same whatever the number
//! of threads.

use std::ops::Range;

use super::blocks::BLOCK;

/// A run of elements that one thread goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// Of its blocks of 8-bit numbers, which begin anew with each task.
    first_block: usize,
}

impl Task {
    pub(crate) fn blocks(&self) -> Range<usize> {
        self.first_block..self.first_block + self.len.div_ceil(BLOCK)
    }
}

/// Elements of a task: small enough to balance, large enough to be worth one.
const TASK: usize = 32_768;

/// Rows of a task: enough that its column sums are worth their memory, few enough to add them up in f32.
const ROWS: usize = 64;

/// The tasks of a tensor whose f is kept element by element.
pub(crate) fn of_full(elements: usize) -> Vec<Task> {
    cut(elements, TASK, usize::MAX)
}

/// The tasks of a factored tensor: [`ROWS`] rows of one matrix, or as many whole matrices as make up a task.
pub(crate) fn of_factored(Matrices { outer, n, m }: Matrices) -> Vec<Task> {
    let elements = outer * n * m;
    if n <= ROWS {
        let matrices = (TASK / (n * m).max(1)).max(1);
        cut(elements, matrices * n * m, usize::MAX)
    } else {
        cut(elements, ROWS * m, n * m)
    }
}

/// Tasks of `len` elements, of which none goes beyond a multiple of `period`.
fn cut(elements: usize, len: usize, period: usize) -> Vec<Task> {
    let (mut tasks, mut start, mut first_block) = (Vec::new(), 0, 0);
    while start < elements {
        let len = len.min(period - start % period).min(elements - start);
        let task = Task { start, len, first_block };
        (start, first_block) = (start + len, task.blocks().end);
        tasks.push(task);
    }
    tasks
}

/// A tensor `[…, n, m]` as matrices: `outer` of `[n, m]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Matrices {
    pub(crate) outer: usize,
    pub(crate) n: usize,
    pub(crate) m: usize,
}

impl Matrices {
    /// Of a tensor with two dimensions or more.
    pub(crate) fn of(dims: &[usize]) -> Self {
        let (leading, [n, m]) = dims.split_last_chunk().expect("a factored tensor is a matrix");
        Self { outer: leading.iter().product(), n: *n, m: *m }
    }

    #[cfg(test)]
    fn elements(self) -> usize {
        self.outer * self.n * self.m
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tasks follow each other without a gap, and so do their blocks.
    fn assert_covers(tasks: &[Task], elements: usize) {
        let (mut start, mut block) = (0, 0);
        for task in tasks {
            assert_eq!((task.start, task.blocks().start), (start, block));
            (start, block) = (start + task.len, task.blocks().end);
        }
        assert_eq!(start, elements);
    }

    #[test]
    fn tasks_cover_a_tensor() {
        for elements in [0, 1, TASK, TASK + 1, 3 * TASK - 7] {
            assert_covers(&of_full(elements), elements);
        }
        for (outer, n, m) in
            [(1, 3, 5), (1000, 3, 3), (2, 65, 7), (3, 200, 1), (1, 64, 4096), (0, 2, 2)]
        {
            let matrices = Matrices { outer, n, m };
            let tasks = of_factored(matrices);
            assert_covers(&tasks, matrices.elements());
            for task in tasks {
                let whole = task.start % (n * m) == 0 && task.len % (n * m) == 0;
                let rows = task.len.div_ceil(m);
                let first = task.start / (n * m) == (task.start + task.len - 1) / (n * m);
                assert!(whole || first && rows <= ROWS, "{matrices:?} {task:?}");
                assert!(task.start % m == 0 && task.len % m == 0);
            }
        }
    }
}
