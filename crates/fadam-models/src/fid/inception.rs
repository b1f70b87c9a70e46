//! The Inception-v3 of the Fréchet inception distance: what the number called FID is computed from.
//!
//! The network is that of Szegedy et al., arXiv 1512.00567, as `mseitzer/pytorch-fid` runs the weights of the TensorFlow model of 2015 that
//! Heusel et al., arXiv 1706.08500, defined FID with. It differs from other Inceptions in its pools: means leave padding out
//! (`count_include_pad = False`), and the last block, `Mixed_7c`, takes a maximum where the paper takes a mean.
//!
//! ```text
//! u8 or [0, 1] → bilinear, 299 × 299 → 2 x − 1
//!   → Conv2d_1a 3/2, 2a 3, 2b 3, max 3/2, 3b 1, 4a 3, max 3/2      [35, 35, 192]
//!   → Mixed_5b, 5c, 5d (A)                                         [35, 35, 288]
//!   → Mixed_6a (B), 6b, 6c, 6d, 6e (C)                             [17, 17, 768]
//!   → Mixed_7a (D), 7b, 7c (E)                                     [8, 8, 2048]
//!   → mean over places                                             [2048]
//! ```
//!
//! Every convolution has a batch norm (ε 1e-3) and relu behind it.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::images::{check, in_parts, prepared};
use super::layers::{After, Conv, Padding};
use super::planes::{average_pool, max_pool};
use super::{FeatureNetwork, weights};

const NAME: &str = "FID Inception-v3";

/// Side of the images that it sees.
const SIZE: usize = 299;

/// Images at a time: their largest activations are 5.6 MB each.
const BATCH: usize = 16;

