//! The gradients of a step: of one batch, or the mean of several.

use std::time::Instant;

use anyhow::Context;
use candle_core::Tensor;
use fadam_core::{Accumulated, Accumulator, Fisher, Gradients, LossGradients};

use crate::config::FisherEstimate;
use crate::divergence::scalar;
use crate::parallel::{Moved, Team, Told};
use crate::phases::{self, PhaseSecs};
use crate::task::{Objective, Task};

/// Computes the gradients of steps.
pub(crate) struct Backward {
    /// Of the batches of one step, if there are several here: of the loss, and of the auxiliary one.
    accumulators: [Accumulator; 2],
    fisher: FisherEstimate,
}

/// The gradients of a step.
#[derive(Default)]
pub(crate) struct StepGradients {
    pub(crate) loss: Gradients,
    /// And the weight of the loss that they are of.
    pub(crate) auxiliary: Option<(Gradients, f64)>,
    /// The mean of the squares of the batches' gradients, with `train.fisher = "microbatch"` and several batches.
    squares: Option<Gradients>,
    /// The loss of each batch, without a graph.
    pub(crate) losses: Vec<Tensor>,
    /// The units of all batches.
    pub(crate) units: u64,
}

impl Backward {
    pub(crate) fn new(fisher: FisherEstimate) -> Self {
        let of_loss = match fisher {
            FisherEstimate::Minibatch => Accumulator::new(),
            FisherEstimate::Microbatch => Accumulator::with_squares(),
        };
        Self { accumulators: [of_loss, Accumulator::new()], fisher }
    }

    /// The mean gradients of the next `batches` batches, of which each rank of the team computes its share.
    pub(crate) fn step(
        &mut self,
        task: &mut impl Task,
        batches: usize,
        team: &mut Team,
        interrupted: bool,
        secs: &mut PhaseSecs,
    ) -> anyhow::Result<StepGradients> {
        let mut moved = if team.is_alone() {
            None
        } else {
            Some(Moved::new(&task.buffers(), task.buffer_decay())?)
        };
        let mine = self.share(task, batches, team, &mut moved, secs)?;
        let Some(moved) = moved else { return Ok(mine) };
        let started = Instant::now();
        let all = mine.of_all(team, moved, interrupted)?;
        phases::add(&mut secs.reduction, started);
        Ok(all)
    }

    /// The mean gradients of the batches of this rank.
    fn share(
        &mut self,
        task: &mut impl Task,
        batches: usize,
        team: &Team,
        moved: &mut Option<Moved>,
        secs: &mut PhaseSecs,
    ) -> anyhow::Result<StepGradients> {
        let several =
            batches > team.world() || self.fisher == FisherEstimate::Microbatch && batches > 1;
        let [of_loss, of_auxiliary] = &mut self.accumulators;
        let (mut losses, mut units) = (Vec::with_capacity(batches), 0);
        let mut of_batch = StepGradients::default();
        for i in 0..batches {
            let started = Instant::now();
            if !team.has_batch(i) {
                task.skip_batch()?;
                phases::add(&mut secs.data, started);
                continue;
            }
            let batch = task.next_batch()?;
            phases::add(&mut secs.data, started);
            let started = Instant::now();
            if let Some(moved) = &moved {
                moved.start_batch()?;
            }
            let objective = task.loss(&batch)?;
            losses.push(objective.total()?);
            of_batch = StepGradients::of(task, &objective)?;
            units += task.units(&batch);
            if let Some(moved) = moved {
                moved.end_batch(batches - 1 - i)?;
            }
            if several {
                let place = || format!("batch {} of the step", i + 1);
                of_loss.add(&of_batch.loss).with_context(place)?;
                if let Some((gradients, _)) = &of_batch.auxiliary {
                    of_auxiliary.add(gradients).with_context(place)?;
                }
            }
            phases::add(&mut secs.gradients, started);
        }
        if !several {
            return Ok(StepGradients { losses, units, ..of_batch });
        }
        let auxiliary = match of_batch.auxiliary {
            Some((_, weight)) => Some((of_auxiliary.finish()?.gradients, weight)),
            None => None,
        };
        let Accumulated { gradients, squares } = of_loss.finish()?;
        Ok(StepGradients { loss: gradients, auxiliary, squares, losses, units })
    }
}

impl StepGradients {
    fn of(task: &impl Task, objective: &Objective) -> candle_core::Result<Self> {
        let of = |loss: &Tensor| -> candle_core::Result<Gradients> {
            Ok(task.vars().gradients(&task.backward(loss)?))
        };
        let auxiliary = match &objective.auxiliary {
            Some((loss, weight)) => Some((of(loss)?, *weight)),
            None => None,
        };
        Ok(Self { loss: of(&objective.loss)?, auxiliary, ..Self::default() })
    }

    /// The means over the shares of all ranks, which are equally large; the same on each.
    fn of_all(self, team: &mut Team, moved: Moved, interrupted: bool) -> anyhow::Result<Self> {
        let Self { mut loss, mut auxiliary, mut squares, losses, units } = self;
        let numbers = losses.iter().map(scalar).collect::<candle_core::Result<_>>()?;
        let mut parts = vec![&mut loss];
        parts.extend(auxiliary.as_mut().map(|(gradients, _)| gradients));
        parts.extend(squares.as_mut());
        let told = Told::new(units, interrupted, parts.iter().map(|part| &**part), numbers);
        let told = team.tell(&told)?;
        team.mean(&mut parts)?;
        team.move_buffers(moved)?;
        // In the dtype and on the device that one process has them in.
        let loss_of =
            |number: &f64| Tensor::new(*number, losses[0].device())?.to_dtype(losses[0].dtype());
        let losses = told.losses.iter().map(loss_of).collect::<candle_core::Result<_>>()?;
        Ok(Self { loss, auxiliary, squares, losses, units: told.units })
    }

    /// What the Fisher information is estimated from.
    pub(crate) fn fisher(&self) -> Fisher<'_> {
        self.squares.as_ref().map_or(Fisher::Minibatch, Fisher::Microbatch)
    }

    /// The mean loss of the batches, on the device.
    pub(crate) fn mean_loss(&self) -> candle_core::Result<Tensor> {
        Tensor::stack(&self.losses, 0)?.mean(0)
    }

    /// As the optimizer takes them.
    pub(crate) fn for_optimizer(&self) -> LossGradients<'_> {
        let gradients = LossGradients::new(&self.loss);
        match &self.auxiliary {
            Some((of_auxiliary, weight)) => gradients.auxiliary(of_auxiliary, *weight),
            None => gradients,
        }
    }
}
