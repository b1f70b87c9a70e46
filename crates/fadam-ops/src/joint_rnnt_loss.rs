//! The RNN-T loss of a joint network, whose logits are never there in full.
//!
//! From frames `e_t` of the encoder and states `p_u` of the prediction network, the cell (t, u) has `h = φ(e_t + p_u)` and
//! logits `z = W h + b`. With ∂z as in [`rnnt_loss`](crate::rnnt_loss()):
//!
//! ```text
//! ∂W = Σ ∂z hᵀ    ∂b = Σ ∂z    ∂a = φ'(e_t + p_u) Wᵀ ∂z    ∂e_t = Σ ∂a over u    ∂p_u = Σ ∂a over t
//! ```
//!
//! The forward pass makes logits, keeps four numbers a cell of them and forgets them. The backward pass makes them again, when the
//! gradient of each loss is known, and not of cells that no path goes through. Both go by segments, some hundred cells of whole
//! frames of one utterance; a segment is work for one thread. What segments add to a sum is added in their order, so that
//! threads, and how many segments are in work at once, change no bit.
//!
//! A bias is a further column of W, for a further number 1 in h.

use candle_core::{DType, Result, Tensor, bail};

use crate::activation::{self, Activation};
use crate::gradients::accumulate;
use crate::lattice::{Cell, losses};
use crate::matrix::Into;
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::rnnt_loss::no_logits;
use crate::route::{Route, matrix};
use crate::segments::{Pass, Wanted, Work};
use crate::transducer::{Sizes, Transducer};

const NAME: &str = "joint_rnnt_loss";

/// A joint network, of which [`joint_rnnt_loss`] makes logits `W φ(e + p) + b`.
#[derive(Debug, Clone, Copy)]
pub struct Joint<'a> {
    /// W `[V, J]`
    pub w: &'a Tensor,
    /// b `[V]`
    pub b: &'a Tensor,
    /// φ
    pub activation: Activation,
    /// Bytes that logits and what is made of them may take: h, gradients, and a part of ∂W for each segment of logits. There is
    /// always room for one segment, which is 512 cells, or a frame if that has more. Results do not depend on it.
    pub memory: usize,
}

impl<'a> Joint<'a> {
    /// 256 MiB.
    pub const MEMORY: usize = 256 << 20;

    /// With [`MEMORY`](Self::MEMORY) for logits.
    pub fn new(w: &'a Tensor, b: &'a Tensor, activation: Activation) -> Self {
        Self { w, b, activation, memory: Self::MEMORY }
    }
}

/// [`rnnt_loss`](crate::rnnt_loss()) of the logits `W φ(e_t + p_u) + b`: from `encoded [B, T, J]`, `predicted [B, U + 1, J]`, the
/// labels of each utterance (at most U, without blanks) and its frames (1 to T) to losses in nats, `[B]`.
///
/// Frames and states outside of an utterance are not read, and their gradients are 0.
///
/// On a device, the joint network is composed of candle's ops: all logits are there then.
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use fadam_ops::{Activation, Joint, Transducer};
///
/// let encoded = Var::ones((1, 2, 4), DType::F64, &Device::Cpu)?;
/// let predicted = Tensor::ones((1, 2, 4), DType::F64, &Device::Cpu)?;
/// let w = Tensor::zeros((3, 4), DType::F64, &Device::Cpu)?;
/// let b = Tensor::zeros(3, DType::F64, &Device::Cpu)?;
/// let joint = Joint::new(&w, &b, Activation::Tanh);
/// let options = Transducer::default();
/// let loss = fadam_ops::joint_rnnt_loss(&encoded, &predicted, &joint, &[vec![2]], &[2], &options)?;
/// // Two alignments of a label and two blanks, each of the probability 1/3.
/// assert!((loss.to_vec1::<f64>()?[0] + (2.0 / 27f64).ln()).abs() < 1e-12);
/// assert!(loss.sum_all()?.backward()?.get(&encoded).is_some());
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// Shapes, dtypes or devices that do not fit; otherwise those of [`rnnt_loss`](crate::rnnt_loss()).
pub fn joint_rnnt_loss(
    encoded: &Tensor,
    predicted: &Tensor,
    joint: &Joint<'_>,
    targets: &[Vec<u32>],
    frames: &[usize],
    options: &Transducer,
) -> Result<Tensor> {
    let sizes = sizes(encoded, predicted, joint)?;
    let utterances = options.utterances(NAME, targets, frames, sizes)?;
    let Joint { activation, memory, .. } = *joint;
    match Route::of(NAME, &[encoded, predicted, joint.w, joint.b])? {
        Route::Single | Route::Double => {
            let width = joint.w.dims()[1];
            let pass = Pass::new(utterances, sizes, width, activation, *options, memory);
            match joint.w.dtype() {
                DType::F64 => fused::<f64>(encoded, predicted, joint, pass),
                _ => fused::<f32>(encoded, predicted, joint, pass),
            }
        }
        Route::Widened(wide) => {
            let [w, b] = [joint.w.to_dtype(wide)?, joint.b.to_dtype(wide)?];
            let joint = Joint { w: &w, b: &b, ..*joint };
            let [e, p] = [encoded.to_dtype(wide)?, predicted.to_dtype(wide)?];
            joint_rnnt_loss(&e, &p, &joint, targets, frames, options)
        }
        Route::Composed => composed(encoded, predicted, joint, targets, frames, options),
    }
}