/// Inception-v3 as FID uses it, up to its last pool. For inference: no gradient comes from it.
#[derive(Debug)]
pub struct Inception {
    stages: Vec<(&'static str, Stage)>,
    device: candle_core::Device,
}

#[derive(Debug)]
enum Stage {
    Conv(Conv),
    /// 3 × 3, stride 2, no padding.
    MaxPool,
    Mixed(Vec<Branch>),
}

/// A pool or none, layers one after another, and then the `ends` side by side; the pool alone where there are no ends.
#[derive(Debug)]
struct Branch {
    pool: Option<Pool>,
    trunk: Vec<Conv>,
    ends: Vec<Conv>,
}

#[derive(Debug, Clone, Copy)]
enum Pool {
    /// 3 × 3, every place, padding left out.
    Average,
    /// 3 × 3, every place.
    Max,
    /// 3 × 3, every other place, no padding.
    MaxHalf,
}

/// Name, output channels, kernel, stride. With stride 1 the size stays, with 2 there is no padding.
type Layer = (&'static str, usize, (usize, usize), usize);

impl Inception {
    /// The width of a feature vector.
    pub const WIDTH: usize = 2048;

    /// Reads the network from a builder with the names of pytorch-fid's state dict (`Mixed_5b.branch1x1.conv.weight`,
    /// `Mixed_5b.branch1x1.bn.running_var`, …). The classifier `fc` is not needed.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape; the error has its name.
    pub fn new(vb: &VarBuilder) -> Result<Self> {
        let stages = [stem(vb)?, narrow_blocks(vb)?, wide_blocks(vb)?];
        Ok(Self { stages: stages.into_iter().flatten().collect(), device: vb.device().clone() })
    }

    /// Reads `pt_inception-2015-12-05-6726825d.pth` as it is, or the same tensors as safetensors. The file is never part of this
    /// repository: pytorch-fid publishes it, 95 MB.
    ///
    /// # Errors
    /// If the file cannot be read, or lacks a tensor; the error has the path.
    pub fn load(path: impl AsRef<std::path::Path>, device: &candle_core::Device) -> Result<Self> {
        let path = path.as_ref();
        let vb = weights::builder(path, device)?;
        Self::new(&vb).map_err(|error| error.with_path(path))
    }

    /// Features of `x [N, H, W, 3]` as the network sees it; `watch` sees what each stage gives.
    fn run(&self, x: Tensor, mut watch: impl FnMut(&str, &Tensor) -> Result<()>) -> Result<Tensor> {
        let mut x = x;
        for (name, stage) in &self.stages {
            x = match stage {
                Stage::Conv(conv) => conv.forward(&x)?,
                Stage::MaxPool => max_pool(&x, 2, 0)?,
                Stage::Mixed(branches) => mixed(branches, &x)?,
            };
            watch(name, &x)?;
        }
        x.mean((1, 2))
    }

    fn input(&self, images: &Tensor) -> Result<Tensor> {
        prepared(images, SIZE, (2.0, -1.0), &self.device)
    }
}

impl FeatureNetwork for Inception {
    fn distance_name(&self) -> &'static str {
        "FID"
    }

    fn width(&self) -> usize {
        Self::WIDTH
    }

    fn features(&self, images: &Tensor) -> Result<Tensor> {
        check(NAME, images)?;
        in_parts(images, BATCH, |images| self.run(self.input(images)?, |_, _| Ok(())))
    }
}

fn mixed(branches: &[Branch], x: &Tensor) -> Result<Tensor> {
    let mut parts = Vec::new();
    for Branch { pool, trunk, ends } in branches {
        let mut x = match pool {
            None => x.clone(),
            Some(Pool::Average) => average_pool(x)?,
            Some(Pool::Max) => max_pool(x, 1, 1)?,
            Some(Pool::MaxHalf) => max_pool(x, 2, 0)?,
        };
        for conv in trunk {
            x = conv.forward(&x)?;
        }
        if ends.is_empty() {
            parts.push(x);
            continue;
        }
        for end in ends {
            parts.push(end.forward(&x)?);
        }
    }
    Tensor::cat(&parts, 3)?.contiguous()
}

fn conv(
    c_in: usize,
    (name, c_out, kernel, stride): Layer,
    padding: (usize, usize),
    vb: &VarBuilder,
) -> Result<Conv> {
    let vb = vb.pp(name);
    let how = (stride, Padding::Zeros(padding.0, padding.1), After::Relu);
    Conv::new((c_out, c_in), kernel, how, &vb.pp("conv"), &vb.pp("bn"))
}

fn stem(vb: &VarBuilder) -> Result<Vec<(&'static str, Stage)>> {
    let conv = |c_in, layer: Layer, padding| {
        Ok::<_, candle_core::Error>((layer.0, Stage::Conv(conv(c_in, layer, padding, vb)?)))
    };
    Ok(vec![
        conv(3, ("Conv2d_1a_3x3", 32, (3, 3), 2), (0, 0))?,
        conv(32, ("Conv2d_2a_3x3", 32, (3, 3), 1), (0, 0))?,
        conv(32, ("Conv2d_2b_3x3", 64, (3, 3), 1), (1, 1))?,
        ("maxpool1", Stage::MaxPool),
        conv(64, ("Conv2d_3b_1x1", 80, (1, 1), 1), (0, 0))?,
        conv(80, ("Conv2d_4a_3x3", 192, (3, 3), 1), (0, 0))?,
        ("maxpool2", Stage::MaxPool),
    ])
}

/// At 35 × 35 and 17 × 17.
fn narrow_blocks(vb: &VarBuilder) -> Result<Vec<(&'static str, Stage)>> {
    Ok(vec![
        ("Mixed_5b", block_a(192, 32, &vb.pp("Mixed_5b"))?),
        ("Mixed_5c", block_a(256, 64, &vb.pp("Mixed_5c"))?),
        ("Mixed_5d", block_a(288, 64, &vb.pp("Mixed_5d"))?),
        ("Mixed_6a", block_b(288, &vb.pp("Mixed_6a"))?),
        ("Mixed_6b", block_c(768, 128, &vb.pp("Mixed_6b"))?),
        ("Mixed_6c", block_c(768, 160, &vb.pp("Mixed_6c"))?),
        ("Mixed_6d", block_c(768, 160, &vb.pp("Mixed_6d"))?),
        ("Mixed_6e", block_c(768, 192, &vb.pp("Mixed_6e"))?),
    ])
}

/// At 8 × 8.
fn wide_blocks(vb: &VarBuilder) -> Result<Vec<(&'static str, Stage)>> {
    Ok(vec![
        ("Mixed_7a", block_d(768, &vb.pp("Mixed_7a"))?),
        ("Mixed_7b", block_e(1280, Pool::Average, &vb.pp("Mixed_7b"))?),
        ("Mixed_7c", block_e(2048, Pool::Max, &vb.pp("Mixed_7c"))?),
    ])
}

/// Builds the branches of a block from their layers.
struct Block<'v> {
    c_in: usize,
    vb: &'v VarBuilder<'v>,
}

