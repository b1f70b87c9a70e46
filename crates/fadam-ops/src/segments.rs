//! The segments of [`joint_rnnt_loss`](crate::joint_rnnt_loss()): some hundred cells of whole frames of one utterance, whose logits are
//! there together, and which are work for one thread.

use rayon::prelude::*;

use crate::activation::{Activation, activate, reverse};
use crate::lattice::Cell;
use crate::matrix::{Matrix, Threads, product, transposed};
use crate::number::Number;
use crate::rnnt_loss::{cell, gradient};
use crate::rows::add;
use crate::transducer::{Sizes, Transducer, Utterance};

/// Cells of a segment, if a frame has not more.
const SEGMENT: usize = 512;

/// Segments in work for each thread, at most: threads wait for each other between groups of segments.
const PER_THREAD: usize = 8;

/// What both passes know.
pub(crate) struct Pass {
    pub(crate) utterances: Vec<Utterance>,
    segments: Vec<Segment>,
    pub(crate) sizes: Sizes,
    /// J
    pub(crate) width: usize,
    pub(crate) activation: Activation,
    pub(crate) options: Transducer,
    pub(crate) memory: usize,
}

/// Frames of an utterance whose logits are there together.
#[derive(Debug, Clone, Copy)]
struct Segment {
    utterance: usize,
    first: usize,
    frames: usize,
}

impl Pass {
    pub(crate) fn new(
        utterances: Vec<Utterance>,
        sizes: Sizes,
        width: usize,
        activation: Activation,
        options: Transducer,
        memory: usize,
    ) -> Self {
        let of = |(utterance, of): (usize, &Utterance)| {
            let (frames, at_once) = (of.frames, (SEGMENT / of.lattice().columns()).max(1));
            let segment = move |first| {
                let frames = at_once.min(frames - first);
                Segment { utterance, first, frames }
            };
            (0..frames).step_by(at_once).map(segment)
        };
        let segments = utterances.iter().enumerate().flat_map(of).collect();
        Self { utterances, segments, sizes, width, activation, options, memory }
    }

    /// Segments that are in work at the same time: as many as the memory has room for, but not many more than there are threads,
    /// since each keeps its part of ∂W to the end.
    fn at_once<T>(&self) -> usize {
        let cells = |s: &Segment| s.frames * self.utterances[s.utterance].lattice().columns();
        let cells = self.segments.iter().map(cells).max().unwrap_or(0);
        let (v, j) = (self.sizes.symbols, self.width + 1);
        let numbers = cells * (v + 3 * j) + v * j;
        let room = self.memory / size_of::<T>() / numbers.max(1);
        room.clamp(1, PER_THREAD * rayon::current_num_threads())
    }
}

/// A pass over the segments.
pub(crate) struct Work<'a, T> {
    pass: &'a Pass,
    e: &'a [T],
    p: &'a [T],
    /// `[V, J + 1]`, and transposed.
    w: &'a [T],
    w_t: Vec<T>,
}

impl<'a, T: Number> Work<'a, T> {
    pub(crate) fn new(pass: &'a Pass, e: &'a [T], p: &'a [T], w: &'a [T]) -> Self {
        let w_t = transposed(w, pass.sizes.symbols, pass.width + 1);
        Self { pass, e, p, w, w_t }
    }

    /// Frame t of utterance b.
    fn frame(&self, b: usize, t: usize) -> &[T] {
        &self.e[(b * self.pass.sizes.frames + t) * self.pass.width..][..self.pass.width]
    }

    /// State u of utterance b.
    fn state(&self, b: usize, u: usize) -> &[T] {
        &self.p[(b * self.pass.sizes.columns + u) * self.pass.width..][..self.pass.width]
    }

    /// Rows of h and of z for these cells (t, u) of utterance b.
    fn logits(&self, b: usize, cells: &[(usize, usize)]) -> (Vec<T>, Vec<T>) {
        let (n, j, v) = (cells.len(), self.pass.width + 1, self.pass.sizes.symbols);
        let mut h = Vec::with_capacity(n * j);
        for &(t, u) in cells {
            let row = h.len();
            h.extend_from_slice(self.frame(b, t));
            activate(&mut h[row..], self.state(b, u), self.pass.activation);
            h.push(T::one());
        }
        let w_t = Matrix::new(&self.w_t, j, v);
        let z = product(Matrix::new(&h, n, j), w_t, T::one(), Threads::One);
        (h, z)
    }

