//! The fused step on the CPU: two passes over memory, in place, on all threads.
//!
//! Pass A ([`Tensors::measure`]) only reads. It finds ε̂ and the clipping factors of every tensor and sees every NaN
//! and infinity in a gradient, so that an error comes before anything has changed. It does not read m of
//! Algorithms 1, 2 and 4, nor θ of 3 and 4: what is not finite there already is not found (a state file is checked
//! when it is read). Pass B ([`Tensors::apply`]) reads again and writes f, m and θ.
//!
//! A tensor is cut into [`tasks`] by its shape, whose sums are added in their order, so a step gives the same bits
//! whatever the number of threads. A task is gone through in strips of 256 numbers ([`column`]), which are read from
//! and written to whatever the numbers are stored as; between that all is arithmetic on strips of the compute type
//! ([`full`] or [`factored`] for 1/d, [`descent`] for m and θ).
//!
//! f32, bf16 and f16 parameters are computed in f32 with sums in f64. Where f32 cannot hold what comes up (an ε̂ so
//! small that f underflows beside it, squares that overflow) the tensor's step is computed in f64, and checked
//! once more before pass B writes it.

mod access;
mod blocks;
mod column;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod descent;
mod factored;
mod full;
mod given;
mod lanes;
mod noise;
mod number;
mod passes;
mod power;
mod stored;
mod tasks;

use candle_core::{DType, Device, Tensor};

use crate::algorithm::{Fim, State};
use crate::math::debiased_beta2;
use crate::params::apart_from;
use crate::report::Measures;
use crate::terms::{Estimate, Terms};
use crate::{Error, Result};
pub(crate) use blocks::{BLOCK, Code};
pub(crate) use factored::Scratch;
pub(crate) use noise::Noise;
use number::Real;
pub(crate) use stored::Stored;
pub(crate) use tasks::{Matrices, Task, of_factored, of_full};

/// One step of one algorithm in numbers, the same for all tensors of a group.
///
/// ```text
/// f = β f + (1 − β)(q + o)          d = (f κ)^ρ + ε̂^{2ρ}       ε̂ = min(ε, ε2 RMS(g))
/// m = β1 m + s clip(g / d)          θ = θ − (a m + b w)         w = clip(θ / d), or θ
/// ```
///
/// or, for Algorithm 3, `m = β1 m + s g` and `θ = θ − (a clip(μ m / d) + b θ)`. κ and μ are Adam's bias
/// corrections, 1 elsewhere; q is g² or another estimate of the FIM. An auxiliary gradient u with weight w adds
/// `− η w clip(u / d)`.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// t, from 1 on.
    pub t: u64,
    /// β2.
    pub beta2: f64,
    /// o, what Adafactor adds to g².
    pub offset: f64,
    /// ε.
    pub eps: f64,
    /// ε2, or off.
    pub eps2: Option<f64>,
    /// ρ.
    pub rho: f64,
    /// c, or off.
    pub clip: Option<f64>,
    /// β1.
    pub beta1: f64,
    /// What m is the average of, and where the bias of the averages is corrected.
    pub momentum: Momentum,
    /// s, the share of the new gradient in m.
    pub share: f64,
    /// a, what m is multiplied by.
    pub step: f64,
    /// b, what the weight decay is multiplied by.
    pub decay: f64,
    /// η.
    pub lr: f64,
}

/// What the momentum is the average of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Momentum {
    /// Algorithms 1, 2 and 4: of g/d; β is the debiased β̂2, and m is not corrected.
    OfNaturalGradient {
        /// Whether the weight decay is on the manifold: `clip(θ / d)`.
        decay_on_manifold: bool,
    },
    /// Algorithm 3: of g; β is β2, and m and f are corrected when they are used.
    OfGradient,
}

impl Rule {
    /// β.
    pub(crate) fn beta(&self) -> f64 {
        match self.momentum {
            Momentum::OfNaturalGradient { .. } => debiased_beta2(self.beta2, self.t),
            Momentum::OfGradient => self.beta2,
        }
    }

    /// κ.
    fn f_correction(&self) -> f64 {
        self.correction(self.beta2)
    }

    /// μ.
    fn m_correction(&self) -> f64 {
        self.correction(self.beta1)
    }

    fn correction(&self, beta: f64) -> f64 {
        match self.momentum {
            Momentum::OfNaturalGradient { .. } => 1.0,
            Momentum::OfGradient => (1.0 - beta.powf(self.t as f64)).recip(),
        }
    }

    /// `1 / max(1, RMS/c)`
    fn clip_factor(&self, rms: f64) -> f64 {
        self.clip.map_or(1.0, |c| (rms / c).max(1.0).recip())
    }

