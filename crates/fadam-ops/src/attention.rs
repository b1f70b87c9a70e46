//! Causal attention with grouped key/value heads and rotary positions, from packed queries, keys and values.
//!
//! For one sequence and one head, with rotated q and k and scale c:
//!
//! ```text
//! S = c q kᵀ (later keys left out),   P = softmax S by rows,   o = P v
//! ∂v = Pᵀ g,   ∂P = g vᵀ,   ∂S = P ∘ (∂P − rowsum(g ∘ o)),   ∂q = c ∂S k,   ∂k = c ∂Sᵀ q
//! ```
//!
//! (rowsum(g ∘ o) is rowsum(P ∘ ∂P), as `FlashAttention` has it: Dao et al., arXiv 2205.14135, appendix B.) Queries are taken
//! [`TILE`] positions at a time, those of all heads that share a key head together; P is computed again in the backward
//! pass, so that no `[T, T]` matrix is kept. Sequences are shared out among the threads.

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use crate::matrix::{Into, Matrix, Threads, product_into, transposed};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::rope::{Angles, Rope, Turn};
use crate::route::Route;
use crate::softmax;

const NAME: &str = "causal_attention";

/// Query positions that are computed together.
const TILE: usize = 64;

/// How [`causal_attention`] reads its packed argument.
#[derive(Debug, Clone)]
pub struct Attention {
    /// h, query heads.
    pub heads: usize,
    /// Key and value heads, of which each serves `heads / kv_heads` query heads: 1 for multi-query attention.
    pub kv_heads: usize,
    /// Rotary positions of queries and keys; none to leave them as they are.
    pub rope: Option<Rope>,
}

impl Attention {
    fn width(&self, d_head: usize) -> usize {
        (self.heads + 2 * self.kv_heads) * d_head
    }

    /// The width of a head in rows of `width`.
    fn d_head(&self, width: usize) -> Result<usize> {
        let Self { heads, kv_heads, .. } = *self;
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            bail!("{NAME}: {heads} query heads cannot share {kv_heads} key heads");
        }
        let parts = self.width(1);
        if width == 0 || !width.is_multiple_of(parts) {
            bail!(
                "{NAME}: rows of {width} numbers are not {heads} + 2 · {kv_heads} heads of one width"
            );
        }
        Ok(width / parts)
    }
}

/// `softmax(q kᵀ / √d) v` over the keys up to each query's position: from `[B, T, (h + 2 k) d]`, the h query heads followed
/// by k key heads and k value heads, to `[B, T, h d]`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use fadam_ops::Attention;
///
/// // One head of width 1: q, k, v. The first position sees itself alone.
/// let qkv = Tensor::new(&[[[0f32, 0.0, 3.0], [0.0, 0.0, 5.0]]], &Device::Cpu)?;
/// let attention = Attention { heads: 1, kv_heads: 1, rope: None };
/// let o = fadam_ops::causal_attention(&qkv, &attention)?;
/// assert_eq!(o.to_vec3::<f32>()?, [[[3.0], [4.0]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the last dimension cannot be cut into these heads, or `rope` is for fewer positions or another width.
pub fn causal_attention(qkv: &Tensor, attention: &Attention) -> Result<Tensor> {
    let [_, t, width] = *qkv.dims() else {
        bail!(
            "{NAME}: the packed argument has shape {:?}, where [B, T, (h + 2 k) d] is expected",
            qkv.dims()
        )
    };
    let d_head = attention.d_head(width)?;
    if let Some(rope) = &attention.rope {
        rope.check(NAME, t, d_head)?;
    }
    let rope = attention.rope.as_ref().map(|rope| &rope.cos);
    let arguments: Vec<&Tensor> = std::iter::once(qkv).chain(rope).collect();
    match Route::of(NAME, &arguments)? {
        Route::Single => fused::<f32>(qkv, attention),
        Route::Double => fused::<f64>(qkv, attention),
        Route::Widened(wide) => {
            let rope = attention.rope.as_ref().map(|rope| rope.to_dtype(wide)).transpose()?;
            let wider = Attention { rope, ..*attention };
            causal_attention(&qkv.to_dtype(wide)?, &wider)?.to_dtype(qkv.dtype())
        }
        Route::Composed => composed(qkv, attention),
    }
}

