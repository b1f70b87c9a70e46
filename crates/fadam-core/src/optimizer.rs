//! The optimizer itself: its parameters, groups and settings. A step is in `step.rs`.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use crate::algorithm::Algorithm;
use crate::config::positive;
use crate::group::{Group, Precision};
use crate::param::Param;
use crate::{Backend, Error, NamedVars, Result};

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
    pub(crate) groups: Vec<Group<A>>,
    /// Calls that changed something.
    pub(crate) steps: u64,
    /// Those that are trained, sorted by name.
    pub(crate) params: Vec<Param>,
    /// Those that are not.
    pub(crate) frozen: NamedVars,
    /// Those that other processes step: see `shard.rs`.
    pub(crate) others: NamedVars,
    /// Where the parameters are stored, sorted.
    pub(crate) storages: Vec<usize>,
    pub(crate) backend: Backend,
    pub(crate) skip_missing: bool,
    pub(crate) skip_non_finite: bool,
    pub(crate) maximize: bool,
    pub(crate) max_grad_norm: Option<f64>,
    pub(crate) grad_norm: Option<f64>,
    pub(crate) skipped_steps: u64,
    /// Steps on a CUDA device between two looks at what it found.
    pub(crate) check_every: u64,
    #[cfg(feature = "cuda")]
    pub(crate) cuda: crate::on_cuda::CudaSteps,
}

impl<A: Algorithm> NamedOptimizer<A> {
    /// An optimizer of these parameters, with a fresh state: f64 for f64 parameters, f32 for f32,
    /// bf16 and f16 (see [`Group::state`] for less).
    ///
    /// # Errors
    /// A hyper-parameter that is impossible, a parameter that is not floating point, two parameters
    /// that share their storage.
    pub fn from_named(vars: NamedVars, config: A) -> Result<Self> {
        config.validate()?;
        let mut optimizer = Self {
            config,
            groups: Vec::new(),
            steps: 0,
            params: Vec::new(),
            frozen: NamedVars::new(),
            others: NamedVars::new(),
            storages: Vec::new(),
            backend: Backend::default(),
            skip_missing: false,
            skip_non_finite: false,
            maximize: false,
            max_grad_norm: None,
            grad_norm: None,
            skipped_steps: 0,
            check_every: 16,
            #[cfg(feature = "cuda")]
            cuda: crate::on_cuda::CudaSteps::default(),
        };
        optimizer.arrange(vars, Vec::new())?;
        Ok(optimizer)
    }

    /// The same with parameter groups; see [`set_groups`](Self::set_groups).
    ///
    /// # Errors
    /// As of [`set_groups`](Self::set_groups).
    pub fn groups(mut self, groups: Vec<Group<A>>) -> Result<Self> {
        self.set_groups(groups)?;
        Ok(self)
    }

    /// Sets the parameter groups, before or in mid-run. A parameter keeps its state and step count if its algorithm
    /// and the format of its state stay; else, or when it was frozen before, it starts with a fresh state.
    ///
    /// # Errors
    /// A group that no parameter belongs to, or whose config is impossible or has another learning rate; low precision
    /// where there is none. Nothing is changed then.
    pub fn set_groups(&mut self, groups: Vec<Group<A>>) -> Result<()> {
        for group in &groups {
            group.validate(&self.config)?;
        }
        self.arrange(NamedVars::new(), groups)
    }

    /// Takes in more parameters in mid-run, with fresh states and step counts of their own.
    ///
    /// # Errors
    /// [`Error::DuplicateName`], and as of [`from_named`](Self::from_named). Nothing is changed then.
    pub fn add(&mut self, vars: NamedVars) -> Result<()> {
        self.arrange(vars, self.groups.clone())
    }

