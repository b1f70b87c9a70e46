//! The `[model]` and `[data]` sections of `train-vqvae`.

use std::path::PathBuf;

use fadam_data::image::{Check, ImageSource, ImageSpec, SetSpec};
use fadam_models::vqvae::VqVaeConfig;
use fadam_train::config::{Experiment, FieldError, KeyDoc, RunConfig};
use serde::{Deserialize, Serialize};

/// The experiment `train-vqvae`.
#[derive(Debug, Clone, Copy)]
pub struct TrainVqVae;

/// The `[data]` section: which pictures, what is seen of them, and how reconstructions are measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VqVaeData {
    /// Pictures, folders, tables and IDX files, on a disk or on the hub; none for the embedded emoji.
    pub paths: Vec<PathBuf>,
    /// Held-out pictures; none to hold out some of the others.
    pub eval_paths: Vec<PathBuf>,
    /// The share that is held out where there are no `eval_paths`.
    pub eval_fraction: f64,
    /// Pictures that an evaluation looks at, from the first on; 0 for all.
    pub eval_images: usize,
    /// Pictures with a shorter side are left out, pixels.
    pub min_side: usize,
    /// How much of a picture is looked at before training begins.
    pub check: PictureCheck,
    /// Whether training sees random squares of pictures, or their middles.
    pub random_crop: bool,
    /// Whether it sees every other one mirrored.
    pub flip: bool,
    /// Scaled pictures that are kept in memory, MiB.
    pub keep_mb: usize,
    /// The network whose features reconstructions are compared in.
    pub features: Features,
    /// Its weights.
    pub features_file: PathBuf,
    /// Steps between evaluations that compare features.
    pub distance_every: u64,
    /// Pictures of the grid that an evaluation draws.
    pub show: usize,
}

/// The network whose features reconstructions are compared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Features {
    /// None: no Fréchet distance, no KID.
    None,
    /// FID's network.
    Inception,
    /// A smaller one.
    #[serde(rename = "efficientnet-lite0")]
    EfficientNetLite0,
}

/// How much of a picture is looked at before training begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PictureCheck {
    /// All of it.
    Everything,
    /// Its first bytes.
    Headers,
}

impl Default for VqVaeData {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            eval_paths: Vec::new(),
            eval_fraction: 0.1,
            eval_images: 0,
            min_side: 16,
            check: PictureCheck::Everything,
            random_crop: true,
            flip: true,
            keep_mb: 1024,
            features: Features::None,
            features_file: PathBuf::new(),
            distance_every: 0,
            show: 24,
        }
    }
}

impl VqVaeData {
    /// Where the training pictures are.
    pub fn source(&self) -> ImageSource {
        if self.paths.is_empty() {
            return ImageSource::Embedded;
        }
        ImageSource::Places(self.paths.clone())
    }

    /// Where the held-out pictures are, unless they are a share of the others.
    pub fn eval_source(&self) -> Option<ImageSource> {
        (!self.eval_paths.is_empty()).then(|| ImageSource::Places(self.eval_paths.clone()))
    }

    /// What pictures must be, for a model of images of `size` pixels a side.
    pub fn set_spec(&self, size: usize) -> SetSpec {
        let check = match self.check {
            PictureCheck::Everything => Check::Everything,
            PictureCheck::Headers => Check::Headers,
        };
        let (min_side, keep_mb) = (self.min_side, self.keep_mb);
        SetSpec { min_side, check, keep_mb, ..SetSpec::new(size) }
    }

    /// What training batches are.
    pub fn batch_spec(&self, batch: usize, seed: u64) -> ImageSpec {
        let (random_crop, flip) = (self.random_crop, self.flip);
        ImageSpec { random_crop, flip, ..ImageSpec::plain(batch, seed) }
    }
}

impl Experiment for TrainVqVae {
    const NAME: &'static str = "train-vqvae";
    type Model = VqVaeConfig;
    type Data = VqVaeData;