    /// The log-probabilities of all cells.
    pub(crate) fn cells(&self) -> Vec<Cell<T>> {
        let mut cells = Vec::new();
        for group in self.pass.segments.chunks(self.pass.at_once::<T>()) {
            let parts: Vec<_> = group.par_iter().map(|segment| self.cells_of(segment)).collect();
            cells.extend(parts.into_iter().flatten());
        }
        cells
    }

    fn cells_of(&self, segment: &Segment) -> Vec<Cell<T>> {
        let utterance = &self.pass.utterances[segment.utterance];
        let places = segment.places(utterance.lattice().columns());
        let (_, mut z) = self.logits(segment.utterance, &places);
        let rows = places.iter().zip(z.chunks_exact_mut(self.pass.sizes.symbols));
        let blank = self.pass.options.blank as usize;
        rows.map(|((_, u), z)| cell(z, blank, utterance.label(*u))).collect()
    }

    /// ∂e, ∂p and ∂[W b], where the loss of utterance b has the gradient `g[b]`; nothing for those that are not wanted.
    pub(crate) fn gradients(&self, cells: &[Cell<T>], g: &[T], wanted: Wanted) -> [Vec<T>; 3] {
        let zeros = |of: bool, len: usize| vec![T::zero(); if of { len } else { 0 }];
        let Wanted { inputs, weights } = wanted;
        let mut sums = [
            zeros(inputs, self.e.len()),
            zeros(inputs, self.p.len()),
            zeros(weights, self.w.len()),
        ];
        for group in self.pass.segments.chunks(self.pass.at_once::<T>()) {
            let part = |segment: &Segment| {
                let b = segment.utterance;
                self.part(segment, self.pass.utterances[b].of(cells), g[b], wanted)
            };
            let parts: Vec<_> = group.par_iter().map(part).collect();
            for (segment, part) in group.iter().zip(parts) {
                self.add(&mut sums, segment, part);
            }
        }
        sums
    }

    /// Adds a segment's part to ∂e, ∂p and ∂[W b].
    fn add(&self, [de, dp, dw]: &mut [Vec<T>; 3], segment: &Segment, part: Option<Part<T>>) {
        let Some(part) = part else { return };
        let (Sizes { frames, columns, .. }, width) = (self.pass.sizes, self.pass.width);
        if let Some((of_e, of_p)) = part.inputs {
            let first = (segment.utterance * frames + segment.first) * width;
            add(&mut de[first..][..of_e.len()], &of_e);
            add(&mut dp[segment.utterance * columns * width..][..of_p.len()], &of_p);
        }
        if let Some(of_w) = part.dw {
            add(dw, &of_w);
        }
    }

    /// What a segment adds to the gradients, where the loss of its utterance has the gradient g; `None` for nothing.
    fn part(&self, segment: &Segment, cells: &[Cell<T>], g: T, wanted: Wanted) -> Option<Part<T>> {
        let (b, width, v) = (segment.utterance, self.pass.width, self.pass.sizes.symbols);
        let utterance = &self.pass.utterances[b];
        let columns = utterance.lattice().columns();
        let of = |&(t, u): &(usize, usize)| &cells[t * columns + u];
        let mut places = segment.places(columns);
        places.retain(|place| of(place).scale > T::zero());
        if places.is_empty() {
            return None;
        }
        let Transducer { blank, clamp, .. } = self.pass.options;
        let (h, mut z) = self.logits(b, &places);
        for (place, z) in places.iter().zip(z.chunks_exact_mut(v)) {
            let emitted = (blank as usize, utterance.label(place.1));
            gradient(z, of(place), emitted, clamp.map(T::of), g);
        }
        let dz = Matrix::new(&z, places.len(), v);
        let dw = wanted.weights.then(|| {
            let h = Matrix::new(&h, places.len(), width + 1);
            product(dz.t(), h, T::one(), Threads::One)
        });
        let inputs = wanted.inputs.then(|| {
            let w = Matrix::strided(self.w, v, width, width + 1);
            let dh = product(dz, w, T::one(), Threads::One);
            self.inputs(segment, &places, &dh)
        });
        Some(Part { inputs, dw })
    }

