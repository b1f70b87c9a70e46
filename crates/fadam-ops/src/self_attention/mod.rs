//! Self-attention of encoders: all positions of a sequence see all of its positions, with relative positions as an option.
//!
//! For one sequence of L positions and one head of width d, with `s = 1/√d`, and `r_m` the projected position of offset m:
//!
//! ```text
//! S_ij = s (q_i + u) · k_j + s (q_i + v) · r_{i−j},   P = softmax S by rows,   o = P V
//! ```
//!
//! (Dai et al., arXiv 1901.02860, section 3.3; without positions the second product is absent and u is 0.) With g = ∂L/∂o:
//!
//! ```text
//! ∂V = Pᵀ g,   ∂P = g Vᵀ,   ∂S = P ∘ (∂P − rowsum(g ∘ o)),   ∂k_j = s Σ_i ∂S_ij (q_i + u),   ∂r_m = s Σ_{i−j=m} ∂S_ij (q_i + v)
//! a_i = s Σ_j ∂S_ij k_j,   b_i = s Σ_j ∂S_ij r_{i−j},   ∂q = a + b,   ∂u = Σ a,   ∂v = Σ b
//! ```
//!
//! Heads of sequences are shared out among the threads. Each takes a tile of queries at a time and computes P again in the
//! backward pass, so that no `[T, T]` matrix is kept. The n queries from position f on need the offsets from f + n − 1 down to
//! f − L + 1: consecutive rows of r, whose product with the queries is a band `[n, n + L − 1]`, and in it the row of query
//! f + i begins at n − 1 − i. Each head of each sequence makes a part of ∂r of its own, `[2 L − 1, d]`, and these are added up in the
//! order of the sequences, so that bits do not depend on the number of threads.

mod head;
mod positions;

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use crate::gradients::give;
use crate::matrix::transposed;
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::Route;
use crate::rows::new_rows;
use head::{Head, OfPositions, Positions, Slices};
use positions::offsets;

pub use positions::{RelativePositions, sinusoidal_positions};

const NAME: &str = "self_attention";

/// Where the queries, keys and values of all heads are in a packed row.
const QUERIES: usize = 0;
const KEYS: usize = 1;
const VALUES: usize = 2;

/// How [`self_attention`] reads its packed argument.
#[derive(Debug, Clone, Copy)]
pub struct SelfAttention<'a> {
    /// h
    pub heads: usize,
    /// Positions of each of the B sequences, from the first on, that are no padding.
    pub lengths: &'a [usize],
    /// None for scores that are q · k alone.
    pub positions: Option<RelativePositions<'a>>,
}

impl SelfAttention<'_> {
    /// The width of a head.
    fn check(&self, qkv: &Tensor) -> Result<usize> {
        let [b, t, width] = *qkv.dims() else {
            bail!(
                "{NAME}: the packed argument has shape {:?}, where [B, T, 3 h d] is expected",
                qkv.dims()
            )
        };
        let Self { heads, lengths, positions } = *self;
        if heads == 0 || width == 0 || !width.is_multiple_of(3 * heads) {
            bail!("{NAME}: rows of {width} numbers are not q, k and v of {heads} heads");
        }
        if lengths.len() != b {
            bail!("{NAME}: {} lengths for {b} sequences", lengths.len());
        }
        if let Some((i, l)) = (0..).zip(lengths).find(|(_, l)| **l > t) {
            bail!("{NAME}: sequence {i} is {l} long, and there are {t} positions");
        }
        let d = width / (3 * heads);
        if let Some(RelativePositions { r, uv }) = positions {
            let asked = [offsets(t), heads * d];
            if r.dims() != asked {
                bail!(
                    "{NAME}: r has shape {:?}, where {t} positions and {heads} heads of width {d} ask for {asked:?}",
                    r.dims()
                );
            }
            let asked = [2, heads, d];
            if uv.dims() != asked {
                bail!("{NAME}: uv has shape {:?}, where {asked:?} is expected", uv.dims());
            }
        }
        Ok(d)
    }
}

