//! The RNN-T loss (Graves, arXiv 1211.3711): −log of the probability of labels given the frames of an utterance, over all
//! alignments of the two.
//!
//! An alignment of U labels with T frames is a path through cells (t, u), 0 ≤ t < T, 0 ≤ u ≤ U, from (0, 0) on. In a cell, which
//! has logits z and `log pᵥ = zᵥ − log Σ exp z`, it emits either the blank ∅ and goes on to (t + 1, u), or the label y of place
//! u + 1 and goes on to (t, u + 1). The blank of (T − 1, U) ends it. With ⊕ for `log(exp + exp)`, and −∞ outside:
//!
//! ```text
//! α(0, 0) = 0    α(t, u) = α(t−1, u) + log p∅(t−1, u)  ⊕  α(t, u−1) + log p_y(t, u−1)
//! β(T, U) = 0    β(t, u) = log p∅(t, u) + β(t+1, u)    ⊕  log p_y(t, u) + β(t, u+1)
//! L = −log P = −β(0, 0) = −(α(T−1, U) + log p∅(T−1, U))
//! ```
//!
//! P is a sum over paths of products, and each path leaves a cell once at most. So `∂L/∂log p` of an emission is −1 times the
//! share of P whose paths have it:
//!
//! ```text
//! b(t, u) = exp(α(t, u) + log p∅(t, u) + β(t+1, u) − log P)
//! l(t, u) = exp(α(t, u) + log p_y(t, u) + β(t, u+1) − log P)
//! ```
//!
//! and through the log-softmax, where `∂log pₖ/∂zᵥ = [k = v] − pᵥ`,
//!
//! ```text
//! ∂L/∂zᵥ = pᵥ (b + l) − [v = ∅] b − [v = y] l
//! ```
//!
//! which sums to 0 in each cell. FastEmit (Yu et al., arXiv 2010.11148) adds λ times `−log` of the paths that leave a cell by
//! its label, and keeps of its gradient what reaches the label's probability: l becomes (1 + λ) l.
//!
//! The forward pass keeps four numbers a cell (max z, b, (1 + λ) l and (b + (1 + λ) l)/Σ exp(z − max z)); the backward pass
//! reads the logits once more and writes their gradient, and is done with a cell that no path goes through by a glance.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::gradients::give;
use crate::lanes::{Vectorised, vectorise};
use crate::lattice::{Cell, losses};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::Route;
use crate::rows::new_rows;
use crate::transducer::{Sizes, Transducer, Utterance, split};

const NAME: &str = "rnnt_loss";

