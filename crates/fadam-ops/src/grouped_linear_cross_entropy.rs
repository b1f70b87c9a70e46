//! Cross-entropies of G groups of K classes from the same rows, as of the pixels of a patch: logits `z = x Wᵀ + b`, of which
//! `[N, G K]` never exist.
//!
//! With row n of x, group g, class k and the row `g K + k` of W, and p the softmax over the classes of a group:
//!
//! ```text
//! z_ngk = x_n · w_gk + b_gk          ℓ_ng = log Σ_k exp z_ngk − z_ng,y        loss = mean ℓ
//! ∂z_ngk = (p_ngk − [k = y_ng]) / N G      ∂w_gk = Σ_n ∂z_ngk x_n    ∂b_gk = Σ_n ∂z_ngk    ∂x_n = Σ_gk ∂z_ngk w_gk
//! ```
//!
//! and with the options of [`cross_entropy`](crate::cross_entropy()). The groups are cut into lanes, and a lane is one thread's: of
//! some rows it makes the logits of a block of classes, `[K, rows]` so that softmax is elementwise along the rows, their
//! gradients in the same place, and from these at once what they add to ∂W, ∂b and ∂x, for a loss whose own gradient is 1. A
//! block, its weights and its rows are then in the cache of that thread. Each lane has a ∂x of its own for the rows in work, and these
//! are added up in the order of the lanes, whose number does not depend on that of the threads.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::by_class::{ByClass, Sums};
use crate::cross_entropy::{CrossEntropy, Loss, Targets};
use crate::gradients::give;
use crate::kept::Kept;
use crate::matrix::{Into, Matrix, Threads, product_into, transposed};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, is_of_rows};
use crate::rows::sum_of;

const NAME: &str = "grouped_linear_cross_entropy";

/// Rows of x in work: of so many, each lane keeps a ∂x.
const ROWS: usize = 512;

/// Rows whose logits of a block are there at once.
const TILE: usize = 256;

/// Classes of a block at least: small groups are taken several at a time.
const BLOCK: usize = 256;

/// What the groups are cut into, at most.
const LANES: usize = 32;

/// The mean cross-entropy in nats of logits `x Wᵀ + b`, cut into groups with a target each: from `x [..., d]`, `w [G K, d]` and
/// `b [G K]`, class k of group g at row `g K + k`, and u32 `targets [..., G]` below K.
///
/// With one group it is [`linear_cross_entropy`](crate::linear_cross_entropy()) with a bias. On a device, where the op is composed, the logits
/// are there in full.
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use fadam_ops::CrossEntropy;
///
/// // Two rows, three groups of five classes.
/// let x = Var::zeros((2, 4), DType::F32, &Device::Cpu)?;
/// let w = Var::ones((3 * 5, 4), DType::F32, &Device::Cpu)?;
/// let b = Var::zeros(3 * 5, DType::F32, &Device::Cpu)?;
/// let targets = Tensor::new(&[[3u32, 0, 4], [1, 1, 2]], &Device::Cpu)?;
/// let options = CrossEntropy::default();
/// let loss = fadam_ops::grouped_linear_cross_entropy(&x, &w, &b, &targets, &options)?;
/// assert!((loss.objective.to_scalar::<f32>()? - 5f32.ln()).abs() < 1e-6);
/// assert!(fadam_ops::backward(&loss.objective)?.get(&b).is_some());
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// Shapes that do not fit; a target that is no class, named by its place; no target that counts; options out of their range. A
/// second backward pass through the same loss is refused.
pub fn grouped_linear_cross_entropy(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    targets: &Tensor,
    options: &CrossEntropy,
) -> Result<Loss> {
    let size = Size::of(x, w, b, targets)?;
    options.check(NAME)?;
    match Route::of(NAME, &[x, w, b])? {
        Route::Single | Route::Double => {}
        Route::Widened(wide) => {
            let [x, w, b] = [x.to_dtype(wide)?, w.to_dtype(wide)?, b.to_dtype(wide)?];
            return grouped_linear_cross_entropy(&x, &w, &b, targets, options);
        }
        Route::Composed => {
            let logits = x.reshape(((), size.d))?.matmul(&w.t()?)?.broadcast_add(b)?;
            let logits = logits.reshape((targets.elem_count(), size.classes))?;
            return crate::softmax_loss::composed(&logits, targets, options);
        }
    }
    let targets = options.targets(NAME, targets, targets.elem_count(), size.classes)?;
    match x.dtype() {
        DType::F64 => fused::<f64>(x, w, b, &Problem { size, targets, options }),
        _ => fused::<f32>(x, w, b, &Problem { size, targets, options }),
    }
}

