//! One head of one sequence, forward and backward, on one thread.

use super::positions::offsets;
use super::{KEYS, QUERIES, Size, VALUES};
use crate::matrix::{Into, Matrix, Threads, product_into, transposed};
use crate::number::Number;
use crate::softmax;

/// Query positions that are computed together.
const TILE: usize = 64;

/// The arguments.
#[derive(Clone, Copy)]
pub(super) struct Slices<'a, T> {
    pub(super) qkv: &'a [T],
    pub(super) positions: Option<Positions<'a, T>>,
}

#[derive(Clone, Copy)]
pub(super) struct Positions<'a, T> {
    /// `[2 T − 1, h d]`
    pub(super) r: &'a [T],
    /// `[h d, 2 T − 1]`
    pub(super) r_t: &'a [T],
    pub(super) uv: &'a [T],
}

/// Gradients from one head of one sequence; empty without positions.
pub(super) struct OfPositions<T> {
    /// `[2 L − 1, d]`: the offsets from L − 1 down to 1 − L.
    pub(super) dr: Vec<T>,
    /// `[2, d]`
    pub(super) duv: Vec<T>,
}

/// One head of one sequence.
pub(super) struct Head<'a, T> {
    size: &'a Size,
    /// Which head.
    index: usize,
    /// L
    length: usize,
    /// The sequence's first row in all rows.
    row: usize,
    /// The packed rows of the sequence.
    qkv: &'a [T],
    positions: Option<Positions<'a, T>>,
    scale: T,
}

/// Some queries, and what is computed from them, `[n, ..]`.
struct Tile<T> {
    /// The first position, and n.
    at: (usize, usize),
    /// s (q + u) and s (q + v)
    qu: Vec<T>,
    qv: Vec<T>,
    p: Vec<T>,
    /// The products with n + L − 1 offsets.
    band: Vec<T>,
}

impl<'a, T: Number> Head<'a, T> {
    /// Of a task, which counts the heads of the first sequence, and then those of the next.
    pub(super) fn new(size: &'a Size, all: Slices<'a, T>, task: usize) -> Self {
        let Size { t, heads, d, ref lengths } = *size;
        let (sequence, index) = (task / heads, task % heads);
        Self {
            size,
            index,
            length: lengths[sequence],
            row: sequence * t,
            qkv: &all.qkv[sequence * t * 3 * heads * d..][..t * 3 * heads * d],
            positions: all.positions,
            scale: T::of((d as f64).sqrt().recip()),
        }
    }

    /// `out [T, d]` begins as zeros.
    pub(super) fn forward(&self, out: &mut [T]) {
        let k_t = self.transposed(KEYS);
        for at in self.tiles() {
            let p = self.weights(at, &k_t).p;
            let (p, out) = (Matrix::new(&p, at.1, self.length), &mut out[at.0 * self.size.d..]);
            self.product_into(p, self.part(VALUES), T::one(), out, Into::Overwrite);
        }
    }

    /// `dqkv [3, T, d]` begins as zeros; out and g are those of all heads and sequences.
    pub(super) fn backward(&self, out: &[T], g: &[T], dqkv: &mut [T]) -> OfPositions<T> {
        let Size { t, heads, d, .. } = *self.size;
        let (length, width) = (self.length, heads * d);
        let (dq, dkv) = dqkv.split_at_mut(t * d);
        let (dk, dv) = dkv.split_at_mut(t * d);
        let mut of_positions = self.no_positions();
        let [k_t, v_t] = [KEYS, VALUES].map(|part| self.transposed(part));
        let v_t = Matrix::new(&v_t, d, length);
        let mut ds = Vec::new();
        for at @ (first, n) in self.tiles() {
            let mut tile = self.weights(at, &k_t);
            let from = (self.row + first) * width + self.index * d;
            let (out, g) = (&out[from..], &g[from..]);
            let g_tile = Matrix::strided(g, n, d, width);
            let p = Matrix::new(&tile.p, n, length);
            self.product_into(p.t(), g_tile, T::one(), dv, Into::Add);
            ds.resize(n * length, T::zero());
            product_into(g_tile, v_t, T::one(), &mut ds, length, Into::Overwrite, Threads::One);
            let rows = ds.chunks_exact_mut(length).zip(tile.p.chunks_exact(length));
            for (i, (ds, p)) in rows.enumerate() {
                let mean = T::dot(&g[i * width..][..d], &out[i * width..][..d]);
                softmax::reverse(ds, p, mean);
            }
            let ds_tile = Matrix::new(&ds, n, length);
            let qu = Matrix::new(&tile.qu, n, d);
            self.product_into(ds_tile.t(), qu, T::one(), dk, Into::Add);
            let dq = &mut dq[first * d..][..n * d];
            self.product_into(ds_tile, self.part(KEYS), self.scale, dq, Into::Overwrite);
            if let Some(positions) = &self.positions {
                self.reverse_positions(positions, &mut tile, &ds, dq, &mut of_positions);
            }
        }
        of_positions
    }

