//! A layer of long short-term memory over time (Hochreiter and Schmidhuber, Neural Computation 9, 1997, with the forget gate of
//! Gers et al., 2000), and backpropagation through time as one op.
//!
//! With `z_t = x_gates_t + h_{t−1} Wᵀ` cut into the parts `z_i, z_f, z_g, z_o`:
//!
//! ```text
//! i, f, o = σ(z_i), σ(z_f), σ(z_o),   g = tanh z_g,   c_t = f c_{t−1} + i g,   h_t = o tanh c_t
//! ```
//!
//! Backward, from the last step to the first, with the gradient `∂L/∂h_t` that arrives from outside:
//!
//! ```text
//! δh  = ∂L/∂h_t + δz_{t+1} W                    δc  = δh o (1 − tanh² c_t) + f_{t+1} δc_{t+1}
//! δz_i = δc g i (1 − i)     δz_f = δc c_{t−1} f (1 − f)     δz_g = δc i (1 − g²)     δz_o = δh tanh c_t o (1 − o)
//! ∂L/∂x_gates_t = δz_t      ∂L/∂W = Σ_t δz_tᵀ h_{t−1}
//! ```
//!
//! The sum over steps is one product after the loop. Inside, all data is `[T, B, ..]`, so that a step lies in one piece and
//! `h_{t−1}` of all steps is a part of h with the first state before it. The products of a step are shared out among the
//! threads by columns of W: each thread then reads its own part of W at every step, which stays in its cache, where threads with
//! rows of their own would all read the whole. The activated gates and c are kept for the backward pass, 5 numbers for
//! each of h: to compute them again would take the products of the forward pass once more.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::activation::tanh;
use crate::gradients::accumulate;
use crate::lanes::{Vectorised, vectorise};
use crate::matrix::{Into, Matrix, Threads, product_into, transposed};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, matrix};
use crate::rows::new_rows;

const NAME: &str = "lstm";

/// Gates that are enough for one thread.
const TASK: usize = 4096;

/// What [`lstm`] hands on from step to step, outside of the graph.
#[derive(Debug, Clone)]
pub struct LstmState {
    /// The output, `[B, H]`.
    pub h: Tensor,
    /// The cell, `[B, H]`.
    pub c: Tensor,
}

impl LstmState {
    fn to_dtype(&self, dtype: candle_core::DType) -> Result<Self> {
        Ok(Self { h: self.h.to_dtype(dtype)?, c: self.c.to_dtype(dtype)? })
    }
}

/// One LSTM layer: from `x_gates [B, T, 4 H]`, which [`linear`](crate::linear()) makes of the input and its weight and bias, and
/// `w_hh [4 H, H]` to h `[B, T, H]` and the last state. The gates are in the order i, f, g, o, as PyTorch has them.
///
/// Without a `state` the first one is zeros. A given state is a constant: no gradient goes back into it. The last state has the
/// dtype of the arguments, so that bf16 and f16 are rounded wherever a sequence is cut.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// // All gates are open and g = 1, so that c counts the steps.
/// let x_gates = Tensor::full(100f64, (1, 2, 4), &Device::Cpu)?;
/// let w_hh = Tensor::zeros((4, 1), candle_core::DType::F64, &Device::Cpu)?;
/// let (h, state) = fadam_ops::lstm(&x_gates, &w_hh, None)?;
/// assert!((h.to_vec3::<f64>()?[0][1][0] - 2f64.tanh()).abs() < 1e-12);
/// assert_eq!(state.c.to_vec2::<f64>()?, [[2.0]]);
/// let (_, state) = fadam_ops::lstm(&x_gates, &w_hh, Some(&state))?;
/// assert_eq!(state.c.to_vec2::<f64>()?, [[4.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit, H is 0, or dtypes or devices differ.
pub fn lstm(
    x_gates: &Tensor,
    w_hh: &Tensor,
    state: Option<&LstmState>,
) -> Result<(Tensor, LstmState)> {
    check(x_gates, w_hh, state)?;
    let of_state = state.into_iter().flat_map(|state| [&state.h, &state.c]);
    let arguments: Vec<&Tensor> = [x_gates, w_hh].into_iter().chain(of_state).collect();
    match Route::of(NAME, &arguments)? {
        Route::Single => fused::<f32>(x_gates, w_hh, state),
        Route::Double => fused::<f64>(x_gates, w_hh, state),
        Route::Widened(wide) => {
            let narrow = x_gates.dtype();
            let state = state.map(|state| state.to_dtype(wide)).transpose()?;
            let (x_gates, w_hh) = (x_gates.to_dtype(wide)?, w_hh.to_dtype(wide)?);
            let (h, last) = lstm(&x_gates, &w_hh, state.as_ref())?;
            Ok((h.to_dtype(narrow)?, last.to_dtype(narrow)?))
        }
        Route::Composed => composed(x_gates, w_hh, state),
    }
}