/// `softmax(scores) v` over all positions of each sequence: from `[B, T, 3 h d]`, the queries of all heads followed by their
/// keys and their values, to `[B, T, h d]`.
///
/// What lies beyond the length of a sequence is not read, whatever it holds: there the value is 0, as is the gradient.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_ops::SelfAttention;
///
/// // One head of width 1: q, k, v. The second sequence has one position.
/// let nan = f32::NAN;
/// let qkv = [[[0f32, 0.0, 3.0], [0.0, 0.0, 5.0]], [[0.0, 0.0, 7.0], [nan, nan, nan]]];
/// let attention = SelfAttention { heads: 1, lengths: &[2, 1], positions: None };
/// let o = fadam_ops::self_attention(&Tensor::new(&qkv, &Device::Cpu)?, &attention)?;
/// assert_eq!(o.to_vec3::<f32>()?, [[[4.0], [4.0]], [[7.0], [0.0]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the last dimension cannot be cut into three times these heads; if there is not one length for each sequence, of at most T;
/// if the positions have other shapes; if dtypes or devices differ.
pub fn self_attention(qkv: &Tensor, attention: &SelfAttention<'_>) -> Result<Tensor> {
    let d = attention.check(qkv)?;
    let positions = attention.positions.iter().flat_map(|positions| [positions.r, positions.uv]);
    let arguments: Vec<&Tensor> = std::iter::once(qkv).chain(positions).collect();
    match Route::of(NAME, &arguments)? {
        Route::Single => fused::<f32>(&arguments, attention, d),
        Route::Double => fused::<f64>(&arguments, attention, d),
        Route::Widened(wide) => {
            let wider = arguments.iter().map(|x| x.to_dtype(wide)).collect::<Result<Vec<_>>>()?;
            let positions = match &wider[1..] {
                [r, uv] => Some(RelativePositions { r, uv }),
                _ => None,
            };
            let attention = SelfAttention { positions, ..*attention };
            self_attention(&wider[0], &attention)?.to_dtype(qkv.dtype())
        }
        Route::Composed => composed(qkv, attention, d),
    }
}

/// As candle composes it.
fn composed(qkv: &Tensor, attention: &SelfAttention<'_>, d: usize) -> Result<Tensor> {
    let (b, t, width) = qkv.dims3()?;
    let SelfAttention { heads, lengths, positions } = *attention;
    if qkv.elem_count() == 0 {
        return qkv.narrow(2, 0, heads * d);
    }
    let inside = |e: usize| e % t < lengths[e / t];
    let rows: Vec<u8> = (0..b * t).map(|e| u8::from(inside(e))).collect();
    let rows = Tensor::from_vec(rows, (b, t, 1), qkv.device())?;
    // A choice and not a product, since 0 · NaN is NaN.
    let unpadded =
        |x: &Tensor| rows.broadcast_as(x.shape())?.where_cond(x, &x.detach().zeros_like()?);
    // A sequence of no positions sees them all, so that its rows have a softmax; they are not in the value.
    let key = |e: usize| if inside(e) || lengths[e / t] == 0 { 0.0 } else { f32::NEG_INFINITY };
    let keys = Tensor::from_vec((0..b * t).map(key).collect(), (b, 1, 1, t), qkv.device())?;

    let qkv = unpadded(qkv)?;
    let part = |part: usize| {
        let of_all = qkv.narrow(2, part * width / 3, width / 3)?;
        of_all.reshape((b, t, heads, d))?.transpose(1, 2)?.contiguous()
    };
    let (q, k_t) = (part(QUERIES)?, part(KEYS)?.t()?.contiguous()?);
    let scores = match positions {
        None => q.matmul(&k_t)?,
        Some(RelativePositions { r, uv }) => {
            let biased =
                |i: usize| q.broadcast_add(&uv.narrow(0, i, 1)?.reshape((1, heads, 1, d))?);
            let r_t = r.reshape((1, offsets(t), heads, d))?.permute((0, 2, 3, 1))?.contiguous()?;
            biased(0)?.matmul(&k_t)? + shifted(&biased(1)?.broadcast_matmul(&r_t)?)?
        }?,
    };
    let scores = (scores / (d as f64).sqrt())?.broadcast_add(&keys.to_dtype(qkv.dtype())?)?;
    let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&part(VALUES)?)?;
    unpadded(&mixed.transpose(1, 2)?.reshape((b, t, heads * d))?)
}

/// From products with all offsets, `[B, h, T, 2 T − 1]`, to those of queries with keys, `[B, h, T, T]`: with one more column on the
/// left and read as `[2 T, T]`, each row begins one number later.
fn shifted(x: &Tensor) -> Result<Tensor> {
    let (b, heads, t, offsets) = x.dims4()?;
    let zeros = Tensor::zeros((b, heads, t, 1), x.dtype(), x.device())?;
    let x = Tensor::cat(&[&zeros, x], 3)?.reshape((b, heads, 2 * t, t))?;
    x.narrow(2, 1, offsets)?.reshape((b, heads, t, offsets))?.narrow(3, 0, t)
}

fn fused<T: Number>(
    arguments: &[&Tensor],
    attention: &SelfAttention<'_>,
    d: usize,
) -> Result<Tensor> {
    let (b, t, _) = arguments[0].dims3()?;
    let SelfAttention { heads, lengths, .. } = *attention;
    let size = Size { t, heads, d, lengths: lengths.into() };
    let out = with_slices(arguments, &size, |all: Slices<'_, T>| {
        let mut out = vec![T::zero(); b * t * heads * d];
        if !out.is_empty() {
            let tasks = out.par_chunks_mut(t * d).enumerate();
            tasks.for_each(|(task, out)| Head::new(&size, all, task).forward(out));
        }
        size.packed(&out, 1)
    })?;
    let shape = (b, t, heads * d).into();
    let backward = Bidirectional { size, of: std::marker::PhantomData::<T> };
    match *arguments {
        [qkv, r, uv] => node(NAME, [qkv, r, uv], (out, shape), backward),
        _ => node(NAME, [arguments[0]], (out, shape), backward),
    }
}