    #[rustfmt::skip] // a key a line reads as a table
    const KEYS: &'static [KeyDoc] = &[
        KeyDoc::new("model.image", "integer", "32", "≥ 1", "Height and width of images, in pixels: a picture's shorter side becomes so long, then a square of it is seen."),
        KeyDoc::new("model.patch", "integer", "4", "divides image", "Height and width of a patch, in pixels."),
        KeyDoc::new("model.encoder", "table", "{ layers = 2, d_model = 128, heads = 4, mlp = 512 }", "d_model: a multiple of 4 and of heads", "The transformer from patches to what is quantised: blocks, width, attention heads, inner width of each feed-forward."),
        KeyDoc::new("model.decoder", "table", "as encoder", "as encoder", "The transformer from codes to patches."),
        KeyDoc::new("model.final_norm", "boolean", "true", "true, false", "Whether a layer norm ends each transformer."),
        KeyDoc::new("model.codes", "integer", "512", "≥ 2", "K, the codes."),
        KeyDoc::new("model.code_width", "integer", "32", "≥ 1", "w, the width of a code."),
        KeyDoc::new("model.beta", "number", "0.25", "≥ 0", "β, the weight of the commitment loss."),
        KeyDoc::new("model.bypass_fim", "boolean", "false", "true, false", "Whether the commitment loss goes past the Fisher information (section 3.4.3) instead of into the loss."),
        KeyDoc::new("model.restart", "integer", "0", "≥ 0", "Steps after which a code that no patch has had begins anew as what a patch of the batch was encoded to; 0: never."),
        KeyDoc::new("model.loss", "string", "\"cross-entropy\"", "cross-entropy, l2, l2+logit-laplace", "What reconstructions are judged by: 256 classes a channel; the squared error; that and a logit-Laplace likelihood, the paper's other arm."),
        KeyDoc::new("model.l2_weight", "number", "1.0", "≥ 0", "Weight of the squared error in l2+logit-laplace."),
        KeyDoc::new("model.logit_laplace_weight", "number", "0.1", "≥ 0", "Weight of the negative log-likelihood there."),
        KeyDoc::new("model.checkpoint", "boolean", "false", "true, false", "Whether blocks are computed again in the backward pass instead of kept: less memory, the same bits."),
        KeyDoc::new("data.paths", "list of strings", "[]", "files, folders", "Training pictures: JPEG, PNG, WebP, folders of them, parquet files as ILSVRC/imagenet-1k has them, IDX files as Fashion-MNIST's; `hub:OWNER/NAME[@REVISION]/FILE.parquet` on the hub; `{00000..00293}` in a name stands for many; none: the embedded emoji."),
        KeyDoc::new("data.eval_paths", "list of strings", "[]", "files, folders", "Held-out pictures; none: a share of the training pictures."),
        KeyDoc::new("data.eval_fraction", "number", "0.1", "0 to 1, both excluded", "The share that is held out, chosen by name, where there are no eval_paths."),
        KeyDoc::new("data.eval_images", "integer", "0", "≥ 0", "Pictures that an evaluation looks at, from the first on; 0: all."),
        KeyDoc::new("data.min_side", "integer", "16", "≥ 1", "Pictures with a shorter side are left out, and counted."),
        KeyDoc::new("data.check", "string", "\"everything\"", "everything, headers", "What is looked at before training: whole pictures, or their headers (for millions: what is damaged is then left out when its turn comes)."),
        KeyDoc::new("data.random_crop", "boolean", "true", "true, false", "Whether training sees random squares of pictures that are no squares, or their middles."),
        KeyDoc::new("data.flip", "boolean", "true", "true, false", "Whether training sees every other picture mirrored, left to right."),
        KeyDoc::new("data.keep_mb", "integer", "1024", "≥ 0", "Scaled pictures that are kept in memory; what is beyond it is decoded again each time."),
        KeyDoc::new("data.features", "string", "\"none\"", "none, inception, efficientnet-lite0", "The network in whose features originals and reconstructions are compared: inception gives FID; Fréchet distances in another's are named after it."),
        KeyDoc::new("data.features_file", "string", "\"\"", "a file, hub:OWNER/NAME/FILE", "Its weights: PyTorch's file as published, or safetensors; efficientnet-lite0's are fetched by `scripts/fetch-data.sh features`."),
        KeyDoc::new("data.distance_every", "integer", "0", "≥ 0", "Steps between evaluations that compare features; 0: only after the last step. --eval-only always does."),
        KeyDoc::new("data.show", "integer", "24", "≥ 0", "Held-out pictures in the grid that an evaluation draws; 0: none."),
    ];

    const EVALUATION_KEYS: &'static [&'static str] = &[
        "data.eval_paths",
        "data.eval_images",
        "data.features",
        "data.features_file",
        "data.distance_every",
        "data.show",
    ];

    fn check(config: &RunConfig<Self>) -> Result<(), FieldError> {
        let (model, data) = (config.model(), config.data());
        model
            .check()
            .map_err(|err| FieldError::new(format!("model.{}", err.field), err.message))?;
        let require = FieldError::require;
        require(
            "data.eval_fraction",
            data.eval_fraction > 0.0 && data.eval_fraction < 1.0,
            format!("must be above 0 and below 1, got {}", data.eval_fraction),
        )?;
        require(
            "model.restart",
            model.restart == 0 || config.train().accumulate == 1,
            "must be 0 where train.accumulate is above 1: it looks at the codes of one batch"
                .to_owned(),
        )?;
        require("data.min_side", data.min_side >= 1, "must be at least 1, got 0".to_owned())?;
        require(
            "data.features_file",
            data.features == Features::None || !data.features_file.as_os_str().is_empty(),
            "must name the weights of data.features".to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_key_is_documented() {
        fadam_train::config::check_keys::<super::TrainVqVae>().unwrap();
    }
}
