//! `bench rnnt`: the RNN-T loss of random logits, forward and backward.
//!
//! The default shape is that of the torchaudio program that it is measured against. Before it is timed, losses and gradients of a
//! small batch of different lengths, and of the batch that is timed, are compared with plain loops in f64.

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
    /// The most memory that the process took in its first pass beyond what it had with the logits alone, as a multiple of theirs;
    /// where the system tells it. Later, freed memory is kept, and a gradient may lie beside the one that was there before.
    beyond_logits: Option<f64>,
    /// Peak resident memory of the process; where the system tells it.
    peak_rss_mb: Option<u64>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    warn_of_slow_build();
    let progress = Progress::new();
    progress.show("comparing losses with plain loops");
    Batch::draw([3, 7, 4, 11], true)?.check().context("the loss of a small batch is wrong")?;
    let batch = Batch::draw([args.batch, args.frames, args.labels, args.vocab], false)?;
    let before = rss();
    batch.check().context("the loss is wrong")?;
    let bytes = 4 * batch.logits.elem_count();
    let beyond = peak_rss().zip(before).map(|(peak, before)| peak.saturating_sub(before));
    let mut ms = Vec::new();
    for run in 0..args.runs {
        progress.show(&format!("run {} of {}", run + 1, args.runs));
        let start = Instant::now();
        let gradients = fadam_ops::backward(&batch.losses()?.sum_all()?)?;
        ms.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(gradients.get(&batch.logits).is_some(), "the logits got no gradient");
    }
    progress.show("");
    let times = Times::new(ms).context("nothing was timed")?;
    let row = Row {
        bench: "rnnt",
        logits: batch.logits.dims4()?.into(),
        dtype: "f32",
        device: "cpu",
        threads: candle_core::utils::get_num_threads(),
        profile: PROFILE,
        runs: args.runs,
        median_ms: times.median(),
        p10_ms: times.quantile(0.1),
        p90_ms: times.quantile(0.9),
        logits_mb: bytes as f64 / f64::from(1 << 20),
        beyond_logits: beyond.map(|beyond| beyond as f64 / bytes as f64),
        peak_rss_mb: peak_rss_mb(),
    };
    Ok(print_line(&if args.json { serde_json::to_string(&row)? } else { row.line() })?)
}

impl Row {
    fn line(&self) -> String {
        let Self { logits, median_ms, p10_ms, p90_ms, logits_mb, .. } = self;
        let beyond =
            self.beyond_logits.map_or(String::new(), |x| format!(", {x:.2} times that beyond"));
        let peak = self.peak_rss_mb.map_or(String::new(), |mb| format!(", peak {mb} MB"));
        format!(
            "rnnt_loss of logits {logits:?} f32, {} threads on cpu: {median_ms:.1} ms forward and backward \
             ({p10_ms:.1} to {p90_ms:.1}); logits {logits_mb:.1} MB{beyond}{peak}",
            self.threads
        )
    }
}

/// Random logits with labels; the blank is 0.
struct Batch {
    logits: Var,
    targets: Vec<Vec<u32>>,
    frames: Vec<usize>,
}

impl Batch {
    /// Of B utterances of T frames and U labels with V symbols; shorter and shorter ones, if `ragged`.
    fn draw([b, t, u, v]: [usize; 4], ragged: bool) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let len = b * t * (u + 1) * v;
        let logits: Vec<f32> = (0..len).map(|_| StandardNormal.sample(&mut rng)).collect();
        let label = Uniform::new(1, v as u32)?;
        let less = |n: usize, i: usize| if ragged { n.saturating_sub(2 * i) } else { n };
        let labels = |i: usize| (0..less(u, i)).map(|_| label.sample(&mut rng)).collect();
        Ok(Self {
            logits: Var::from_vec(logits, (b, t, u + 1, v), &Device::Cpu)?,
            targets: (0..b).map(labels).collect(),
            frames: (0..b).map(|i| less(t, i)).collect(),
        })
    }

    fn losses(&self) -> candle_core::Result<Tensor> {
        fadam_ops::rnnt_loss(&self.logits, &self.targets, &self.frames, &Transducer::default())
    }

    /// Losses to 1e-5 of each, gradients to 1e-5.
    fn check(&self) -> anyhow::Result<()> {
        let losses = self.losses()?;
        let gradients = fadam_ops::backward(&losses.sum_all()?)?;
        let gradient = gradients.get(&self.logits).context("the logits got no gradient")?;
        for (b, loss) in losses.to_vec1::<f32>()?.into_iter().enumerate() {
            let plain = Plain::new(&self.logits.get(b)?, self.frames[b], &self.targets[b])?;
            let off = (f64::from(loss) - plain.loss()).abs();
            ensure!(off <= 1e-5 * plain.loss(), "utterance {b} has {loss}, not {}", plain.loss());
            let off = plain.compare(&self.logits.get(b)?, &gradient.get(b)?, &self.targets[b])?;
            ensure!(off <= 1e-5, "the gradient of utterance {b} is off by {off:e}");
        }
        Ok(())
    }
}

