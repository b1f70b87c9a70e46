//! `bench rnnt`: the RNN-T loss of random logits, forward and backward.
//!
//! The default shape is that of the torchaudio program that it is measured against. Before it is timed, losses and gradients of a
//! small batch of different lengths, and of the batch that is timed, are compared with plain loops in f64. With `--joint`, the loss
//! is that of a joint network whose logits are never there; it is compared with the loss of the logits.

mod joint;
mod plain;

use std::time::Instant;

use anyhow::{Context, ensure};
use candle_core::{Device, Tensor, Var};
use fadam_ops::Transducer;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal, Uniform};
use serde::Serialize;

use super::console::{PROFILE, Progress, print_line, warn_of_slow_build};
use super::memory::{peak_rss, peak_rss_mb, rss};
use super::times::Times;
use plain::Plain;

/// The arguments of `bench rnnt`: the shape of the logits, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Utterances
    #[arg(long, default_value_t = 8, value_parser = at_least::<1>)]
    batch: usize,
    /// Frames of each utterance
    #[arg(long, default_value_t = 150, value_parser = at_least::<1>)]
    frames: usize,
    /// Labels of each utterance
    #[arg(long, default_value_t = 40)]
    labels: usize,
    /// Symbols, the blank among them
    #[arg(long, default_value_t = 256, value_parser = at_least::<2>)]
    vocab: usize,
    /// Times that forward and backward are measured
    #[arg(long, default_value_t = 9, value_parser = at_least::<1>)]
    runs: usize,
    /// Times the loss of a joint network of this width instead, from its arguments to their gradients
    #[arg(long, value_parser = at_least::<1>)]
    joint: Option<usize>,
    /// One JSON object instead of a line for people
    #[arg(long)]
    json: bool,
}

fn at_least<const N: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n >= N => Ok(n),
        Ok(n) => Err(format!("{n} is less than {N}")),
        Err(err) => Err(format!("{err}")),
    }
}

/// The result.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    op: &'static str,
    /// B, T, U + 1, V
    logits: [usize; 4],
    dtype: &'static str,
    device: &'static str,
    threads: usize,
    profile: &'static str,
    runs: usize,
    median_ms: f64,
    p10_ms: f64,
    p90_ms: f64,
    /// In MiB, as the peak.
    logits_mb: f64,
    /// The most memory that the process took in its first pass beyond what it had with the arguments alone, as a multiple of the
    /// logits'; where the system tells it. Later, freed memory is kept, and a gradient may lie beside the one that was there before.
    beyond_logits: Option<f64>,
    /// Peak resident memory of the process; where the system tells it.
    peak_rss_mb: Option<u64>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    warn_of_slow_build();
    let progress = Progress::new();
    progress.show("comparing a small batch with plain loops");
    let size = [args.batch, args.frames, args.labels, args.vocab];
    let logits = [args.batch, args.frames, args.labels + 1, args.vocab];
    let bytes = 4 * logits.iter().product::<usize>();
    let (op, first, ms) = if let Some(width) = args.joint {
        joint::check().context("the loss of a small joint network is wrong")?;
        let (joint, before) = (joint::Network::draw(size, width, false)?, rss());
        fadam_ops::backward(&joint.losses()?.sum_all()?)?;
        ("joint_rnnt_loss", grown(before), args.time(&progress, || joint.losses())?)
    } else {
        Batch::draw([3, 7, 4, 11], true)?.check().context("the loss of a small batch is wrong")?;
        let (batch, before) = (Batch::draw(size, false)?, rss());
        batch.check().context("the loss is wrong")?;
        ("rnnt_loss", grown(before), args.time(&progress, || batch.losses())?)
    };
    progress.show("");
    let times = Times::new(ms).context("nothing was timed")?;
    let row = Row {
        bench: "rnnt",
        op,
        logits,
        dtype: "f32",
        device: "cpu",
        threads: candle_core::utils::get_num_threads(),
        profile: PROFILE,
        runs: args.runs,
        median_ms: times.median(),
        p10_ms: times.quantile(0.1),
        p90_ms: times.quantile(0.9),
        logits_mb: bytes as f64 / f64::from(1 << 20),
        beyond_logits: first.map(|first| first as f64 / bytes as f64),
        peak_rss_mb: peak_rss_mb(),
    };
    Ok(print_line(&if args.json { serde_json::to_string(&row)? } else { row.line() })?)
}

/// By how many bytes the most that this process had is more than what it had `before`.
fn grown(before: Option<u64>) -> Option<u64> {
    peak_rss().zip(before).map(|(peak, before)| peak.saturating_sub(before))
}

