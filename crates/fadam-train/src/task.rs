//! What is trained: the single joint between the engine and an experiment.

use anyhow::Context;
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use fadam_core::NamedVars;
use serde_json::Value;

/// Model, data, loss and metrics of an experiment, as the [`Trainer`](crate::Trainer) sees them.
///
/// Everything random comes from seeded generators of the task's own. All that decides about future
/// batches is in the [`cursor`](Task::cursor), so that a resumed run continues bit for bit.
pub trait Task {
    /// What one step trains on.
    type Batch;

    /// The trainable parameters. Every one of them must receive a gradient.
    fn vars(&self) -> &NamedVars;

    /// State of the model that is not trained, such as running statistics: saved and restored with the
    /// parameters. Their names must differ from those of the parameters.
    fn buffers(&self) -> NamedVars {
        NamedVars::new()
    }

    /// What a batch is counted in, a plural that is part of metric names: `tokens` gives
    /// `tokens_per_s`.
    fn unit(&self) -> &'static str;

    /// The next batch, on the device. Endless: the task starts its next epoch by itself.
    ///
    /// # Errors
    ///
    /// When the data cannot be read.
    fn next_batch(&mut self) -> anyhow::Result<Self::Batch>;

    /// Passes over the next batch, which another process computes: everything that later batches depend on is as after
    /// [`next_batch`](Task::next_batch). To be overridden where that is cheaper than to make the batch and drop it.
    ///
    /// # Errors
    ///
    /// As of [`next_batch`](Task::next_batch).
    fn skip_batch(&mut self) -> anyhow::Result<()> {
        self.next_batch().map(drop)
    }

    /// The d of `b ← d b + s`, which is how a batch (the s) changes the [`buffers`](Task::buffers) b: 0.9 for running means that
    /// move a tenth of the way, 1 for sums, or if batches change none. With several processes each batch starts from
    /// the buffers of before the step, and this says how the changes add up.
    fn buffer_decay(&self) -> f64 {
        1.0
    }

    /// The number of units in a batch.
    fn units(&self, batch: &Self::Batch) -> u64;

    /// The loss of a batch: a scalar, in nats, the mean over the batch's units.
    ///
    /// # Errors
    ///
    /// When candle fails.
    fn loss(&mut self, batch: &Self::Batch) -> anyhow::Result<Objective>;

    /// The gradients of a loss; [`Tensor::backward`] unless the model's ops have a way of their own.
    ///
    /// # Errors
    ///
    /// When candle fails.
    fn backward(&self, loss: &Tensor) -> candle_core::Result<GradStore> {
        loss.backward()
    }

    /// What follows the optimizer's step number `step`, such as a change of parameters that no gradient makes. With several
    /// processes it has to be the same on each, so it must not depend on batches that only one of them has seen.
    ///
    /// # Errors
    ///
    /// When candle fails.
    fn after_step(&mut self, _step: u64) -> anyhow::Result<()> {
        Ok(())
    }

    /// Evaluates the model after `step` steps (0: before the first) on held-out data.
    ///
    /// It must not change what training does next: a run that evaluates more often has the same
    /// weights. A sample drawn here takes a generator seeded by `step`.
    ///
    /// # Errors
    ///
    /// When candle fails, or the data cannot be read.
    fn evaluate(&mut self, step: u64) -> anyhow::Result<Evaluation>;

    /// All that decides about future batches and dropout: epoch, position, states of generators.
    fn cursor(&self) -> Value;

    /// Goes back to where [`cursor`](Task::cursor) gave `cursor`.
    ///
    /// # Errors
    ///
    /// When `cursor` is of other data or another version.
    fn restore(&mut self, cursor: &Value) -> anyhow::Result<()>;

    /// What a person should know of the data since the last call, in lines: files that were read, a
    /// wait. Shown at the next training line.
    fn take_notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// More fields for `summary.json`, in this order.
    fn summary_extras(&self) -> Vec<(String, Value)> {
        Vec::new()
    }
}

/// Parameters and buffers of a task: what a checkpoint holds. One name for both is an error.
pub(crate) fn model(task: &impl Task) -> anyhow::Result<NamedVars> {
    let mut model = task.vars().clone();
    for (name, var) in task.buffers().iter() {
        model.insert(name, var.clone()).context("a buffer has the name of a parameter")?;
    }
    Ok(model)
}

/// What a step goes down: a loss and, perhaps, an auxiliary one that is no log-likelihood and goes past the Fisher
/// information (section 3.4.3 of the paper; [`LossGradients::auxiliary`](fadam_core::LossGradients::auxiliary)).
#[derive(Debug, Clone)]
pub struct Objective {
    /// A scalar.
    pub loss: Tensor,
    /// A scalar without its weight, and its weight.
    pub auxiliary: Option<(Tensor, f64)>,
}

impl From<Tensor> for Objective {
    fn from(loss: Tensor) -> Self {
        Self { loss, auxiliary: None }
    }
}

impl Objective {
    /// Both together, without a graph: what is reported.
    pub(crate) fn total(&self) -> candle_core::Result<Tensor> {
        let loss = self.loss.detach();
        match &self.auxiliary {
            Some((auxiliary, weight)) => loss + (auxiliary.detach() * *weight)?,
            None => Ok(loss),
        }
    }
}

/// The result of an evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// Mean loss over the held-out data, in nats a unit.
    pub loss: f64,
    /// Other measures by name, in the order they are shown: `bits_per_byte`, `wer`, ….
    pub metrics: Vec<(String, f64)>,
    /// Something to look at, such as generated text.
    pub sample: Option<String>,
    /// Pictures to look at, in TensorBoard.
    pub pictures: Vec<Picture>,
}

impl Evaluation {
    /// An evaluation with a loss alone.
    pub fn new(loss: f64) -> Self {
        Self { loss, ..Self::default() }
    }

    /// Adds a measure.
    #[must_use]
    pub fn metric(mut self, name: impl Into<String>, value: f64) -> Self {
        self.metrics.push((name.into(), value));
        self
    }

    /// Adds something to look at.
    #[must_use]
    pub fn sample(mut self, sample: impl Into<String>) -> Self {
        self.sample = Some(sample.into());
        self
    }

    /// Adds a picture to look at.
    #[must_use]
    pub fn picture(mut self, picture: Picture) -> Self {
        self.pictures.push(picture);
        self
    }
}

/// A named picture, as a PNG file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    name: String,
    png: Vec<u8>,
    width: u32,
    height: u32,
}

impl Picture {
    /// A picture under `name`, which stays the same from evaluation to evaluation.
    ///
    /// # Errors
    ///
    /// If `png` does not begin as a PNG file does.
    pub fn new(name: impl Into<String>, png: Vec<u8>) -> anyhow::Result<Self> {
        // Signature, then a chunk of 13 bytes with the sides first.
        let name = name.into();
        let sides = png.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR").and_then(|rest| {
            let side = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
            Some((side(rest.get(..4)?)?, side(rest.get(4..8)?)?))
        });
        let (width, height) =
            sides.with_context(|| format!("the picture {name:?} is no PNG file"))?;
        Ok(Self { name, png, width, height })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file.
    pub fn png(&self) -> &[u8] {
        &self.png
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }
}