/// As candle composes it.
fn composed(qkv: &Tensor, attention: &Attention) -> Result<Tensor> {
    let (b, t, width) = qkv.dims3()?;
    let Attention { heads, kv_heads, ref rope } = *attention;
    let (d, group) = (attention.d_head(width)?, heads / kv_heads);
    let split = |first: usize, heads: usize| {
        qkv.narrow(2, first * d, heads * d)?
            .reshape((b, t, heads, d))?
            .transpose(1, 2)?
            .contiguous()
    };
    let rotate = |x: Tensor| rope.as_ref().map_or(Ok(x.clone()), |rope| rope.composed(&x, 0));
    let q =
        (rotate(split(0, heads)?)? / (d as f64).sqrt())?.reshape((b, kv_heads, group * t, d))?;
    let (k, v) = (rotate(split(heads, kv_heads)?)?, split(heads + kv_heads, kv_heads)?);
    let scores = q.matmul(&k.t()?)?.reshape((b, heads, t, t))?;
    let later: Vec<f32> =
        (0..t * t).map(|e| if e % t <= e / t { 0.0 } else { f32::NEG_INFINITY }).collect();
    let mask = Tensor::from_vec(later, (t, t), qkv.device())?.to_dtype(qkv.dtype())?;
    let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
    let mixed = weights.reshape((b, kv_heads, group * t, t))?.matmul(&v)?;
    mixed.reshape((b, heads, t, d))?.transpose(1, 2)?.reshape((b, t, heads * d))
}

fn fused<T: Number>(qkv: &Tensor, attention: &Attention) -> Result<Tensor> {
    let (b, t, width) = qkv.dims3()?;
    let d = attention.d_head(width)?;
    let out = with_angles(qkv, attention, |qkv: &[T], angles| {
        let heads = Heads::new(attention, t, d, b, angles);
        let mut out = vec![T::zero(); b * t * heads.h * d];
        if !out.is_empty() {
            let sequences = out.par_chunks_mut(t * heads.h * d).zip(qkv.par_chunks(t * width));
            sequences.for_each(|(out, qkv)| heads.forward(qkv, out));
        }
        out
    })?;
    let shape = (b, t, attention.heads * d).into();
    let backward = Causal { attention: attention.clone(), of: std::marker::PhantomData::<T> };
    node(NAME, [qkv], (out, shape), backward)
}

