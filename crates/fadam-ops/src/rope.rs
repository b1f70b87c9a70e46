//! Rotary positions (Su et al., arXiv 2104.09864), on split halves: the pair (i, i + d/2) of a head of width d at position
//! p is rotated by the angle `p · base^(−2i/d)`.
//!
//! A rotation's backward pass is the rotation by the opposite angle.

use candle_core::{D, DType, Device, Result, Tensor, bail};

use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::Route;
use crate::rows::for_rows;

const NAME: &str = "rope";

/// Cosines and sines of all positions. They are constants: no gradient ever flows into them.
#[derive(Debug, Clone)]
pub struct Rope {
    /// `[T, d/2]`
    pub(crate) cos: Tensor,
    /// `[T, d/2]`
    pub(crate) sin: Tensor,
}

impl Rope {
    /// For positions 0 to `positions` − 1 and heads of width `d_head`.
    ///
    /// # Errors
    /// If `d_head` is odd.
    pub fn new(
        positions: usize,
        d_head: usize,
        base: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if !d_head.is_multiple_of(2) {
            bail!("{NAME}: heads of width {d_head}, which is odd, cannot be rotated");
        }
        let half = d_head / 2;
        let frequency = |i: usize| base.powf(-2.0 * i as f64 / d_head as f64);
        let angle = |e: usize| (e / half) as f64 * frequency(e % half);
        let angles: Vec<f64> = (0..positions * half).map(angle).collect();
        let angles = Tensor::from_vec(angles, (positions, half), &Device::Cpu)?;
        let place = |x: Tensor| x.to_dtype(dtype)?.to_device(device);
        Ok(Self { cos: place(angles.cos()?)?, sin: place(angles.sin()?)? })
    }

    /// Positions there are.
    pub fn positions(&self) -> usize {
        self.cos.dims()[0]
    }

    pub(crate) fn half(&self) -> usize {
        self.cos.dims()[1]
    }

    /// The same in another dtype.
    pub(crate) fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self { cos: self.cos.to_dtype(dtype)?, sin: self.sin.to_dtype(dtype)? })
    }

    /// Refuses positions or a width that this is not for.
    pub(crate) fn check(&self, op: &str, positions: usize, d_head: usize) -> Result<()> {
        if positions > self.positions() {
            bail!(
                "{op}: {positions} positions, and the rotary embedding is for {}",
                self.positions()
            );
        }
        if d_head != 2 * self.half() {
            bail!(
                "{op}: heads of width {d_head}, and the rotary embedding is for {}",
                2 * self.half()
            );
        }
        Ok(())
    }

    /// As candle composes it, for `x [..., T, d]` at positions `from`, ….
    pub(crate) fn composed(&self, x: &Tensor, from: usize) -> Result<Tensor> {
        let (t, half) = (x.dim(D::Minus2)?, self.half());
        let (cos, sin) = (self.cos.narrow(0, from, t)?, self.sin.narrow(0, from, t)?);
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], D::Minus1)
    }
}

/// Rotates `x [..., T, d]`, whose rows are at positions `from`, `from + 1`, ….
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use fadam_ops::Rope;
///
/// let rope = Rope::new(8, 2, 10_000.0, DType::F64, &Device::Cpu)?;
/// let x = Tensor::new(&[[1f64, 0.0], [1.0, 0.0]], &Device::Cpu)?;
/// let y = fadam_ops::rope(&x, &rope, 3)?.to_vec2::<f64>()?; // angles 3 and 4
/// assert!((y[0][0] - 3f64.cos()).abs() < 1e-12 && (y[1][1] - 4f64.sin()).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// Positions or a width that `rope` is not for; another dtype or device than `rope`'s.
pub fn rope(x: &Tensor, rope: &Rope, from: usize) -> Result<Tensor> {
    let [.., t, d] = *x.dims() else {
        bail!("{NAME}: x has shape {:?}, where [..., positions, width] is expected", x.dims())
    };
    rope.check(NAME, from.saturating_add(t), d)?;
    match Route::of(NAME, &[x, &rope.cos])? {
        Route::Single => fused::<f32>(x, rope, from),
        Route::Double => fused::<f64>(x, rope, from),
        Route::Widened(wide) => {
            self::rope(&x.to_dtype(wide)?, &rope.to_dtype(wide)?, from)?.to_dtype(x.dtype())
        }
        Route::Composed => rope.composed(x, from),
    }
}

fn fused<T: Number>(x: &Tensor, rope: &Rope, from: usize) -> Result<Tensor> {
    let y = rotated::<T>(x, rope, from, Turn::Forward)?;
    let backward = Rotation { rope: rope.clone(), from, of: std::marker::PhantomData::<T> };
    node(NAME, [x], (y, x.shape().clone()), backward)
}

fn rotated<T: Number>(x: &Tensor, rope: &Rope, from: usize, turn: Turn) -> Result<Vec<T>> {
    let (t, d) = (x.dim(D::Minus2)?, x.dim(D::Minus1)?);
    read([x, &rope.cos, &rope.sin], |[x, cos, sin]: [&[T]; 3]| {
        let angles = Angles { cos, sin };
        let mut y = x.to_vec();
        for_rows(&mut y, d, |first, y| {
            for (i, y) in y.chunks_exact_mut(d).enumerate() {
                angles.rotate(y, from + (first + i) % t, turn);
            }
        });
        y
    })
}

struct Rotation<T> {
    rope: Rope,
    from: usize,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<1> for Rotation<T> {
    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, g: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let dx = rotated::<T>(g, &self.rope, self.from, Turn::Back)?;
        Ok([Some(constant(dx, x.shape())?)])
    }
}

/// Which way to rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Forward,
    Back,
}

/// The elements of a [`Rope`].
#[derive(Clone, Copy)]
pub(crate) struct Angles<'a, T> {
    pub(crate) cos: &'a [T],
    pub(crate) sin: &'a [T],
}

impl<T: Number> Angles<'_, T> {
    /// Rotates one head at one position in place.
    pub(crate) fn rotate(&self, head: &mut [T], position: usize, turn: Turn) {
        let half = head.len() / 2;
        let at = position * half..(position + 1) * half;
        let (a, b) = head.split_at_mut(half);
        for ((a, b), (cos, sin)) in
            a.iter_mut().zip(b).zip(self.cos[at.clone()].iter().zip(&self.sin[at]))
        {
            let sin = if turn == Turn::Back { -*sin } else { *sin };
            (*a, *b) = (*a * *cos - *b * sin, *b * *cos + *a * sin);
        }
    }
}