    /// Adds b to dq, which holds a, and the parts of ∂r and of ∂u and ∂v.
    fn reverse_positions(
        &self,
        positions: &Positions<'_, T>,
        tile: &mut Tile<T>,
        ds: &[T],
        dq: &mut [T],
        of: &mut OfPositions<T>,
    ) {
        let Size { heads, d, .. } = *self.size;
        let (length, (first, n)) = (self.length, tile.at);
        let wide = n + length - 1;
        let (du, dv) = of.duv.split_at_mut(d);
        add_rows(du, dq);
        tile.band.fill(T::zero());
        for (i, (band, ds)) in
            tile.band.chunks_exact_mut(wide).zip(ds.chunks_exact(length)).enumerate()
        {
            band[n - 1 - i..][..length].copy_from_slice(ds);
        }
        let band = Matrix::new(&tile.band, n, wide);
        let dr = &mut of.dr[(length - first - n) * d..];
        self.product_into(band.t(), Matrix::new(&tile.qv, n, d), T::one(), dr, Into::Add);
        let r = &positions.r[(self.first_offset(tile.at) * heads + self.index) * d..];
        let r = Matrix::strided(r, wide, d, heads * d);
        // s (q + v) is not needed any more.
        self.product_into(band, r, self.scale, &mut tile.qv, Into::Overwrite);
        add_rows(dv, &tile.qv);
        dq.iter_mut().zip(&tile.qv).for_each(|(dq, b)| *dq += *b);
    }

    fn no_positions(&self) -> OfPositions<T> {
        let d = self.positions.map_or(0, |_| self.size.d);
        let zeros = |n: usize| vec![T::zero(); n];
        OfPositions { dr: zeros(offsets(self.length) * d), duv: zeros(2 * d) }
    }

    /// First positions and sizes of tiles.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> + use<T> {
        let length = self.length;
        (0..length).step_by(TILE).map(move |first| (first, TILE.min(length - first)))
    }

    /// Where a part of this head begins in a packed row.
    fn column(&self, part: usize) -> usize {
        (part * self.size.heads + self.index) * self.size.d
    }

    /// The width of a packed row.
    fn width(&self) -> usize {
        3 * self.size.heads * self.size.d
    }

    /// The keys or values, `[L, d]`, where they lie.
    fn part(&self, part: usize) -> Matrix<'a, T> {
        let x = &self.qkv[self.column(part)..];
        Matrix::strided(x, self.length, self.size.d, self.width())
    }

    /// Rows of a part.
    fn rows(
        &self,
        part: usize,
        first: usize,
        n: usize,
    ) -> impl Iterator<Item = &'a [T]> + use<'a, T> {
        let (column, d) = (self.column(part), self.size.d);
        let rows = self.qkv.chunks_exact(self.width()).skip(first).take(n);
        rows.map(move |row| &row[column..column + d])
    }

    /// `[d, L]`
    fn transposed(&self, part: usize) -> Vec<T> {
        let x: Vec<T> = self.rows(part, 0, self.length).flatten().copied().collect();
        transposed(&x, self.length, self.size.d)
    }

    /// The row of r with the largest offset that a tile needs.
    fn first_offset(&self, (first, n): (usize, usize)) -> usize {
        self.size.t - first - n
    }

    /// s q, or s (q + u) for bias 0 and s (q + v) for bias 1, `[n, d]`.
    fn queries(&self, (first, n): (usize, usize), bias: usize) -> Vec<T> {
        let Size { heads, d, .. } = *self.size;
        let rows = self.rows(QUERIES, first, n);
        let Some(Positions { uv, .. }) = self.positions else {
            return rows.flatten().map(|q| *q * self.scale).collect();
        };
        let bias = &uv[(bias * heads + self.index) * d..][..d];
        rows.flat_map(|q| q.iter().zip(bias)).map(|(q, b)| (*q + *b) * self.scale).collect()
    }

    /// P of some queries, with what it was made of.
    fn weights(&self, at: (usize, usize), k_t: &[T]) -> Tile<T> {
        let (d, length, n) = (self.size.d, self.length, at.1);
        let qu = self.queries(at, 0);
        let mut p = vec![T::zero(); n * length];
        let (queries, k_t) = (Matrix::new(&qu, n, d), Matrix::new(k_t, d, length));
        product_into(queries, k_t, T::one(), &mut p, length, Into::Overwrite, Threads::One);
        let (mut qv, mut band) = (Vec::new(), Vec::new());
        if let Some(Positions { r_t, .. }) = self.positions {
            qv = self.queries(at, 1);
            let (wide, all) = (n + length - 1, offsets(self.size.t));
            band = vec![T::zero(); n * wide];
            let r_t = &r_t[self.index * d * all + self.first_offset(at)..];
            let (queries, r_t) = (Matrix::new(&qv, n, d), Matrix::strided(r_t, d, wide, all));
            product_into(queries, r_t, T::one(), &mut band, wide, Into::Overwrite, Threads::One);
            let rows = p.chunks_exact_mut(length).zip(band.chunks_exact(wide));
            for (i, (p, band)) in rows.enumerate() {
                p.iter_mut().zip(&band[n - 1 - i..]).for_each(|(p, band)| *p += *band);
            }
        }
        p.chunks_exact_mut(length).for_each(softmax::in_place);
        Tile { at, qu, qv, p, band }
    }

    /// Into rows of width d.
    fn product_into(
        &self,
        a: Matrix<'_, T>,
        b: Matrix<'_, T>,
        scale: T,
        out: &mut [T],
        into: Into,
    ) {
        product_into(a, b, scale, out, self.size.d, into, Threads::One);
    }
}

/// Adds the rows of x to `sum`.
fn add_rows<T: Number>(sum: &mut [T], x: &[T]) {
    for x in x.chunks_exact(sum.len()) {
        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += *x);
    }
}
