//! A two-dimensional convolution, channels last: with strides s, padding p and the window
//! `X[t, f] = (x[t s_t + i − p_t, f s_f + j − p_f, c])` of all i, j and c, `y[t, f] = φ(W X[t, f] + b)`, where φ is nothing or relu.
//!
//! With h = ∂L/∂y ∘ φ': `∂L/∂b = Σ h`, `∂L/∂W = Σ h X[t, f]ᵀ` and `∂L/∂X[t, f] = Wᵀ h`, of which ∂L/∂x is the sum over the windows
//! that have x in them.
//!
//! Windows are rows of a matrix, a few output frames at a time ([`ROWS`], [`NUMBERS`]), so that they are multiplied while they are
//! in the cache, by the thread that copied them.

use candle_core::{Result, Tensor, bail};

use crate::conv2d_reverse::Reverse;
use crate::frames;
use crate::gradients::give;
use crate::lanes::{Vectorised, vectorise};
use crate::matrix::{Into, Matrix, Threads, product_into, transposed};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::Route;
use crate::windows::Windows;

const NAME: &str = "conv2d";

/// Windows of a task, at most, unless one output frame has more.
const ROWS: usize = 512;

/// Numbers of a task's windows, at most, unless one output frame has more.
const NUMBERS: usize = 1 << 19;

/// How [`conv2d`] moves over frames and bands. Pairs are of frames and bands, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Steps from window to window; the default is 1 and 1.
    pub stride: (usize, usize),
    /// Zeros on each side; the default is none.
    pub padding: (usize, usize),
    /// Whether max(0, y) is given instead of y; the default is not. NaN stays NaN.
    pub relu: bool,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self { stride: (1, 1), padding: (0, 0), relu: false }
    }
}

impl Conv2d {
    /// Frames after the convolution of `frames` real ones: `⌊(frames + 2 p − K_t)/s⌋ + 1`, or none where the kernel does not fit
    /// and of none. A stride of 0, which [`conv2d`] refuses, counts as 1.
    pub fn output_len(&self, frames: usize, kernel: usize) -> usize {
        steps(frames, kernel, self.stride.0, self.padding.0)
    }

    /// Bands after the convolution, by the same formula.
    pub fn output_bands(&self, bands: usize, kernel: usize) -> usize {
        steps(bands, kernel, self.stride.1, self.padding.1)
    }
}

fn steps(n: usize, kernel: usize, stride: usize, padding: usize) -> usize {
    let last = (n + 2 * padding).checked_sub(kernel);
    if n == 0 { 0 } else { last.map_or(0, |last| last / stride.max(1) + 1) }
}

/// The convolution of `x [B, T, F, C_in]` with `w [C_out, K_t, K_f, C_in]` plus `b [C_out]`: `[B, T', F', C_out]`, with T' and F' from
/// [`Conv2d::output_len`] and [`Conv2d::output_bands`].
///
/// Of utterance b, `lengths[b]` frames are real, and `output_len(lengths[b], K_t)` of its result. Frames beyond are read as 0,
/// whatever they hold, and get a gradient of 0; those of the result are 0, and the gradient that they are given is not read.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_ops::Conv2d;
///
/// let x = Tensor::new(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0], &Device::Cpu)?.reshape((1, 3, 2, 1))?;
/// let w = Tensor::new(&[1f32, 10.0], &Device::Cpu)?.reshape((1, 2, 1, 1))?; // two frames, one band
/// let b = Tensor::new(&[0.5f32], &Device::Cpu)?;
/// let y = fadam_ops::conv2d(&x, &w, &b, &[3], &Conv2d::default())?;
/// assert_eq!(y.squeeze(3)?.to_vec3::<f32>()?, [[[31.5, 42.5], [53.5, 64.5]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If a stride is 0, the kernel is wider than the padded bands, a length is beyond T, or shapes, dtypes or devices do not fit.
pub fn conv2d(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    lengths: &[usize],
    conv: &Conv2d,
) -> Result<Tensor> {
    let plan = Plan::new(x, w, b, lengths, conv)?;
    match Route::of(NAME, &[x, w, b])? {
        Route::Single => fused::<f32>(x, w, b, plan),
        Route::Double => fused::<f64>(x, w, b, plan),
        Route::Widened(wide) => {
            let [wide_x, w, b] = [x.to_dtype(wide)?, w.to_dtype(wide)?, b.to_dtype(wide)?];
            conv2d(&wide_x, &w, &b, lengths, conv)?.to_dtype(x.dtype())
        }
        Route::Composed => composed(x, w, b, &plan),
    }
}

/// What is to be done.
pub(crate) struct Plan {
    pub(crate) windows: Windows,
    pub(crate) relu: bool,
    /// T, T' and `C_out`.
    pub(crate) frames: usize,
    pub(crate) out_frames: usize,
    pub(crate) filters: usize,
    pub(crate) lengths: Vec<usize>,
    pub(crate) out_lengths: Vec<usize>,
}

