//! `bench vqvae`: training steps of the ViT VQ-VAE on random images: forward, backward and one step of FAdam.
//!
//! The default dimensions are those of the PyTorch program that it is measured against. Before it is timed, the gradients of
//! a small one are compared with differences of its losses. Without `--loss`, each loss is measured in a process of its own, so that the
//! peak of memory is its own.

mod check;

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::Optimizer as _;
use clap::ValueEnum;
use fadam_core::{AnyConfig, AnyOptimizer, FAdamConfig, NamedVars};
use fadam_models::init::SeededVars;
use fadam_models::vqvae::{ReconstructionLoss, TowerConfig, VqVae, VqVaeConfig};
use fadam_train::DeviceChoice;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

use super::console::{Progress, print_line, warn_of_slow_build};
use super::steps::Timed;

/// The arguments of `bench vqvae`: dimensions, and how often.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Height and width of an image
    #[arg(long, default_value_t = 64)]
    image: usize,
    /// Height and width of a patch
    #[arg(long, default_value_t = 8)]
    patch: usize,
    /// d, the width of encoder and decoder
    #[arg(long, default_value_t = 256)]
    d_model: usize,
    /// Blocks of each
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Attention heads
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Codes, of width 32
    #[arg(long, default_value_t = 1024)]
    codes: usize,
    /// Images of a batch
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Steps; the first is not counted
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    steps: u32,
    /// What reconstructions are judged by; both, one after the other, if it is not given
    #[arg(long)]
    loss: Option<Loss>,
    /// Where to compute: cpu, cuda, cuda:I, metal or metal:I
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// One JSON object a loss instead of a line for people
    #[arg(long)]
    json: bool,
}

/// The losses of the PyTorch program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Loss {
    /// Cross-entropy over 256 values a channel
    Ce,
    /// The squared error
    L2,
}

/// The result.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    loss: Loss,
    images_per_s: f64,
    #[serde(flatten)]
    timed: Timed,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    check_flags(&args.config(Loss::Ce))?;
    match args.loss {
        Some(loss) => measure(args, loss),
        None => [Loss::Ce, Loss::L2].into_iter().try_for_each(|loss| measure_apart(args, loss)),
    }
}

/// Names the flag of a dimension that is impossible.
fn check_flags(config: &VqVaeConfig) -> Result<(), fadam_train::Error> {
    config.check().map_err(|err| {
        let name = err.field.rsplit('.').next().unwrap_or(err.field).replace('_', "-");
        fadam_train::Error::CommandLine { argument: format!("--{name}"), message: err.message }
    })
}

/// The same with a loss, in a process of its own.
fn measure_apart(args: &Args, loss: Loss) -> anyhow::Result<()> {
    let flags = [
        ("--image", args.image.to_string()),
        ("--patch", args.patch.to_string()),
        ("--d-model", args.d_model.to_string()),
        ("--layers", args.layers.to_string()),
        ("--heads", args.heads.to_string()),
        ("--codes", args.codes.to_string()),
        ("--batch", args.batch.to_string()),
        ("--steps", args.steps.to_string()),
        ("--device", args.device.to_string()),
        ("--loss", if loss == Loss::Ce { "ce" } else { "l2" }.to_owned()),
    ];
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.arg("vqvae").args(flags.iter().flat_map(|(flag, value)| [*flag, value.as_str()]));
    if args.json {
        command.arg("--json");
    }
    let status = command.status().context("cannot start this program again")?;
    ensure!(status.success(), "bench vqvae {:?} ended with {status}", flags[9].1);
    Ok(())
}

fn measure(args: &Args, loss: Loss) -> anyhow::Result<()> {
    let config = args.config(loss);
    warn_of_slow_build();
    let progress = Progress::new();
    let device = args.device.open()?;
    progress.show("comparing a small model's gradients with differences");
    check::check(config.loss)?;
    let mut bench = Bench::new(&config, DType::F32, &device)?;
    let config = FAdamConfig { lr: 1e-4, ..FAdamConfig::default() };
    let mut optimizer = AnyOptimizer::from_named(bench.vars.clone(), AnyConfig::FAdam(config))?;
    optimizer.set_learning_rate(1e-4);
    let mut ms = Vec::new();
    for step in 0..args.steps {
        progress.show(&format!("step {} of {}", step + 1, args.steps));
        let images = bench.images(args.batch as usize)?;
        device.synchronize()?;
        let start = Instant::now();
        let loss = bench.model.losses(&images)?.total()?;
        let gradients = fadam_ops::backward(&loss)?;
        optimizer.step_named(&bench.vars.gradients(&gradients))?;
        device.synchronize()?;
        if step > 0 {
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    optimizer.check()?;
    progress.show("");
    let timed = Timed::new(bench.vars.num_elements(), args.device, ms)?;
    let images_per_s = timed.per_second(f64::from(args.batch));
    let row = Row { bench: "vqvae", loss, images_per_s, timed };
    let line = || {
        let loss = if loss == Loss::Ce { "cross-entropy" } else { "squared error" };
        format!("{loss}, {}", row.timed.line(&format!("{images_per_s:.1} images a second")))
    };
    Ok(print_line(&if args.json { serde_json::to_string(&row)? } else { line() })?)
}

impl Args {
    fn config(&self, loss: Loss) -> VqVaeConfig {
        let tower = TowerConfig::new(self.layers, self.d_model, self.heads);
        VqVaeConfig {
            image: self.image,
            patch: self.patch,
            encoder: tower.clone(),
            decoder: tower,
            final_norm: false,
            codes: self.codes,
            loss: match loss {
                Loss::Ce => ReconstructionLoss::CrossEntropy,
                Loss::L2 => ReconstructionLoss::L2,
            },
            ..VqVaeConfig::default()
        }
    }
}

/// A model and random images for it.
struct Bench {
    model: VqVae,
    vars: NamedVars,
    rng: ChaCha8Rng,
}

impl Bench {
    fn new(config: &VqVaeConfig, dtype: DType, device: &Device) -> anyhow::Result<Self> {
        config.check()?;
        let vars = SeededVars::new(0);
        let model = VqVae::new(config, &vars.builder(dtype, device))?;
        let vars = NamedVars::from_iter(vars.into_named());
        Ok(Self { model, vars, rng: ChaCha8Rng::seed_from_u64(0) })
    }

    fn images(&mut self, batch: usize) -> candle_core::Result<Tensor> {
        let side = self.model.config().image;
        let mut values = vec![0u8; batch * 3 * side * side];
        self.rng.fill_bytes(&mut values);
        Tensor::from_vec(values, (batch, 3, side, side), self.model.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peer's, without the positions that it counts.
    #[test]
    fn the_default_model_has_the_parameters_of_the_pytorch_program() {
        let args = Args {
            image: 64,
            patch: 8,
            d_model: 256,
            layers: 4,
            heads: 4,
            codes: 1024,
            batch: 16,
            steps: 2,
            loss: None,
            device: DeviceChoice::default(),
            json: false,
        };
        let params = [Loss::Ce, Loss::L2].map(|loss| args.config(loss).num_params());
        assert_eq!(params, PEER.map(|params| params - 64 * 256));
    }

    /// What that program counts for `--loss ce` and `--loss l2`.
    const PEER: [usize; 2] = [19_059_232, 6_476_512];
}
