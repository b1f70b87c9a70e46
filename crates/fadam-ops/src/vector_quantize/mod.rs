//! Vector quantisation on the sphere (van den Oord et al., arXiv 1711.00937, with the l2-normalised codes of Yu et al., arXiv
//! 2110.04627): each row becomes the code whose direction is nearest to its own.
//!
//! For rows `z_i` of width w and codes `c_k`, with `unit(x) = x / max(‖x‖, ε)` and ε = 1e-12:
//!
//! ```text
//! n_i = unit(z_i),  e_k = unit(c_k),  a_i = argmax_k n_i · e_k (the first of equal ones),  q_i = e_{a_i}
//! value y = q;  codebook loss = mean (q − sg n)²;  commitment loss = mean (sg q − n)²      means over all N w numbers
//! ```
//!
//! sg stops the gradient, and the value is straight-through: ∂n = ∂y. With `J(x) = (I − u uᵀ) / ‖x‖`, u = unit(x), the derivative of
//! unit (`I / ε` where ‖x‖ ≤ ε):
//!
//! ```text
//! from y: ∂z_i = J(z_i) g_i      commitment: ∂z_i = J(z_i) 2 g (n_i − q_i) / N w      codebook: ∂c_k = J(c_k) Σ_{a_i = k} 2 g (e_k − n_i) / N w
//! ```
//!
//! Rows are shared out among the threads. A tile of them is multiplied with some hundred codes at a time, and what is kept is the
//! best so far of each row: the matrix `[N, codes]` never exists.

mod nearest;

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::gradients::give;
use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, last_dim, matrix};
use crate::rows::new_rows;
use nearest::nearest;

const NAME: &str = "vector_quantize";

/// ε, below which a length counts as ε.
const EPS: f64 = 1e-12;

/// Products with codes that are there at once, where the op is composed.
const SCORES: usize = 1 << 24;

/// Rows whose losses one thread adds up; parts are added in their order.
const PART: usize = 1024;

/// What [`vector_quantize`] returns.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// q, the nearest code of each row, `[..., w]` and of unit length; its gradient goes to z alone, as if it were unit(z).
    pub codes: Tensor,
    /// a, the place of that code, u32 `[...]`; without a gradient.
    pub indices: Tensor,
    /// `mean (q − sg n)²`: 0-d, with a gradient of the codes alone.
    pub codebook_loss: Tensor,
    /// `mean (sg q − n)²`, the same number: 0-d, with a gradient of z alone.
    pub commitment_loss: Tensor,
}

/// The code of nearest direction for each row: from `z [..., w]` and `codes [K, w]`, neither of unit length.
///
/// Losses of bf16 and f16 are in f32.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
///
/// let z = Var::new(&[[3f64, 4.0], [0.0, -2.0]], &Device::Cpu)?; // directions (0.6, 0.8) and (0, −1)
/// let codes = Var::new(&[[1f64, 0.0], [0.0, 5.0], [0.0, -7.0]], &Device::Cpu)?;
/// let quantized = fadam_ops::vector_quantize(&z, &codes)?;
/// assert_eq!(quantized.indices.to_vec1::<u32>()?, [1, 2]);
/// assert_eq!(quantized.codes.to_vec2::<f64>()?, [[0.0, 1.0], [0.0, -1.0]]);
/// let loss = quantized.commitment_loss.to_scalar::<f64>()?;
/// assert!((loss - (0.36 + 0.04) / 4.0).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit, or there is no row, no code or no width; for a row or a code whose length is not finite, by its place (on
/// the CPU; on a device it is not looked for).
pub fn vector_quantize(z: &Tensor, codes: &Tensor) -> Result<Quantized> {
    check(z, codes)?;
    match Route::of(NAME, &[z, codes])? {
        Route::Single => fused::<f32>(z, codes),
        Route::Double => fused::<f64>(z, codes),
        Route::Widened(wide) => {
            let quantized = vector_quantize(&z.to_dtype(wide)?, &codes.to_dtype(wide)?)?;
            let codes = quantized.codes.to_dtype(z.dtype())?;
            Ok(Quantized { codes, ..quantized })
        }
        Route::Composed => composed(z, codes),
    }
}

