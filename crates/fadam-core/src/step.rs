//! One step of all parameters: checked as a whole, then prepared as a whole, then applied.

use rayon::prelude::*;

use crate::accumulate::norm_of;
use crate::algorithm::Algorithm;
use crate::param::Param;
use crate::{Error, Fisher, Gradients, LossGradients, NamedOptimizer, Result};

impl<A: Algorithm> NamedOptimizer<A> {
    /// One step. The gradients are those of the loss: the step descends.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] (all names), [`Error::NonFiniteGradient`],
    /// [`Error::NonFiniteUpdate`], [`Error::GradientShape`], [`Error::UnknownParameter`] for a gradient
    /// of no parameter, [`Error::Config`] for a learning rate set to NaN. Nothing is changed then.
    pub fn step_named(&mut self, gradients: &Gradients) -> Result<()> {
        self.step_with(gradients, Fisher::Minibatch)
    }

    /// Waits for the steps that were launched on a CUDA device, and reports the first that found something that is not
    /// finite. Steps there are launched and not waited for: nothing is read back within one, a bad step (and, unless
    /// [`skip_non_finite`](Self::skip_non_finite) is set, every later one) changes nothing, and the error comes here
    /// or at every [`check_every`](Self::check_every)th step. To be called before [`save`](Self::save). Elsewhere
    /// there is nothing to wait for.
    ///
    /// # Errors
    /// As of [`step_named`](Self::step_named).
    pub fn check(&mut self) -> Result<()> {
        #[cfg(feature = "cuda")]
        self.check_cuda()?;
        Ok(())
    }