    /// ε̂^{2ρ}
    fn floor(&self, measured: &Measured) -> f64 {
        measured.measures.eps_hat.powf(2.0 * self.rho)
    }

    /// ε̂ from RMS(g).
    pub(crate) fn eps_hat(&self, rms_g: f64) -> f64 {
        self.eps2.map_or(self.eps, |eps2| self.eps.min(eps2 * rms_g))
    }

    /// Whether f32 cannot be trusted with this ε̂ (or, for Adafactor, with this o).
    fn needs_care(&self, eps_hat: f64) -> bool {
        if self.offset > 0.0 { self.offset.sqrt() < 1e-16 } else { eps_hat < CAREFUL_BELOW }
    }
}

/// Below this ε̂, f (as small as ε̂²) is no f32 any more: the step is computed in f64.
const CAREFUL_BELOW: f64 = 1e-14;

/// Above this an estimate of the FIM, or what a bf16 rounds it to, may be no f32 any more: likewise.
const LARGEST_IN_F32: f64 = 1e38;

/// What pass A found for one tensor, and pass B needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) measures: Measures,
    auxiliary_weight: f64,
    /// Whether this tensor is computed in f64.
    careful: bool,
}

/// The tensors of one parameter.
pub(crate) struct Tensors<'a> {
    pub(crate) name: &'a str,
    pub(crate) theta: &'a Stored,
    pub(crate) state: &'a State<Stored>,
    /// Contiguous, as [`gradient`] makes them.
    pub(crate) terms: &'a Terms<Tensor>,
    /// How the tensor is cut.
    pub(crate) tasks: &'a [Task],
}

/// Whether the fused step can take this parameter: contiguous, on the CPU.
pub(crate) fn takes(theta: &Tensor) -> bool {
    theta.device().is_cpu() && theta.is_contiguous()
}

/// Whether the kernels for CUDA can take it.
#[cfg(feature = "cuda")]
pub(crate) fn takes_on_cuda(theta: &Tensor) -> bool {
    theta.device().is_cuda() && theta.is_contiguous()
}

/// A gradient as the fused step reads it: contiguous, floating point, and in none of `storages`, which
/// are those of the parameters (a gradient can be a parameter). Copies only if it has to.
pub(crate) fn gradient(g: &Tensor, storages: &[usize]) -> Result<Tensor> {
    let g = g.detach().to_device(&Device::Cpu)?;
    let g = if g.dtype().is_float() { g } else { g.to_dtype(DType::F32)? }.contiguous()?;
    apart_from(storages, g)
}

