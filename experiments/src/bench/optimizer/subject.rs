//! What a row steps: one of our optimizers or candle-nn's, behind one face.

use std::fs::File;
use std::io::Read;

use anyhow::Context;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Optimizer, ParamsAdamW};
use fadam_core::{AdamConfig, AnyConfig, AnyOptimizer, Gradients, Group, NamedVars};

use super::case::{Case, Name};

/// An optimizer of some variables.
pub(crate) trait Subject {
    /// Sets the gradients of the steps to come; not part of a step.
    fn set_gradients(&mut self, gradients: &Gradients) -> anyhow::Result<()>;

    /// One step: what is timed.
    fn step(&mut self) -> anyhow::Result<()>;

    /// Bytes of the optimizer's state.
    fn state_bytes(&mut self) -> anyhow::Result<u64>;
}

/// The optimizer of a row, with a fresh state.
pub(crate) fn build(
    case: &Case,
    config: AnyConfig,
    vars: &NamedVars,
) -> anyhow::Result<Box<dyn Subject>> {
    Ok(match (case.name, config) {
        (Name::CandleAdamw, AnyConfig::Adam(adam)) => Box::new(Candle::new(&adam, vars)?),
        (_, config) => Box::new(Ours {
            optimizer: AnyOptimizer::from_named(vars.clone(), config)?
                .groups(vec![Group::new("*").state(case.state.format())])?,
            gradients: Gradients::new(),
        }),
    })
}

struct Ours {
    optimizer: AnyOptimizer,
    gradients: Gradients,
}

impl Subject for Ours {
    fn set_gradients(&mut self, gradients: &Gradients) -> anyhow::Result<()> {
        self.gradients.clone_from(gradients);
        Ok(())
    }

    fn step(&mut self) -> anyhow::Result<()> {
        Ok(self.optimizer.step_named(&self.gradients)?)
    }

    /// The bytes that the saved state takes, step counts included, the file's header not.
    fn state_bytes(&mut self) -> anyhow::Result<u64> {
        self.optimizer.check()?;
        let folder = tempfile::tempdir().context("a temporary folder for the optimizer's state")?;
        let path = folder.path().join("state.safetensors");
        self.optimizer.save(&path)?;
        // A safetensors file is the header's length (u64, little-endian), the header, the tensors.
        let mut file = File::open(&path)?;
        let mut header = [0; 8];
        file.read_exact(&mut header)?;
        Ok(file.metadata()?.len() - 8 - u64::from_le_bytes(header))
    }
}

struct Candle {
    optimizer: candle_nn::AdamW,
    vars: NamedVars,
    gradients: GradStore,
}

impl Candle {
    fn new(config: &AdamConfig, vars: &NamedVars) -> anyhow::Result<Self> {
        let params = ParamsAdamW {
            lr: config.lr,
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: config.weight_decay,
        };
        let all = vars.iter().map(|(_, var)| var.clone()).collect();
        Ok(Self {
            optimizer: candle_nn::AdamW::new(all, params)?,
            vars: vars.clone(),
            gradients: empty_store()?,
        })
    }
}

impl Subject for Candle {
    fn set_gradients(&mut self, gradients: &Gradients) -> anyhow::Result<()> {
        let mut store = empty_store()?;
        for (name, var) in self.vars.iter() {
            let g = gradients.get(name).with_context(|| format!("no gradient for {name}"))?;
            store.insert(var, g.clone());
        }
        self.gradients = store;
        Ok(())
    }

    fn step(&mut self) -> anyhow::Result<()> {
        Ok(self.optimizer.step(&self.gradients)?)
    }

    /// Its moments are private and it cannot be saved; candle-nn 0.11.1 makes two, `VarAdamW`'s
    /// `first_moment` and `second_moment`, of the shape and dtype of the variable.
    fn state_bytes(&mut self) -> anyhow::Result<u64> {
        let bytes = |(_, var): (&str, &candle_core::Var)| {
            2 * (var.elem_count() * var.dtype().size_in_bytes()) as u64
        };
        Ok(self.vars.iter().map(bytes).sum())
    }
}

/// candle's gradients come out of `backward` only: these are of a constant, for others to be added.
fn empty_store() -> candle_core::Result<GradStore> {
    Tensor::zeros((), DType::F32, &Device::Cpu)?.backward()
}
