//! One parameter of an optimizer, and its two-pass step.

use candle_core::{DType, Tensor, Var};

use crate::algorithm::{Algorithm, State, Update};
use crate::kernel::{self, Measured, Scratch, Tensors};
use crate::math::{compute_dtype, is_finite};
use crate::{Error, Result};

/// How steps are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backend {
    /// Fused and in place where there is a kernel (contiguous parameters on the CPU), else as `Reference`.
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
    pub(crate) t: u64,
    pub(crate) state: State,
    scratch: Scratch,
    prepared: Option<Prepared>,
}

/// What pass A leaves for pass B.
#[derive(Debug)]
enum Prepared {
    /// The gradient, contiguous and in the parameter's dtype, and what was measured.
    Fused(Tensor, Measured),
    Reference(Update),
}

impl Param {
    /// A parameter with the state of before the first step.
    pub(crate) fn new<A: Algorithm>(name: String, var: Var, config: &A) -> Result<Self> {
        let theta = var.as_detached_tensor().to_dtype(state_dtype(var.dtype()))?;
        let state = config.init(&theta)?;
        Ok(Self { name, var, t: 0, state, scratch: Scratch::default(), prepared: None })
    }

    /// Pass A. Without a gradient, nothing will happen.
    pub(crate) fn prepare<A: Algorithm>(
        &mut self,
        config: &A,
        backend: Backend,
        storages: &[usize],
        g: Option<&Tensor>,
    ) -> Result<()> {
        self.prepared = None;
        let Some(g) = g else { return Ok(()) };
        if g.shape() != self.var.shape() {
            return Err(Error::GradientShape {
                name: self.name.clone(),
                expected: self.var.shape().clone(),
                got: g.shape().clone(),
            });
        }
        self.prepared = Some(if backend == Backend::Fused && kernel::takes(&self.var) {
            let Self { name, var: theta, state, t, scratch, .. } = self;
            let g = kernel::gradient(theta, g, storages)?;
            let tensors = Tensors { name, theta, state, g: &g };
            let measured = tensors.measure(&config.rule(*t + 1), scratch)?;
            Prepared::Fused(g, measured)
        } else {
            Prepared::Reference(self.update(config, g)?)
        });
        Ok(())
    }

    /// Pass B.
    pub(crate) fn apply<A: Algorithm>(&mut self, config: &A) -> Result<()> {
        match self.prepared.take() {
            None => return Ok(()),
            Some(Prepared::Fused(g, measured)) => {
                let Self { name, var: theta, state, t, scratch, .. } = &*self;
                let tensors = Tensors { name, theta, state, g: &g };
                tensors.apply(&config.rule(t + 1), &measured, scratch)?;
            }
            Some(Prepared::Reference(Update { theta, state })) => {
                self.var.set(&theta)?;
                self.state = state;
            }
        }
        self.t += 1;
        Ok(())
    }

    /// What a step by tensor operations makes of this parameter, in the dtypes it is stored in.
    fn update<A: Algorithm>(&self, config: &A, g: &Tensor) -> Result<Update> {
        let compute = compute_dtype(self.var.device());
        let g = g.detach().to_dtype(compute)?;
        if !is_finite(&g)? {
            return Err(Error::NonFiniteGradient { name: self.name.clone() });
        }
        let theta = self.var.as_detached_tensor().to_dtype(compute)?;
        let new = config.update(self.t + 1, &g, &theta, &self.state.to_compute_dtype()?)?;
        let finite = |tensor: &'static str, x: &Tensor, dtype: DType| {
            let x = x.to_dtype(dtype)?;
            if is_finite(&x)? {
                Ok(x)
            } else {
                Err(Error::NonFiniteUpdate { name: self.name.clone(), tensor })
            }
        };
        let dtype = self.state.m.dtype();
        Ok(Update {
            state: new.state.map(|tensor, x| finite(tensor, x, dtype))?,
            theta: finite("theta", &new.theta, self.var.dtype())?,
        })
    }
}

/// The dtype of a parameter's state.
fn state_dtype(param: DType) -> DType {
    if param == DType::F64 { DType::F64 } else { DType::F32 }
}
