//! The fused step on the CPU: two passes over memory, in place, on all threads.
//!
//! Pass A ([`Tensors::measure`]) only reads. It finds ε̂ and the two clipping factors of every tensor
//! and sees every NaN and infinity in a gradient, so that an error comes before anything has changed.
//! It does not read m of Algorithms 1, 2 and 4, nor θ of 3 and 4: what is not finite there already, as in
//! a state file, is not found. Pass B ([`Tensors::apply`]) reads again and writes f, m and θ.
//!
//! One tensor is a sequence of tasks of a fixed size, whose sums are added in their order, so a step
//! gives the same bits whatever the number of threads.
//!
//! f32, bf16 and f16 parameters are computed in f32 with sums in f64. Where f32 cannot hold what comes up (an ε̂ so
//! small that f underflows beside it, squares that overflow) the tensor's step is computed in f64, and checked
//! once more before pass B writes it.

mod access;
mod adam;
mod descent;
mod elementwise;
mod factored;
mod full;
mod lanes;
mod number;
mod power;

use candle_core::{DType, Tensor, Var};
use half::{bf16, f16};

use crate::algorithm::{Fim, State};
use crate::params::storage_address;
use crate::{Error, Result};
pub(crate) use factored::Scratch;
use number::{Element, Real};

/// One step of one algorithm in numbers, the same for all tensors.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// Algorithms 1, 2 and 4, whose momentum is of the preconditioned gradient.
    Preconditioned(Preconditioned),
    /// Algorithm 3.
    Adam(Adam),
}

/// Algorithms 1, 2 and 4:
///
/// ```text
/// f = β f + (1 − β)(g² + o)        d = f^ρ + ε̂^{2ρ}        ε̂ = min(ε, ε2 RMS(g))
/// m = β1 m + s clip(g / d)          θ = θ − (a m + b w)      w = clip(θ / d), or θ
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Preconditioned {
    /// β, the debiased β̂2.
    pub beta: f64,
    /// o, what Adafactor adds to g².
    pub offset: f64,
    /// ε; 0 for Adafactor.
    pub eps: f64,
    /// ε2, or off.
    pub eps2: Option<f64>,
    /// ρ.
    pub rho: f64,
    /// c, or off.
    pub clip: Option<f64>,
    /// β1.
    pub beta1: f64,
    /// s, the share of the new gradient in m.
    pub share: f64,
    /// a, what m is multiplied by.
    pub step: f64,
    /// b, what the weight decay is multiplied by.
    pub decay: f64,
    /// Whether the weight decay is on the manifold: `clip(θ / d)`.
    pub on_manifold: bool,
}

/// Algorithm 3, with the bias corrections `1 − β^t`.
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// β1.
    pub beta1: f64,
    /// β2.
    pub beta2: f64,
    /// `1 − β1^t`.
    pub m_correction: f64,
    /// `1 − β2^t`.
    pub f_correction: f64,
    /// ε.
    pub eps: f64,
    /// c, or off.
    pub clip: Option<f64>,
    /// η.
    pub lr: f64,
    /// λ.
    pub weight_decay: f64,
}

/// What pass A found for one tensor, and pass B needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// ε̂.
    eps_hat: f64,
    /// `1 / max(1, RMS(ḡ)/c)`
    gradient_factor: f64,
    /// `1 / max(1, RMS(ḡw)/c)`
    decay_factor: f64,
    /// Whether this tensor is computed in f64.
    careful: bool,
}

impl Measured {
    /// Before anything was measured.
    fn start<C: Real>(eps_hat: f64) -> Self {
        Self { eps_hat, gradient_factor: 1.0, decay_factor: 1.0, careful: C::CAREFUL }
    }
}

/// Below this ε̂, f (as small as ε̂²) is no f32 any more: the step is computed in f64.
const CAREFUL_BELOW: f64 = 1e-14;

/// The tensors of one parameter.
pub(crate) struct Tensors<'a> {
    pub(crate) name: &'a str,
    pub(crate) theta: &'a Var,
    pub(crate) state: &'a State,
    /// As [`gradient`] makes it.
    pub(crate) g: &'a Tensor,
}

/// Whether the fused step can take this parameter: contiguous, on the CPU.
pub(crate) fn takes(theta: &Var) -> bool {
    theta.device().is_cpu() && theta.is_contiguous()
}

/// The gradient as the fused step reads it: contiguous, in the dtype of θ, and in none of `storages`, which
/// are those of the parameters (a gradient can be a parameter). Copies only if it has to.
pub(crate) fn gradient(theta: &Var, g: &Tensor, storages: &[usize]) -> Result<Tensor> {
    let g = g.detach().to_dtype(theta.dtype())?.contiguous()?;
    let is_a_parameter = storages.binary_search(&storage_address(&g)).is_ok();
    Ok(if is_a_parameter { g.copy()? } else { g })
}

/// Calls `$do::<P, S>` with the types that θ and its state are stored in.
macro_rules! typed {
    ($theta:expr, $do:ident ( $($arg:expr),* )) => {
        match $theta.dtype() {
            DType::F64 => $do::<f64, f64>($($arg),*),
            DType::BF16 => $do::<bf16, f32>($($arg),*),
            DType::F16 => $do::<f16, f32>($($arg),*),
            _ => $do::<f32, f32>($($arg),*),
        }
    };
}

