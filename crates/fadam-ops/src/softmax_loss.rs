//! Cross-entropy of logits that are there. [`cross_entropy`](crate::cross_entropy) has the equations.
//!
//! The forward pass keeps `log Z` of each row, and the backward pass makes p from it and the logits.

use candle_core::{D, DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::cross_entropy::{CrossEntropy, Loss, Targets};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, last_dim};
use crate::rows::for_rows;
use crate::softmax::exponentials;

const NAME: &str = "cross_entropy";

/// The mean cross-entropy of `logits [..., V]` and one u32 target a row.
///
/// Where the logits are `x Wᵀ`, [`linear_cross_entropy`](crate::linear_cross_entropy()) gives the same without them.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_ops::CrossEntropy;
///
/// let logits = Tensor::new(&[[0f64, 0.0], [0.0, 3f64.ln()], [9.0, 9.0]], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 99], &Device::Cpu)?;
/// let options = CrossEntropy { ignore_index: Some(99), ..Default::default() };
/// let loss = fadam_ops::cross_entropy(&logits, &targets, &options)?;
/// let expected = (2f64.ln() + (4.0f64 / 3.0).ln()) / 2.0;
/// assert!((loss.objective.to_scalar::<f64>()? - expected).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// A target that is no class; no target that counts; options out of their range.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, options: &CrossEntropy) -> Result<Loss> {
    options.check(NAME)?;
    let classes = last_dim(NAME, logits)?;
    if classes == 0 {
        bail!("{NAME}: logits {:?} are of no classes", logits.dims());
    }
    match Route::of(NAME, &[logits])? {
        Route::Single | Route::Double => {}
        Route::Widened(wide) => return cross_entropy(&logits.to_dtype(wide)?, targets, options),
        Route::Composed => return composed(&logits.reshape(((), classes))?, targets, options),
    }
    let rows = logits.elem_count() / classes;
    let targets = options.targets(NAME, targets, rows, classes)?;
    match logits.dtype() {
        DType::F64 => fused::<f64>(logits, targets, options),
        _ => fused::<f32>(logits, targets, options),
    }
}

/// As candle composes it, of logits `[rows, V]`: in f32 at least, since sums over V in half precision would not do.
pub(crate) fn composed(logits: &Tensor, targets: &Tensor, options: &CrossEntropy) -> Result<Loss> {
    let (rows, classes) = logits.dims2()?;
    let CrossEntropy { label_smoothing: s, z_loss, logit_scale, .. } = *options;
    let host = options.targets(NAME, targets, rows, classes)?;
    let logits = match logits.dtype() {
        DType::F64 => logits.clone(),
        _ => logits.to_dtype(DType::F32)?,
    };
    let logits = if logit_scale == 1.0 { logits } else { (logits * logit_scale)? };
    let log_z = logits.log_sum_exp(D::Minus1)?;
    let at = host.of.iter().map(|y| y.unwrap_or(0) as u32).collect::<Vec<_>>();
    let weight = host.of.iter().map(|y| f64::from(u8::from(y.is_some())) / host.counted as f64);
    let weight: Vec<f64> = weight.collect();
    let weight = Tensor::new(weight, logits.device())?.to_dtype(logits.dtype())?;
    let mean = |x: &Tensor| (x * &weight)?.sum_all();
    let at = Tensor::from_vec(at, (rows, 1), logits.device())?;
    let z_y = logits.gather(&at, 1)?.squeeze(1)?;
    let cross_entropy = mean(&(&log_z - &z_y)?)?;
    let mut objective = cross_entropy.clone();
    if s > 0.0 {
        // z_y and the mean logit change places for a share s.
        objective = (objective + (mean(&(z_y - logits.mean(D::Minus1)?)?)? * s)?)?;
    }
    if z_loss > 0.0 {
        objective = (objective + (mean(&log_z.sqr()?)? * z_loss)?)?;
    }
    Ok(Loss { objective, cross_entropy: cross_entropy.detach() })
}

fn fused<T: Number>(logits: &Tensor, targets: Targets, options: &CrossEntropy) -> Result<Loss> {
    let classes = logits.dim(D::Minus1)?;
    let CrossEntropy { label_smoothing: s, z_loss, logit_scale, .. } = *options;
    let log_z: Vec<f64> = read([logits], |[logits]: [&[T]; 1]| {
        logits.par_chunks(classes).map(|z| log_z(z, T::of(logit_scale))).collect()
    })?;
    let (objective, cross_entropy) = read([logits], |[logits]: [&[T]; 1]| {
        let (mut objective, mut cross_entropy) = (0.0, 0.0);
        for ((z, y), log_z) in logits.chunks(classes).zip(&targets.of).zip(&log_z) {
            let Some(y) = y else { continue };
            let z_y = logit_scale * z[*y].double();
            let mean =
                if s > 0.0 { logit_scale * T::total(z).double() / classes as f64 } else { 0.0 };
            cross_entropy += log_z - z_y;
            objective += log_z - (1.0 - s) * z_y - s * mean + z_loss * log_z * log_z;
        }
        let count = targets.counted as f64;
        (T::of(objective / count), T::of(cross_entropy / count))
    })?;
    let of = std::marker::PhantomData::<T>;
    let backward = SoftmaxLoss { targets, options: *options, log_z, of };
    Ok(Loss {
        objective: node(NAME, [logits], (vec![objective], ().into()), backward)?,
        cross_entropy: constant(vec![cross_entropy], ())?,
    })
}

/// log Z of a row of logits times `scale`.
fn log_z<T: Number>(z: &[T], scale: T) -> f64 {
    let mut p: Vec<T> = z.iter().map(|z| *z * scale).collect();
    let most = T::largest(&p);
    exponentials(&mut p, T::one(), most);
    most.double() + T::total(&p).double().ln()
}

struct SoftmaxLoss<T> {
    targets: Targets,
    options: CrossEntropy,
    log_z: Vec<f64>,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<1> for SoftmaxLoss<T> {
    fn backward(
        &self,
        [logits]: [&Tensor; 1],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        let classes = logits.dim(D::Minus1)?;
        let CrossEntropy { label_smoothing: s, z_loss, logit_scale, .. } = self.options;
        let g: f64 = read([g], |[g]: [&[T]; 1]| g[0].double())?;
        let by = g * logit_scale / self.targets.counted as f64;
        let dz = read([logits], |[logits]: [&[T]; 1]| {
            let mut dz = logits.to_vec();
            for_rows(&mut dz, classes, |first, dz| {
                let rows = self.targets.of[first..].iter().zip(&self.log_z[first..]);
                for (dz, (y, log_z)) in dz.chunks_exact_mut(classes).zip(rows) {
                    let Some(y) = y else {
                        dz.fill(T::zero());
                        continue;
                    };
                    let (scale, less) = (T::of(logit_scale), T::of(*log_z));
                    exponentials(dz, scale, less);
                    let factor = T::of(by * (1.0 + 2.0 * z_loss * log_z));
                    let spread = T::of(by * s / classes as f64);
                    for z in dz.iter_mut() {
                        *z = *z * factor - spread;
                    }
                    dz[*y] -= T::of(by * (1.0 - s));
                }
            });
            dz
        })?;
        Ok([Some(constant(dz, logits.shape())?)])
    }
}
