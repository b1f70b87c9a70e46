//! One parameter of an optimizer, and its two-pass step.

use candle_core::{DType, Device, Tensor, Var};

use crate::algorithm::{Algorithm, Fim, Signal, State, Update};
use crate::group::{Precision, Rounding, StateFormat};
use crate::kernel::{self, BLOCK, Code, Matrices, Measured, Noise, Scratch, Stored, Task, Tensors};
use crate::math::{compute_dtype, is_finite, is_negative};
use crate::report::Measures;
use crate::terms::{Estimate, Terms};
use crate::{Error, Result};

/// How steps are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backend {
    /// Fused and in place where there is a kernel (contiguous parameters on the CPU; [`Parts`](crate::Parts) with all
    /// parts or none), else as `Reference`.
    #[default]
    Fused,
    /// The paper's lines as tensor operations in f64: slower by more than an order of magnitude, and what the
    /// fused step is tested against.
    Reference,
}

/// A parameter with its state and the number of updates it has had.
#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) name: String,
    pub(crate) var: Var,
    /// The variable's own tensor, as it is kept.
    pub(crate) theta: Stored,
    /// Its group: 0 for the optimizer's own config, k + 1 for group k.
    pub(crate) group: usize,
    /// What its state is kept as.
    pub(crate) algorithm: &'static str,
    pub(crate) precision: Precision,
    pub(crate) t: u64,
    pub(crate) state: State<Stored>,
    pub(crate) tasks: Vec<Task>,
    /// Of the last step; `None` before one.
    pub(crate) last: Option<Measures>,
    scratch: Scratch,
    prepared: Option<Prepared>,
}

/// What pass A leaves for pass B.
#[derive(Debug)]
enum Prepared {
    Fused(Terms<Tensor>, Measured),
    Reference(Update),
}

/// Tensors of fewer elements are not worth 8-bit blocks.
const LEAST_FOR_BLOCKS: usize = 4096;

impl Param {
    /// A parameter with the state of before the first step.
    pub(crate) fn new<A: Algorithm>(
        name: String,
        var: Var,
        config: &A,
        group: usize,
        precision: Precision,
    ) -> Result<Self> {
        check_precision(&name, &var, precision)?;
        let theta = var.as_detached_tensor().to_dtype(state_dtype(var.dtype()))?;
        let state = config.init(&theta)?;
        let tasks = match &state.f {
            Fim::Full(_) => kernel::of_full(var.elem_count()),
            Fim::Factored { .. } => kernel::of_factored(Matrices::of(var.dims())),
        };
        let mut format = precision.state;
        if format == StateFormat::Blocks8 && var.elem_count() < LEAST_FOR_BLOCKS {
            format = StateFormat::Full;
        }
        let blocks = tasks.last().map_or(0, |task| task.blocks().end);
        let state = state.map(|kind, x| stored(kind, x, format, blocks, &tasks))?;
        let tensor = var.as_tensor().clone();
        let theta = match precision.rounding {
            Rounding::Stochastic if var.dtype() == DType::BF16 => Stored::Stochastic(tensor),
            Rounding::Compensated if var.dtype() == DType::BF16 => {
                Stored::Compensated { low: tensor.zeros_like()?, high: tensor }
            }
            _ => Stored::Plain(tensor),
        };
        Ok(Self {
            name,
            var,
            theta,
            group,
            algorithm: config.kept_as(),
            precision,
            t: 0,
            state,
            tasks,
            last: None,
            scratch: Scratch::default(),
            prepared: None,
        })
    }

    /// Goes on with the state of another of the same algorithm and format, which is rounded otherwise.
    pub(crate) fn keep_state(&mut self, other: &Self) {
        (self.t, self.state, self.last) = (other.t, other.state.clone(), other.last);
    }

    /// Pass A. Without a gradient, nothing will happen.
    pub(crate) fn prepare<A: Algorithm>(
        &mut self,
        config: &A,
        backend: Backend,
        storages: &[usize],
        terms: Option<Terms<&Tensor>>,
    ) -> Result<()> {
        self.prepared = None;
        let Some(terms) = terms else { return Ok(()) };
        self.check_shapes(&terms)?;
        let fused = backend == Backend::Fused && config.has_kernel() && kernel::takes(&self.var);
        self.prepared = Some(if fused {
            let terms = terms.map(|x| kernel::gradient(x, storages))?;
            let Self { name, theta, state, t, tasks, scratch, .. } = self;
            let tensors = Tensors { name, theta, state, terms: &terms, tasks };
            let measured = tensors.measure(&config.rule(*t + 1), scratch)?;
            Prepared::Fused(terms, measured)
        } else {
            Prepared::Reference(self.update(config, &terms)?)
        });
        Ok(())
    }

    pub(crate) fn check_shapes(&self, terms: &Terms<&Tensor>) -> Result<()> {
        match terms.all().find(|tensor| tensor.shape() != self.var.shape()) {
            None => Ok(()),
            Some(tensor) => Err(Error::GradientShape {
                name: self.name.clone(),
                expected: self.var.shape().clone(),
                got: tensor.shape().clone(),
            }),
        }
    }

