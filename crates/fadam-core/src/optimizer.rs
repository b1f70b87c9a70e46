//! The optimizer itself: walks the parameters by name and applies one algorithm to each.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::algorithm::Algorithm;
use crate::param::Param;
use crate::{Backend, Error, Gradients, NamedVars, Result};

/// An optimizer of named parameters by algorithm `A`: [`FAdam`](crate::FAdam),
/// [`FAdafactor`](crate::FAdafactor), [`Adam`](crate::Adam), [`Adafactor`](crate::Adafactor), or
/// [`AnyOptimizer`](crate::AnyOptimizer).
///
/// It implements candle's [`Optimizer`](candle_nn::Optimizer) for drop-in use, where parameters are
/// called `var0000`, `var0001`, … in the order given. [`from_named`](Self::from_named) is the
/// better door: states and errors then carry the model's own names.
///
/// A step is all or nothing: every parameter is looked at before the first one is changed, so after an error
/// parameters, state and step count are as before. On the CPU it is fused, in place and on all threads
/// of the rayon pool it is called in, with the same bits whatever their number; see [`Backend`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Module, VarBuilder, VarMap};
/// use fadam_core::{FAdam, FAdamConfig, NamedVars};
///
/// let varmap = VarMap::new();
/// let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
/// let model = candle_nn::linear(4, 2, vb.pp("head"))?;
/// let params = NamedVars::from_varmap(&varmap);
/// let mut optimizer = FAdam::from_named(params.clone(), FAdamConfig::default())?;
///
/// let x = Tensor::ones((8, 4), DType::F32, &Device::Cpu)?;
/// let loss = model.forward(&x)?.sqr()?.mean_all()?;
/// optimizer.step_named(&params.gradients(&loss.backward()?))?;
/// assert_eq!(optimizer.fim("head.weight")?.dims(), [2, 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct NamedOptimizer<A> {
    pub(crate) config: A,
    /// Calls that changed something.
    pub(crate) steps: u64,
    pub(crate) params: Vec<Param>,
    /// Where the parameters are stored, sorted.
    storages: Vec<usize>,
    backend: Backend,
    skip_missing: bool,
    skip_non_finite: bool,
    skipped_steps: u64,
}

impl<A: Algorithm> NamedOptimizer<A> {
    /// An optimizer of these parameters, with a fresh state: f64 for f64 parameters, f32 for f32,
    /// bf16 and f16.
    ///
    /// # Errors
    /// A hyper-parameter that is impossible, a parameter that is not floating point, two parameters
    /// that share their storage.
    pub fn from_named(vars: NamedVars, config: A) -> Result<Self> {
        config.validate()?;
        let storages = vars.check()?;
        let params = vars
            .into_iter()
            .map(|(name, var)| Param::new(name, var, &config))
            .collect::<Result<_>>()?;
        Ok(Self {
            config,
            steps: 0,
            params,
            storages,
            backend: Backend::default(),
            skip_missing: false,
            skip_non_finite: false,
            skipped_steps: 0,
        })
    }

    /// How steps are computed; [`Backend::Fused`] by default.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Whether parameters without a gradient are left alone (and their own t with them) instead of
    /// being an error. Off by default: a missing gradient mostly means a cut graph.
    #[must_use]
    pub fn skip_missing(mut self, skip: bool) -> Self {
        self.skip_missing = skip;
        self
    }

    /// Whether a step with a non-finite gradient or update is dropped and counted in
    /// [`skipped_steps`](Self::skipped_steps) instead of being an error. Off by default.
    #[must_use]
    pub fn skip_non_finite(mut self, skip: bool) -> Self {
        self.skip_non_finite = skip;
        self
    }

    /// One step. The gradients are those of the loss: the step descends.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] (all names), [`Error::NonFiniteGradient`],
    /// [`Error::NonFiniteUpdate`], [`Error::GradientShape`], [`Error::UnknownParameter`] for a gradient
    /// of no parameter, [`Error::Config`] for a learning rate set to NaN. Nothing is changed then.
    pub fn step_named(&mut self, gradients: &Gradients) -> Result<()> {
        self.config.validate()?;
        self.check_names(gradients)?;
        match self.prepare(gradients) {
            Ok(()) => self.apply(),
            Err(Error::NonFiniteGradient { .. } | Error::NonFiniteUpdate { .. })
                if self.skip_non_finite =>
            {
                self.skipped_steps += 1;
                Ok(())
            }
            Err(err) => Err(err),
        }
    }

