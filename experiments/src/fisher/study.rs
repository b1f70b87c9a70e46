//! The measurement: train, stop, compare estimators with the exact FIM, go on.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use candle_core::{Device, Tensor};
use fadam_core::{FAdam, FAdamConfig};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Uniform};
use rayon::prelude::*;

use super::agreement::Agreement;
use super::config::{Config, Sigma};
use super::diagonal::{Diagonal, Estimator, Exact, with_sampled_labels};
use super::likelihood::Likelihood;
use super::network::{Layer, Network};
use super::problem::{Examples, Problem};

/// The weights that numbers are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All.
    All,
    /// Those of the first layer, which the two losses of the same question have alike.
    FirstLayer,
}

impl Scope {
    /// `all` or `first layer`.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::FirstLayer => "first layer",
        }
    }
}

/// What a row is about, but for the repetition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cell {
    /// The question and its loss.
    pub problem: Problem,
    /// Of a Gaussian, its σ: `fitted` or a number.
    pub sigma: Option<String>,
    /// Steps of training before.
    pub steps: u64,
    /// Which weights.
    pub scope: Scope,
    /// Which estimator.
    pub estimator: Estimator,
    /// B.
    pub batch: usize,
}

/// One cell in one repetition.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it is about.
    pub cell: Cell,
    /// The repetition.
    pub seed: u64,
    /// Mean `−log P(y|x)` over the data, nats an image.
    pub nats: f64,
    /// σ of a Gaussian.
    pub sigma: Option<f64>,
    /// Of estimates from single batches, the mean over all draws.
    pub drawn: Agreement,
    /// Of the estimator's expectation over batches: what an endless average at these weights comes to.
    pub expected: Agreement,
}

