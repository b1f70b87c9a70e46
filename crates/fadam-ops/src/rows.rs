//! Work on rows, cut into tasks by the shape alone, so that results are the same whatever the number of threads.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::number::Number;

/// Elements of a task: enough to be worth one.
const TASK: usize = 16_384;

/// Rows whose part of a sum over rows is added up by one thread. Parts are added in their order.
const PART: usize = 64;

/// `len` numbers in rows of `width`: `f(i, rows)` fills runs of whole rows, in parallel; the first of them is row i.
/// It is not called for none. They are zeros before, written by the thread that goes on with them, so that they are in its cache.
#[allow(unsafe_code)]
pub(crate) fn new_rows<T: Number>(
    len: usize,
    width: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    if len == 0 {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(len);
    let rows = (TASK / width.max(1)).max(1);
    let fill = |(task, out): (usize, &mut [MaybeUninit<T>])| {
        out.fill(MaybeUninit::new(T::zero()));
        // SAFETY: all elements have just been written, and `MaybeUninit<T>` is laid out as `T`.
        let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [T]) };
        f(task * rows, out);
    };
    let room = &mut out.spare_capacity_mut()[..len];
    if len <= rows * width.max(1) {
        fill((0, room));
    } else {
        room.par_chunks_mut(rows * width).enumerate().for_each(fill);
    }
    // SAFETY: `fill` has written every element of the first `len`.
    unsafe { out.set_len(len) };
    out
}

/// Calls `f(i, rows)` on runs of whole rows of `out`, in parallel; the first of them is row i.
pub(crate) fn for_rows<T: Send>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if width == 0 {
        return;
    }
    let rows = (TASK / width).max(1);
    if out.len() <= rows * width {
        return f(0, out);
    }
    out.par_chunks_mut(rows * width).enumerate().for_each(|(task, out)| f(task * rows, out));
}

/// `sum += x`, element by element, in parallel.
pub(crate) fn add<T: Number>(sum: &mut [T], x: &[T]) {
    for_rows(sum, 1, |first, sum| {
        sum.iter_mut().zip(&x[first..]).for_each(|(sum, x)| *sum += *x);
    });
}

/// As [`for_rows`] with a sum over rows: `f(i, rows, sum)` adds its rows' part to `sum`, which begins as zeros of `len`.
pub(crate) fn sum_rows<O: Send, T: Number>(
    out: &mut [O],
    width: usize,
    len: usize,
    f: impl Fn(usize, &mut [O], &mut [T]) + Sync,
) -> Vec<T> {
    let part = |(task, out): (usize, &mut [O])| {
        let mut sum = vec![T::zero(); len];
        f(task * PART, out, &mut sum);
        sum
    };
    let parts: Vec<Vec<T>> = match width {
        0 => Vec::new(),
        _ => out.par_chunks_mut(PART * width).enumerate().map(part).collect(),
    };
    sum_of(parts, len)
}

/// The sum of parts of `len` numbers, in their order; zeros for none.
pub(crate) fn sum_of<T: Number>(parts: Vec<Vec<T>>, len: usize) -> Vec<T> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_else(|| vec![T::zero(); len]);
    let others: Vec<Vec<T>> = parts.collect();
    for_rows(&mut total, 1, |first, total| {
        for part in &others {
            total.iter_mut().zip(&part[first..]).for_each(|(total, part)| *total += *part);
        }
    });
    total
}
