//! Steps of parameters that are on a CUDA device: launched, and looked at later.

use candle_core::{CudaDevice, DType, Device, Tensor, Var};

use crate::algorithm::{Algorithm, Fim};
use crate::fisher::{Input, SquaresInput};
use crate::kernel::cuda::{DeviceStep, FimRef, Job, Kind, Numbers, OnBad, Squares};
use crate::kernel::{Momentum, Rule, Stored, takes_on_cuda};
use crate::param::Param;
use crate::params::storage_address;
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

/// The tensors of one parameter's step as the kernels read them.
struct Ready<'a> {
    param: &'a Param,
    g: Tensor,
    squares: ReadySquares,
    auxiliary: Option<(Tensor, f64)>,
    gamma: f64,
}

enum ReadySquares {
    OfGradient,
    Given(Tensor),
    Sampled(Tensor, f64),
}

impl CudaSteps {
    pub(crate) fn unchecked(&self) -> u64 {
        self.unchecked
    }
}

impl<A: Algorithm> NamedOptimizer<A> {
    /// The device, if all parameters that are trained are on one CUDA device and steps are to be fused.
    pub(crate) fn cuda_device(&self) -> Option<CudaDevice> {
        let first = self.params.first()?.var.device();
        let Device::Cuda(device) = first else { return None };
        let fused = self.backend == Backend::Fused;
        let all =
            self.params.iter().all(|p| takes_on_cuda(&p.var) && p.var.device().same_device(first));
        (fused && all).then(|| device.clone())
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
            if let Some(input) = losses.input(fisher, gamma, &param.name) {
                param.check_shapes(&input)?;
                ready.push(Ready::new(param, &input, &self.storages)?);
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
    fn new(param: &'a Param, input: &Input<'_>, storages: &[usize]) -> Result<Self> {
        let of = |x: &Tensor, dtype: DType| {
            let x = x.detach().to_device(param.var.device())?.to_dtype(dtype)?.contiguous()?;
            let is_a_parameter = storages.binary_search(&storage_address(&x)).is_ok();
            Ok::<_, Error>(if is_a_parameter { x.copy()? } else { x })
        };
        let own = param.var.dtype();
        Ok(Self {
            param,
            g: of(input.g, own)?,
            squares: match input.squares {
                SquaresInput::OfGradient => ReadySquares::OfGradient,
                SquaresInput::Given(q) => ReadySquares::Given(of(q, param.number_dtype())?),
                SquaresInput::Sampled(s, batch) => ReadySquares::Sampled(of(s, own)?, batch),
            },
            auxiliary: match input.auxiliary {
                Some((u, weight)) => Some((of(u, own)?, weight)),
                None => None,
            },
            gamma: input.gamma,
        })
    }

    fn job(&self, rule: &Rule) -> Result<Job<'_>> {
        let Param { name, var, state, .. } = self.param;
        let var: &Var = var;
        Ok(Job {
            name,
            theta: var,
            m: plain(&state.m)?,
            f: match &state.f {
                Fim::Full(f) => FimRef::Full(plain(f)?),
                Fim::Factored { r, c } => FimRef::Factored { r: plain(r)?, c: plain(c)? },
            },
            g: &self.g,
            squares: match &self.squares {
                ReadySquares::OfGradient => Squares::OfGradient,
                ReadySquares::Given(q) => Squares::Given(q),
                ReadySquares::Sampled(s, batch) => Squares::Sampled(s, *batch),
            },
            auxiliary: self.auxiliary.as_ref().map(|(u, _)| u),
            numbers: self.numbers(rule),
        })
    }

    fn numbers(&self, rule: &Rule) -> Numbers {
        let weight = self.auxiliary.as_ref().map_or(0.0, |(_, weight)| *weight);
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
            gamma: self.gamma,
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