fn with_angles<T: Number, R>(
    qkv: &Tensor,
    attention: &Attention,
    f: impl FnOnce(&[T], Option<Angles<'_, T>>) -> R,
) -> Result<R> {
    match &attention.rope {
        Some(rope) => {
            read([qkv, &rope.cos, &rope.sin], |[qkv, cos, sin]| f(qkv, Some(Angles { cos, sin })))
        }
        None => read([qkv], |[qkv]| f(qkv, None)),
    }
}

struct Causal<T> {
    attention: Attention,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<1> for Causal<T> {
    fn backward(
        &self,
        [qkv]: [&Tensor; 1],
        out: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        let (b, t, width) = qkv.dims3()?;
        let d = self.attention.d_head(width)?;
        let dqkv = with_angles(qkv, &self.attention, |qkv: &[T], angles| {
            let heads = Heads::new(&self.attention, t, d, b, angles);
            read([out, g], |[out, g]: [&[T]; 2]| {
                let mut dqkv = vec![T::zero(); qkv.len()];
                if !dqkv.is_empty() {
                    let of_out = t * heads.h * d;
                    dqkv.par_chunks_mut(t * width)
                        .zip(qkv.par_chunks(t * width))
                        .zip(out.par_chunks(of_out).zip(g.par_chunks(of_out)))
                        .for_each(|((dqkv, qkv), (out, g))| heads.backward(qkv, out, g, dqkv));
                }
                dqkv
            })
        })??;
        Ok([Some(constant(dqkv, qkv.shape())?)])
    }
}

/// The heads of one sequence.
#[derive(Clone, Copy)]
struct Heads<'a, T> {
    /// Positions.
    t: usize,
    /// Query heads, key heads, and query heads a key head.
    h: usize,
    kv: usize,
    group: usize,
    /// Width of a head, and of a packed row.
    d: usize,
    width: usize,
    scale: T,
    angles: Option<Angles<'a, T>>,
    threads: Threads,
}

/// Queries of one group of heads at some positions: row `g · n + i` is of head g at position `first + i`.
#[derive(Clone, Copy)]
struct Tile {
    kv: usize,
    first: usize,
    n: usize,
}

impl Tile {
    /// Keys that the last of the queries sees.
    fn keys(&self) -> usize {
        self.first + self.n
    }
}

impl<'a, T: Number> Heads<'a, T> {
    fn new(of: &Attention, t: usize, d: usize, b: usize, angles: Option<Angles<'a, T>>) -> Self {
        let Attention { heads, kv_heads, .. } = *of;
        Self {
            t,
            h: heads,
            kv: kv_heads,
            group: heads / kv_heads,
            d,
            width: of.width(d),
            scale: T::of((d as f64).sqrt().recip()),
            angles,
            // With fewer sequences than threads, threads share the products.
            threads: if b < rayon::current_num_threads() { Threads::All } else { Threads::One },
        }
    }

    fn forward(&self, qkv: &[T], out: &mut [T]) {
        let (mut q, mut p, mut o) = (Vec::new(), Vec::new(), Vec::new());
        for kv in 0..self.kv {
            let k_t = transposed(&self.keys(qkv, kv), self.t, self.d);
            for tile in self.tiles(kv) {
                self.queries(qkv, tile, &mut q);
                self.weights(&q, &k_t, tile, &mut p);
                let (rows, keys) = (self.group * tile.n, tile.keys());
                let (p, v) = (Matrix::new(&p, rows, keys), self.values(qkv, kv, keys));
                resize(&mut o, rows * self.d);
                product_into(p, v, T::one(), &mut o, self.d, Into::Overwrite, self.threads);
                for (row, o) in o.chunks_exact(self.d).enumerate() {
                    let at = self.in_out(tile, row);
                    out[at..at + self.d].copy_from_slice(o);
                }
            }
        }
    }

    fn backward(&self, qkv: &[T], out: &[T], g: &[T], dqkv: &mut [T]) {
        let (t, d) = (self.t, self.d);
        let [mut q, mut p, mut ds, mut dq, mut g_tile] = [const { Vec::new() }; 5];
        for kv in 0..self.kv {
            let k = self.keys(qkv, kv);
            let k_t = transposed(&k, t, d);
            let v_t = transposed(&self.contiguous_values(qkv, kv), t, d);
            let (mut dk, mut dv) = (vec![T::zero(); t * d], vec![T::zero(); t * d]);
            for tile in self.tiles(kv) {
                let (rows, keys) = (self.group * tile.n, tile.keys());
                self.queries(qkv, tile, &mut q);
                self.weights(&q, &k_t, tile, &mut p);
                g_tile.clear();
                for row in 0..rows {
                    g_tile.extend_from_slice(&g[self.in_out(tile, row)..][..d]);
                }
                let g_tile = Matrix::new(&g_tile, rows, d);
                let p_tile = Matrix::new(&p, rows, keys);
                product_into(p_tile.t(), g_tile, T::one(), &mut dv, d, Into::Add, self.threads);
                resize(&mut ds, rows * keys);
                let v_t = Matrix::strided(&v_t, d, keys, t);
                product_into(g_tile, v_t, T::one(), &mut ds, keys, Into::Overwrite, self.threads);
                for (row, (ds, p)) in
                    ds.chunks_exact_mut(keys).zip(p.chunks_exact(keys)).enumerate()
                {
                    let at = self.in_out(tile, row);
                    let mean = T::dot(&g[at..at + d], &out[at..at + d]);
                    softmax::reverse(ds, p, mean);
                }
                let ds = Matrix::new(&ds, rows, keys);
                let q_tile = Matrix::new(&q, rows, d);
                product_into(ds.t(), q_tile, T::one(), &mut dk, d, Into::Add, self.threads);
                resize(&mut dq, rows * d);
                let k = Matrix::new(&k[..keys * d], keys, d);
                product_into(ds, k, self.scale, &mut dq, d, Into::Overwrite, self.threads);
                for (row, dq) in dq.chunks_exact_mut(d).enumerate() {
                    let (head, position) = self.query(tile, row);
                    self.rotate(dq, position, Turn::Back);
                    dqkv[position * self.width + head * d..][..d].copy_from_slice(dq);
                }
            }
            for (position, (dk, dv)) in dk.chunks_exact_mut(d).zip(dv.chunks_exact(d)).enumerate() {
                self.rotate(dk, position, Turn::Back);
                let row = &mut dqkv[position * self.width..][..self.width];
                row[(self.h + kv) * d..][..d].copy_from_slice(dk);
                row[(self.h + self.kv + kv) * d..][..d].copy_from_slice(dv);
            }
        }
    }

    fn tiles(&self, kv: usize) -> impl Iterator<Item = Tile> + use<T> {
        let t = self.t;
        (0..t).step_by(TILE).map(move |first| Tile { kv, first, n: TILE.min(t - first) })
    }

    /// The head and position of a row of a tile.
    fn query(&self, tile: Tile, row: usize) -> (usize, usize) {
        (tile.kv * self.group + row / tile.n, tile.first + row % tile.n)
    }

    /// Where the output of a row of a tile begins.
    fn in_out(&self, tile: Tile, row: usize) -> usize {
        let (head, position) = self.query(tile, row);
        (position * self.h + head) * self.d
    }

    fn rotate(&self, head: &mut [T], position: usize, turn: Turn) {
        if let Some(angles) = &self.angles {
            angles.rotate(head, position, turn);
        }
    }

    /// Rotated and scaled queries, `[group · n, d]`.
    fn queries(&self, qkv: &[T], tile: Tile, q: &mut Vec<T>) {
        q.clear();
        for row in 0..self.group * tile.n {
            let (head, position) = self.query(tile, row);
            let at = q.len();
            q.extend_from_slice(&qkv[position * self.width + head * self.d..][..self.d]);
            self.rotate(&mut q[at..], position, Turn::Forward);
            q[at..].iter_mut().for_each(|q| *q *= self.scale);
        }
    }

    /// Rotated keys, `[T, d]`.
    fn keys(&self, qkv: &[T], kv: usize) -> Vec<T> {
        let mut keys = Vec::with_capacity(self.t * self.d);
        for (position, row) in qkv.chunks_exact(self.width).enumerate() {
            let at = keys.len();
            keys.extend_from_slice(&row[(self.h + kv) * self.d..][..self.d]);
            self.rotate(&mut keys[at..], position, Turn::Forward);
        }
        keys
    }

    fn contiguous_values(&self, qkv: &[T], kv: usize) -> Vec<T> {
        let first = (self.h + self.kv + kv) * self.d;
        qkv.chunks_exact(self.width).flat_map(|row| &row[first..first + self.d]).copied().collect()
    }

    /// The first values, where they lie.
    fn values<'q>(&self, qkv: &'q [T], kv: usize, keys: usize) -> Matrix<'q, T> {
        let first = (self.h + self.kv + kv) * self.d;
        Matrix::strided(&qkv[first..], keys, self.d, self.width)
    }

    /// P, `[group · n, keys]`.
    fn weights(&self, q: &[T], k_t: &[T], tile: Tile, p: &mut Vec<T>) {
        let (rows, keys) = (self.group * tile.n, tile.keys());
        resize(p, rows * keys);
        let (q, k_t) = (Matrix::new(q, rows, self.d), Matrix::strided(k_t, self.d, keys, self.t));
        product_into(q, k_t, T::one(), p, keys, Into::Overwrite, self.threads);
        for (row, p) in p.chunks_exact_mut(keys).enumerate() {
            let (_, position) = self.query(tile, row);
            let (seen, later) = p.split_at_mut(position + 1);
            softmax::in_place(seen);
            later.fill(T::zero());
        }
    }
}

/// Of this length, with whatever values: all are overwritten.
fn resize<T: Number>(buffer: &mut Vec<T>, len: usize) {
    buffer.resize(len, T::zero());
}