impl Tensors<'_> {
    /// Pass A: everything that pass B needs to know, or the error that forbids it. Changes nothing but
    /// `scratch`.
    pub(crate) fn measure(&self, rule: &Rule, scratch: &mut Scratch) -> Result<Measured> {
        typed!(self.theta, measure(self, rule, scratch))
    }

    /// Pass B.
    pub(crate) fn apply(&self, rule: &Rule, measured: &Measured, scratch: &Scratch) -> Result<()> {
        typed!(self.theta, apply(self, rule, measured, scratch))
    }
}

fn measure<P: Element, S: Element>(
    t: &Tensors,
    rule: &Rule,
    scratch: &mut Scratch,
) -> Result<Measured> {
    // Sums of squares that are finite bound every element far below what the dtype can hold. That does not say
    // enough of an f16, nor of what is computed in f64 to be stored in f32.
    let is_f64 = P::DTYPE == DType::F64;
    if !is_f64 && let Some(measured) = pass_a::<f32, P, S>(t, rule, scratch)? {
        if P::DTYPE == DType::F16 {
            verify::<f32, P, S>(t, rule, &measured, scratch)?;
        }
        return Ok(measured);
    }
    // Infinite even in f64: clipping is off, or an f64 gradient is beyond 1e154.
    let careful = pass_a::<f64, P, S>(t, rule, scratch)?;
    let measured = careful.ok_or_else(|| t.not_finite("theta"))?;
    if !is_f64 {
        verify::<f64, P, S>(t, rule, &measured, scratch)?;
    }
    Ok(measured)
}

/// Pass A in the compute type C; `None` if C cannot hold what comes up.
fn pass_a<C: Real, P: Element, S: Element>(
    t: &Tensors,
    rule: &Rule,
    scratch: &mut Scratch,
) -> Result<Option<Measured>> {
    match (rule, &t.state.f) {
        (Rule::Preconditioned(rule), Fim::Full(f)) => full::measure::<C, P, S>(t, f, rule),
        (Rule::Preconditioned(rule), Fim::Factored { r, c }) => {
            factored::measure::<C, P, S>(t, [r, c], rule, scratch)
        }
        (Rule::Adam(rule), f) => adam::measure::<C, P, S>(t, f.full()?, rule),
    }
}

/// Goes through pass B without writing, and reports what would not be finite.
fn verify<C: Real, P: Element, S: Element>(
    t: &Tensors,
    rule: &Rule,
    measured: &Measured,
    scratch: &Scratch,
) -> Result<()> {
    let bad = match (rule, &t.state.f) {
        (Rule::Preconditioned(rule), Fim::Full(f)) => {
            full::verify::<C, P, S>(t, f, rule, measured)?
        }
        (Rule::Preconditioned(rule), Fim::Factored { .. }) => {
            factored::verify::<C, P, S>(t, rule, measured, scratch)?
        }
        (Rule::Adam(rule), f) => {
            elementwise::verify::<C, P, S>(t, f.full()?, adam::Numbers::new(rule, measured))?
        }
    };
    bad.map_or(Ok(()), |tensor| Err(t.not_finite(tensor)))
}

fn apply<P: Element, S: Element>(
    t: &Tensors,
    rule: &Rule,
    measured: &Measured,
    scratch: &Scratch,
) -> Result<()> {
    if measured.careful {
        pass_b::<f64, P, S>(t, rule, measured, scratch)
    } else {
        pass_b::<f32, P, S>(t, rule, measured, scratch)
    }
}

fn pass_b<C: Real, P: Element, S: Element>(
    t: &Tensors,
    rule: &Rule,
    measured: &Measured,
    scratch: &Scratch,
) -> Result<()> {
    match (rule, &t.state.f) {
        (Rule::Preconditioned(rule), Fim::Full(f)) => full::apply::<C, P, S>(t, f, rule, measured),
        (Rule::Preconditioned(rule), Fim::Factored { r, c }) => {
            factored::apply::<C, P, S>(t, [r, c], rule, measured, scratch)
        }
        (Rule::Adam(rule), f) => {
            elementwise::apply::<C, P, S>(t, f.full()?, adam::Numbers::new(rule, measured))
        }
    }
}

impl Tensors<'_> {
    fn not_finite(&self, tensor: &'static str) -> Error {
        Error::NonFiniteUpdate { name: self.name.to_owned(), tensor }
    }

    /// A gradient that is not finite makes Σ g² so; `sum` may also have overflowed.
    fn check_gradient<P: Element>(&self, sum: f64) -> Result<()> {
        if sum.is_finite() || access::read(self.g)?.slice::<P>()?.iter().all(|g| g.finite()) {
            return Ok(());
        }
        Err(Error::NonFiniteGradient { name: self.name.to_owned() })
    }
}

/// `1 / max(1, RMS/c)` from a sum of squares over n elements.
fn clip_factor(sum: f64, n: usize, clip: Option<f64>) -> f64 {
    clip.map_or(1.0, |c| (rms(sum, n) / c).max(1.0).recip())
}

/// The root of the mean, from a sum of squares over n elements.
fn rms(sum: f64, n: usize) -> f64 {
    (sum / n.max(1) as f64).sqrt()
}

impl Preconditioned {
    /// ε̂ from Σ g² over n elements.
    fn eps_hat(&self, g2: f64, n: usize) -> f64 {
        self.eps2.map_or(self.eps, |eps2| self.eps.min(eps2 * rms(g2, n)))
    }

    /// Whether f32 cannot be trusted with this ε̂ (or, for Adafactor, with this o).
    fn needs_care(&self, eps_hat: f64) -> bool {
        let floor = if self.offset > 0.0 { self.offset.sqrt() } else { eps_hat };
        floor < if self.offset > 0.0 { 1e-16 } else { CAREFUL_BELOW }
    }
}
