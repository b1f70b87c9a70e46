//! The gradients of a step: of one batch, or the mean of several.

use std::time::Instant;

use anyhow::Context;
use candle_core::Tensor;
use fadam_core::{Accumulator, Gradients, LossGradients};

use crate::phases::{self, PhaseSecs};
use crate::task::{Objective, Task};

/// Computes the gradients of steps.
#[derive(Default)]
pub(crate) struct Backward {
    /// Of the batches of one step, if there are several: of the loss, and of the auxiliary one.
    accumulators: [Accumulator; 2],
}

/// The gradients of a step.
#[derive(Default)]
pub(crate) struct StepGradients {
    pub(crate) loss: Gradients,
    /// And the weight of the loss that they are of.
    pub(crate) auxiliary: Option<(Gradients, f64)>,
    /// The loss of each batch, without a graph.
    pub(crate) losses: Vec<Tensor>,
    /// The units of all batches.
    pub(crate) units: u64,
}

impl Backward {
    /// The mean gradients of the next `batches` batches.
    pub(crate) fn step(
        &mut self,
        task: &mut impl Task,
        batches: usize,
        secs: &mut PhaseSecs,
    ) -> anyhow::Result<StepGradients> {
        let [of_loss, of_auxiliary] = &mut self.accumulators;
        let (mut losses, mut units) = (Vec::with_capacity(batches), 0);
        let mut of_batch = StepGradients::default();
        for i in 0..batches {
            let started = Instant::now();
            let batch = task.next_batch()?;
            phases::add(&mut secs.data, started);
            let started = Instant::now();
            let objective = task.loss(&batch)?;
            losses.push(objective.total()?);
            of_batch = StepGradients::of(task, &objective)?;
            units += task.units(&batch);
            if batches > 1 {
                let place = || format!("batch {} of the step", i + 1);
                of_loss.add(&of_batch.loss).with_context(place)?;
                if let Some((gradients, _)) = &of_batch.auxiliary {
                    of_auxiliary.add(gradients).with_context(place)?;
                }
            }
            phases::add(&mut secs.gradients, started);
        }
        if batches == 1 {
            return Ok(StepGradients { losses, units, ..of_batch });
        }
        let auxiliary = match of_batch.auxiliary {
            Some((_, weight)) => Some((of_auxiliary.finish()?.gradients, weight)),
            None => None,
        };
        Ok(StepGradients { loss: of_loss.finish()?.gradients, auxiliary, losses, units })
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
