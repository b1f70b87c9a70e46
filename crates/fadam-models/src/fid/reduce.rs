//! What a window of channels comes to: a mean, a maximum, or a sum with weights.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined into pulp's dispatch is not compiled for the instruction set it chose"
)]

use pulp::{Simd, WithSimd};

use super::planes::Axis;

/// All channels at once: `y` begins, takes the taps that are inside, row by row, and ends with their number.
pub(super) trait Reduce: Sync {
    fn begin(&self, y: &mut [f32]);
    fn take(&self, tap: usize, x: &[f32], y: &mut [f32]);
    fn end(&self, taps: usize, y: &mut [f32]);
}

pub(super) struct Average;

impl Reduce for Average {
    #[inline(always)]
    fn begin(&self, y: &mut [f32]) {
        y.fill(0.0);
    }

    #[inline(always)]
    fn take(&self, _: usize, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }

    #[inline(always)]
    fn end(&self, taps: usize, y: &mut [f32]) {
        let share = 1.0 / taps as f32;
        for y in y {
            *y *= share;
        }
    }
}

pub(super) struct Max;

impl Reduce for Max {
    #[inline(always)]
    fn begin(&self, y: &mut [f32]) {
        y.fill(f32::NEG_INFINITY);
    }

    #[inline(always)]
    fn take(&self, _: usize, x: &[f32], y: &mut [f32]) {
        // NaN in either is kept: it is greater than nothing, and equal to nothing.
        y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x > *y || x.is_nan() { *x } else { *y });
    }

    #[inline(always)]
    fn end(&self, _: usize, _: &mut [f32]) {}
}

/// `min(max(Σ w x + b, 0), 6)`, with `w [taps, C]` and `b [C]`.
pub(super) struct Depthwise<'a> {
    pub(super) w: &'a [f32],
    pub(super) b: &'a [f32],
}

impl Reduce for Depthwise<'_> {
    #[inline(always)]
    fn begin(&self, y: &mut [f32]) {
        y.copy_from_slice(self.b);
    }

    #[inline(always)]
    fn take(&self, tap: usize, x: &[f32], y: &mut [f32]) {
        let w = &self.w[tap * y.len()..][..y.len()];
        y.iter_mut().zip(x.iter().zip(w)).for_each(|(y, (x, w))| *y += x * w);
    }

    #[inline(always)]
    fn end(&self, _: usize, y: &mut [f32]) {
        for y in y {
            *y = relu6(*y);
        }
    }
}

/// `min(max(y, 0), 6)`; NaN stays.
#[inline(always)]
pub(super) fn relu6(y: f32) -> f32 {
    let y = if y < 0.0 { 0.0 } else { y };
    if y > 6.0 { 6.0 } else { y }
}

/// One row of a result, from one image.
pub(super) struct Line<'a, R> {
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [f32],
    pub(super) channels: usize,
    pub(super) row: usize,
    pub(super) rows: Axis,
    pub(super) columns: Axis,
    pub(super) reduce: &'a R,
}

impl<R: Reduce> WithSimd for Line<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { x, y, channels, row, rows, columns, reduce } = self;
        let (down, top) = rows.taps(row);
        for (column, y) in y.chunks_exact_mut(channels).enumerate() {
            let (across, left) = columns.taps(column);
            reduce.begin(y);
            for (i, height) in down.clone().zip(top..) {
                for (j, width) in across.clone().zip(left..) {
                    let x = &x[(height * columns.len + width) * channels..][..channels];
                    reduce.take(i * columns.kernel() + j, x, y);
                }
            }
            reduce.end(down.len() * across.len(), y);
        }
    }
}