/// The sizes of the logits.
fn sizes(encoded: &Tensor, predicted: &Tensor, joint: &Joint<'_>) -> Result<Sizes> {
    let (symbols, width) = matrix(NAME, "w", joint.w)?;
    let ([batch, frames, of_e], [same, columns, of_p]) = (encoded.dims(), predicted.dims()) else {
        bail!(
            "{NAME}: encoded {:?} and predicted {:?}, not [B, T, J] and [B, U + 1, J]",
            encoded.dims(),
            predicted.dims()
        );
    };
    if batch != same || [*of_e, *of_p] != [width; 2] || width == 0 {
        bail!(
            "{NAME}: encoded {:?}, predicted {:?} and w {:?}, not [B, T, J], [B, U + 1, J] and [V, J] with J > 0",
            encoded.dims(),
            predicted.dims(),
            joint.w.dims()
        );
    }
    if joint.b.dims() != [symbols] {
        bail!("{NAME}: b has shape {:?}, where w asks for [{symbols}]", joint.b.dims());
    }
    Ok(Sizes { batch: *batch, frames: *frames, columns: *columns, symbols })
}

/// As candle composes the logits, utterance by utterance.
fn composed(
    encoded: &Tensor,
    predicted: &Tensor,
    joint: &Joint<'_>,
    targets: &[Vec<u32>],
    frames: &[usize],
    options: &Transducer,
) -> Result<Tensor> {
    let one = |b: usize| {
        let e = encoded.narrow(0, b, 1)?.narrow(1, 0, frames[b])?.unsqueeze(2)?;
        let p = predicted.narrow(0, b, 1)?.narrow(1, 0, targets[b].len() + 1)?.unsqueeze(1)?;
        let h = activation::composed(&e, &p, joint.activation)?;
        let logits = crate::linear(&h, joint.w, Some(joint.b))?;
        crate::rnnt_loss(&logits, &targets[b..=b], &frames[b..=b], options)
    };
    let losses = (0..frames.len()).map(one).collect::<Result<Vec<_>>>()?;
    if losses.is_empty() {
        return encoded.flatten_all(); // no elements, and the graph goes on
    }
    Tensor::cat(&losses, 0)
}

fn fused<T: Number>(
    encoded: &Tensor,
    predicted: &Tensor,
    joint: &Joint<'_>,
    pass: Pass,
) -> Result<Tensor> {
    let weights = joined::<T>(joint.w, joint.b)?;
    let arguments = [encoded, predicted, &weights];
    let tracked = arguments.iter().any(|x| x.track_op());
    let mut cells: Vec<Cell<T>> = read(arguments, |[e, p, w]| Work::new(&pass, e, p, w).cells())?;
    if let Some((b, t, u)) = no_logits(&cells, &pass.utterances) {
        bail!("{NAME}: a logit of utterance {b}, frame {t}, after {u} labels, is NaN or +∞");
    }
    let losses = losses(&pass.utterances, &mut cells, &pass.options, tracked);
    let batch = pass.sizes.batch;
    if !tracked {
        return constant(losses, batch);
    }
    node(NAME, arguments, (losses, batch.into()), JointRnntLoss { pass, cells })
}