impl Args {
    /// Milliseconds of forward and backward of the summed losses.
    fn time(
        &self,
        progress: &Progress,
        losses: impl Fn() -> candle_core::Result<Tensor>,
    ) -> anyhow::Result<Vec<f64>> {
        let mut ms = Vec::new();
        for run in 0..self.runs {
            progress.show(&format!("run {} of {}", run + 1, self.runs));
            let start = Instant::now();
            let gradients = fadam_ops::backward(&losses()?.sum_all()?)?;
            ms.push(start.elapsed().as_secs_f64() * 1e3);
            ensure!(gradients.get_ids().next().is_some(), "nothing got a gradient");
        }
        Ok(ms)
    }
}

impl Row {
    fn line(&self) -> String {
        let Self { op, logits, median_ms, p10_ms, p90_ms, logits_mb, .. } = self;
        let beyond =
            self.beyond_logits.map_or(String::new(), |x| format!(", {x:.2} times that beyond"));
        let peak = self.peak_rss_mb.map_or(String::new(), |mb| format!(", peak {mb} MB"));
        format!(
            "{op} of logits {logits:?} f32, {} threads on cpu: {median_ms:.1} ms forward and backward \
             ({p10_ms:.1} to {p90_ms:.1}); logits {logits_mb:.1} MB{beyond}{peak}",
            self.threads
        )
    }
}

/// Labels and frames of utterances; the blank is 0.
struct Lengths {
    targets: Vec<Vec<u32>>,
    frames: Vec<usize>,
}

impl Lengths {
    /// Of B utterances of T frames and U labels with V symbols; shorter and shorter ones, if `ragged`.
    fn draw(rng: &mut ChaCha8Rng, [b, t, u, v]: [usize; 4], ragged: bool) -> anyhow::Result<Self> {
        let label = Uniform::new(1, v as u32)?;
        let less = |n: usize, i: usize| if ragged { n.saturating_sub(2 * i) } else { n };
        let mut labels = |i: usize| (0..less(u, i)).map(|_| label.sample(rng)).collect();
        let targets = (0..b).map(&mut labels).collect();
        Ok(Self { targets, frames: (0..b).map(|i| less(t, i)).collect() })
    }
}

/// Normal numbers of that standard deviation.
fn normal(rng: &mut ChaCha8Rng, shape: &[usize], std: f32) -> anyhow::Result<Var> {
    let number = |_| {
        let number: f32 = StandardNormal.sample(rng);
        number * std
    };
    let numbers = (0..shape.iter().product()).map(number).collect();
    Ok(Var::from_vec(numbers, shape, &Device::Cpu)?)
}

/// Random logits with labels.
struct Batch {
    logits: Var,
    lengths: Lengths,
}

impl Batch {
    fn draw(size: [usize; 4], ragged: bool) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let [b, t, u, v] = size;
        let logits = normal(&mut rng, &[b, t, u + 1, v], 1.0)?;
        Ok(Self { logits, lengths: Lengths::draw(&mut rng, size, ragged)? })
    }

    fn losses(&self) -> candle_core::Result<Tensor> {
        let Lengths { targets, frames } = &self.lengths;
        fadam_ops::rnnt_loss(&self.logits, targets, frames, &Transducer::default())
    }

    /// Losses to 1e-5 of each, gradients to 1e-5.
    fn check(&self) -> anyhow::Result<()> {
        let losses = self.losses()?;
        let gradients = fadam_ops::backward(&losses.sum_all()?)?;
        let gradient = gradients.get(&self.logits).context("the logits got no gradient")?;
        for (b, loss) in losses.to_vec1::<f32>()?.into_iter().enumerate() {
            let (labels, frames) = (&self.lengths.targets[b], self.lengths.frames[b]);
            let plain = Plain::new(&self.logits.get(b)?, frames, labels)?;
            let off = (f64::from(loss) - plain.loss()).abs();
            ensure!(off <= 1e-5 * plain.loss(), "utterance {b} has {loss}, not {}", plain.loss());
            let off = plain.compare(&self.logits.get(b)?, &gradient.get(b)?, labels)?;
            ensure!(off <= 1e-5, "the gradient of utterance {b} is off by {off:e}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_that_of_plain_loops() {
        for ragged in [false, true] {
            Batch::draw([3, 7, 4, 11], ragged).unwrap().check().unwrap();
        }
    }

    /// What is compared would be found wrong.
    #[test]
    fn a_wrong_gradient_is_seen() {
        let batch = Batch::draw([1, 3, 2, 5], false).unwrap();
        let logits = batch.logits.get(0).unwrap();
        let plain = Plain::new(&logits, 3, &batch.lengths.targets[0]).unwrap();
        let gradients = batch.losses().unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&batch.logits).unwrap().get(0).unwrap();
        let off = |g: &Tensor| plain.compare(&logits, g, &batch.lengths.targets[0]).unwrap();
        assert!(off(&gradient) < 1e-6);
        assert!(off(&(&gradient * 1.001).unwrap()) > 1e-4);
        assert!(off(&(&gradient * f64::NAN).unwrap()) > 1e-4);
    }
}