    /// One step with an estimator of the FIM, and with the gradients of an auxiliary loss where
    /// [`LossGradients`] are given. Frozen parameters may have gradients; they are not looked at.
    ///
    /// # Errors
    /// As of [`step_named`](Self::step_named), and the same of what the estimator and the auxiliary loss come with;
    /// [`Error::NegativeSquares`]. Nothing is changed then.
    pub fn step_with<'a>(
        &mut self,
        gradients: impl Into<LossGradients<'a>>,
        fisher: Fisher<'a>,
    ) -> Result<()> {
        self.step_agreed(gradients, fisher, |fine| fine)
    }

    /// The same for a step that several processes take together, each with a [shard](Self::from_named_shard) or each
    /// with the whole: when every parameter here was looked at and before the first is changed, `agree` is told
    /// whether all were in order, and says whether they were so everywhere. If not, nothing is changed anywhere.
    ///
    /// It is called exactly once, unless the gradients do not fit the parameters (by names, shapes or settings).
    ///
    /// # Errors
    /// As of [`step_with`](Self::step_with); [`Error::RefusedElsewhere`] where only others found something;
    /// [`Error::Unsupported`] for a shard on a CUDA device, where nothing is known within a step.
    pub fn step_agreed<'a>(
        &mut self,
        gradients: impl Into<LossGradients<'a>>,
        fisher: Fisher<'a>,
        agree: impl FnOnce(bool) -> bool,
    ) -> Result<()> {
        let losses = gradients.into();
        self.check_step(&losses, &fisher)?;
        let (gamma, norm) = self.gamma(losses.loss)?;
        let configs: Vec<A> = (0..=self.groups.len()).map(|group| self.config_of(group)).collect();
        #[cfg(feature = "cuda")]
        if let Some(device) = self.cuda_device() {
            if let Some(name) = self.others().next() {
                let reason = "a shard of an optimizer cannot step on a CUDA device";
                return Err(Error::Unsupported { name: name.to_owned(), reason });
            }
            self.grad_norm = norm;
            return self.step_on_cuda(&device, &configs, &losses, &fisher, gamma);
        }
        let mut prepared = self.prepare(&configs, &losses, &fisher, gamma);
        if !agree(prepared.is_ok()) && prepared.is_ok() {
            self.params.iter_mut().for_each(Param::forget);
            prepared = Err(Error::RefusedElsewhere);
        }
        match prepared {
            Ok(()) => {
                self.grad_norm = norm; // of a step that was taken
                self.apply(&configs)
            }
            Err(
                Error::NonFiniteGradient { .. }
                | Error::NonFiniteUpdate { .. }
                | Error::RefusedElsewhere,
            ) if self.skip_non_finite => {
                self.skipped_steps += 1;
                Ok(())
            }
            Err(err) => Err(err),
        }
    }

    fn check_step(&self, losses: &LossGradients<'_>, fisher: &Fisher<'_>) -> Result<()> {
        self.config.validate()?;
        let auxiliary = losses.auxiliary.map(|(gradients, _)| gradients);
        for given in [Some(losses.loss), auxiliary, fisher.given()].into_iter().flatten() {
            let unknown = |name: &&String| {
                let (frozen, others) = (self.frozen.get(name), self.others.get(name));
                self.find(name).is_err() && frozen.or(others).is_none()
            };
            if let Some(name) = given.keys().find(unknown) {
                return Err(Error::UnknownParameter { name: name.clone() });
            }
        }
        if let Some((_, weight)) = losses.auxiliary
            && !weight.is_finite()
        {
            let (field, expected) = ("auxiliary weight", "a finite number");
            return Err(Error::Config { field, value: weight, expected });
        }
        if let Fisher::Sampled { batch: 0, .. } = fisher {
            let (field, expected) = ("Fisher::Sampled batch", "1 or more");
            return Err(Error::Config { field, value: 0.0, expected });
        }
        let lacks = |given: &Gradients| -> Vec<String> {
            let mut missing: Vec<String> = self
                .names()
                .chain(self.others())
                .filter(|name| !given.contains_key(*name))
                .map(str::to_owned)
                .collect();
            missing.sort();
            missing
        };
        let names = lacks(losses.loss);
        if !self.skip_missing && !names.is_empty() {
            return Err(Error::MissingGradient { names });
        }
        // Where there is a gradient there has to be its estimate of the FIM.
        let mut names = fisher.given().map_or_else(Vec::new, lacks);
        names.retain(|name| losses.loss.contains_key(name));
        if names.is_empty() { Ok(()) } else { Err(Error::MissingSquares { names }) }
    }

    /// What the gradients are multiplied by (−1 to go up, and less than 1 to clip their norm), and their norm.
    fn gamma(&self, gradients: &Gradients) -> Result<(f64, Option<f64>)> {
        let sign = if self.maximize { -1.0 } else { 1.0 };
        let Some(max) = self.max_grad_norm else { return Ok((sign, None)) };
        let norm = norm_of(
            gradients
                .iter()
                .filter(|(name, _)| self.find(name).is_ok() || self.is_of_another(name)),
        )?;
        // A norm that is no number comes from a gradient that pass A will name.
        let gamma = if norm.is_finite() && norm > max { sign * max / norm } else { sign };
        Ok((gamma, Some(norm)))
    }

    /// Pass A of every parameter that has a gradient: what pass B will do, or the first (in sorted order)
    /// that is wrong. Changes neither parameters nor state.
    fn prepare(
        &mut self,
        configs: &[A],
        losses: &LossGradients<'_>,
        fisher: &Fisher<'_>,
        gamma: f64,
    ) -> Result<()> {
        let Self { params, storages, backend, .. } = self;
        let terms = |name: &str| losses.terms(fisher, gamma, name);
        let outcome: Vec<Result<()>> = params
            .par_iter_mut()
            .map(|p| p.prepare(&configs[p.group], *backend, storages, terms(&p.name)))
            .collect(); // in order, so that the error is the first name's
        let outcome: Result<()> = outcome.into_iter().collect();
        if outcome.is_err() {
            params.iter_mut().for_each(Param::forget);
        }
        outcome
    }

    /// Pass B of every parameter that is prepared, backwards: what pass A read last is still in the cache, and
    /// the next pass A begins where this one ends.
    fn apply(&mut self, configs: &[A]) -> Result<()> {
        let params = &mut self.params;
        params.par_iter_mut().rev().map(|p| p.apply(&configs[p.group])).collect::<Result<()>>()?;
        self.steps += 1;
        Ok(())
    }
}