/// What the backward pass has to know.
struct Size {
    /// Positions, of the longest sequence or more.
    t: usize,
    heads: usize,
    /// The width of a head.
    d: usize,
    lengths: Vec<usize>,
}

impl Size {
    /// `[B, h, parts, T, d]` as `[B, T, parts, h, d]`.
    fn packed<T: Number>(&self, x: &[T], parts: usize) -> Vec<T> {
        let Self { t, heads, d, .. } = *self;
        let width = parts * heads * d;
        new_rows(x.len(), width, |first, out| {
            for (row, out) in (first..).zip(out.chunks_exact_mut(width)) {
                let (sequence, position) = (row / t, row % t);
                for (i, out) in out.chunks_exact_mut(d).enumerate() {
                    let (part, head) = (i / heads, i % heads);
                    let from = ((sequence * heads + head) * parts + part) * t + position;
                    out.copy_from_slice(&x[from * d..][..d]);
                }
            }
        })
    }
}

fn with_slices<T: Number, R>(
    arguments: &[&Tensor],
    size: &Size,
    f: impl FnOnce(Slices<'_, T>) -> R,
) -> Result<R> {
    let [qkv, r, uv] = *arguments else {
        return read([arguments[0]], |[qkv]| f(Slices { qkv, positions: None }));
    };
    read([qkv, r, uv], |[qkv, r, uv]| {
        let r_t = transposed(r, offsets(size.t), size.heads * size.d);
        f(Slices { qkv, positions: Some(Positions { r, r_t: &r_t, uv }) })
    })
}

struct Bidirectional<T> {
    size: Size,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Bidirectional<T> {
    /// The gradient of qkv, and of positions for each head of each sequence.
    fn reversed(
        &self,
        arguments: &[&Tensor],
        out: &Tensor,
        g: &Tensor,
    ) -> Result<(Tensor, Vec<OfPositions<T>>)> {
        let (size, qkv) = (&self.size, arguments[0]);
        let (dqkv, positions) = with_slices(arguments, size, |all: Slices<'_, T>| {
            read([out, g], |[out, g]: [&[T]; 2]| {
                let mut dqkv = vec![T::zero(); qkv.elem_count()];
                let mut positions = Vec::new();
                if !dqkv.is_empty() {
                    let tasks = dqkv.par_chunks_mut(3 * size.t * size.d).enumerate();
                    let tasks =
                        tasks.map(|(task, dqkv)| Head::new(size, all, task).backward(out, g, dqkv));
                    tasks.collect_into_vec(&mut positions);
                }
                (size.packed(&dqkv, 3), positions)
            })
        })??;
        Ok((constant(dqkv, qkv.shape())?, positions))
    }

    /// Over sequences, in their order.
    fn sum(&self, parts: &[OfPositions<T>]) -> (Vec<T>, Vec<T>) {
        let Size { t, heads, d, ref lengths } = self.size;
        let width = heads * d;
        let dr = new_rows(offsets(t) * width, width, |first, dr| {
            for (m, dr) in (first..).zip(dr.chunks_exact_mut(width)) {
                for (of, length) in parts.chunks_exact(heads).zip(lengths) {
                    // The offsets of this sequence are those in the middle.
                    let Some(m) = m.checked_sub(t - length) else { continue };
                    for (dr, of) in dr.chunks_exact_mut(d).zip(of) {
                        let of = of.dr.chunks_exact(d).nth(m).unwrap_or_default();
                        dr.iter_mut().zip(of).for_each(|(dr, of)| *dr += *of);
                    }
                }
            }
        });
        let mut duv = vec![T::zero(); 2 * width];
        for of in parts.chunks_exact(heads) {
            for (i, duv) in duv.chunks_exact_mut(d).enumerate() {
                let of = &of[i % heads].duv[i / heads * d..][..d];
                duv.iter_mut().zip(of).for_each(|(duv, of)| *duv += *of);
            }
        }
        (dr, duv)
    }
}

impl<T: Number> Backward<1> for Bidirectional<T> {
    fn backward(
        &self,
        [qkv]: [&Tensor; 1],
        out: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(self.reversed(&[qkv], out, g)?.0)])
    }
}

impl<T: Number> Backward<3> for Bidirectional<T> {
    fn backward(
        &self,
        [qkv, r, uv]: [&Tensor; 3],
        out: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (dqkv, positions) = self.reversed(&[qkv, r, uv], out, g)?;
        let (dr, duv) = self.sum(&positions);
        Ok([Some(dqkv), give(r, dr)?, give(uv, duv)?])
    }
}