impl Tensors<'_> {
    /// Pass A: everything that pass B needs to know, or the error that forbids it. Changes nothing but
    /// `scratch`.
    pub(crate) fn measure(&self, rule: &Rule, scratch: &mut Scratch) -> Result<Measured> {
        // Sums of squares that are finite bound every element far below what the dtype can hold. That does not say
        // enough of an f16, nor of what is computed in f64 to be stored in f32.
        if !self.is_f64()
            && let Some(measured) = self.pass_a::<f32>(rule, scratch)?
        {
            if self.dtype() == DType::F16 {
                self.verify::<f32>(rule, &measured, scratch)?;
            }
            return Ok(measured);
        }
        // Infinite even in f64: clipping is off, or an f64 gradient is beyond 1e154.
        let careful = self.pass_a::<f64>(rule, scratch)?;
        let measured = careful.ok_or_else(|| self.not_finite("theta"))?;
        if !self.is_f64() {
            self.verify::<f64>(rule, &measured, scratch)?;
        }
        Ok(measured)
    }

    /// Pass B.
    pub(crate) fn apply(&self, rule: &Rule, measured: &Measured, scratch: &Scratch) -> Result<()> {
        if self.elements() == 0 {
            return Ok(());
        }
        if let Fim::Factored { r, c } = &self.state.f {
            factored::store([r, c], scratch)?;
        }
        if measured.careful {
            passes::steps::<f64>(self, rule, measured, scratch, false)?;
        } else {
            passes::steps::<f32>(self, rule, measured, scratch, false)?;
        }
        Ok(())
    }

    /// Pass A in the compute type C; `None` if C cannot hold what comes up.
    fn pass_a<C: Real>(&self, rule: &Rule, scratch: &mut Scratch) -> Result<Option<Measured>> {
        let weight = self.terms.auxiliary.as_ref().map_or(0.0, |(_, weight)| *weight);
        let measures = Measures { eps_hat: rule.eps, ..Default::default() };
        let mut measured = Measured { measures, auxiliary_weight: weight, careful: C::CAREFUL };
        let n = self.elements();
        if n == 0 {
            return Ok(Some(measured));
        }
        if !matches!(self.terms.estimate, Estimate::OfGradient) {
            self.check_given()?; // 1/d is 0 where d is NaN, which would hide it
            if !C::CAREFUL && self.largest_estimate()? > LARGEST_IN_F32 {
                return Ok(None); // nor would an f of infinity show
            }
        }
        if let Some(matrices) = self.matrices() {
            let terms = self.terms.lock()?;
            let given = terms.columns()?;
            let g2 = factored::row_and_column_sums::<C>(&given, matrices, self.tasks, scratch);
            if !self.adopt::<C>(rule, g2, &mut measured)? {
                return Ok(None);
            }
            let Fim::Factored { r, c } = &self.state.f else { unreachable!("matrices") };
            if let Some(bad) = factored::average::<C>(self, [r, c], matrices, rule, scratch)? {
                self.check_given()?;
                return Err(self.not_finite(bad));
            }
        }
        // With ε̂ = ε where f is full; and once more if the gradient says that ε̂ is less.
        let mut known = self.matrices().is_some();
        loop {
            let [g2, x2, w2, u2] = passes::sums::<C>(self, rule, &measured, scratch, !known)?;
            if !known {
                let before = measured.measures.eps_hat;
                if !self.adopt::<C>(rule, g2, &mut measured)? {
                    return Ok(None);
                }
                known = true;
                if measured.measures.eps_hat < before {
                    continue;
                }
            }
            if !(x2 + w2 + u2).is_finite() {
                self.check_given()?;
                return Ok(None);
            }
            measured.measures.rms_natural = rms(x2, n);
            measured.measures.rms_decay = rms(w2, n);
            measured.measures.rms_auxiliary = rms(u2, n);
            return Ok(Some(measured));
        }
    }

    /// RMS(g) and ε̂ from Σ g²; false if C cannot hold them.
    fn adopt<C: Real>(&self, rule: &Rule, g2: f64, measured: &mut Measured) -> Result<bool> {
        if !g2.is_finite() {
            self.check_given()?;
        }
        let rms_g = rms(g2, self.elements());
        measured.measures.rms_g = rms_g;
        measured.measures.eps_hat = rule.eps_hat(rms_g);
        Ok(C::CAREFUL || g2.is_finite() && !rule.needs_care(measured.measures.eps_hat))
    }

    /// Goes through pass B without writing, and reports what would not be finite.
    fn verify<C: Real>(&self, rule: &Rule, measured: &Measured, scratch: &Scratch) -> Result<()> {
        let bad = passes::steps::<C>(self, rule, measured, scratch, true)?;
        bad.map_or(Ok(()), |tensor| Err(self.not_finite(tensor)))
    }

    fn not_finite(&self, tensor: &'static str) -> Error {
        Error::NonFiniteUpdate { name: self.name.to_owned(), tensor }
    }

    /// Something that is not finite came up: is it in what was given?
    fn check_given(&self) -> Result<()> {
        for tensor in self.terms.all() {
            if !access::read(tensor)?.slice()?.is_finite() {
                return Err(Error::NonFiniteGradient { name: self.name.to_owned() });
            }
        }
        if let Estimate::Given(q) = &self.terms.estimate
            && access::read(q)?.slice()?.is_negative()
        {
            return Err(Error::NegativeSquares { name: self.name.to_owned() });
        }
        Ok(())
    }

    /// The largest element of an estimate of the FIM that is not g².
    fn largest_estimate(&self) -> Result<f64> {
        let gamma2 = self.terms.gamma * self.terms.gamma;
        Ok(match &self.terms.estimate {
            Estimate::OfGradient => 0.0,
            Estimate::Given(q) => gamma2 * access::read(q)?.slice()?.largest(),
            Estimate::Sampled(s, batch) => {
                batch * gamma2 * access::read(s)?.slice()?.largest().powi(2)
            }
        })
    }

    fn dtype(&self) -> DType {
        self.theta.shaped().dtype()
    }

    fn is_f64(&self) -> bool {
        self.dtype() == DType::F64
    }

    fn elements(&self) -> usize {
        self.theta.shaped().elem_count()
    }

    /// The matrices of a tensor whose f is factored.
    fn matrices(&self) -> Option<Matrices> {
        match self.state.f {
            Fim::Full(_) => None,
            Fim::Factored { .. } => Some(Matrices::of(self.theta.shaped().dims())),
        }
    }
}

/// The root of the mean, from a sum of squares over n elements.
fn rms(sum: f64, n: usize) -> f64 {
    (sum / n.max(1) as f64).sqrt()
}