/// Sizes that fit each other.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// The width of a row of x.
    d: usize,
    /// G
    groups: usize,
    /// K
    classes: usize,
}

impl Size {
    fn of(x: &Tensor, w: &Tensor, b: &Tensor, targets: &Tensor) -> Result<Self> {
        is_of_rows(NAME, x, w)?;
        let (all, d) = w.dims2()?;
        if b.dims() != [all] {
            bail!("{NAME}: b has shape {:?}, where w {:?} asks for [{all}]", b.dims(), w.dims());
        }
        let before = &x.dims()[..x.rank() - 1];
        let fitting = match targets.dims() {
            [first @ .., groups] if first == before => Some(*groups),
            _ => None,
        };
        let Some(groups) = fitting else {
            bail!(
                "{NAME}: targets {:?} are not as many of each row of x {:?}",
                targets.dims(),
                x.dims()
            );
        };
        if groups == 0 || all == 0 || !all.is_multiple_of(groups) {
            bail!("{NAME}: the {all} rows of w are not {groups} groups of classes");
        }
        Ok(Self { d, groups, classes: all / groups })
    }
}

struct Problem<'a> {
    size: Size,
    /// `[N, G]`
    targets: Targets,
    options: &'a CrossEntropy,
}

fn fused<T: Number>(x: &Tensor, w: &Tensor, b: &Tensor, problem: &Problem<'_>) -> Result<Loss> {
    let room = |x: &Tensor| x.track_op().then(|| vec![T::zero(); x.elem_count()]);
    let [mut dx, mut dw, mut db] = [room(x), room(w), room(b)];
    let sums = read([x, w, b], |[x, w, b]: [&[T]; 3]| {
        let mut sums = Sums::default();
        let d = problem.size.d;
        for (chunk, x) in x.chunks(ROWS * d).enumerate() {
            let rows = Rows {
                problem,
                first: chunk * ROWS,
                x,
                x_t: &transposed(x, x.len() / d, d),
                wants_dx: dx.is_some(),
            };
            let lanes = lanes(problem.size, w, b, dw.as_deref_mut(), db.as_deref_mut());
            let of_lanes: Vec<_> = lanes.into_par_iter().map(|lane| rows.run(lane)).collect();
            let (of_lanes, parts): (Vec<Sums>, Vec<Vec<T>>) = of_lanes.into_iter().unzip();
            for of_lane in of_lanes {
                sums.objective += of_lane.objective;
                sums.cross_entropy += of_lane.cross_entropy;
            }
            if let Some(dx) = &mut dx {
                dx[rows.first * d..][..x.len()].copy_from_slice(&sum_of(parts, x.len()));
            }
        }
        sums
    })?;
    let count = problem.targets.counted as f64;
    let scalar = |x: f64| vec![T::of(x / count)];
    let [dx, dw, db] = [dx, dw, db].map(Kept::new);
    let backward = GroupedLinearCrossEntropy { dx, dw, db };
    Ok(Loss {
        objective: node(NAME, [x, w, b], (scalar(sums.objective), ().into()), backward)?,
        cross_entropy: constant(scalar(sums.cross_entropy), ())?,
    })
}

/// Groups next to each other, with the gradients of their weights if these are wanted.
struct Lane<'a, T> {
    /// The first group.
    group: usize,
    w: &'a [T],
    b: &'a [T],
    dw: Option<&'a mut [T]>,
    db: Option<&'a mut [T]>,
}

/// All groups, cut into lanes.
fn lanes<'a, T>(
    size: Size,
    w: &'a [T],
    b: &'a [T],
    dw: Option<&'a mut [T]>,
    db: Option<&'a mut [T]>,
) -> Vec<Lane<'a, T>> {
    let groups = size.groups.div_ceil(LANES);
    let rows = groups * size.classes;
    let mut dw = dw.map(|dw| dw.chunks_mut(rows * size.d));
    let mut db = db.map(|db| db.chunks_mut(rows));
    let weights = w.chunks(rows * size.d).zip(b.chunks(rows)).enumerate();
    weights
        .map(|(lane, (w, b))| Lane {
            group: lane * groups,
            w,
            b,
            dw: dw.as_mut().and_then(Iterator::next),
            db: db.as_mut().and_then(Iterator::next),
        })
        .collect()
}

/// Rows of x that all lanes are at.
struct Rows<'a, T> {
    problem: &'a Problem<'a>,
    first: usize,
    x: &'a [T],
    /// The same transposed.
    x_t: &'a [T],
    wants_dx: bool,
}