/// The loss of each utterance in nats, `[B]`, from `logits [B, T, U + 1, V]` of V symbols, the labels of each utterance (at
/// most U, without blanks) and its frames (1 to T).
///
/// ```text
/// L = −log Σ over alignments of Π p(emission)
/// ```
///
/// Logits outside of an utterance's `[frames, labels + 1]` are not read, and their gradient is 0. A logit of −∞ is a symbol that
/// cannot be emitted. Where no alignment is possible, the loss is +∞ and its gradient 0. The loss is f64 for f64 logits and f32 for
/// others.
///
/// Beside the logits there are 16 bytes a cell (32 in f64), and in the backward pass one gradient. candle makes two more tensors of
/// its size to add it up (zeros and a sum), [`backward`](crate::backward) does not where the logits are a variable, and
/// [`joint_rnnt_loss`](crate::joint_rnnt_loss()) has no logits. Those that are not contiguous are copied, those in half precision
/// widened, and those on a device copied to the host, where the loss is computed.
///
/// ```
/// use candle_core::{DType, Device, Var};
/// use fadam_ops::Transducer;
///
/// // Two frames, one label, three symbols that are equally probable.
/// let logits = Var::zeros((1, 2, 2, 3), DType::F64, &Device::Cpu)?;
/// let loss = fadam_ops::rnnt_loss(&logits, &[vec![2]], &[2], &Transducer::default())?;
/// // Two alignments, each of one label and two blanks.
/// assert!((loss.to_vec1::<f64>()?[0] + (2.0 / 27f64).ln()).abs() < 1e-12);
/// assert!(loss.sum_all()?.backward()?.get(&logits).is_some());
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// Logits of another rank; numbers of utterances, frames or labels that do not fit them; a label that is the blank or no symbol;
/// options out of their range; a logit that is NaN or +∞. Errors name the utterance.
pub fn rnnt_loss(
    logits: &Tensor,
    targets: &[Vec<u32>],
    frames: &[usize],
    options: &Transducer,
) -> Result<Tensor> {
    let [batch, t, columns, symbols] = *logits.dims() else {
        bail!("{NAME}: logits have shape {:?}, not [B, T, U + 1, V]", logits.dims())
    };
    let sizes = Sizes { batch, frames: t, columns, symbols };
    let utterances = options.utterances(NAME, targets, frames, sizes)?;
    match Route::of(NAME, &[logits])? {
        Route::Single => fused::<f32>(logits, utterances, options, sizes),
        Route::Double => fused::<f64>(logits, utterances, options, sizes),
        Route::Widened(wide) => rnnt_loss(&logits.to_dtype(wide)?, targets, frames, options),
        Route::Composed => {
            let on_host = logits.to_device(&Device::Cpu)?;
            rnnt_loss(&on_host, targets, frames, options)?.to_device(logits.device())
        }
    }
}

fn fused<T: Number>(
    logits: &Tensor,
    utterances: Vec<Utterance>,
    options: &Transducer,
    sizes: Sizes,
) -> Result<Tensor> {
    let tracked = logits.track_op();
    let mut cells: Vec<Cell<T>> = read([logits], |[logits]| {
        let cells = cells(logits, &utterances, options, sizes);
        refuse_no_logits(logits, &cells, &utterances, sizes).map(|()| cells)
    })??;
    let losses = losses(&utterances, &mut cells, options, tracked);
    if !tracked {
        return constant(losses, sizes.batch);
    }
    let backward = RnntLoss { utterances, cells, options: *options, sizes };
    node(NAME, [logits], (losses, sizes.batch.into()), backward)
}

/// The log-probabilities of each utterance's cells.
fn cells<T: Number>(
    logits: &[T],
    utterances: &[Utterance],
    options: &Transducer,
    sizes: Sizes,
) -> Vec<Cell<T>> {
    let Sizes { columns, symbols, .. } = sizes;
    let count = utterances.iter().map(|utterance| utterance.lattice().cells()).sum();
    let mut all = vec![Cell::none(); count];
    let fill = |((utterance, cells), logits): ((&Utterance, &mut [Cell<T>]), &[T])| {
        let frames = cells.par_chunks_mut(utterance.lattice().columns());
        frames.zip(logits.par_chunks(columns * symbols)).for_each_init(
            || vec![T::zero(); symbols],
            |scratch, (cells, logits)| {
                for (u, (to, z)) in cells.iter_mut().zip(logits.chunks_exact(symbols)).enumerate() {
                    scratch.copy_from_slice(z);
                    *to = cell(scratch, options.blank as usize, utterance.label(u));
                }
            },
        );
    };
    let batch = logits.par_chunks((sizes.frames * columns * symbols).max(1));
    utterances.par_iter().zip(split(utterances, &mut all)).zip(batch).for_each(fill);
    all
}

/// A cell of logits z, which become `exp(z − max z)`.
pub(crate) fn cell<T: Number>(z: &mut [T], blank: usize, label: Option<usize>) -> Cell<T> {
    let most = T::largest(z);
    let (z_blank, z_label) = (z[blank], label.map(|label| z[label]));
    // Where nothing is larger than −∞, there is no symbol, or NaN, which `largest` passes over.
    let sum = if most > T::neg_infinity() {
        vectorise(Exponentials { z, most, scale: T::one() });
        T::total(z)
    } else if z.iter().any(|z| z.is_nan()) {
        T::nan()
    } else {
        T::zero()
    };
    Cell::new(most, sum, z_blank, z_label)
}

