//! Matrix products, by the crate `gemm` that candle itself uses.

use gemm::Parallelism;

use crate::number::Number;

/// A matrix in a slice: element (i, j) is at `start + i · row + j · column`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    row: usize,
    column: usize,
}

impl<'a, T: Number> Matrix<'a, T> {
    /// Row after row.
    pub(crate) fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows that begin `row` elements apart.
    pub(crate) fn strided(data: &'a [T], rows: usize, columns: usize, row: usize) -> Self {
        let matrix = Self { data, rows, columns, row, column: 1 };
        assert!(matrix.fits(data.len()), "a matrix beyond its slice");
        matrix
    }

    fn fits(&self, len: usize) -> bool {
        let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
        let empty = self.rows == 0 || self.columns == 0;
        empty || last(self.rows, self.row) + last(self.columns, self.column) < len
    }

    /// Rows and columns exchanged.
    pub(crate) fn t(self) -> Self {
        let Self { data, rows, columns, row, column } = self;
        Self { data, rows: columns, columns: rows, row: column, column: row }
    }
}

/// Who computes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The thread that asks for it, which is one of many.
    One,
    /// All threads of the pool.
    All,
}

/// What happens to what the destination holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Overwrite,
    Add,
}

/// `scale · a b`, row after row.
#[allow(unsafe_code)]
pub(crate) fn product<T: Number>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
    threads: Threads,
) -> Vec<T> {
    let len = a.rows * b.columns;
    if a.columns == 0 {
        return vec![T::zero(); len];
    }
    let mut out = Vec::with_capacity(len);
    // SAFETY: there is room for a matrix of that shape.
    unsafe { multiply(a, b, scale, out.as_mut_ptr(), b.columns, Into::Overwrite, threads) };
    // SAFETY: gemm has written every element, since it was told not to read what is there.
    unsafe { out.set_len(len) };
    out
}

/// `scale · a b` into the rows of `out`, which begin `row` elements apart.
#[allow(unsafe_code)]
pub(crate) fn product_into<T: Number>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
    out: &mut [T],
    row: usize,
    into: Into,
    threads: Threads,
) {
    let (m, n) = (a.rows, b.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * row + n <= out.len(), "a product beyond its slice");
    assert!(m == 1 || row >= n, "rows that overlap");
    // SAFETY: all rows are inside of `out`, and do not overlap.
    unsafe { multiply(a, b, scale, out.as_mut_ptr(), row, into, threads) };
}

/// # Safety
/// From `out` on there is room for `a.rows` rows of `b.columns` numbers that begin `row` elements apart, which nothing else
/// reads or writes meanwhile; they hold numbers if they are to be added to.
#[allow(unsafe_code)]
unsafe fn multiply<T: Number>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
    out: *mut T,
    row: usize,
    into: Into,
    threads: Threads,
) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: `Matrix::strided` keeps a and b inside of their slices; the caller answers for `out`.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            row.cast_signed(),
            into == Into::Add,
            a.data.as_ptr(),
            a.column.cast_signed(),
            a.row.cast_signed(),
            b.data.as_ptr(),
            b.column.cast_signed(),
            b.row.cast_signed(),
            T::one(),
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `x [rows, columns]` as `[columns, rows]`: gemm reads a right-hand side much faster by rows.
pub(crate) fn transposed<T: Number>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
    const TILE: usize = 32;
    crate::rows::new_rows(rows * columns, TILE * rows, |first, out| {
        let first = first * TILE; // a row here is a band of TILE columns of x
        let band = out.len() / rows.max(1);
        for block in (0..rows).step_by(TILE) {
            for i in block..rows.min(block + TILE) {
                let from = &x[i * columns + first..][..band];
                for (j, x) in from.iter().enumerate() {
                    out[j * rows + i] = *x;
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(a: Matrix<'_, f64>, b: Matrix<'_, f64>) -> Vec<f64> {
        let at = |m: &Matrix<'_, f64>, i: usize, j: usize| m.data[i * m.row + j * m.column];
        (0..a.rows * b.columns)
            .map(|e| (e / b.columns, e % b.columns))
            .map(|(i, j)| (0..a.columns).map(|k| at(&a, i, k) * at(&b, k, j)).sum())
            .collect()
    }

    #[test]
    fn products_of_all_layouts() {
        let x: Vec<f64> = (0..600).map(|i| f64::from(i * 7 % 23) - 11.0).collect();
        let y: Vec<f64> = (0..600).map(|i| f64::from(i * 5 % 19) - 9.0).collect();
        let (a, b) = (Matrix::new(&x, 20, 30), Matrix::new(&y, 30, 20));
        let (c, d) = (Matrix::strided(&x[3..], 17, 9, 33), Matrix::strided(&y[5..], 17, 11, 29));
        for (a, b) in [(a, b), (b.t(), a.t()), (c.t(), d), (d.t(), c)] {
            let wanted = naive(a, b);
            let row = b.columns + 3;
            for threads in [Threads::One, Threads::All] {
                let mut out = vec![1.0; a.rows * row];
                product_into(a, b, 2.0, &mut out, row, Into::Add, threads);
                product_into(a, b, 1.0, &mut out, row, Into::Add, threads);
                for (out, wanted) in product(a, b, 1.0, threads).iter().zip(&wanted) {
                    assert!((out - wanted).abs() < 1e-9);
                }
                for (i, out) in out.chunks(row).enumerate() {
                    for (j, out) in out.iter().enumerate() {
                        let inside = j < b.columns;
                        let wanted =
                            if inside { 1.0 + 3.0 * wanted[i * b.columns + j] } else { 1.0 };
                        assert!((out - wanted).abs() < 1e-9, "{i} {j}: {out} {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn transposes_of_every_shape() {
        for (rows, columns) in [(0, 3), (3, 0), (1, 1), (31, 33), (64, 5), (5, 300), (257, 129)] {
            let x: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let t = transposed(&x, rows, columns);
            for i in 0..rows {
                for j in 0..columns {
                    assert_eq!(t[j * rows + i], x[i * columns + j]);
                }
            }
        }
    }
}