fn check(x_gates: &Tensor, w_hh: &Tensor, state: Option<&LstmState>) -> Result<()> {
    let (wide, units) = matrix(NAME, "w_hh", w_hh)?;
    if units == 0 || wide != 4 * units {
        bail!("{NAME}: w_hh has shape {:?}, where [4 H, H] is expected", w_hh.dims());
    }
    let [b, _, gates] = *x_gates.dims() else {
        bail!("{NAME}: x_gates has shape {:?}, where [B, T, 4 H] is expected", x_gates.dims())
    };
    if gates != wide {
        bail!("{NAME}: x_gates {:?} are not the gates of w_hh {:?}", x_gates.dims(), w_hh.dims());
    }
    for (what, x) in state.into_iter().flat_map(|state| [("h", &state.h), ("c", &state.c)]) {
        if x.dims() != [b, units] {
            bail!(
                "{NAME}: the state's {what} has shape {:?}, where [{b}, {units}] is expected",
                x.dims()
            );
        }
    }
    Ok(())
}

/// As candle composes it, step by step.
fn composed(
    x_gates: &Tensor,
    w_hh: &Tensor,
    state: Option<&LstmState>,
) -> Result<(Tensor, LstmState)> {
    let (b, t, _) = x_gates.dims3()?;
    let units = w_hh.dim(1)?;
    let zeros = || Tensor::zeros((b, units), x_gates.dtype(), x_gates.device());
    let (mut h, mut c) = match state {
        Some(state) => (state.h.detach(), state.c.detach()),
        None => (zeros()?, zeros()?),
    };
    let w_t = w_hh.t()?.contiguous()?;
    let mut all = Vec::with_capacity(t);
    for step in 0..t {
        let z = (x_gates.narrow(1, step, 1)?.squeeze(1)? + h.matmul(&w_t)?)?;
        let part = |i: usize| z.narrow(1, i * units, units)?.contiguous();
        let gate = |i: usize| candle_nn::ops::sigmoid(&part(i)?);
        c = ((gate(1)? * c)? + (gate(0)? * part(2)?.tanh()?)?)?;
        h = (gate(3)? * c.tanh()?)?;
        all.push(h.clone());
    }
    let all = if t == 0 { x_gates.narrow(2, 0, units)? } else { Tensor::stack(&all, 1)? };
    Ok((all, LstmState { h: h.detach(), c: c.detach() }))
}

fn fused<T: Number>(
    x_gates: &Tensor,
    w_hh: &Tensor,
    state: Option<&LstmState>,
) -> Result<(Tensor, LstmState)> {
    let (b, t, _) = x_gates.dims3()?;
    let units = w_hh.dim(1)?;
    let first = match state {
        Some(state) => {
            Some(read([&state.h, &state.c], |[h, c]: [&[T]; 2]| [h.to_vec(), c.to_vec()])?)
        }
        None => None,
    };
    let steps = read([x_gates, w_hh], |[x_gates, w_hh]| {
        Steps::run(Size { b, t, units }, x_gates, w_hh, first)
    })?;
    let n = b * units;
    let last = |x: &[T]| constant(x[t * n..].to_vec(), (b, units));
    let last = LstmState { h: last(&steps.h)?, c: last(&steps.c)? };
    let h = exchanged(&steps.h[n..], t, b, units);
    Ok((node(NAME, [x_gates, w_hh], (h, (b, t, units).into()), steps)?, last))
}

