//! The code nearest to each row, by the largest product.

use rayon::prelude::*;

use crate::lanes::{Vectorised, vectorise};
use crate::matrix::{Into, Matrix, Threads, product_into};
use crate::number::Number;

/// Rows that one thread goes on with.
const ROWS: usize = 128;

/// Codes that these are multiplied with at once.
const CODES: usize = 256;

/// The place of the largest of `n_i · e_k`, the first of equal ones, for each row of `n [N, width]` among those of `e [K, width]`.
/// All numbers are finite.
pub(super) fn nearest<T: Number>(n: &[T], e: &[T], width: usize) -> Vec<u32> {
    let mut places = vec![0; n.len() / width];
    let tiles = places.par_chunks_mut(ROWS).zip(n.par_chunks(ROWS * width));
    tiles.for_each(|(places, n)| of_tile(n, e, width, places));
    places
}

fn of_tile<T: Number>(n: &[T], e: &[T], width: usize, places: &mut [u32]) {
    let rows = places.len();
    // By column, so that the best so far of all rows are compared at once.
    let mut n_t = vec![T::zero(); n.len()];
    for (i, n) in n.chunks_exact(width).enumerate() {
        n.iter().enumerate().for_each(|(j, n)| n_t[j * rows + i] = *n);
    }
    let n_t = Matrix::new(&n_t, width, rows);
    let mut best = vec![T::neg_infinity(); rows];
    let mut products = vec![T::zero(); CODES.min(e.len() / width) * rows];
    for (block, e) in e.chunks(CODES * width).enumerate() {
        let e = Matrix::new(e, e.len() / width, width);
        let products = &mut products[..e.rows * rows];
        product_into(e, n_t, T::one(), products, rows, Into::Overwrite, Threads::One);
        let first = (block * CODES) as u32;
        vectorise(Best { products, largest: &mut best, places, first });
    }
}

/// For each code in turn: where the product is larger than the best so far, it and the code's place take its place.
struct Best<'a, T> {
    products: &'a [T],
    largest: &'a mut [T],
    places: &'a mut [u32],
    first: u32,
}

impl<T: Number> Vectorised for Best<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { products, largest: best, places, first } = self;
        for (k, products) in (first..).zip(products.chunks_exact(best.len())) {
            for ((best, place), x) in best.iter_mut().zip(places.iter_mut()).zip(products) {
                let is_better = *x > *best;
                *best = if is_better { *x } else { *best };
                *place = if is_better { k } else { *place };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beyond a tile of rows and a block of codes, with equal products: small whole numbers are exact.
    #[test]
    fn the_first_of_the_largest() {
        for (rows, codes, width) in [(1, 1, 1), (3, 5, 2), (128, 256, 3), (300, 700, 4)] {
            let of = |n: usize, step: usize| -> Vec<f32> {
                (0..n * width).map(|i| ((i * i * step + i) % 7) as f32 - 3.0).collect()
            };
            let (n, e) = (of(rows, 5), of(codes, 3));
            let found = nearest(&n, &e, width);
            for (n, found) in n.chunks(width).zip(found) {
                let product = |e: &[f32]| -> f32 { n.iter().zip(e).map(|(n, e)| n * e).sum() };
                let all: Vec<f32> = e.chunks(width).map(product).collect();
                let most = all.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let first = all.iter().position(|x| *x == most).unwrap();
                assert_eq!(found as usize, first, "{rows} {codes} {width}");
            }
        }
    }
}
