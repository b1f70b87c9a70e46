//! Model, data, loss and evaluation of `train-vqvae`.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use fadam_core::NamedVars;
use fadam_data::image::{EvalImages, ImageBatches, ImageCursor};
use fadam_models::init::SeededVars;
use fadam_models::vqvae::{VqVae, VqVaeLosses};
use fadam_train::config::RunConfig;
use fadam_train::{Evaluation, Objective, Picture, Task, bad_input, write_atomically};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::autoencoder::{constant, trainable};
use super::config::TrainVqVae;
use super::distance::Distances;
use super::grid::grid;
use super::looks::{Looks, look, originals};
use super::pictures::Pictures;

/// In a run folder, the grids: `step-00000500.png` has originals and, to the right of each, what became of them: the expectation and, with
/// cross-entropy, the likeliest values.
pub const GRIDS_FOLDER: &str = "reconstructions";

/// Pictures by a ViT VQ-VAE.
#[derive(Debug)]
pub struct VqVaeTask {
    model: VqVae,
    /// The same, without a graph.
    frozen: VqVae,
    vars: NamedVars,
    buffers: NamedVars,
    batches: ImageBatches,
    eval: EvalImages,
    distances: Option<Distances>,
    /// Features of the held-out pictures, and which those are.
    originals: Option<(Vec<usize>, Tensor)>,
    distance_every: Option<u64>,
    steps: u64,
    show: usize,
    seed: u64,
    /// Of the last batch, where dead codes begin anew.
    last: Option<VqVaeLosses>,
    restarted: u64,
    grids: Option<PathBuf>,
    notes: Vec<String>,
    device: Device,
}

/// Where training data is, and what a resumed run has done before.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    images: ImageCursor,
    restarted_codes: u64,
}

impl VqVaeTask {
    /// The task that `config` describes, on these pictures, with initial weights from `train.seed`.
    ///
    /// # Errors
    /// Bad input: weights of `data.features_file` that cannot be used. Otherwise only if the device has no memory for the model.
    pub fn new(
        config: &RunConfig<TrainVqVae>,
        pictures: Pictures,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let (data, train) = (config.data(), config.train());
        let mut eval = EvalImages::new(pictures.held_out, train.batch).map_err(bad_input)?;
        if data.eval_images > 0 {
            eval = eval.first(data.eval_images);
        }
        let spec = data.batch_spec(train.batch, train.seed);
        let batches = ImageBatches::new(pictures.train, spec).map_err(bad_input)?;
        let (model, all) = trainable(config.model(), SeededVars::new(train.seed), device)?;
        let frozen = constant(config.model(), &all, device)?;
        let (vars, buffers) = all.split_buffers(VqVae::is_buffer);
        Ok(Self {
            model,
            frozen,
            vars,
            buffers,
            batches,
            eval,
            distances: Distances::load(data, device)?,
            originals: None,
            distance_every: (data.distance_every > 0).then_some(data.distance_every),
            steps: train.steps,
            show: data.show,
            seed: train.seed,
            last: None,
            restarted: 0,
            grids: None,
            notes: Vec::new(),
            device: device.clone(),
        })
    }

    /// Each evaluation draws a grid of originals and reconstructions into this folder.
    #[must_use]
    pub fn keep_grids(self, folder: PathBuf) -> Self {
        Self { grids: Some(folder), ..self }
    }

    /// Every evaluation compares features, whatever the step.
    #[must_use]
    pub fn always_measure_distances(self) -> Self {
        Self { distance_every: Some(1), ..self }
    }

    /// Whether features are compared after this step.
    fn measures_distances(&self, step: u64) -> bool {
        step == self.steps || self.distance_every.is_some_and(|every| step.is_multiple_of(every))
    }

    /// Draws the grid, if one is wanted.
    fn draw(&self, step: u64, looks: &Looks) -> anyhow::Result<Option<Picture>> {
        let Some(folder) = self.grids.as_ref().filter(|_| !looks.shown.is_empty()) else {
            return Ok(None);
        };
        let png = grid(&looks.shown.iter().collect::<Vec<_>>())?;
        let file = folder.join(format!("step-{step:08}.png"));
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        write_atomically(&file, &png)?;
        Ok(Some(Picture::new(GRIDS_FOLDER, png)?))
    }