/// `x [a, b, width]` as `[b, a, width]`.
fn exchanged<T: Number>(x: &[T], a: usize, b: usize, width: usize) -> Vec<T> {
    new_rows(x.len(), width, |first, out| {
        for (row, out) in (first..).zip(out.chunks_exact_mut(width)) {
            let (j, i) = (row / a, row % a);
            out.copy_from_slice(&x[(i * b + j) * width..][..width]);
        }
    })
}

#[derive(Debug, Clone, Copy)]
struct Size {
    b: usize,
    t: usize,
    /// H
    units: usize,
}

impl Size {
    /// Elements of the rows of H that one thread goes on with.
    fn task(self) -> usize {
        (TASK / (4 * self.units)).max(1) * self.units
    }

    /// [`Cell`] for each row of a step.
    fn for_rows<T: Number>(self, gates: &mut [T], c: &mut [T], h: &mut [T], before: &[T]) {
        let (task, units) = (self.task(), self.units);
        let gates = gates.par_chunks_mut(4 * task);
        let states = (c.par_chunks_mut(task), h.par_chunks_mut(task), before.par_chunks(task));
        (gates, states.into_par_iter()).into_par_iter().for_each(|(gates, (c, h, before))| {
            let before = before.chunks_exact(units);
            let after = c.chunks_exact_mut(units).zip(h.chunks_exact_mut(units));
            let rows = gates.chunks_exact_mut(4 * units).zip(before.zip(after));
            rows.for_each(|(gates, (before, (c, h)))| vectorise(Cell { gates, before, c, h }));
        });
    }

    /// [`Reverse`] for each row of a step.
    fn reverse_rows<T: Number>(
        self,
        gates: &mut [T],
        dc: &mut [T],
        dh: &[T],
        before: &[T],
        c: &[T],
    ) {
        let (task, units) = (self.task(), self.units);
        let made = (gates.par_chunks_mut(4 * task), dc.par_chunks_mut(task)).into_par_iter();
        let given = (dh.par_chunks(task), before.par_chunks(task), c.par_chunks(task));
        (made, given.into_par_iter()).into_par_iter().for_each(|((gates, dc), (dh, before, c))| {
            let made = gates.chunks_exact_mut(4 * units).zip(dc.chunks_exact_mut(units));
            let given = before.chunks_exact(units).zip(c.chunks_exact(units));
            let rows = made.zip(dh.chunks_exact(units).zip(given));
            rows.for_each(|((gates, dc), (dh, (before, c)))| {
                vectorise(Reverse { gates, dc, dh, before, c });
            });
        });
    }
}

/// What was computed, step after step.
struct Steps<T> {
    size: Size,
    /// Activated, `[T, B, 4 H]`.
    gates: Vec<T>,
    /// `[T + 1, B, H]`, of which the first are the given state.
    h: Vec<T>,
    /// As h.
    c: Vec<T>,
}

impl<T: Number> Steps<T> {
    fn run(size: Size, x_gates: &[T], w_hh: &[T], first: Option<[Vec<T>; 2]>) -> Self {
        let Size { b, t, units } = size;
        let (n, wide) = (b * units, 4 * units);
        let mut gates = exchanged(x_gates, b, t, wide);
        // For one step, to transpose W would cost more than it saves.
        let w_t = if t > 1 { transposed(w_hh, wide, units) } else { Vec::new() };
        let w_t = match t {
            ..=1 => Matrix::new(w_hh, wide, units).t(),
            _ => Matrix::new(&w_t, units, wide),
        };
        let is_given = first.is_some();
        let [mut h, mut c] = first.unwrap_or([const { Vec::new() }; 2]);
        for x in [&mut h, &mut c] {
            x.resize((t + 1) * n, T::zero());
        }
        for (step, gates) in gates.chunks_exact_mut((b * wide).max(1)).enumerate() {
            let (h_before, h) = h[step * n..][..2 * n].split_at_mut(n);
            let (c_before, c) = c[step * n..][..2 * n].split_at_mut(n);
            if step > 0 || is_given {
                let h = Matrix::new(h_before, b, units);
                product_into(h, w_t, T::one(), gates, wide, Into::Add, Threads::All);
            }
            size.for_rows(gates, c, h, c_before);
        }
        Self { size, gates, h, c }
    }