impl Plan {
    fn new(x: &Tensor, w: &Tensor, b: &Tensor, lengths: &[usize], conv: &Conv2d) -> Result<Self> {
        let [_, frames, bands, channels] = *x.dims() else {
            bail!("{NAME}: x has shape {:?}, where [B, T, F, C_in] is expected", x.dims())
        };
        let [filters, k_t, k_f, of] = *w.dims() else {
            bail!("{NAME}: w has shape {:?}, where [C_out, K_t, K_f, C_in] is expected", w.dims())
        };
        if of != channels {
            bail!("{NAME}: w {:?} has not the {channels} channels of x {:?}", w.dims(), x.dims());
        }
        if w.elem_count() == 0 {
            bail!("{NAME}: w {:?} is empty", w.dims());
        }
        if b.dims() != [filters] {
            bail!(
                "{NAME}: b has shape {:?}, where w {:?} asks for [{filters}]",
                b.dims(),
                w.dims()
            );
        }
        if conv.stride.0 == 0 || conv.stride.1 == 0 {
            bail!("{NAME}: stride {:?}, which goes nowhere", conv.stride);
        }
        frames::check(NAME, x, lengths)?;
        let (out_frames, out_bands) = (conv.output_len(frames, k_t), conv.output_bands(bands, k_f));
        if out_bands == 0 {
            let padding = conv.padding.1;
            bail!(
                "{NAME}: {k_f} bands of w do not fit into {bands} of x with {padding} of padding"
            );
        }
        let (kernel, Conv2d { stride, padding, relu }) = ((k_t, k_f), *conv);
        let out_lengths = lengths.iter().map(|n| conv.output_len(*n, k_t)).collect();
        let windows = Windows { kernel, stride, padding, bands, out_bands, channels };
        let lengths = lengths.to_vec();
        Ok(Self { windows, relu, frames, out_frames, filters, lengths, out_lengths })
    }

    fn shape(&self) -> (usize, usize, usize, usize) {
        (self.lengths.len(), self.out_frames, self.windows.out_bands, self.filters)
    }

    /// Output frames of a task.
    pub(crate) fn task(&self) -> usize {
        let numbers = NUMBERS / (self.windows.out_bands * self.windows.window());
        (ROWS / self.windows.out_bands).min(numbers).max(1)
    }

    /// Numbers of an output frame.
    pub(crate) fn out_frame(&self) -> usize {
        self.windows.out_bands * self.filters
    }

    /// The real frames of an utterance.
    pub(crate) fn real<'x, T>(&self, x: &'x [T], utterance: usize) -> &'x [T] {
        let frame = self.windows.frame();
        &x[utterance * self.frames * frame..][..self.lengths[utterance] * frame]
    }

    fn forward<T: Number>(&self, x: &[T], w: &[T], b: &[T]) -> Vec<T> {
        let window = self.windows.window();
        let w = transposed(w, self.filters, window);
        let w = Matrix::new(&w, window, self.filters);
        let size = (self.out_frames, self.out_frame());
        frames::new(size, &self.out_lengths, self.task(), Vec::new, |rows, run, y| {
            self.windows.gather(self.real(x, run.utterance), run, rows);
            let rows = Matrix::new(rows, run.count * self.windows.out_bands, window);
            product_into(rows, w, T::one(), y, self.filters, Into::Overwrite, Threads::One);
            vectorise(Finish { y, b, relu: self.relu });
        })
    }
}

/// As candle composes it. Where strides differ, all windows are computed and some are taken.
fn composed(x: &Tensor, w: &Tensor, b: &Tensor, plan: &Plan) -> Result<Tensor> {
    let Windows { kernel, stride, padding, out_bands, .. } = plan.windows;
    let out = (plan.out_frames, out_bands);
    if out.0 == 0 || plan.lengths.is_empty() {
        // candle has no empty convolution. No number of a sum is in the result: all gradients are 0.
        let sum = (w.sum_all()? + b.sum_all()?)?;
        let sum = if x.elem_count() == 0 { sum } else { (sum + x.sum_all()?)? };
        return sum.broadcast_as((0,))?.reshape(plan.shape());
    }
    // Cut to what is read: candle's backward pass takes one rest of the strides for both dimensions.
    let x = frames::masked(x, &plan.lengths)?
        .pad_with_zeros(1, padding.0, padding.0)?
        .pad_with_zeros(2, padding.1, padding.1)?
        .narrow(1, 0, (out.0 - 1) * stride.0 + kernel.0)?
        .narrow(2, 0, (out.1 - 1) * stride.1 + kernel.1)?
        .permute((0, 3, 1, 2))?
        .contiguous()?;
    let w = w.permute((0, 3, 1, 2))?.contiguous()?;
    let y = if stride.0 == stride.1 {
        x.conv2d(&w, 0, stride.0, 1, 1)?
    } else {
        let every = |n: usize, stride: usize| {
            let places: Vec<u32> = (0..n).map(|i| (i * stride) as u32).collect();
            Tensor::from_vec(places, n, x.device())
        };
        let y = x.conv2d(&w, 0, 1, 1, 1)?.index_select(&every(out.0, stride.0)?, 2)?;
        y.index_select(&every(out.1, stride.1)?, 3)?
    };
    let y = y.permute((0, 2, 3, 1))?.broadcast_add(b)?;
    frames::masked(&if plan.relu { y.relu()? } else { y }, &plan.out_lengths)
}