impl<T: Number> Rows<'_, T> {
    /// The losses of a lane's groups and their part of ∂x, which is empty if that is not wanted.
    fn run(&self, mut lane: Lane<'_, T>) -> (Sums, Vec<T>) {
        let Size { d, classes, .. } = self.problem.size;
        let rows = self.x.len() / d;
        let block = BLOCK.div_ceil(classes) * classes;
        let mut room = vec![T::zero(); block.min(lane.b.len()) * TILE.min(rows)];
        let mut dx = vec![T::zero(); if self.wants_dx { self.x.len() } else { 0 }];
        let mut sums = Sums::default();
        for (i, (w, b)) in lane.w.chunks(block * d).zip(lane.b.chunks(block)).enumerate() {
            let w = Matrix::new(w, b.len(), d);
            let at = i * block;
            let mut dw = lane.dw.as_mut().map(|dw| &mut dw[at * d..][..b.len() * d]);
            let mut db = lane.db.as_mut().map(|db| &mut db[at..][..b.len()]);
            for first in (0..rows).step_by(TILE) {
                let tile = Tile { first, rows: TILE.min(rows - first) };
                let z = &mut room[..b.len() * tile.rows];
                self.logits(z, tile, w, b);
                let gradient = self.wants_dx || dw.is_some() || db.is_some();
                self.losses(z, tile, lane.group + at / classes, gradient, &mut sums);
                let scale = T::of(self.problem.options.logit_scale);
                let dz = Matrix::new(z, b.len(), tile.rows);
                if self.wants_dx {
                    let dx = &mut dx[first * d..][..tile.rows * d];
                    product_into(dz.t(), w, scale, dx, d, Into::Add, Threads::One);
                }
                if let Some(dw) = &mut dw {
                    let x = Matrix::new(&self.x[first * d..], tile.rows, d);
                    product_into(dz, x, scale, dw, d, Into::Add, Threads::One);
                }
                if let Some(db) = &mut db {
                    for (db, dz) in db.iter_mut().zip(z.chunks_exact(tile.rows)) {
                        *db += scale * T::total(dz);
                    }
                }
            }
        }
        (sums, dx)
    }

    /// `z = scale (w xᵀ + b)`, `[classes, rows]`.
    fn logits(&self, z: &mut [T], tile: Tile, w: Matrix<'_, T>, b: &[T]) {
        let (d, rows) = (self.problem.size.d, self.x.len() / self.problem.size.d);
        let scale = T::of(self.problem.options.logit_scale);
        for (z, b) in z.chunks_exact_mut(tile.rows).zip(b) {
            z.fill(scale * *b);
        }
        let x_t = Matrix::strided(&self.x_t[tile.first..], d, tile.rows, rows);
        product_into(w, x_t, scale, z, tile.rows, Into::Add, Threads::One);
    }

    /// Of each group of a block, the first of which is `group`.
    fn losses(&self, z: &mut [T], tile: Tile, group: usize, gradient: bool, sums: &mut Sums) {
        let Problem { size, ref targets, options } = *self.problem;
        let of_rows = ByClass { options, counted: targets.counted, gradient };
        for (group, z) in (group..).zip(z.chunks_exact_mut(size.classes * tile.rows)) {
            let first = (self.first + tile.first) * size.groups + group;
            let each = targets.of[first..].iter().step_by(size.groups).take(tile.rows);
            let targets: Vec<Option<usize>> = each.copied().collect();
            of_rows.losses(z, &targets, sums);
        }
    }
}

/// Some of the rows in work.
#[derive(Clone, Copy)]
struct Tile {
    first: usize,
    rows: usize,
}

/// The gradients for a loss whose own gradient is 1.
struct GroupedLinearCrossEntropy<T> {
    dx: Kept<T>,
    dw: Kept<T>,
    db: Kept<T>,
}

impl<T: Number> Backward<3> for GroupedLinearCrossEntropy<T> {
    fn backward(
        &self,
        [x, w, b]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let by = read([g], |[g]: [&[T]; 1]| g[0])?;
        let of_weight = |weight: &Tensor, kept: &Kept<T>| {
            if weight.track_op() { give(weight, kept.take(NAME, by)?) } else { Ok(None) }
        };
        let dx =
            if x.track_op() { Some(constant(self.dx.take(NAME, by)?, x.shape())?) } else { None };
        Ok([dx, of_weight(w, &self.dw)?, of_weight(b, &self.db)?])
    }
}
