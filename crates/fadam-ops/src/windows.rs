//! What a two-dimensional convolution reads: the window of each output as a row of a matrix, and back.

use crate::frames::Run;
use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;

/// Sizes of a convolution from `[T, F, C_in]` to `[T', F', C_out]`; pairs are of frames and bands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    pub(crate) kernel: (usize, usize),
    pub(crate) stride: (usize, usize),
    pub(crate) padding: (usize, usize),
    /// F, F', `C_in`.
    pub(crate) bands: usize,
    pub(crate) out_bands: usize,
    pub(crate) channels: usize,
}

/// What a window reads of one frame: numbers `at..at + len` of the frame are those that its line has from `skip` on. The others
/// are padding.
#[derive(Clone, Copy)]
struct Span {
    at: usize,
    skip: usize,
    len: usize,
}

impl Windows {
    /// Numbers of a frame.
    pub(crate) fn frame(&self) -> usize {
        self.bands * self.channels
    }

    /// Numbers that a window has of one frame.
    fn line(&self) -> usize {
        self.kernel.1 * self.channels
    }

    /// Numbers of a window, `K_t K_f C_in`.
    pub(crate) fn window(&self) -> usize {
        self.kernel.0 * self.line()
    }

    /// The first frame that output frame t reads, and the first frame after; frames of padding may be among them.
    pub(crate) fn reach(&self, t: usize) -> (isize, isize) {
        let first = (t * self.stride.0).cast_signed() - self.padding.0.cast_signed();
        (first, first + self.kernel.0.cast_signed())
    }

    fn span(&self, band: usize) -> Span {
        let start = band * self.stride.1; // of the padded bands
        let first = start.max(self.padding.1);
        let end = (start + self.kernel.1).min(self.padding.1 + self.bands);
        if end <= first {
            return Span { at: 0, skip: 0, len: 0 };
        }
        Span {
            at: (first - self.padding.1) * self.channels,
            skip: (first - start) * self.channels,
            len: (end - first) * self.channels,
        }
    }

    /// The windows of a run of output frames, `[count · F', K_t K_f C_in]`, into `rows`. x has the real frames of an utterance.
    pub(crate) fn gather<T: Number>(&self, x: &[T], run: Run, rows: &mut Vec<T>) {
        rows.resize(run.count * self.out_bands * self.window(), T::zero());
        vectorise(Gather { windows: *self, x, first: run.first, rows });
    }

    /// Adds rows of windows to the frames from `from` on; frames that are not there are passed over.
    pub(crate) fn scatter<T: Number>(&self, rows: &[T], run: Run, from: usize, frames: &mut [T]) {
        vectorise(Scatter { windows: *self, rows, first: run.first, from, frames });
    }
}

/// Calls `f(line, frame, span)` for every line of the rows of windows; a frame may be before the first.
#[inline(always)]
fn lines<L>(
    windows: &Windows,
    first: usize,
    mut rows: impl Iterator<Item = L>,
    mut f: impl FnMut(L, isize, Span),
) {
    for t in first.. {
        let (from, to) = windows.reach(t);
        for band in 0..windows.out_bands {
            let span = windows.span(band);
            for frame in from..to {
                let Some(line) = rows.next() else { return };
                f(line, frame, span);
            }
        }
    }
}

struct Gather<'a, T> {
    windows: Windows,
    x: &'a [T],
    first: usize,
    rows: &'a mut [T],
}

impl<T: Number> Vectorised for Gather<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { windows, x, first, rows } = self;
        let frames = (x.len() / windows.frame()).cast_signed();
        lines(&windows, first, rows.chunks_exact_mut(windows.line()), |line, frame, span| {
            if !(0..frames).contains(&frame) {
                return line.fill(T::zero());
            }
            let x = &x[frame.cast_unsigned() * windows.frame() + span.at..][..span.len];
            line[..span.skip].fill(T::zero());
            line[span.skip + span.len..].fill(T::zero());
            line[span.skip..][..span.len].copy_from_slice(x);
        });
    }
}

struct Scatter<'a, T> {
    windows: Windows,
    rows: &'a [T],
    first: usize,
    from: usize,
    frames: &'a mut [T],
}

impl<T: Number> Vectorised for Scatter<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { windows, rows, first, from, frames } = self;
        let there = from.cast_signed()..(from + frames.len() / windows.frame()).cast_signed();
        lines(&windows, first, rows.chunks_exact(windows.line()), |line, frame, span| {
            if there.contains(&frame) {
                let at = (frame.cast_unsigned() - from) * windows.frame() + span.at;
                let to = &mut frames[at..][..span.len];
                to.iter_mut().zip(&line[span.skip..]).for_each(|(to, line)| *to += *line);
            }
        });
    }
}