    fn check_names(&self, gradients: &Gradients) -> Result<()> {
        if let Some(name) = gradients.keys().find(|name| self.find(name).is_err()) {
            return Err(Error::UnknownParameter { name: name.clone() });
        }
        let missing: Vec<String> = self
            .params
            .iter()
            .filter(|p| !gradients.contains_key(&p.name))
            .map(|p| p.name.clone())
            .collect();
        if self.skip_missing || missing.is_empty() {
            Ok(())
        } else {
            Err(Error::MissingGradient { names: missing })
        }
    }

    /// Pass A of every parameter that has a gradient: what pass B will do, or the first (in sorted order)
    /// that is wrong. Changes neither parameters nor state.
    fn prepare(&mut self, gradients: &Gradients) -> Result<()> {
        let Self { config, params, storages, backend, .. } = self;
        params
            .par_iter_mut()
            .map(|p| p.prepare(config, *backend, storages, gradients.get(&p.name)))
            .collect::<Vec<Result<()>>>() // in order, so that the error is the first name's
            .into_iter()
            .collect()
    }

    /// Pass B of every parameter that is prepared, backwards: what pass A read last is still in the cache, and
    /// the next pass A begins where this one ends.
    fn apply(&mut self) -> Result<()> {
        let Self { config, params, .. } = self;
        params.par_iter_mut().rev().map(|p| p.apply(config)).collect::<Result<()>>()?;
        self.steps += 1;
        Ok(())
    }

    /// The number of steps taken, skipped ones not counted.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The number of steps dropped because [`skip_non_finite`](Self::skip_non_finite) was asked for.
    pub fn skipped_steps(&self) -> u64 {
        self.skipped_steps
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &A {
        &self.config
    }

    /// Replaces the hyper-parameters; the state stays.
    ///
    /// # Errors
    /// [`Error::Config`] if one is impossible; the old ones then stay.
    pub fn set_config(&mut self, config: A) -> Result<()> {
        config.validate()?;
        self.config = config;
        Ok(())
    }

    /// The names of the parameters, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(|p| p.name.as_str())
    }

    /// The diagonal FIM that the last step divided by (a copy), shaped as the parameter, in the dtype of the
    /// state: reconstructed for `FAdafactor` and `Adafactor`, bias-corrected for `Adam`, f₀ before the
    /// first step. Footnote 14 of the paper: elastic weight consolidation can use it as it is.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn fim(&self, name: &str) -> Result<Tensor> {
        let p = self.find(name)?;
        let fim = self.config.fim(p.t, &p.state.to_compute_dtype()?)?;
        Ok(fim.to_dtype(p.state.m.dtype())?.copy()?)
    }

    /// The momentum m of a parameter, shaped as it: a copy, which later steps do not change. (That of
    /// `Adafactor` holds the learning rate.)
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn momentum(&self, name: &str) -> Result<Tensor> {
        Ok(self.find(name)?.state.m.copy()?)
    }

    /// The parameter of that name; they are sorted.
    fn find(&self, name: &str) -> Result<&Param> {
        self.params
            .binary_search_by(|p| p.name.as_str().cmp(name))
            .map(|at| &self.params[at])
            .map_err(|_| Error::UnknownParameter { name: name.into() })
    }
}

impl<A: Algorithm> candle_nn::Optimizer for NamedOptimizer<A> {
    type Config = A;

    /// Parameters are called `var0000`, `var0001`, … in the order given.
    fn new(vars: Vec<Var>, config: A) -> candle_core::Result<Self> {
        let vars = vars.into_iter().enumerate().map(|(i, var)| (format!("var{i:04}"), var));
        Ok(Self::from_named(vars.collect(), config)?)
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        let gradients = self
            .params
            .iter()
            .filter_map(|p| Some((p.name.clone(), grads.get(&p.var)?.clone())))
            .collect();
        Ok(self.step_named(&gradients)?)
    }

    fn learning_rate(&self) -> f64 {
        self.config.lr()
    }

    /// Sets the learning rate; an impossible one is an error of the next step.
    fn set_learning_rate(&mut self, lr: f64) {
        self.config.set_lr(lr);
    }
}
