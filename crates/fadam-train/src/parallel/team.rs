//! What a trainer does together with the trainers of the other ranks.

use std::sync::Arc;

use anyhow::Context;
use candle_core::{DType, Tensor, Var};
use fadam_core::{AnyOptimizer, Fisher, Gradients, LossGradients, NamedVars};

use super::shards::Shards;
use super::{Collective, Told, buckets, replicas};
use crate::config::{FieldError, ParallelConfig};
use crate::divergence::is_not_finite;

/// The ranks that train one model, as one of them sees them.
#[derive(Debug)]
pub(crate) struct Team {
    collective: Arc<dyn Collective>,
    bucket_bytes: usize,
    check_every: u64,
    /// Who steps what, with `parallel.zero`.
    shards: Option<Shards>,
    /// Whether any rank was asked to end, when they last told each other.
    interrupted: bool,
}

/// Bytes in which a rank tells why it refused a step.
const REASON: usize = 512;

impl Team {
    /// The team that trains `vars`, with `accumulate` batches a step.
    ///
    /// # Errors
    /// When the batches of a step cannot be shared evenly.
    pub(crate) fn new(
        collective: Arc<dyn Collective>,
        config: &ParallelConfig,
        accumulate: usize,
        vars: &NamedVars,
    ) -> Result<Self, FieldError> {
        let world = collective.world();
        let fits = accumulate.is_multiple_of(world);
        let message = format!(
            "must be a multiple of the {world} processes, which share the batches of a step evenly; got {accumulate}"
        );
        FieldError::require("train.accumulate", fits, message)?;
        let shards = (config.zero && world > 1).then(|| Shards::new(vars, world));
        Ok(Self {
            collective,
            bucket_bytes: config.bucket_mb * 1_000_000,
            check_every: config.check_every,
            shards,
            interrupted: false,
        })
    }

    pub(crate) fn world(&self) -> usize {
        self.collective.world()
    }

    /// How the command that continues a run begins.
    pub(crate) fn launcher(&self) -> String {
        match self.collective.engine() {
            engine if engine.starts_with("MPI") => format!("mpiexec -n {} ", self.world()),
            _ => String::new(),
        }
    }

    /// What a person should know at the start.
    pub(crate) fn note(&self, accumulate: usize, resume: &str) -> Option<String> {
        let (world, engine) = (self.world(), self.collective.engine());
        let each = accumulate / world;
        (world > 1).then(|| {
            format!(
                "{world} processes ({engine}) with {each} of {accumulate} batches a step each; should one die, all end: continue \
                 with: {}{resume}",
                self.launcher()
            )
        })
    }

    /// Whether this is the only process.
    pub(crate) fn is_alone(&self) -> bool {
        self.world() == 1
    }

    /// Whether this rank evaluates and writes.
    pub(crate) fn leads(&self) -> bool {
        self.collective.rank() == 0
    }

    /// Whether batch `i` of a step is this rank's.
    pub(crate) fn has_batch(&self, i: usize) -> bool {
        i % self.world() == self.collective.rank()
    }

    /// Whether this rank steps a parameter.
    pub(crate) fn steps(&self, name: &str) -> bool {
        self.shards.as_ref().is_none_or(|shards| shards.owner(name) == self.collective.rank())
    }

    /// Whether any rank was asked to end, as of the last step; `here` says it of the only one.
    pub(crate) fn interrupted(&self, here: bool) -> bool {
        if self.is_alone() { here } else { self.interrupted }
    }

    /// What rank 0 says, on every rank: of what only it looks at, such as the run folder.
    pub(crate) fn ask_first(
        &self,
        say: impl FnOnce() -> anyhow::Result<String>,
    ) -> anyhow::Result<String> {
        let said = if self.leads() { say()? } else { String::new() };
        String::from_utf8(self.collective.broadcast(said.as_bytes())?).context("rank 0's answer")
    }

    /// What all ranks have to say of their shares of a step.
    pub(crate) fn tell(&mut self, told: &Told) -> anyhow::Result<Told> {
        let all = told.to_all(&*self.collective)?;
        self.interrupted = all.interrupted;
        Ok(all)
    }

    /// Replaces gradients (or what is like them) by their means over all ranks.
    pub(crate) fn mean(&self, parts: &mut [&mut Gradients]) -> anyhow::Result<()> {
        let tensors = parts.iter_mut().flat_map(|part| part.values_mut());
        // What is put in their place keeps no gradient alive.
        let nothing = Tensor::zeros(0, DType::F32, &candle_core::Device::Cpu)?;
        let taken = tensors.map(|tensor| std::mem::replace(tensor, nothing.clone())).collect();
        let means = buckets::mean_all(&*self.collective, self.bucket_bytes, taken)?;
        let places = parts.iter_mut().flat_map(|part| part.values_mut());
        for (place, mean) in places.zip(means) {
            *place = mean;
        }
        Ok(())
    }

    /// Moves running statistics as if this process had seen all batches: see [`Moved`].
    pub(crate) fn move_buffers(&self, moved: Moved) -> anyhow::Result<()> {
        let means = buckets::mean_all(&*self.collective, self.bucket_bytes, moved.by)?;
        for ((var, before), mean) in moved.vars.iter().zip(&moved.before).zip(means) {
            let new = (before + (mean * self.world() as f64)?)?;
            var.set(&new.to_dtype(var.dtype())?)?;
        }
        Ok(())
    }