/// Measures everything that the configuration asks for, on all threads; rows are in the same order and have the same bits
/// whatever their number. `tell` hears how many of all (problem, seed) are done.
///
/// # Errors
/// If training or candle fails.
pub fn run(config: &Config, tell: impl Fn(usize, usize) + Sync) -> anyhow::Result<Vec<Row>> {
    let jobs: Vec<(Problem, u64)> = config
        .problems
        .iter()
        .flat_map(|problem| (0..config.seeds).map(|seed| (*problem, seed)))
        .collect();
    let done = AtomicUsize::new(0);
    tell(0, jobs.len());
    let rows: Vec<anyhow::Result<Vec<Row>>> = jobs
        .par_iter()
        .map(|(problem, seed)| {
            let rows = repetition(config, *problem, *seed)
                .with_context(|| format!("{problem}, seed {seed}"));
            tell(done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
            rows
        })
        .collect();
    Ok(rows.into_iter().collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Random numbers for one purpose of a repetition; the same for all problems.
fn random(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(purpose);
    random
}

/// Trains from the weights of a seed and measures on the way.
fn repetition(config: &Config, problem: Problem, seed: u64) -> anyhow::Result<Vec<Row>> {
    let examples = problem.examples()?;
    let (inputs, outputs) = problem.sizes();
    let network = Network::new(inputs, config.hidden, outputs, seed)?;
    let fadam = FAdamConfig { lr: config.lr, ..Default::default() };
    let mut optimizer = FAdam::from_named(network.vars(), fadam)?;
    let mut batches = random(seed, 1);
    let mut rows = Vec::new();
    let mut taken = 0;
    for &steps in &config.points {
        for _ in taken..steps {
            let layers = step(&network, problem, &examples, config.train_batch, &mut batches)?;
            optimizer.step_named(&network.gradients(&layers)?)?;
        }
        taken = steps;
        for (sigma, likelihood) in likelihoods(config, problem, &network, &examples)? {
            let at = Point { config, problem, seed, steps, sigma, likelihood };
            rows.extend(at.measure(&network, &examples)?);
        }
    }
    Ok(rows)
}

/// The gradients of a training batch.
fn step(
    network: &Network,
    problem: Problem,
    examples: &Examples,
    size: usize,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<Vec<Layer>> {
    let batch = draw_examples(examples, size, random)?;
    let pass = network.pass(&examples.x.index_select(&batch, 0)?)?;
    let labels = examples.y.index_select(&batch, 0)?;
    let residuals = problem.likelihood().residuals(&pass.outputs, &labels)?;
    Ok(network.backward(&pass, residuals)?)
}

/// Numbers of examples, drawn with replacement: `[B]`.
fn draw_examples(
    examples: &Examples,
    size: usize,
    random: &mut ChaCha8Rng,
) -> candle_core::Result<Tensor> {
    let uniform = Uniform::new(0, examples.x.dim(0)? as u32).expect("there are examples");
    Tensor::from_iter((0..size).map(|_| uniform.sample(random)), &Device::Cpu)
}

/// The distributions that a problem is measured with: one, or a Gaussian with each σ.
fn likelihoods(
    config: &Config,
    problem: Problem,
    network: &Network,
    examples: &Examples,
) -> anyhow::Result<Vec<(Option<String>, Likelihood)>> {
    if problem != Problem::PixelsL2 {
        return Ok(vec![(None, problem.likelihood())]);
    }
    let residuals = (network.pass(&examples.x)?.outputs - &examples.y)?;
    let fitted = residuals.sqr()?.mean_all()?.to_scalar::<f64>()?.sqrt();
    let with = |sigma: &Sigma| match sigma {
        Sigma::Fitted => (Some("fitted".to_owned()), Likelihood::Gaussian { sigma: fitted }),
        Sigma::Given(sigma) => (Some(sigma.to_string()), Likelihood::Gaussian { sigma: *sigma }),
    };
    Ok(config.sigmas.iter().map(with).collect())
}

/// Where and what is measured.
struct Point<'a> {
    config: &'a Config,
    problem: Problem,
    seed: u64,
    steps: u64,
    sigma: Option<String>,
    likelihood: Likelihood,
}

impl Point<'_> {
    fn measure(&self, network: &Network, examples: &Examples) -> anyhow::Result<Vec<Row>> {
        let pass = network.pass(&examples.x)?;
        let nats = self.likelihood.nats(&pass.outputs, &examples.y)?.mean_all()?.to_scalar()?;
        let residuals = self.likelihood.residuals(&pass.outputs, &examples.y)?;
        let layers = network.backward(&pass, residuals)?;
        let exact = Exact::new(network, self.likelihood, &pass, &layers)?;
        let mut rows = Vec::new();
        for &batch in &self.config.batches {
            let mut random = random(self.seed, 2 + self.steps);
            let mut estimates: Vec<(Estimator, Vec<Diagonal>)> = Estimator::all(self.config.micro)
                .into_iter()
                .filter(|estimator| estimator.takes(batch))
                .map(|estimator| (estimator, Vec::new()))
                .collect();
            for _ in 0..self.config.draws {
                let drawn = draw_examples(examples, batch, &mut random)?;
                let own = layers.iter().map(|layer| layer.select(&drawn));
                let own = own.collect::<candle_core::Result<Vec<_>>>()?;
                let part = pass.select(&drawn)?;
                let sampled = with_sampled_labels(network, self.likelihood, &part, &mut random)?;
                for (estimator, estimates) in &mut estimates {
                    let layers = if estimator.samples() { &sampled } else { &own };
                    estimates.push(estimator.estimate(layers)?);
                }
            }
            for (estimator, estimates) in estimates {
                let expected = exact.expectation(estimator, batch)?;
                for &scope in self.scopes() {
                    let agreement = |estimate: &Diagonal| {
                        let first = scope == Scope::FirstLayer;
                        let (f_hat, f) = (estimate.values(first)?, exact.fim.values(first)?);
                        candle_core::Result::Ok(Agreement::of(&f_hat, &f))
                    };
                    let drawn = estimates.iter().map(agreement);
                    let drawn = drawn.collect::<candle_core::Result<Vec<_>>>()?;
                    rows.push(Row {
                        cell: self.cell(scope, estimator, batch),
                        seed: self.seed,
                        nats,
                        sigma: match self.likelihood {
                            Likelihood::Gaussian { sigma } => Some(sigma),
                            Likelihood::Categorical { .. } => None,
                        },
                        drawn: Agreement::mean(&drawn),
                        expected: agreement(&expected)?,
                    });
                }
            }
        }
        Ok(rows)
    }

    /// The first layer is all there is without a hidden one.
    fn scopes(&self) -> &'static [Scope] {
        if self.config.hidden == 0 { &[Scope::All] } else { &[Scope::All, Scope::FirstLayer] }
    }

    fn cell(&self, scope: Scope, estimator: Estimator, batch: usize) -> Cell {
        let (problem, sigma, steps) = (self.problem, self.sigma.clone(), self.steps);
        Cell { problem, sigma, steps, scope, estimator, batch }
    }
}