struct JointRnntLoss<T> {
    pass: Pass,
    cells: Vec<Cell<T>>,
}

impl<T: Number> Backward<3> for JointRnntLoss<T> {
    fn backward(
        &self,
        arguments: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let [e, p, w] = arguments;
        let wanted = Wanted { inputs: e.track_op() || p.track_op(), weights: w.track_op() };
        let [de, dp, dw] = read([e, p, w, g], |[e, p, w, g]: [&[T]; 4]| {
            Work::new(&self.pass, e, p, w).gradients(&self.cells, g, wanted)
        })?;
        let of = |wanted: bool, gradient: Vec<T>, x: &Tensor| {
            wanted.then(|| constant(gradient, x.shape())).transpose()
        };
        Ok([of(wanted.inputs, de, e)?, of(wanted.inputs, dp, p)?, of(wanted.weights, dw, w)?])
    }
}

/// `[W b]`, of rows of J + 1.
fn joined<T: Number>(w: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (symbols, width) = w.dims2()?;
    let rows = read([w, b], |[w, b]: [&[T]; 2]| {
        let mut rows = Vec::with_capacity(symbols * (width + 1));
        for (w, b) in w.chunks_exact(width).zip(b) {
            rows.extend_from_slice(w);
            rows.push(*b);
        }
        rows
    })?;
    let of = std::marker::PhantomData::<T>;
    node(NAME, [w, b], (rows, (symbols, width + 1).into()), Joined { of })
}

struct Joined<T> {
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<2> for Joined<T> {
    fn backward(
        &self,
        [w, b]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let width = w.dims()[1];
        read([g], |[g]: [&[T]; 1]| {
            let of = |argument: &Tensor, from: usize, n: usize| {
                if !argument.track_op() {
                    return Ok(None);
                }
                accumulate(argument, |sum, into| {
                    for (sum, g) in sum.chunks_exact_mut(n).zip(g.chunks_exact(width + 1)) {
                        let pairs = sum.iter_mut().zip(&g[from..]);
                        match into {
                            Into::Overwrite => pairs.for_each(|(sum, g)| *sum = *g),
                            Into::Add => pairs.for_each(|(sum, g)| *sum += *g),
                        }
                    }
                })
            };
            Ok([of(w, 0, width)?, of(b, width, 1)?])
        })?
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    /// What a device computes is what the CPU does, in f64 to rounding.
    #[test]
    fn composed_is_fused() {
        let draw = |shape: &[usize], seed: usize| {
            let n: usize = shape.iter().product();
            let number = |i: usize| ((i * 7919 + seed) as f64 * 0.618_033_988).fract() * 2.0 - 1.0;
            Var::from_vec((0..n).map(number).collect::<Vec<f64>>(), shape, &Device::Cpu).unwrap()
        };
        let vars = [draw(&[3, 5, 4], 1), draw(&[3, 4, 4], 2), draw(&[6, 4], 3), draw(&[6], 4)];
        let [e, p, w, b] = &vars;
        let (targets, frames) = ([vec![1, 2, 1], vec![], vec![5]], [5, 1, 3]);
        let options = Transducer { blank: 3, fast_emit: 0.1, clamp: Some(0.4) };
        for activation in [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::Tanh] {
            let joint = Joint::new(w, b, activation);
            let ours = joint_rnnt_loss(e, p, &joint, &targets, &frames, &options).unwrap();
            let theirs = composed(e, p, &joint, &targets, &frames, &options).unwrap();
            let off = |a: &Tensor, b: &Tensor| {
                let off = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
                off.to_scalar::<f64>().unwrap()
            };
            assert!(off(&ours, &theirs) < 1e-12, "{activation:?}");
            let [ours, theirs] = [ours, theirs].map(|y| y.sqr().unwrap().backward().unwrap());
            for var in &vars {
                let off = off(ours.get(var).unwrap(), theirs.get(var).unwrap());
                assert!(off < 1e-11, "{activation:?}: a gradient is off by {off:e}");
            }
        }
        let none = Tensor::zeros((0, 2, 4), DType::F64, &Device::Cpu).unwrap();
        let joint = Joint::new(w, b, Activation::Tanh);
        assert_eq!(composed(&none, &none, &joint, &[], &[], &options).unwrap().dims(), [0]);
    }
}