    /// One step of the optimizer on all ranks. What is not finite, if the step was not taken: the same on every rank.
    pub(crate) fn step(
        &self,
        optimizer: &mut AnyOptimizer,
        vars: &NamedVars,
        losses: LossGradients<'_>,
        fisher: Fisher<'_>,
    ) -> anyhow::Result<Option<String>> {
        let Some(shards) = &self.shards else {
            return match optimizer.step_with(losses, fisher) {
                Err(error) if is_not_finite(&error) => Ok(Some(error.to_string())),
                other => Ok(other.map(|()| None)?),
            };
        };
        let mut asked = Ok(());
        let outcome = optimizer.step_agreed(losses, fisher, |fine| {
            let answers = self.collective.all_gather(&[u8::from(fine)]);
            let agreed =
                answers.as_ref().is_ok_and(|answers| answers.iter().all(|fine| *fine == 1));
            asked = answers.map(|_| ());
            agreed
        });
        asked?;
        match outcome {
            Ok(()) => shards.exchange(&*self.collective, vars, self.bucket_bytes).map(|()| None),
            Err(error) if is_not_finite(&error) => self.reason(Some(error.to_string())).map(Some),
            Err(fadam_core::Error::RefusedElsewhere) => self.reason(None).map(Some),
            Err(error) => Err(error.into()),
        }
    }

    /// The reasons that ranks have, as one: the first of them.
    fn reason(&self, mine: Option<String>) -> anyhow::Result<String> {
        let mut block = mine.unwrap_or_default().into_bytes();
        block.resize(REASON, 0);
        let all = self.collective.all_gather(&block)?;
        let texts = all.chunks_exact(REASON).map(String::from_utf8_lossy);
        let texts = texts.map(|text| text.trim_end_matches('\0').to_owned());
        Ok(texts.filter(|text| !text.is_empty()).min().unwrap_or_default())
    }

    /// Compares the models of all ranks, if that is due after `step`.
    pub(crate) fn check_replicas_if_due(&self, step: u64, model: &NamedVars) -> anyhow::Result<()> {
        if step.is_multiple_of(self.check_every) {
            self.check_replicas(step, model)
        } else {
            Ok(())
        }
    }

    /// Compares the models of all ranks.
    pub(crate) fn check_replicas(&self, step: u64, model: &NamedVars) -> anyhow::Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        replicas::check(&*self.collective, model, step)
    }

    /// On rank 0 what the other ranks keep of the optimizer's state, if anything.
    pub(crate) fn gather_state(&self, optimizer: &AnyOptimizer) -> anyhow::Result<Vec<Vec<u8>>> {
        if self.shards.is_none() {
            return Ok(Vec::new());
        }
        let mine = if self.leads() { Vec::new() } else { optimizer.to_bytes()? };
        self.collective.gather(&mine)
    }
}

/// How far the batches of this rank move running statistics, to be added to what those of the others do.
///
/// A batch changes a buffer by `b ← d b + s`, where s does not depend on b ([`Task::buffer_decay`](crate::Task::buffer_decay) is d). Each batch k
/// starts from the buffer b₀ of before the step and moves it by `δ_k = b − b₀`; one after the other, all A of them make
///
/// ```text
/// b_A − b₀ = Σ_k d^{A−1−k} δ_k
/// ```
///
/// since `e ← d e + δ_k` for `e = b − b₀`. The sum does not care on which rank a batch was.
#[derive(Debug)]
pub(crate) struct Moved {
    vars: Vec<Var>,
    before: Vec<Tensor>,
    by: Vec<Tensor>,
    decay: f64,
}

impl Moved {
    /// None yet.
    pub(crate) fn new(buffers: &NamedVars, decay: f64) -> candle_core::Result<Self> {
        let vars: Vec<Var> = buffers.iter().map(|(_, var)| var.clone()).collect();
        let now = |var: &Var| var.as_tensor().copy()?.to_dtype(DType::F64);
        let before = vars.iter().map(now).collect::<candle_core::Result<Vec<_>>>()?;
        let by = before.iter().map(Tensor::zeros_like).collect::<candle_core::Result<_>>()?;
        Ok(Self { vars, before, by, decay })
    }

    /// Puts the buffers back to before the step, for the next batch.
    pub(crate) fn start_batch(&self) -> candle_core::Result<()> {
        for (var, before) in self.vars.iter().zip(&self.before) {
            var.set(&before.to_dtype(var.dtype())?)?;
        }
        Ok(())
    }

    /// Counts a batch after which `left` batches of the step follow, on whatever rank.
    pub(crate) fn end_batch(&mut self, left: usize) -> candle_core::Result<()> {
        let weight = self.decay.powi(i32::try_from(left).unwrap_or(i32::MAX));
        for ((var, before), by) in self.vars.iter().zip(&self.before).zip(&mut self.by) {
            let delta = (var.as_detached_tensor().to_dtype(DType::F64)? - before)?;
            *by = (&*by + (delta * weight)?)?;
        }
        Ok(())
    }
}
