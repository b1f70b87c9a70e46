//! `bench asr`: training steps of the Conformer transducer on random features: forward, backward and one step of FAdam.
//!
//! The default dimensions are those of the PyTorch program that it is measured against. Before it is timed, the gradients of
//! a small one are compared with differences of its loss.

use std::time::Instant;

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::Optimizer as _;
use fadam_core::{AnyConfig, AnyOptimizer, FAdamConfig, NamedVars};
use fadam_models::asr::{BINS, Mode, Transducer, TransducerConfig, Utterances};
use fadam_models::init::SeededVars;
use fadam_train::DeviceChoice;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal, Uniform};
use serde::Serialize;

use super::console::{Progress, print_line, warn_of_slow_build};
use super::steps::Timed;

/// The arguments of `bench asr`: dimensions, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// d, the width of the encoder
    #[arg(long, default_value_t = 144)]
    d_model: usize,
    /// Conformer blocks
    #[arg(long, default_value_t = 8)]
    layers: usize,
    /// Attention heads
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Frames that a depthwise convolution sees
    #[arg(long, default_value_t = 31)]
    kernel: usize,
    /// Units, the blank among them
    #[arg(long, default_value_t = 256)]
    vocab: usize,
    /// Widths of the prediction network and of the joint network
    #[arg(long, default_value_t = 320)]
    pred: usize,
    /// Adds relative positions to attention, which the PyTorch program has not
    #[arg(long)]
    relative_positions: bool,
    /// Utterances of a batch
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Frames of 10 ms of each
    #[arg(long, default_value_t = 400)]
    frames: usize,
    /// Labels of each
    #[arg(long, default_value_t = 20)]
    labels: usize,
    /// Steps; the first is not counted
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    steps: u32,
    /// Where to compute: cpu, cuda, cuda:I, metal or metal:I
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// One JSON object instead of a line for people
    #[arg(long)]
    json: bool,
}

/// The result.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    audio_s_per_s: f64,
    #[serde(flatten)]
    timed: Timed,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    warn_of_slow_build();
    let progress = Progress::new();
    let device = args.device.open()?;
    progress.show("comparing a small transducer's gradients with differences");
    check()?;
    let mut bench = Bench::new(&args.config(), args.vocab, DType::F32, &device)?;
    let config = FAdamConfig { lr: 1e-4, ..FAdamConfig::default() };
    let mut optimizer = AnyOptimizer::from_named(bench.vars.clone(), AnyConfig::FAdam(config))?;
    optimizer.set_learning_rate(1e-4);
    let mut ms = Vec::new();
    for step in 0..args.steps {
        progress.show(&format!("step {} of {}", step + 1, args.steps));
        let batch = bench.batch(args.batch, args.frames, args.labels)?;
        device.synchronize()?;
        let start = Instant::now();
        let loss = bench.model.losses(&batch, Mode::Train { seed: step.into() })?.mean_all()?;
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
    let audio_s_per_s = timed.per_second((args.batch * args.frames) as f64 * 0.01);
    let row = Row { bench: "asr", audio_s_per_s, timed };
    let line = || row.timed.line(&format!("{audio_s_per_s:.1} s of audio a second"));
    Ok(print_line(&if args.json { serde_json::to_string(&row)? } else { line() })?)
}

impl Args {
    fn config(&self) -> TransducerConfig {
        TransducerConfig {
            layers: self.layers,
            d_model: self.d_model,
            heads: self.heads,
            d_ff: 4 * self.d_model,
            kernel: self.kernel,
            channels: self.d_model,
            relative_positions: self.relative_positions,
            dropout: 0.0,
            d_prediction: self.pred,
            d_joint: self.pred,
            ..TransducerConfig::default()
        }
    }
}

/// A transducer and random utterances for it.
struct Bench {
    model: Transducer,
    vars: NamedVars,
    rng: ChaCha8Rng,
}

impl Bench {
    fn new(
        config: &TransducerConfig,
        units: usize,
        dtype: DType,
        device: &Device,
    ) -> anyhow::Result<Self> {
        config.check()?;
        let vars = SeededVars::new(0);
        let model = Transducer::new(config, units, &vars.builder(dtype, device))?;
        let (vars, _) = NamedVars::from_iter(vars.into_named())
            .split_buffers(NamedVars::is_batch_norm_statistic);
        Ok(Self { model, vars, rng: ChaCha8Rng::seed_from_u64(0) })
    }

    fn batch(&mut self, batch: usize, frames: usize, labels: usize) -> anyhow::Result<Utterances> {
        let normal = |rng: &mut ChaCha8Rng| StandardNormal.sample(rng);
        let values: Vec<f32> = (0..batch * frames * BINS).map(|_| normal(&mut self.rng)).collect();
        let label = Uniform::new(1, self.model.units() as u32)?;
        let mut target = || (0..labels).map(|_| label.sample(&mut self.rng)).collect();
        Ok(Utterances {
            targets: (0..batch).map(|_| target()).collect(),
            features: Tensor::from_vec(values, (batch, frames, BINS), self.model.device())?
                .to_dtype(self.dtype())?,
            frames: vec![frames; batch],
        })
    }

    fn dtype(&self) -> DType {
        self.vars.iter().next().map_or(DType::F32, |(_, var)| var.dtype())
    }
}

/// A small transducer in f64: its gradient along a direction is what the loss changes by.
fn check() -> anyhow::Result<()> {
    let config = TransducerConfig {
        layers: 1,
        d_model: 32,
        d_ff: 48,
        channels: 8,
        dropout: 0.0,
        d_prediction: 24,
        d_joint: 20,
        ..TransducerConfig::default()
    };
    let mut bench = Bench::new(&config, 12, DType::F64, &Device::Cpu)?;
    let batch = bench.batch(3, 60, 5)?;
    let loss = || bench.model.losses(&batch, Mode::Train { seed: 0 })?.mean_all();
    let gradients = fadam_ops::backward(&loss()?)?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (name, var) in bench.vars.iter() {
        let direction: Vec<f64> =
            (0..var.elem_count()).map(|_| StandardNormal.sample(&mut rng)).collect();
        let direction = Tensor::from_vec(direction, var.shape(), &Device::Cpu)?;
        let gradient = gradients.get(var).with_context(|| format!("no gradient for {name}"))?;
        let along = (gradient * &direction)?.sum_all()?.to_scalar::<f64>()?;
        let at = var.as_detached_tensor().copy()?;
        let moved = |h: f64| -> anyhow::Result<f64> {
            var.set(&(&at + (&direction * h)?)?)?;
            Ok(loss()?.to_scalar::<f64>()?)
        };
        let h = 1e-6; // small: relu's corners are everywhere
        let differences = (moved(h)? - moved(-h)?) / (2.0 * h);
        var.set(&at)?;
        let off = (along - differences).abs();
        ensure!(
            off <= 1e-5 * along.abs().max(1e-2),
            "the gradient of {name} along a direction is {along}, and differences say {differences}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn gradients_of_a_small_transducer() {
        super::check().unwrap();
    }
}