    /// From ∂h of these cells to ∂e of the segment's frames and ∂p of the utterance's states.
    fn inputs(&self, segment: &Segment, places: &[(usize, usize)], dh: &[T]) -> (Vec<T>, Vec<T>) {
        let (b, width) = (segment.utterance, self.pass.width);
        let columns = self.pass.utterances[b].lattice().columns();
        let mut de = vec![T::zero(); segment.frames * width];
        let mut dp = vec![T::zero(); columns * width];
        let mut da = vec![T::zero(); width];
        for (&(t, u), dh) in places.iter().zip(dh.chunks_exact(width)) {
            da.copy_from_slice(self.frame(b, t));
            let dp = &mut dp[u * width..][..width];
            reverse(&mut da, dp, self.state(b, u), dh, self.pass.activation);
            let de = &mut de[(t - segment.first) * width..][..width];
            de.iter_mut().zip(&da).for_each(|(de, da)| *de += *da);
        }
        (de, dp)
    }
}

impl Segment {
    /// Its cells (t, u).
    fn places(&self, columns: usize) -> Vec<(usize, usize)> {
        let frames = self.first..self.first + self.frames;
        frames.flat_map(|t| (0..columns).map(move |u| (t, u))).collect()
    }
}

/// Gradients that are asked for: of e or p, and of W or b.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) inputs: bool,
    pub(crate) weights: bool,
}

/// What a segment adds to gradients.
struct Part<T> {
    /// ∂e of the segment's frames, ∂p of the utterance's states.
    inputs: Option<(Vec<T>, Vec<T>)>,
    dw: Option<Vec<T>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(frames: &[usize], labels: &[usize], memory: usize) -> Pass {
        let (batch, width, options) = (frames.len(), 10, Transducer::default());
        let columns = labels.iter().max().unwrap() + 1;
        let sizes = Sizes { batch, frames: *frames.iter().max().unwrap(), columns, symbols: 30 };
        let targets: Vec<Vec<u32>> = labels.iter().map(|n| vec![1; *n]).collect();
        let utterances = options.utterances("test", &targets, frames, sizes).unwrap();
        Pass::new(utterances, sizes, width, Activation::Tanh, options, memory)
    }

    /// Every frame is in one segment, in order; a segment is 512 cells at most, or one frame.
    #[test]
    fn segments_are_all_frames() {
        let (frames, labels) = ([1000, 1, 7, 300, 512], [0, 0, 600, 40, 1]);
        let pass = pass(&frames, &labels, 0);
        for (b, (frames, labels)) in frames.into_iter().zip(labels).enumerate() {
            let mut next = 0;
            for segment in pass.segments.iter().filter(|segment| segment.utterance == b) {
                assert_eq!(segment.first, next);
                assert!(segment.frames == 1 || segment.frames * (labels + 1) <= SEGMENT);
                next += segment.frames;
            }
            assert_eq!(next, frames);
        }
        assert!(pass.segments.windows(2).all(|two| two[0].utterance <= two[1].utterance));
    }

    /// Logits and hidden states and their gradients, and ∂W, of all segments that are in work.
    #[test]
    fn segments_in_work_keep_to_the_memory() {
        for memory in [0, 1000, 1 << 20, 1 << 22, 1 << 28] {
            let pass = pass(&[300, 200], &[40, 20], memory);
            let of_one = 8 * (SEGMENT / 41 * 41 * (30 + 2 * 11) + 30 * 11);
            let at_once = pass.at_once::<f64>();
            assert!(at_once == 1 || at_once * of_one <= memory, "{at_once} in {memory}");
            let enough = at_once == PER_THREAD * rayon::current_num_threads();
            assert!(enough || (at_once + 1) * 2 * of_one > memory, "{at_once} in {memory}");
        }
    }
}