fn check(z: &Tensor, codes: &Tensor) -> Result<()> {
    let (width, (k, of_codes)) = (last_dim(NAME, z)?, matrix(NAME, "codes", codes)?);
    if width != of_codes || width == 0 {
        bail!(
            "{NAME}: z {:?} and codes {:?}; the last dimensions must be the same and not 0",
            z.dims(),
            codes.dims()
        );
    }
    if k == 0 || u32::try_from(k).is_err() {
        bail!("{NAME}: {k} codes; there must be one, and no more than u32 can name");
    }
    if z.elem_count() == 0 {
        bail!("{NAME}: z {:?} has no row, so that the losses are no mean", z.dims());
    }
    Ok(())
}

/// As candle composes it, in f32 at least.
fn composed(z: &Tensor, codes: &Tensor) -> Result<Quantized> {
    let wide = if z.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let (k, width) = codes.dims2()?;
    let unit = |x: &Tensor| {
        let squares = x.sqr()?.sum_keepdim(D::Minus1)?;
        x.broadcast_div(&squares.maximum(EPS * EPS)?.sqrt()?)
    };
    let n = unit(&z.reshape(((), width))?.to_dtype(wide)?)?;
    let e = unit(&codes.to_dtype(wide)?)?;
    let (rows, e_t) = (n.dim(0)?, e.detach().t()?.contiguous()?);
    let at_once = (SCORES / k).clamp(1, rows);
    let nearest = |first: usize| {
        let some = n.detach().narrow(0, first, at_once.min(rows - first))?;
        some.matmul(&e_t)?.argmax(D::Minus1)
    };
    let indices = (0..rows).step_by(at_once).map(nearest).collect::<Result<Vec<_>>>()?;
    let indices = Tensor::cat(&indices, 0)?;
    let q = e.index_select(&indices, 0)?;
    let straight_through = (&n + (q.detach() - n.detach())?)?;
    Ok(Quantized {
        codes: straight_through.to_dtype(z.dtype())?.reshape(z.shape())?,
        indices: indices.reshape(&z.dims()[..z.rank() - 1])?,
        codebook_loss: (&q - n.detach())?.sqr()?.mean_all()?,
        commitment_loss: (q.detach() - n)?.sqr()?.mean_all()?,
    })
}

fn fused<T: Number>(z: &Tensor, codes: &Tensor) -> Result<Quantized> {
    let width = z.dim(D::Minus1)?;
    let (n, e) = read([z, codes], |[z, c]: [&[T]; 2]| {
        Ok::<_, candle_core::Error>((Units::of("z", z, width)?, Units::of("codes", c, width)?))
    })??;
    let indices = nearest(&n.rows, &e.rows, width);
    let q = new_rows(n.rows.len(), width, |first, q| {
        for (q, k) in q.chunks_exact_mut(width).zip(&indices[first..]) {
            q.copy_from_slice(e.row(*k as usize));
        }
    });
    let loss = vec![T::of(mean_square(&q, &n.rows))];
    let at = constant(indices.clone(), &z.dims()[..z.rank() - 1])?;
    let found = Arc::new(Found { n, e, q: q.clone(), indices });
    let straight_through = StraightThrough(found.clone());
    let (commitment, codebook) = (Commitment(found.clone()), Codebook(found));
    Ok(Quantized {
        codes: node(NAME, [z], (q, z.shape().clone()), straight_through)?,
        indices: at,
        codebook_loss: node(NAME, [codes], (loss.clone(), ().into()), codebook)?,
        commitment_loss: node(NAME, [z], (loss, ().into()), commitment)?,
    })
}

/// `mean (a − b)²`
fn mean_square<T: Number>(a: &[T], b: &[T]) -> f64 {
    let part = |(a, b): (&[T], &[T])| -> f64 {
        a.iter().zip(b).map(|(a, b)| (*a - *b).double()).map(|x| x * x).sum()
    };
    let parts: Vec<f64> = a.par_chunks(PART).zip(b.par_chunks(PART)).map(part).collect();
    parts.iter().sum::<f64>() / a.len() as f64
}

/// Rows of unit length, and what they were divided by.
struct Units<T> {
    width: usize,
    rows: Vec<T>,
    /// `1 / max(‖x‖, ε)` of each row.
    inverse: Vec<T>,
}

