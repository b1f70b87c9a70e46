//! `bench llm`: training steps of the decoder on random tokens: forward, backward and one step of FAdam.
//!
//! The default dimensions are those of the PyTorch program that it is measured against. Before it is timed, the loss and
//! every gradient are compared with those of the same decoder composed of candle's ops.

mod composed;

use std::time::Instant;

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::Optimizer as _;
use clap::ValueEnum;
use fadam_core::{AnyConfig, AnyOptimizer, FAdamConfig, NamedVars};
use fadam_models::init::SeededVars;
use fadam_models::llm::{Init, Palm, PalmConfig, Tokens};
use fadam_train::DeviceChoice;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Uniform};
use serde::Serialize;

use super::console::{Progress, print_line, warn_of_slow_build};
use super::steps::Timed;

/// The arguments of `bench llm`: dimensions, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// d, the width of the residual stream
    #[arg(long, default_value_t = 256)]
    d_model: usize,
    /// Blocks
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Query heads
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// The inner width of the feed-forward
    #[arg(long, default_value_t = 1024)]
    d_ff: usize,
    /// Tokens in the vocabulary
    #[arg(long, default_value_t = 4096)]
    vocab: usize,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 256)]
    seq_len: usize,
    /// Sequences of a batch
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Steps; the first two are not counted
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(3..))]
    steps: u32,
    /// The optimizer whose step is part of the time
    #[arg(long, value_enum, default_value = "fadam")]
    optimizer: Stepped,
    /// Times the decoder composed of candle's ops instead
    #[arg(long)]
    composed: bool,
    /// Where to compute: cpu, cuda, cuda:I, metal or metal:I
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// One JSON object instead of a line for people
    #[arg(long)]
    json: bool,
}

/// Whether a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stepped {
    /// FAdam
    Fadam,
    /// Forward and backward alone
    None,
}

/// The result.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    /// `fused` or `composed`.
    ops: &'static str,
    tokens_per_s: f64,
    #[serde(flatten)]
    timed: Timed,
}

/// Steps that are not counted.
const WARM_UP: u32 = 2;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    warn_of_slow_build();
    let progress = Progress::new();
    let device = args.device.open()?;
    progress.show("comparing a small decoder with the composed one");
    check(&device)?;
    let mut bench = Bench::new(&args.config(), args.vocab, DType::F32, &device)?;
    let config = FAdamConfig { lr: 1e-3, ..FAdamConfig::default() };
    let mut optimizer = AnyOptimizer::from_named(bench.vars.clone(), AnyConfig::FAdam(config))?;
    optimizer.set_learning_rate(1e-3);
    let mut ms = Vec::new();
    for step in 0..args.steps {
        progress.show(&format!("step {} of {}", step + 1, args.steps));
        let tokens = bench.tokens(args.batch, args.seq_len)?;
        device.synchronize()?;
        let start = Instant::now();
        let gradients = if args.composed {
            composed::loss(&bench.vars, bench.model.config(), &tokens)?.backward()?
        } else {
            fadam_ops::backward(&bench.model.losses(&tokens)?.objective)?
        };
        if args.optimizer == Stepped::Fadam {
            optimizer.step_named(&bench.vars.gradients(&gradients))?;
        }
        device.synchronize()?;
        if step >= WARM_UP {
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    optimizer.check()?;
    progress.show("");
    let timed = Timed::new(bench.vars.num_elements(), args.device, ms)?;
    let ops = if args.composed { "composed" } else { "fused" };
    let tokens_per_s = timed.per_second((args.batch * args.seq_len) as f64);
    let row = Row { bench: "llm", ops, tokens_per_s, timed };
    let line = || format!("{ops}, {}", row.timed.line(&format!("{tokens_per_s:.0} tokens/s")));
    Ok(print_line(&if args.json { serde_json::to_string(&row)? } else { line() })?)
}

impl Args {
    fn config(&self) -> PalmConfig {
        PalmConfig {
            layers: self.layers,
            d_model: self.d_model,
            heads: self.heads,
            d_ff: self.d_ff,
            seq_len: self.seq_len,
            init: Init::Normal002,
            logit_scale: false,
            z_loss: 0.0,
            ..PalmConfig::default()
        }
    }
}

/// A decoder and random tokens for it.
struct Bench {
    model: Palm,
    vars: NamedVars,
    vocab: usize,
    rng: ChaCha8Rng,
}

impl Bench {
    fn new(
        config: &PalmConfig,
        vocab: usize,
        dtype: DType,
        device: &Device,
    ) -> anyhow::Result<Self> {
        config.check()?;
        let vars = SeededVars::new(0);
        let model = Palm::new(config, vocab, &vars.builder(dtype, device))?;
        let vars = NamedVars::from_iter(vars.into_named());
        Ok(Self { model, vars, vocab, rng: ChaCha8Rng::seed_from_u64(0) })
    }

    fn tokens(&mut self, batch: usize, seq_len: usize) -> anyhow::Result<Tokens> {
        let any = Uniform::new(0, self.vocab as u32)?;
        let ids: Vec<u32> = (0..batch * (seq_len + 1)).map(|_| any.sample(&mut self.rng)).collect();
        let ids = Tensor::from_vec(ids, (batch, seq_len + 1), self.model.device())?;
        let part = |from| ids.narrow(1, from, seq_len)?.contiguous();
        Ok(Tokens { inputs: part(0)?, targets: part(1)? })
    }
}

/// A small decoder of the same kind: its loss and gradients are those of the composed one.
fn check(device: &Device) -> anyhow::Result<()> {
    let config = PalmConfig {
        d_model: 64,
        heads: 4,
        d_ff: 96,
        seq_len: 80,
        z_loss: 0.0,
        ..PalmConfig::default()
    };
    let config = PalmConfig { init: Init::Normal002, logit_scale: false, ..config };
    let mut bench = Bench::new(&config, 300, DType::F32, device)?;
    let tokens = bench.tokens(3, 80)?;
    let fused = bench.model.losses(&tokens)?.objective;
    let composed = composed::loss(&bench.vars, bench.model.config(), &tokens)?;
    let (ours, theirs) = (fadam_ops::backward(&fused)?, composed.backward()?);
    let (a, b): (f32, f32) = (fused.to_scalar()?, composed.to_scalar()?);
    ensure!((a - b).abs() <= 1e-5 * b.abs(), "the loss is {a} instead of {b}");
    for (name, var) in bench.vars.iter() {
        let missing = || format!("no gradient for {name}");
        let ours = ours.get(var).with_context(missing)?;
        let theirs = theirs.get(var).with_context(missing)?;
        let largest = |x: &Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
        let (off, size) = (largest(&(ours - theirs)?)?, largest(theirs)?);
        ensure!(off <= 1e-4 * size, "the gradient of {name} is off by {off:e} of {size:e}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fused_decoder_is_the_composed_one() {
        check(&Device::Cpu).unwrap();
    }
}