    /// Adds the distances in features.
    fn with_distances(&mut self, looks: &Looks, to: Evaluation) -> anyhow::Result<Evaluation> {
        let (Some(distances), Some(features)) = (&self.distances, &looks.features) else {
            return Ok(to);
        };
        let known = self.originals.take().filter(|(pictures, _)| *pictures == looks.pictures);
        let known = match known {
            Some(known) => known,
            None => originals(&self.eval, distances, &self.device)?,
        };
        let measured = distances.measure(&known.1, features)?;
        self.originals = Some(known);
        let [frechet, kid] = distances.names();
        Ok(to.metric(frechet, measured.frechet).metric(kid, measured.kid))
    }
}

impl Task for VqVaeTask {
    type Batch = Tensor;

    fn vars(&self) -> &NamedVars {
        &self.vars
    }

    fn buffers(&self) -> NamedVars {
        self.buffers.clone()
    }

    fn unit(&self) -> &'static str {
        "images"
    }

    fn next_batch(&mut self) -> anyhow::Result<Tensor> {
        let batch = self.batches.next_batch().map_err(bad_input)?;
        Ok(batch.tensor(&self.device)?)
    }

    fn units(&self, images: &Tensor) -> u64 {
        images.dims()[0] as u64
    }

    fn loss(&mut self, images: &Tensor) -> anyhow::Result<Objective> {
        let losses = self.model.losses(images)?;
        let config = self.model.config();
        let objective = if config.bypass_fim {
            Objective {
                loss: (&losses.reconstruction.objective + &losses.codebook)?,
                auxiliary: Some((losses.commitment.clone(), config.beta)),
            }
        } else {
            losses.total()?.into()
        };
        self.last = (config.restart > 0).then_some(losses);
        Ok(objective)
    }

    fn backward(&self, loss: &Tensor) -> candle_core::Result<GradStore> {
        fadam_ops::backward(loss)
    }

    fn after_step(&mut self, step: u64) -> anyhow::Result<()> {
        if let Some(losses) = self.last.take() {
            // Any function of seed and step that no two steps share.
            let seed = self.seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(step);
            self.restarted += self.model.restart_dead_codes(&losses, seed)? as u64;
        }
        Ok(())
    }

    fn evaluate(&mut self, step: u64) -> anyhow::Result<Evaluation> {
        self.batches.start();
        let distances = self.distances.as_ref().filter(|_| self.measures_distances(step));
        let mut looks = look(&self.frozen, &self.eval, self.show, distances)?;
        self.notes.append(&mut looks.notes);
        let drawn = self.draw(step, &looks)?;
        let mut evaluation = Evaluation::new(looks.loss).metric("psnr", looks.psnr);
        if let Some(psnr) = looks.likeliest_psnr {
            evaluation = evaluation.metric("likeliest_psnr", psnr);
        }
        if let Some(ssim) = looks.ssim {
            evaluation = evaluation.metric("ssim", ssim);
        }
        let evaluation = evaluation
            .metric("quantisation", looks.quantisation)
            .metric("code_usage", looks.codes.usage())
            .metric("code_perplexity", looks.codes.perplexity());
        let evaluation = drawn.into_iter().fold(evaluation, Evaluation::picture);
        self.with_distances(&looks, evaluation)
    }

    fn cursor(&self) -> Value {
        let (images, restarted_codes) = (self.batches.cursor(), self.restarted);
        serde_json::json!(Cursor { images, restarted_codes })
    }

    fn restore(&mut self, cursor: &Value) -> anyhow::Result<()> {
        let Cursor { images, restarted_codes } = serde_json::from_value(cursor.clone())?;
        self.batches.restore(&images)?;
        self.restarted = restarted_codes;
        Ok(())
    }

    fn take_notes(&mut self) -> Vec<String> {
        self.notes.extend(self.batches.take_notes());
        std::mem::take(&mut self.notes)
    }

    fn summary_extras(&self) -> Vec<(String, Value)> {
        let report = self.batches.report();
        let mut extras = vec![
            ("eval_images".to_owned(), self.eval.count().into()),
            ("epoch".to_owned(), report.epoch.into()),
            ("first_wait_secs".to_owned(), report.first_wait.as_secs_f64().into()),
            ("wait_secs".to_owned(), report.wait.as_secs_f64().into()),
            ("skipped_images".to_owned(), report.skipped.into()),
        ];
        if self.model.config().restart > 0 {
            extras.push(("restarted_codes".to_owned(), self.restarted.into()));
        }
        extras
    }
}