    /// Pass B.
    pub(crate) fn apply<A: Algorithm>(&mut self, config: &A) -> Result<()> {
        match self.prepared.take() {
            None => {
                self.last = None; // a report is of what the last step changed
                return Ok(());
            }
            Some(Prepared::Fused(terms, measured)) => {
                let Self { name, theta, state, t, tasks, scratch, .. } = &*self;
                let tensors = Tensors { name, theta, state, terms: &terms, tasks };
                tensors.apply(&config.rule(t + 1), &measured, scratch)?;
                self.last = Some(measured.measures);
            }
            Some(Prepared::Reference(Update { theta, state, measures })) => {
                let noise = Noise::new(&self.name, self.t + 1);
                if let Stored::Plain(_) = self.theta {
                    self.var.set(&theta.to_dtype(self.var.dtype())?)?;
                } else {
                    self.theta.replaced(&theta, &self.tasks, noise, "theta")?;
                }
                self.state = self
                    .state
                    .zip(&state, |kind, old, new| old.replaced(new, &self.tasks, noise, kind))?;
                self.last = Some(measures);
            }
        }
        self.t += 1;
        Ok(())
    }

    /// Lets go of what pass A left.
    pub(crate) fn forget(&mut self) {
        self.prepared = None;
    }

    /// The dtype that m and f are given out in.
    pub(crate) fn number_dtype(&self) -> DType {
        state_dtype(self.var.dtype())
    }

    /// m and f as plain numbers.
    pub(crate) fn plain_state(&self) -> Result<State> {
        self.state.map(|_, x| x.decode(&self.tasks))
    }

    /// What a step by tensor operations makes of this parameter, in the compute dtype.
    fn update<A: Algorithm>(&self, config: &A, terms: &Terms<&Tensor>) -> Result<Update> {
        let compute = compute_dtype(self.var.device());
        let given = |x: &Tensor| {
            let x = x.detach().to_dtype(compute)?;
            if is_finite(&x)? {
                Ok(x)
            } else {
                Err(Error::NonFiniteGradient { name: self.name.clone() })
            }
        };
        let scaled = |x: &Tensor| Ok::<_, Error>((given(x)? * terms.gamma)?);
        let g = scaled(terms.g)?;
        let squares = match terms.estimate {
            Estimate::OfGradient => g.sqr()?,
            Estimate::Given(q) => {
                let q = given(q)?;
                if is_negative(&q)? {
                    return Err(Error::NegativeSquares { name: self.name.clone() });
                }
                (q * (terms.gamma * terms.gamma))?
            }
            Estimate::Sampled(s, batch) => (scaled(s)?.sqr()? * batch)?,
        };
        let auxiliary = terms.auxiliary.map(|(u, weight)| Ok::<_, Error>((scaled(u)?, weight)));
        let signal = Signal { g, squares, auxiliary: auxiliary.transpose()? };
        let theta = self.theta.decode(&self.tasks)?.detach().to_dtype(compute)?;
        let new =
            config.update(self.t + 1, &signal, &theta, &self.plain_state()?.to_compute_dtype()?)?;
        let finite = |tensor: &'static str, x: &Tensor, dtype: DType| {
            if is_finite(&x.to_dtype(dtype)?)? {
                Ok(())
            } else {
                Err(Error::NonFiniteUpdate { name: self.name.clone(), tensor })
            }
        };
        self.state.zip(&new.state, |kind, old, new| finite(kind, new, old.range_dtype()))?;
        finite("theta", &new.theta, self.theta.range_dtype())?;
        Ok(new)
    }
}

/// m, f, R or C as it is to be kept, from its plain numbers.
fn stored(
    kind: &str,
    x: &Tensor,
    format: StateFormat,
    blocks: usize,
    tasks: &[Task],
) -> Result<Stored> {
    let code = match (kind, format) {
        ("m" | "f", StateFormat::Bf16) => {
            return Ok(Stored::Stochastic(x.to_dtype(DType::BF16)?));
        }
        ("m", StateFormat::Blocks8) => Code::Signed,
        ("f", StateFormat::Blocks8) => Code::Positive,
        _ => return Ok(Stored::Plain(x.clone())),
    };
    let codes = Tensor::zeros(x.shape(), DType::U8, &Device::Cpu)?;
    let scales = Tensor::ones(blocks, DType::F32, &Device::Cpu)?;
    debug_assert!(blocks >= x.elem_count().div_ceil(BLOCK));
    Stored::Blocks { codes, scales, code }.replaced(x, tasks, Noise::new("", 0), kind)
}

/// Low precision is the CPU kernel's, for what it is of use to.
fn check_precision(name: &str, var: &Var, precision: Precision) -> Result<()> {
    let unsupported = |reason| Err(Error::Unsupported { name: name.to_owned(), reason });
    if precision == Precision::default() {
        return Ok(());
    }
    if !kernel::takes(var) {
        return unsupported("low precision needs a contiguous parameter on the CPU");
    }
    if precision.state != StateFormat::Full && var.dtype() == DType::F64 {
        return unsupported("an f64 parameter has its state in f64; low precision would waste it");
    }
    Ok(())
}

/// The dtype of a parameter's state.
fn state_dtype(param: DType) -> DType {
    if param == DType::F64 { DType::F64 } else { DType::F32 }
}