fn fused<T: Number>(x: &Tensor, w: &Tensor, b: &Tensor, plan: Plan) -> Result<Tensor> {
    let y = read([x, w, b], |[x, w, b]: [&[T]; 3]| plan.forward(x, w, b))?;
    let shape = plan.shape().into();
    node(NAME, [x, w, b], (y, shape), Convolution { plan, of: std::marker::PhantomData::<T> })
}

struct Convolution<T> {
    plan: Plan,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<3> for Convolution<T> {
    fn backward(
        &self,
        [x, w, b]: [&Tensor; 3],
        y: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (wants_x, wants_w) = (x.track_op(), w.track_op());
        let (dx, dw, db) = read([x, w, y, g], |[x, w, y, g]: [&[T]; 4]| {
            Reverse { plan: &self.plan, x, w, y, g, wants_x, wants_w }.run()
        })?;
        let dx = if wants_x { Some(constant(dx, x.shape())?) } else { None };
        let dw = if wants_w { give(w, dw)? } else { None };
        Ok([dx, dw, give(b, db)?])
    }
}

/// `y = φ(y + b)`
struct Finish<'a, T> {
    y: &'a mut [T],
    b: &'a [T],
    relu: bool,
}

impl<T: Number> Vectorised for Finish<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { y, b, relu } = self;
        for y in y.chunks_exact_mut(b.len()) {
            if relu {
                for (y, b) in y.iter_mut().zip(b) {
                    let u = *y + *b;
                    *y = if u < T::zero() { T::zero() } else { u };
                }
            } else {
                y.iter_mut().zip(b).for_each(|(y, b)| *y += *b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// What a device computes is what the CPU does, in f64 to rounding.
    #[test]
    fn composed_is_fused() {
        let draw = |shape: &[usize]| {
            Var::from_tensor(&Tensor::randn(0f64, 1.0, shape, &Device::Cpu).unwrap()).unwrap()
        };
        let strides = [((2, 2), (1, 1)), ((1, 1), (0, 0)), ((2, 1), (0, 2)), ((1, 3), (3, 1))];
        for (i, (stride, padding)) in strides.into_iter().enumerate() {
            let conv = Conv2d { stride, padding, relu: i % 2 == 0 };
            for (t, f, c_in, c_out, kernel, lengths) in [
                (9, 8, 1, 4, (3, 3), [9, 5]),
                (8, 7, 3, 2, (3, 3), [8, 0]),
                (6, 5, 2, 3, (2, 5), [1, 6]),
                (5, 4, 2, 3, (1, 1), [5, 5]),
            ] {
                let x = draw(&[2, t, f, c_in]);
                let (w, b) = (draw(&[c_out, kernel.0, kernel.1, c_in]), draw(&[c_out]));
                let ours = conv2d(&x, &w, &b, &lengths, &conv).unwrap();
                let plan = Plan::new(&x, &w, &b, &lengths, &conv).unwrap();
                crate::route::same(&[&x, &w, &b], &ours, &composed(&x, &w, &b, &plan).unwrap());
            }
        }
    }

    #[test]
    fn composed_of_nothing_is_nothing() {
        let draw = |shape: &[usize]| {
            Var::from_tensor(&Tensor::randn(0f64, 1.0, shape, &Device::Cpu).unwrap()).unwrap()
        };
        for (shape, lengths) in [([0, 5, 5, 1], vec![]), ([2, 2, 5, 1], vec![2, 1])] {
            let (x, w, b) = (draw(&shape), draw(&[4, 3, 3, 1]), draw(&[4]));
            let plan = Plan::new(&x, &w, &b, &lengths, &Conv2d::default()).unwrap();
            let y = composed(&x, &w, &b, &plan).unwrap();
            let ours = conv2d(&x, &w, &b, &lengths, &Conv2d::default()).unwrap();
            assert_eq!((y.dims(), y.elem_count()), (ours.dims(), 0));
            let gradients = y.sum_all().unwrap().backward().unwrap();
            let dw: Vec<f64> = gradients.get(&w).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(dw, [0.0; 36]);
        }
    }
}