impl Block<'_> {
    /// Layers one after another, of which the first sees `c_in` channels.
    fn row(&self, c_in: usize, layers: &[Layer]) -> Result<Vec<Conv>> {
        let mut c_in = c_in;
        let build = |layer: &Layer| {
            let (_, c_out, (k_h, k_w), stride) = *layer;
            let padding = if stride == 1 { (k_h / 2, k_w / 2) } else { (0, 0) };
            conv(std::mem::replace(&mut c_in, c_out), *layer, padding, self.vb)
        };
        layers.iter().map(build).collect()
    }

    fn branch(&self, layers: &[Layer]) -> Result<Branch> {
        let mut trunk = self.row(self.c_in, layers)?;
        let ends = trunk.pop().into_iter().collect();
        Ok(Branch { pool: None, trunk, ends })
    }

    /// `trunk`, and then two layers side by side.
    fn fork(&self, trunk: &[Layer], ends: [Layer; 2]) -> Result<Branch> {
        let c_in = trunk.last().map_or(self.c_in, |layer| layer.1);
        let ends: Result<Vec<Vec<Conv>>> =
            ends.iter().map(|end| self.row(c_in, std::slice::from_ref(end))).collect();
        let ends = ends?.into_iter().flatten().collect();
        Ok(Branch { pool: None, trunk: self.row(self.c_in, trunk)?, ends })
    }

    fn pooled(&self, pool: Pool, c_out: usize) -> Result<Branch> {
        let branch = self.branch(&[("branch_pool", c_out, (1, 1), 1)])?;
        Ok(Branch { pool: Some(pool), ..branch })
    }
}

/// A pool and nothing behind it.
fn only_pooled() -> Branch {
    Branch { pool: Some(Pool::MaxHalf), trunk: Vec::new(), ends: Vec::new() }
}

fn block_a(c_in: usize, pool: usize, vb: &VarBuilder) -> Result<Stage> {
    let b = Block { c_in, vb };
    Ok(Stage::Mixed(vec![
        b.branch(&[("branch1x1", 64, (1, 1), 1)])?,
        b.branch(&[("branch5x5_1", 48, (1, 1), 1), ("branch5x5_2", 64, (5, 5), 1)])?,
        b.branch(&[
            ("branch3x3dbl_1", 64, (1, 1), 1),
            ("branch3x3dbl_2", 96, (3, 3), 1),
            ("branch3x3dbl_3", 96, (3, 3), 1),
        ])?,
        b.pooled(Pool::Average, pool)?,
    ]))
}

fn block_b(c_in: usize, vb: &VarBuilder) -> Result<Stage> {
    let b = Block { c_in, vb };
    Ok(Stage::Mixed(vec![
        b.branch(&[("branch3x3", 384, (3, 3), 2)])?,
        b.branch(&[
            ("branch3x3dbl_1", 64, (1, 1), 1),
            ("branch3x3dbl_2", 96, (3, 3), 1),
            ("branch3x3dbl_3", 96, (3, 3), 2),
        ])?,
        only_pooled(),
    ]))
}

