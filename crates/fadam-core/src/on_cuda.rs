//! Steps of parameters that are on a CUDA device: launched, and looked at later.

use candle_core::{CudaDevice, DType, Device, Tensor};

use crate::algorithm::{Algorithm, State};
use crate::kernel::cuda::{DeviceStep, Job, Kind, Numbers, OnBad};
use crate::kernel::{Momentum, Rule, Stored, takes_on_cuda};
use crate::param::Param;
use crate::params::apart_from;
use crate::terms::{Estimate, Terms};
use crate::{Backend, Error, Fisher, LossGradients, NamedOptimizer, Result};

/// What an optimizer keeps for its device.
#[derive(Debug, Default)]
pub(crate) struct CudaSteps {
    device: Option<(DeviceStep, OnBad)>,
    /// Steps since the last check.
    unchecked: u64,
    /// The parameters of the last step, in its order.
    last: Vec<String>,
}

/// One parameter's step as the kernels read it.
struct Ready<'a> {
    param: &'a Param,
    terms: Terms<Tensor>,
}

impl CudaSteps {
    pub(crate) fn unchecked(&self) -> u64 {
        self.unchecked
    }
}

impl<A: Algorithm> NamedOptimizer<A> {
    /// The device, if all parameters that are trained are on one CUDA device and all steps are to be fused and can be.
    pub(crate) fn cuda_device(&self) -> Option<CudaDevice> {
        let first = self.params.first()?.var.device();
        let Device::Cuda(device) = first else { return None };
        let fused = self.backend == Backend::Fused;
        let takes = |p: &Param| {
            takes_on_cuda(&p.var)
                && p.var.device().same_device(first)
                && self.config_of(p.group).has_kernel()
        };
        (fused && self.params.iter().all(takes)).then(|| device.clone())
    }

    /// Launches a step; what it finds wrong is known at the next check.
    pub(crate) fn step_on_cuda(
        &mut self,
        device: &CudaDevice,
        configs: &[A],
        losses: &LossGradients<'_>,
        fisher: &Fisher<'_>,
        gamma: f64,
    ) -> Result<()> {
        let on_bad = if self.skip_non_finite { OnBad::Skip } else { OnBad::Halt };
        if self.cuda.device.as_ref().is_none_or(|(_, policy)| *policy != on_bad) {
            self.check()?;
            self.cuda.device = Some((DeviceStep::new(device, on_bad)?, on_bad));
        }
        let mut ready = Vec::new();
        for param in &self.params {
            if let Some(terms) = losses.terms(fisher, gamma, &param.name) {
                param.check_shapes(&terms)?;
                ready.push(Ready::new(param, &terms, &self.storages)?);
            }
        }
        let jobs = ready.iter().map(|r| r.job(&configs[r.param.group].rule(r.param.t + 1)));
        let jobs = jobs.collect::<Result<Vec<Job<'_>>>>()?;
        let (device, _) = self.cuda.device.as_mut().expect("made above");
        device.step(&jobs)?;
        self.cuda.last = jobs.iter().map(|job| job.name.to_owned()).collect();
        drop(ready);
        for param in &mut self.params {
            if losses.loss.contains_key(&param.name) {
                param.t += 1;
            }
        }
        self.steps += 1;
        self.cuda.unchecked += 1;
        if self.cuda.unchecked >= self.check_every { self.check() } else { Ok(()) }
    }

    /// Waits for the device and takes back what it cancelled.
    pub(crate) fn check_cuda(&mut self) -> Result<()> {
        let Some((device, on_bad)) = self.cuda.device.as_mut() else { return Ok(()) };
        if self.cuda.unchecked == 0 {
            return Ok(());
        }
        let measures = device.measures()?;
        let checked = device.check()?;
        self.cuda.unchecked = 0;
        for (name, measures) in self.cuda.last.iter().zip(measures) {
            if let Some(param) = self.params.iter_mut().find(|p| p.name == *name) {
                param.last = Some(measures);
            }
        }
        for (name, missed) in &checked.missed {
            if let Some(param) = self.params.iter_mut().find(|p| p.name == *name) {
                param.t -= missed;
            }
        }
        self.steps -= checked.cancelled;
        if *on_bad == OnBad::Skip {
            self.skipped_steps += checked.cancelled;
            return Ok(());
        }
        checked.error().map_or(Ok(()), Err)
    }
}

impl<'a> Ready<'a> {
    fn new(param: &'a Param, terms: &Terms<&Tensor>, storages: &[usize]) -> Result<Self> {
        let of = |x: &Tensor, dtype: DType| {
            let x = x.detach().to_device(param.var.device())?.to_dtype(dtype)?.contiguous()?;
            apart_from(storages, x)
        };
        let own = param.var.dtype();
        let of_estimate = match terms.estimate {
            Estimate::Given(_) => param.number_dtype(),
            _ => own,
        };
        let terms = Terms {
            g: of(terms.g, own)?,
            gamma: terms.gamma,
            estimate: terms.estimate.map(|x| of(x, of_estimate))?,
            auxiliary: match terms.auxiliary {
                Some((u, weight)) => Some((of(u, own)?, weight)),
                None => None,
            },
        };
        Ok(Self { param, terms })
    }

    fn job(&self, rule: &Rule) -> Result<Job<'_>> {
        let Param { name, var, state, .. } = self.param;
        let State { m, f } = state.map(|_, stored| plain(stored))?;
        Ok(Job {
            name,
            theta: var,
            m,
            f,
            g: &self.terms.g,
            estimate: self.terms.estimate.map(Ok::<_, Error>)?,
            auxiliary: self.terms.auxiliary.as_ref().map(|(u, _)| u),
            numbers: self.numbers(rule),
        })
    }

    fn numbers(&self, rule: &Rule) -> Numbers {
        let weight = self.terms.auxiliary.as_ref().map_or(0.0, |(_, weight)| *weight);
        let (kind, on_manifold) = match rule.momentum {
            Momentum::OfGradient => (Kind::Adam, false),
            Momentum::OfNaturalGradient { decay_on_manifold } => {
                (Kind::Preconditioned, decay_on_manifold)
            }
        };
        Numbers {
            kind,
            beta2: rule.beta2,
            t: rule.t,
            offset: rule.offset,
            eps: rule.eps,
            eps2: rule.eps2,
            rho: rule.rho,
            clip: rule.clip,
            beta1: rule.beta1,
            share: rule.share,
            step: rule.step,
            decay: rule.decay,
            aux: rule.lr * weight,
            gamma: self.terms.gamma,
            on_manifold,
        }
    }
}

/// Low precision is refused at construction where there is no kernel for it.
fn plain(stored: &Stored) -> Result<&Tensor> {
    match stored {
        Stored::Plain(x) => Ok(x),
        _ => Err(candle_core::Error::msg("a state in low precision on a CUDA device").into()),
    }
}