impl<T: Number> Units<T> {
    /// # Errors
    /// For a row whose length is not finite; `what` is what it is called.
    fn of(what: &str, x: &[T], width: usize) -> Result<Self> {
        let inverse_of = |x: &[T]| T::dot(x, x).or_larger(T::of(EPS * EPS)).sqrt().recip();
        let squares: Vec<T> = x.par_chunks(width).map(|x| T::dot(x, x)).collect();
        if let Some((row, square)) = (0..).zip(&squares).find(|(_, square)| !square.is_finite()) {
            bail!("{NAME}: row {row} of {what} has the squared length {square}");
        }
        let inverse: Vec<T> = x.par_chunks(width).map(inverse_of).collect();
        let rows = new_rows(x.len(), width, |first, out| {
            let rows = x[first * width..].chunks_exact(width).zip(&inverse[first..]);
            for (out, (x, r)) in out.chunks_exact_mut(width).zip(rows) {
                out.iter_mut().zip(x).for_each(|(out, x)| *out = *x * *r);
            }
        });
        Ok(Self { width, rows, inverse })
    }

    fn row(&self, i: usize) -> &[T] {
        &self.rows[i * self.width..][..self.width]
    }

    /// `J(x) g` in place of g, for row i and those after it.
    fn reverse(&self, first: usize, g: &mut [T]) {
        for (i, g) in (first..).zip(g.chunks_exact_mut(self.width)) {
            let (u, r) = (self.row(i), self.inverse[i]);
            let is_short = r >= T::of(EPS.recip());
            let along = if is_short { T::zero() } else { T::dot(u, g) };
            vectorise(Project { g, u, r, along });
        }
    }
}

/// `g = r (g − u along)`
struct Project<'a, T> {
    g: &'a mut [T],
    u: &'a [T],
    r: T,
    along: T,
}

impl<T: Number> Vectorised for Project<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (g, u) in self.g.iter_mut().zip(self.u) {
            *g = self.r * (*g - *u * self.along);
        }
    }
}

/// What the forward pass found.
struct Found<T> {
    n: Units<T>,
    e: Units<T>,
    q: Vec<T>,
    indices: Vec<u32>,
}

impl<T: Number> Found<T> {
    /// `2 g / N w`, where g is a loss's own gradient.
    fn of_squares(&self, g: &Tensor) -> Result<T> {
        let g = read([g], |[g]: [&[T]; 1]| g[0].double())?;
        Ok(T::of(2.0 * g / self.q.len() as f64))
    }
}

struct StraightThrough<T>(Arc<Found<T>>);

impl<T: Number> Backward<1> for StraightThrough<T> {
    fn backward(&self, [z]: [&Tensor; 1], _: &Tensor, g: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let n = &self.0.n;
        let dz = read([g], |[g]: [&[T]; 1]| {
            new_rows(g.len(), n.width, |first, dz| {
                dz.copy_from_slice(&g[first * n.width..][..dz.len()]);
                n.reverse(first, dz);
            })
        })?;
        Ok([Some(constant(dz, z.shape())?)])
    }
}

struct Commitment<T>(Arc<Found<T>>);

impl<T: Number> Backward<1> for Commitment<T> {
    fn backward(&self, [z]: [&Tensor; 1], _: &Tensor, g: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let (by, Found { n, q, .. }) = (self.0.of_squares(g)?, &*self.0);
        let dz = new_rows(q.len(), n.width, |first, dz| {
            let at = first * n.width;
            for (dz, (n, q)) in dz.iter_mut().zip(n.rows[at..].iter().zip(&q[at..])) {
                *dz = by * (*n - *q);
            }
            n.reverse(first, dz);
        });
        Ok([Some(constant(dz, z.shape())?)])
    }
}

struct Codebook<T>(Arc<Found<T>>);

impl<T: Number> Backward<1> for Codebook<T> {
    fn backward(
        &self,
        [codes]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        let (by, Found { n, e, q, indices }) = (self.0.of_squares(g)?, &*self.0);
        let mut dc = vec![T::zero(); e.rows.len()];
        let rows = q.chunks_exact(n.width).zip(n.rows.chunks_exact(n.width));
        for (k, (q, n)) in indices.iter().zip(rows) {
            let dc = &mut dc[*k as usize * q.len()..][..q.len()];
            for (dc, (q, n)) in dc.iter_mut().zip(q.iter().zip(n)) {
                *dc += by * (*q - *n);
            }
        }
        e.reverse(0, &mut dc);
        Ok([give(codes, dc)?])
    }
}