/// The recursions of one utterance in f64, cell by cell.
struct Plain {
    /// log p of the blank and of the next label, `[T][U + 1]`.
    log_p: Vec<Vec<[f64; 2]>>,
    alpha: Vec<Vec<f64>>,
    /// With the end of the paths as a further frame.
    beta: Vec<Vec<f64>>,
}

impl Plain {
    /// Of logits `[T, U + 1, V]`, one frame of which is read at a time.
    fn new(logits: &Tensor, frames: usize, labels: &[u32]) -> anyhow::Result<Self> {
        let (n, none) = (labels.len() + 1, f64::NEG_INFINITY);
        let mut log_p = Vec::new();
        for t in 0..frames {
            let frame = logits.get(t)?.to_vec2::<f32>()?;
            let cell = |u: usize| {
                let p = log_softmax(&frame[u]);
                [p[0], labels.get(u).map_or(none, |y| p[*y as usize])]
            };
            log_p.push((0..n).map(cell).collect::<Vec<_>>());
        }
        let mut alpha = vec![vec![none; n]; frames];
        let mut beta = vec![vec![none; n + 1]; frames + 1];
        for t in 0..frames {
            for u in 0..n {
                let by_blank = if t > 0 { alpha[t - 1][u] + log_p[t - 1][u][0] } else { none };
                let by_label = if u > 0 { alpha[t][u - 1] + log_p[t][u - 1][1] } else { none };
                let start = if t + u == 0 { 0.0 } else { none };
                alpha[t][u] = log_add(start, log_add(by_blank, by_label));
            }
        }
        beta[frames][n - 1] = 0.0;
        for t in (0..frames).rev() {
            for u in (0..n).rev() {
                let [blank, label] = log_p[t][u];
                beta[t][u] = log_add(blank + beta[t + 1][u], label + beta[t][u + 1]);
            }
        }
        Ok(Self { log_p, alpha, beta })
    }

    fn loss(&self) -> f64 {
        -self.beta[0][0]
    }

    /// How far a gradient `[T, U + 1, V]` is from `p (b + l) − [blank] b − [label] l`, and from 0 in the padding.
    fn compare(&self, logits: &Tensor, gradient: &Tensor, labels: &[u32]) -> anyhow::Result<f64> {
        let mut most = 0f64;
        for t in 0..logits.dim(0)? {
            let (z, dz) = (logits.get(t)?.to_vec2::<f32>()?, gradient.get(t)?.to_vec2::<f32>()?);
            for (u, (z, dz)) in z.iter().zip(dz).enumerate() {
                let mut wanted = vec![0.0; z.len()];
                if t < self.alpha.len() && u <= labels.len() {
                    let [blank, label] = self.log_p[t][u];
                    let before = self.alpha[t][u] + self.loss();
                    let b = (before + blank + self.beta[t + 1][u]).exp();
                    let l = (before + label + self.beta[t][u + 1]).exp();
                    wanted = log_softmax(z).iter().map(|log_p| log_p.exp() * (b + l)).collect();
                    wanted[0] -= b;
                    if let Some(y) = labels.get(u) {
                        wanted[*y as usize] -= l;
                    }
                }
                for (ours, wanted) in dz.iter().zip(wanted) {
                    let off = (f64::from(*ours) - wanted).abs();
                    most = most.max(if off.is_nan() { f64::INFINITY } else { off });
                }
            }
        }
        Ok(most)
    }
}

fn log_softmax(z: &[f32]) -> Vec<f64> {
    let most = f64::from(z.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let log_z = most + z.iter().map(|z| (f64::from(*z) - most).exp()).sum::<f64>().ln();
    z.iter().map(|z| f64::from(*z) - log_z).collect()
}

/// `log(exp a + exp b)`
fn log_add(a: f64, b: f64) -> f64 {
    let most = a.max(b);
    if most == f64::NEG_INFINITY { most } else { most + (-(a - b).abs()).exp().ln_1p() }
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
        let plain = Plain::new(&logits, 3, &batch.targets[0]).unwrap();
        let gradients = batch.losses().unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&batch.logits).unwrap().get(0).unwrap();
        let off = |g: &Tensor| plain.compare(&logits, g, &batch.targets[0]).unwrap();
        assert!(off(&gradient) < 1e-6);
        assert!(off(&(&gradient * 1.001).unwrap()) > 1e-4);
        assert!(off(&(&gradient * f64::NAN).unwrap()) > 1e-4);
    }
}
