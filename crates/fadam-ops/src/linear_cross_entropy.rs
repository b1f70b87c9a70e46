//! Cross-entropy of logits `x Wᵀ` that are never there in full.
//!
//! Rows of x are taken some hundred at a time. Their logits are kept transposed, `[V, rows]`, so that softmax is elementwise
//! along the rows, and W is read as it lies in memory. Where a gradient will be asked for, it is made at once from the
//! same logits, `∂x = ∂z W` and `∂W += ∂zᵀ x`, for a loss whose own gradient is 1, and is scaled in the backward pass.

use candle_core::{DType, Result, Tensor};

use crate::by_class::{ByClass, Sums};
use crate::cross_entropy::{CrossEntropy, Loss, Targets};
use crate::gradients::give;
use crate::kept::Kept;
use crate::matrix::{Into, Matrix, Threads, product_into, transposed};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, is_of_rows};

const NAME: &str = "linear_cross_entropy";

/// Logits that are there at once.
const LOGITS: usize = 1 << 22;

/// The mean cross-entropy of logits `x Wᵀ`: from `x [..., d]`, `w [V, d]` and one u32 target a row of x.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use fadam_ops::CrossEntropy;
///
/// let x = Var::zeros((2, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let w = Var::ones((10, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let targets = Tensor::new(&[3u32, 7], &Device::Cpu)?;
/// let loss = fadam_ops::linear_cross_entropy(&x, &w, &targets, &CrossEntropy::default())?;
/// assert!((loss.objective.to_scalar::<f32>()? - 10f32.ln()).abs() < 1e-6);
/// assert!(fadam_ops::backward(&loss.objective)?.get(&w).is_some());
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// Shapes that do not fit; a target that is no class; no target that counts; options out of their range.
pub fn linear_cross_entropy(
    x: &Tensor,
    w: &Tensor,
    targets: &Tensor,
    options: &CrossEntropy,
) -> Result<Loss> {
    is_of_rows(NAME, x, w)?;
    options.check(NAME)?;
    let (classes, d) = w.dims2()?;
    match Route::of(NAME, &[x, w])? {
        Route::Single | Route::Double => {}
        Route::Widened(wide) => {
            return linear_cross_entropy(&x.to_dtype(wide)?, &w.to_dtype(wide)?, targets, options);
        }
        Route::Composed => {
            let logits = x.reshape(((), d))?.matmul(&w.t()?)?;
            return crate::softmax_loss::composed(&logits, targets, options);
        }
    }
    let rows = x.elem_count() / d;
    let targets = options.targets(NAME, targets, rows, classes)?;
    match x.dtype() {
        DType::F64 => fused::<f64>(x, w, &targets, options),
        _ => fused::<f32>(x, w, &targets, options),
    }
}

fn fused<T: Number>(
    x: &Tensor,
    w: &Tensor,
    targets: &Targets,
    options: &CrossEntropy,
) -> Result<Loss> {
    let (classes, d) = w.dims2()?;
    let mut pass = Pass::<T> {
        targets,
        options,
        classes,
        d,
        sums: Sums::default(),
        dx: x.track_op().then(|| vec![T::zero(); x.elem_count()]),
        dw: w.track_op().then(|| vec![T::zero(); w.elem_count()]),
    };
    read([x, w], |[x, w]| pass.run(x, w))?;
    let count = targets.counted as f64;
    let scalar = |x: f64| vec![T::of(x / count)];
    let backward = LinearCrossEntropy { dx: Kept::new(pass.dx), dw: Kept::new(pass.dw) };
    Ok(Loss {
        objective: node(NAME, [x, w], (scalar(pass.sums.objective), ().into()), backward)?,
        cross_entropy: constant(scalar(pass.sums.cross_entropy), ())?,
    })
}

/// One pass over the rows.
struct Pass<'a, T> {
    targets: &'a Targets,
    options: &'a CrossEntropy,
    classes: usize,
    d: usize,
    sums: Sums,
    dx: Option<Vec<T>>,
    dw: Option<Vec<T>>,
}

impl<T: Number> Pass<'_, T> {
    fn run(&mut self, x: &[T], w: &[T]) {
        let (classes, d) = (self.classes, self.d);
        let of_rows = ByClass {
            options: self.options,
            counted: self.targets.counted,
            gradient: self.dx.is_some() || self.dw.is_some(),
        };
        let at_once = (LOGITS / classes.max(1)).clamp(64, 256);
        let mut logits = vec![T::zero(); classes * at_once.min(self.targets.of.len())];
        let w = Matrix::new(w, classes, d);
        for (chunk, x) in x.chunks(at_once * d).enumerate() {
            let (first, rows) = (chunk * at_once, x.len() / d);
            let logits = &mut logits[..classes * rows];
            let x_t = transposed(x, rows, d);
            let scale = T::of(self.options.logit_scale);
            let x_t = Matrix::new(&x_t, d, rows);
            product_into(w, x_t, scale, logits, rows, Into::Overwrite, Threads::All);
            let targets = &self.targets.of[first..][..rows];
            of_rows.losses(logits, targets, &mut self.sums);
            let g = Matrix::new(logits, classes, rows);
            if let Some(dx) = &mut self.dx {
                let dx = &mut dx[first * d..][..x.len()];
                product_into(g.t(), w, scale, dx, d, Into::Overwrite, Threads::All);
            }
            if let Some(dw) = &mut self.dw {
                let x = Matrix::new(x, rows, d);
                let into = if first == 0 { Into::Overwrite } else { Into::Add };
                product_into(g, x, scale, dw, d, into, Threads::All);
            }
        }
    }
}

/// The gradients for a loss whose own gradient is 1.
struct LinearCrossEntropy<T> {
    dx: Kept<T>,
    dw: Kept<T>,
}

impl<T: Number> Backward<2> for LinearCrossEntropy<T> {
    fn backward(
        &self,
        [x, w]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let by = read([g], |[g]: [&[T]; 1]| g[0])?;
        let dx =
            if x.track_op() { Some(constant(self.dx.take(NAME, by)?, x.shape())?) } else { None };
        if !w.track_op() {
            return Ok([dx, None]);
        }
        let dw = self.dw.take(NAME, by)?;
        Ok([dx, give(w, dw)?])
    }
}