/// `z = scale exp(z − most)`
struct Exponentials<'a, T> {
    z: &'a mut [T],
    most: T,
    scale: T,
}

impl<T: Number> Vectorised for Exponentials<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for z in self.z {
            *z = (*z - self.most).exponential() * self.scale;
        }
    }
}

/// Logits z of a cell become `by · ∂L/∂z`.
pub(crate) fn gradient<T: Number>(
    z: &mut [T],
    cell: &Cell<T>,
    (blank, label): (usize, Option<usize>),
    clamp: Option<T>,
    by: T,
) {
    let before = if clamp.is_some() { T::one() } else { by };
    vectorise(Exponentials { z, most: cell.most, scale: cell.scale * before });
    z[blank] -= cell.blank * before;
    if let Some(label) = label {
        z[label] -= cell.label * before;
    }
    if let Some(bound) = clamp {
        for z in z {
            *z = num_traits::clamp(*z, -bound, bound) * by;
        }
    }
}

/// Names the first logit that is NaN or +∞.
fn refuse_no_logits<T: Number>(
    logits: &[T],
    cells: &[Cell<T>],
    utterances: &[Utterance],
    sizes: Sizes,
) -> Result<()> {
    let Some((b, t, u)) = no_logits(cells, utterances) else { return Ok(()) };
    let row = (b * sizes.frames + t) * sizes.columns + u;
    let z = &logits[row * sizes.symbols..][..sizes.symbols];
    let wrong = (0..).zip(z).find(|(_, z)| z.is_nan() || **z == T::infinity());
    let (v, z) = wrong.unwrap_or((0, &z[0]));
    bail!("{NAME}: the logit of symbol {v} in utterance {b}, frame {t}, after {u} labels, is {z}")
}

/// Utterance, frame and labels so far of the first cell with a logit that is NaN or +∞.
pub(crate) fn no_logits<T: Number>(
    cells: &[Cell<T>],
    utterances: &[Utterance],
) -> Option<(usize, usize, usize)> {
    utterances.iter().enumerate().find_map(|(b, utterance)| {
        let cell = utterance.of(cells).iter().position(Cell::is_of_no_logits)?;
        let columns = utterance.lattice().columns();
        Some((b, cell / columns, cell % columns))
    })
}

struct RnntLoss<T> {
    utterances: Vec<Utterance>,
    cells: Vec<Cell<T>>,
    options: Transducer,
    sizes: Sizes,
}

impl<T: Number> RnntLoss<T> {
    /// The gradients of rows of logits, the first of which is row `first` of the batch; they are 0 before.
    fn rows(&self, first: usize, rows: &mut [T], logits: &[T], g: &[T]) {
        let Sizes { frames, columns, symbols, .. } = self.sizes;
        let clamp = self.options.clamp.map(T::of);
        for (row, dz) in (first..).zip(rows.chunks_exact_mut(symbols)) {
            let (b, t, u) = (row / columns / frames, row / columns % frames, row % columns);
            let utterance = &self.utterances[b];
            if t >= utterance.frames || u > utterance.labels.len() {
                continue;
            }
            let cell = &utterance.of(&self.cells)[t * utterance.lattice().columns() + u];
            if cell.scale > T::zero() {
                dz.copy_from_slice(&logits[row * symbols..][..symbols]);
                let emitted = (self.options.blank as usize, utterance.label(u));
                gradient(dz, cell, emitted, clamp, g[b]);
            }
        }
    }
}

impl<T: Number> Backward<1> for RnntLoss<T> {
    fn backward(
        &self,
        [logits]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        let dz = read([logits, g], |[logits, g]: [&[T]; 2]| {
            let symbols = self.sizes.symbols;
            new_rows(logits.len(), symbols, |first, rows| self.rows(first, rows, logits, g))
        })?;
        Ok([give(logits, dz)?])
    }
}