    /// δz of all steps, `[T, B, 4 H]`, from the gradient of h, `[T, B, H]`, which becomes δh.
    fn reversed(&self, w_hh: &[T], mut g: Vec<T>) -> Vec<T> {
        let Size { b, t, units } = self.size;
        let (n, wide) = (b * units, 4 * units);
        let w = Matrix::new(w_hh, wide, units);
        let mut dz = self.gates.clone();
        let mut dc = vec![T::zero(); n];
        for step in (0..t).rev() {
            let (dz, later) = dz[step * b * wide..].split_at_mut(b * wide);
            let dh = &mut g[step * n..][..n];
            if step + 1 < t {
                let later = Matrix::new(&later[..b * wide], b, wide);
                product_into(later, w, T::one(), dh, units, Into::Add, Threads::All);
            }
            let (before, c) = self.c[step * n..][..2 * n].split_at(n);
            self.size.reverse_rows(dz, &mut dc, dh, before, c);
        }
        dz
    }
}

impl<T: Number> Backward<2> for Steps<T> {
    fn backward(
        &self,
        [x_gates, w_hh]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let Size { b, t, units } = self.size;
        let dz =
            read([w_hh, g], |[w_hh, g]: [&[T]; 2]| self.reversed(w_hh, exchanged(g, b, t, units)))?;
        let dw = if w_hh.track_op() {
            let dz = Matrix::new(&dz, t * b, 4 * units);
            let before = Matrix::new(&self.h[..t * b * units], t * b, units);
            accumulate(w_hh, |dw, into| {
                product_into(dz.t(), before, T::one(), dw, units, into, Threads::All);
            })?
        } else {
            None
        };
        let dx = if x_gates.track_op() {
            Some(constant(exchanged(&dz, t, b, 4 * units), x_gates.shape())?)
        } else {
            None
        };
        Ok([dx, dw])
    }
}

/// The parts of a row of gates: i, f, g and o.
#[inline(always)]
fn parts<T>(gates: &mut [T]) -> [&mut [T]; 4] {
    let half = gates.len() / 2;
    let (i_f, g_o) = gates.split_at_mut(half);
    let ((i, f), (g, o)) = (i_f.split_at_mut(half / 2), g_o.split_at_mut(half / 2));
    [i, f, g, o]
}

#[inline(always)]
fn sigmoid<T: Number>(u: T) -> T {
    T::one() / (T::one() + (-u).exponential())
}

/// Gates become activated, and make c and h.
struct Cell<'a, T> {
    gates: &'a mut [T],
    /// c of the step before.
    before: &'a [T],
    c: &'a mut [T],
    h: &'a mut [T],
}

impl<T: Number> Vectorised for Cell<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { gates, before, c, h } = self;
        let [i, f, g, o] = parts(gates);
        let gates = i.iter_mut().zip(f).zip(g.iter_mut().zip(o));
        for (((i, f), (g, o)), (before, (c, h))) in
            gates.zip(before.iter().zip(c.iter_mut().zip(h)))
        {
            (*i, *f, *g, *o) = (sigmoid(*i), sigmoid(*f), tanh(*g), sigmoid(*o));
            *c = *f * *before + *i * *g;
            *h = *o * tanh(*c);
        }
    }
}

/// Activated gates become δz, and δc that of the step before.
struct Reverse<'a, T> {
    gates: &'a mut [T],
    dc: &'a mut [T],
    dh: &'a [T],
    /// c of the step before.
    before: &'a [T],
    c: &'a [T],
}

impl<T: Number> Vectorised for Reverse<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { gates, dc, dh, before, c } = self;
        let [i, f, g, o] = parts(gates);
        let one = T::one();
        let gates = i.iter_mut().zip(f).zip(g.iter_mut().zip(o));
        let states = dc.iter_mut().zip(dh).zip(before.iter().zip(c));
        for (((i, f), (g, o)), ((dc, dh), (before, c))) in gates.zip(states) {
            let t = tanh(*c);
            let all = *dc + *dh * *o * (one - t * t);
            *dc = all * *f;
            let di = all * *g * (*i * (one - *i));
            let df = all * *before * (*f * (one - *f));
            let dg = all * *i * (one - *g * *g);
            (*i, *f, *g) = (di, df, dg);
            *o = *dh * t * (*o * (one - *o));
        }
    }
}