    /// Puts all parameters, old and new, into groups.
    pub(crate) fn arrange(&mut self, new: NamedVars, groups: Vec<Group<A>>) -> Result<()> {
        self.check()?;
        let mut all = self.vars();
        for (name, var) in new {
            all.insert(name, var)?;
        }
        let storages = all.check()?;
        let (mut fresh, mut frozen, mut used) =
            (Vec::new(), NamedVars::new(), vec![false; groups.len()]);
        for (name, var) in all {
            let at = groups.iter().position(|group| group.matches(&name, var.rank()));
            let group = at.map(|at| {
                used[at] = true;
                &groups[at]
            });
            if group.is_some_and(Group::is_frozen) {
                frozen.insert(name, var)?;
                continue;
            }
            if self.others.get(&name).is_some() {
                continue;
            }
            let config = group.map_or_else(|| self.config.clone(), |g| g.resolve(&self.config));
            let precision = group.map_or_else(Precision::default, Group::precision);
            let index = at.map_or(0, |at| at + 1);
            let old = self.find(&name).ok().filter(|old| {
                old.algorithm == config.kept_as() && old.precision.state == precision.state
            });
            fresh.push(if old.is_some_and(|old| old.precision == precision) {
                (name, index, None)
            } else {
                let mut param = Param::new(name.clone(), var, &config, index, precision)?;
                if let Some(old) = old {
                    param.keep_state(old);
                }
                (name, index, Some(param))
            });
        }
        let unused = |at: &usize| !used[*at] && !groups[*at].is_catch_all();
        if let Some(at) = (0..groups.len()).find(unused) {
            return Err(Error::Group {
                pattern: groups[at].pattern().to_owned(),
                reason: "no parameter belongs to it (the first group that matches counts)".into(),
            });
        }
        // From here on nothing can fail.
        let mut old = std::mem::take(&mut self.params).into_iter().peekable();
        for (name, group, param) in fresh {
            while old.peek().is_some_and(|param| param.name < name) {
                old.next();
            }
            let kept = old.next_if(|param| param.name == name);
            let mut param = param.or(kept).expect("kept where it is not fresh");
            param.group = group;
            self.params.push(param);
        }
        (self.frozen, self.groups, self.storages) = (frozen, groups, storages);
        Ok(())
    }

    /// All parameters, frozen ones and other processes' too.
    pub fn vars(&self) -> NamedVars {
        let trained = self.params.iter().map(|p| (p.name.clone(), p.var.clone()));
        trained.chain(self.frozen.clone()).chain(self.others.clone()).collect()
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

    /// Whether a step goes up: the gradients are those of an objective (a log-likelihood) that is to grow.
    /// Weight decay still decays.
    #[must_use]
    pub fn maximize(mut self, maximize: bool) -> Self {
        self.maximize = maximize;
        self
    }

    /// Clips the gradients of all parameters together to this norm before anything else, as baselines do
    /// (`FAdam` has RMS clipping instead, and the paper does without this: section B.3). `None`: off.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not above 0.
    pub fn max_grad_norm(mut self, norm: Option<f64>) -> Result<Self> {
        norm.map_or(Ok(()), |norm| positive("max_grad_norm", norm))?;
        self.max_grad_norm = norm;
        Ok(self)
    }

    /// Steps on a CUDA device between two looks at what it found, 16 by default: see [`check`](Self::check).
    #[must_use]
    pub fn check_every(mut self, steps: u64) -> Self {
        self.check_every = steps.max(1);
        self
    }

    /// The number of steps taken, skipped ones not counted.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The number of steps dropped because [`skip_non_finite`](Self::skip_non_finite) was asked for.
    pub fn skipped_steps(&self) -> u64 {
        self.skipped_steps
    }

    /// The hyper-parameters, but for what groups have of their own.
    pub fn config(&self) -> &A {
        &self.config
    }

    /// Replaces the hyper-parameters; the state stays. Groups keep their own configs but for the learning rate.
    ///
    /// # Errors
    /// [`Error::Config`] if one is impossible, [`Error::Group`] for another algorithm; the old ones then stay.
    pub fn set_config(&mut self, config: A) -> Result<()> {
        config.validate()?;
        let (own, other) = (self.config.kept_as(), config.kept_as());
        if own != other {
            return Err(Error::Group {
                pattern: "*".into(),
                reason: format!("its state is of {own}, not of {other}"),
            });
        }
        self.config = config;
        Ok(())
    }

    /// The names of the parameters that are trained, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(|p| p.name.as_str())
    }

    /// The diagonal FIM that the last step divided by (a copy), shaped as the parameter, in f32 (f64 for f64
    /// parameters): reconstructed for `FAdafactor` and `Adafactor`, bias-corrected for `Adam`, f₀ before the
    /// first step. Footnote 14 of the paper: elastic weight consolidation can use it as it is; see
    /// [`Ewc`](crate::Ewc).
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn fim(&self, name: &str) -> Result<Tensor> {
        let p = self.find(name)?;
        let fim = self.config_of(p.group).fim(p.t, &p.plain_state()?.to_compute_dtype()?)?;
        Ok(fim.to_dtype(p.number_dtype())?.copy()?)
    }

    /// The momentum m of a parameter, shaped as it: a copy, which later steps do not change. (That of
    /// `Adafactor` holds the learning rate.)
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn momentum(&self, name: &str) -> Result<Tensor> {
        let p = self.find(name)?;
        Ok(p.plain_state()?.m.to_dtype(p.number_dtype())?.copy()?)
    }

    /// The hyper-parameters of a group: 0 is the optimizer's own config, k + 1 group k.
    pub(crate) fn config_of(&self, group: usize) -> A {
        match group.checked_sub(1) {
            None => self.config.clone(),
            Some(at) => self.groups[at].resolve(&self.config),
        }
    }

    /// The parameter of that name; they are sorted.
    pub(crate) fn find(&self, name: &str) -> Result<&Param> {
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