fn block_c(c_in: usize, c7: usize, vb: &VarBuilder) -> Result<Stage> {
    let b = Block { c_in, vb };
    Ok(Stage::Mixed(vec![
        b.branch(&[("branch1x1", 192, (1, 1), 1)])?,
        b.branch(&[
            ("branch7x7_1", c7, (1, 1), 1),
            ("branch7x7_2", c7, (1, 7), 1),
            ("branch7x7_3", 192, (7, 1), 1),
        ])?,
        b.branch(&[
            ("branch7x7dbl_1", c7, (1, 1), 1),
            ("branch7x7dbl_2", c7, (7, 1), 1),
            ("branch7x7dbl_3", c7, (1, 7), 1),
            ("branch7x7dbl_4", c7, (7, 1), 1),
            ("branch7x7dbl_5", 192, (1, 7), 1),
        ])?,
        b.pooled(Pool::Average, 192)?,
    ]))
}

fn block_d(c_in: usize, vb: &VarBuilder) -> Result<Stage> {
    let b = Block { c_in, vb };
    Ok(Stage::Mixed(vec![
        b.branch(&[("branch3x3_1", 192, (1, 1), 1), ("branch3x3_2", 320, (3, 3), 2)])?,
        b.branch(&[
            ("branch7x7x3_1", 192, (1, 1), 1),
            ("branch7x7x3_2", 192, (1, 7), 1),
            ("branch7x7x3_3", 192, (7, 1), 1),
            ("branch7x7x3_4", 192, (3, 3), 2),
        ])?,
        only_pooled(),
    ]))
}

fn block_e(c_in: usize, pool: Pool, vb: &VarBuilder) -> Result<Stage> {
    let b = Block { c_in, vb };
    Ok(Stage::Mixed(vec![
        b.branch(&[("branch1x1", 320, (1, 1), 1)])?,
        b.fork(
            &[("branch3x3_1", 384, (1, 1), 1)],
            [("branch3x3_2a", 384, (1, 3), 1), ("branch3x3_2b", 384, (3, 1), 1)],
        )?,
        b.fork(
            &[("branch3x3dbl_1", 448, (1, 1), 1), ("branch3x3dbl_2", 384, (3, 3), 1)],
            [("branch3x3dbl_3a", 384, (1, 3), 1), ("branch3x3dbl_3b", 384, (3, 1), 1)],
        )?,
        b.pooled(pool, 192)?,
    ]))
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{compare, golden, hashed_images, hashed_weights, probe};
    use super::*;

    /// Against pytorch-fid's own network in float64, with the same hashed weights: every stage in order, so that the first wrong one is
    /// the one that is named, and then the features.
    #[test]
    fn every_stage_and_the_features_are_pytorch_fids() {
        let golden = golden("inception.safetensors");
        let network = Inception::new(&hashed_weights()).unwrap();
        let images = hashed_images("inception.images", (2, 3, 37, 50));
        let mut seen = 0;
        let watch = |name: &str, x: &Tensor| {
            if let Some(theirs) = golden.get(&format!("block.{name}")) {
                compare(name, &probe(x), theirs);
                seen += 1;
            }
            Ok(())
        };
        let features = network.run(network.input(&images).unwrap(), watch).unwrap();
        assert_eq!(seen, 16, "stages that were compared");
        compare("features", &features, &golden["features"]);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let network = Inception::new(&hashed_weights()).unwrap();
        let cpu = candle_core::Device::Cpu;
        for (images, wanted) in [
            (Tensor::zeros((1, 1, 8, 8), candle_core::DType::F32, &cpu), "[1, 1, 8, 8]"),
            (Tensor::zeros((0, 3, 8, 8), candle_core::DType::F32, &cpu), "none"),
            (Tensor::zeros((1, 3, 8, 8), candle_core::DType::F64, &cpu), "F64"),
            (Tensor::full(255f32, (2, 3, 8, 8), &cpu), "image 0 has the number 255"),
            (Tensor::full(f32::NAN, (2, 3, 8, 8), &cpu), "NaN"),
        ] {
            let error = network.features(&images.unwrap()).unwrap_err().to_string();
            assert!(error.contains(NAME) && error.contains(wanted), "{error}");
        }
    }
}
