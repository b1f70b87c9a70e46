//! `ablate-fisher`: the exact Fisher information and the expectations of its estimators against sums over all labels and all
//! batches, closed forms, automatic differentiation and the optimizer; then the program.

use std::process::{Command, Output};

use candle_core::{Device, Tensor, Var};
use experiments::fisher::agreement::Mean;
use experiments::fisher::config::{Config, Sigma};
use experiments::fisher::diagonal::{Diagonal, Estimator, Exact, with_sampled_labels};
use experiments::fisher::likelihood::Likelihood;
use experiments::fisher::network::{Layer, Network, with_ones};
use experiments::fisher::problem::Problem;
use experiments::fisher::study;
use experiments::fisher::verdict::Outcome;
use fadam_core::{FAdam, FAdamConfig, Fisher, NamedVars};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn matrix(rows: usize, columns: usize, values: &[f64]) -> Tensor {
    Tensor::from_slice(values, (rows, columns), &Device::Cpu).unwrap()
}

/// Numbers of about unit size, the same everywhere.
fn noise(rows: usize, columns: usize, seed: usize) -> Tensor {
    let value = |i: usize| ((i * 37 + seed * 101) as f64 * 0.7).sin();
    matrix(rows, columns, &(0..rows * columns).map(value).collect::<Vec<_>>())
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &[f64], expected: &[f64], share: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
    for (k, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= share * scale, "{what}: [{k}] is {a:e}, not {b:e}");
    }
}

fn all(diagonal: &Diagonal) -> Vec<f64> {
    diagonal.values(false).unwrap()
}

/// A network, its inputs with ones, and labels of the data.
struct Case {
    network: Network,
    likelihood: Likelihood,
    x: Tensor,
    y: Tensor,
}

impl Case {
    /// The gradients of these examples with these labels `[B, J]`.
    fn layers(&self, examples: &[usize], labels: &Tensor) -> Vec<Layer> {
        let at: Vec<u32> = examples.iter().map(|i| *i as u32).collect();
        let at = Tensor::new(at, &Device::Cpu).unwrap();
        let pass = self.network.pass(&self.x.index_select(&at, 0).unwrap()).unwrap();
        let residuals = self.likelihood.residuals(&pass.outputs, labels).unwrap();
        self.network.backward(&pass, residuals).unwrap()
    }

    fn data_labels(&self, examples: &[usize]) -> Tensor {
        let rows: Vec<Tensor> = examples.iter().map(|i| self.y.get(*i).unwrap()).collect();
        Tensor::stack(&rows, 0).unwrap()
    }

    fn n(&self) -> usize {
        self.x.dim(0).unwrap()
    }

    fn exact(&self) -> Exact {
        let pass = self.network.pass(&self.x).unwrap();
        let residuals = self.likelihood.residuals(&pass.outputs, &self.y).unwrap();
        let layers = self.network.backward(&pass, residuals).unwrap();
        Exact::new(&self.network, self.likelihood, &pass, &layers).unwrap()
    }

    /// All labels `[J]` of an example and their probabilities. A Gaussian is replaced by μ ± σ, which has the same first
    /// two moments: all that the square of a sum of residuals depends on.
    fn labels_of(&self, example: usize) -> Vec<(f64, Vec<f64>)> {
        let x = self.x.narrow(0, example, 1).unwrap();
        let outputs = self.network.pass(&x).unwrap().outputs;
        let j = self.y.dim(1).unwrap();
        let outputs = numbers(&outputs);
        let choices: Vec<Vec<(f64, f64)>> = match self.likelihood {
            Likelihood::Categorical { levels } => outputs
                .chunks(levels)
                .map(|logits| {
                    let z: f64 = logits.iter().map(|l| l.exp()).sum();
                    logits.iter().enumerate().map(|(k, l)| (l.exp() / z, k as f64)).collect()
                })
                .collect(),
            Likelihood::Gaussian { sigma } => {
                outputs.iter().map(|mu| vec![(0.5, mu - sigma), (0.5, mu + sigma)]).collect()
            }
        };
        assert_eq!(choices.len(), j);
        choices.iter().fold(vec![(1.0, Vec::new())], |sofar, choices| {
            let with = |(p, labels): &(f64, Vec<f64>), (q, label): &(f64, f64)| {
                (p * q, [labels.as_slice(), &[*label]].concat())
            };
            sofar.iter().flat_map(|one| choices.iter().map(move |c| with(one, c))).collect()
        })
    }

    /// The expectation of an estimator over all batches of B and, where it samples, all labels of them.
    fn by_enumeration(&self, estimator: Estimator, batch: usize) -> Vec<f64> {
        let n = self.n();
        let mut sum: Vec<f64> = Vec::new();
        let mut add = |p: f64, layers: &[Layer]| {
            let values = all(&estimator.estimate(layers).unwrap());
            sum.resize(values.len(), 0.0);
            for (sum, value) in sum.iter_mut().zip(values) {
                *sum += p * value;
            }
        };
        for code in 0..n.pow(batch as u32) {
            let examples: Vec<usize> = (0..batch).map(|b| code / n.pow(b as u32) % n).collect();
            let p = 1.0 / n.pow(batch as u32) as f64;
            if !estimator.samples() {
                add(p, &self.layers(&examples, &self.data_labels(&examples)));
                continue;
            }
            let choices: Vec<_> = examples.iter().map(|i| self.labels_of(*i)).collect();
            let combinations: usize = choices.iter().map(Vec::len).product();
            for mut which in 0..combinations {
                let (mut q, mut labels) = (p, Vec::new());
                for choices in &choices {
                    let (one, label) = &choices[which % choices.len()];
                    which /= choices.len();
                    q *= one;
                    labels.extend(label);
                }
                let labels = matrix(batch, labels.len() / batch, &labels);
                add(q, &self.layers(&examples, &labels));
            }
        }
        sum
    }
}

/// Softmax regression with two features, a bias and three classes; the second input has both labels 0 and 2.
fn linear_softmax() -> Case {
    let x = with_ones(&matrix(4, 2, &[1.0, -0.5, 0.3, 2.0, 0.3, 2.0, -1.5, 0.2])).unwrap();
    Case {
        network: Network::linear(&noise(3, 3, 5)).unwrap(),
        likelihood: Likelihood::Categorical { levels: 3 },
        x,
        y: matrix(4, 1, &[1.0, 0.0, 2.0, 1.0]),
    }
}

/// Linear regression with two features, a bias and two outputs of σ = 0.7.
fn linear_gaussian() -> Case {
    Case {
        network: Network::linear(&noise(3, 2, 8)).unwrap(),
        likelihood: Likelihood::Gaussian { sigma: 0.7 },
        x: with_ones(&noise(3, 2, 2)).unwrap(),
        y: noise(3, 2, 9),
    }
}

/// With a hidden layer: two labels of three levels, or two numbers.
fn with_hidden(likelihood: Likelihood) -> Case {
    let (outputs, y) = match likelihood {
        Likelihood::Categorical { .. } => (6, matrix(3, 2, &[0.0, 2.0, 1.0, 1.0, 2.0, 0.0])),
        Likelihood::Gaussian { .. } => (2, noise(3, 2, 7)),
    };
    let network = Network::new(2, 4, outputs, 3).unwrap();
    Case { network, likelihood, x: with_ones(&noise(3, 2, 4)).unwrap(), y }
}

fn cases() -> [Case; 4] {
    [
        linear_softmax(),
        linear_gaussian(),
        with_hidden(Likelihood::Categorical { levels: 3 }),
        with_hidden(Likelihood::Gaussian { sigma: 0.4 }),
    ]
}

/// Eq. 56 and 57 of softmax regression, from p and the labels alone.
#[test]
fn linear_softmax_in_closed_form() {
    let case = linear_softmax();
    let exact = case.exact();
    let (mut fim, mut empirical) = (vec![0.0; 9], vec![0.0; 9]);
    for example in 0..4 {
        let x = numbers(&case.x.get(example).unwrap());
        let p: Vec<f64> = case.labels_of(example).iter().map(|(p, _)| *p).collect();
        let y = numbers(&case.y)[example] as usize;
        for i in 0..3 {
            for k in 0..3 {
                let hit = f64::from(u8::from(y == k));
                fim[3 * i + k] += x[i] * x[i] * p[k] * (1.0 - p[k]) / 4.0;
                empirical[3 * i + k] += x[i] * x[i] * (p[k] - hit) * (p[k] - hit) / 4.0;
            }
        }
    }
    assert_close(&all(&exact.fim), &fim, 1e-13, "Eq. 56");
    assert_close(&all(&exact.squares), &empirical, 1e-13, "Eq. 57");
    let off = fim.iter().zip(&empirical).any(|(f, e)| (e / f - 1.0).abs() > 0.3);
    assert!(off, "labels that are not the model's make another FIM: {fim:?} {empirical:?}");
}

/// Eq. 56 is `E[x²]/σ²` and Eq. 57 `E[x² r²]/σ⁴`, with the residuals r: one does not know of the labels, the other lives
/// on them.
#[test]
fn linear_gaussian_in_closed_form() {
    let case = linear_gaussian();
    let exact = case.exact();
    let sigma2 = 0.7 * 0.7;
    let r = numbers(&(case.network.pass(&case.x).unwrap().outputs - &case.y).unwrap());
    let (mut fim, mut empirical) = (vec![0.0; 6], vec![0.0; 6]);
    for example in 0..3 {
        let x = numbers(&case.x.get(example).unwrap());
        for i in 0..3 {
            for k in 0..2 {
                let square = x[i] * x[i] / 3.0;
                fim[2 * i + k] += square / sigma2;
                empirical[2 * i + k] += square * r[2 * example + k].powi(2) / (sigma2 * sigma2);
            }
        }
    }
    assert_close(&all(&exact.fim), &fim, 1e-13, "Eq. 56");
    assert_close(&all(&exact.squares), &empirical, 1e-13, "Eq. 57");
}

/// Over all batches of two (four for micro-batches) and all labels: the sampled estimators are unbiased, and the others
/// are what `Exact::expectation` says, (1/m) E[g²] + (1 − 1/m) (E[g])².
#[test]
fn expectations_are_sums_over_all_batches_and_labels() {
    for (k, case) in cases().iter().enumerate() {
        let exact = case.exact();
        for estimator in Estimator::all(2) {
            for batch in [1, 2, 4] {
                let too_many = batch == 4 && !matches!(estimator, Estimator::Micro(_));
                if too_many || !estimator.takes(batch) {
                    continue;
                }
                let what = format!("case {k}, {}, B = {batch}", estimator.name());
                let sum = case.by_enumeration(estimator, batch);
                let expected = all(&exact.expectation(estimator, batch).unwrap());
                assert_close(&sum, &expected, 1e-12, &what);
                if estimator.samples() {
                    assert_close(&sum, &all(&exact.fim), 1e-12, &what);
                }
            }
        }
        let (g2, mean) = (all(&exact.squares), all(&exact.mean));
        let by_hand: Vec<f64> =
            g2.iter().zip(&mean).map(|(g2, g)| g2 / 16.0 + 15.0 / 16.0 * g * g).collect();
        let minibatch = exact.expectation(Estimator::Minibatch, 16).unwrap();
        assert_close(&all(&minibatch), &by_hand, 1e-13, "B = 16");
        let micro = exact.expectation(Estimator::Micro(4), 16).unwrap();
        let mini = exact.expectation(Estimator::Minibatch, 4).unwrap();
        assert_close(&all(&micro), &all(&mini), 0.0, "micro-batches know nothing of B");
    }
}

/// The gradients by hand are candle's, of the mean and of a single example.
#[test]
fn gradients_are_those_of_automatic_differentiation() {
    for (k, case) in cases().iter().enumerate() {
        let vars: NamedVars = case.network.vars();
        for examples in [vec![0, 1, 2], vec![1]] {
            let at: Vec<u32> = examples.iter().map(|i| *i as u32).collect();
            let x = case.x.index_select(&Tensor::new(at, &Device::Cpu).unwrap(), 0).unwrap();
            let labels = case.data_labels(&examples);
            let get = |name: &str| vars.get(name).map(Var::as_tensor);
            let hidden = match get("first") {
                Some(first) => with_ones(&x.matmul(first).unwrap().tanh().unwrap()).unwrap(),
                None => x,
            };
            let outputs = hidden.matmul(get("last").unwrap()).unwrap();
            let loss = case.likelihood.nats(&outputs, &labels).unwrap().mean_all().unwrap();
            let expected = vars.gradients(&loss.backward().unwrap());
            let layers = case.layers(&examples, &labels);
            let found = case.network.gradients(&layers).unwrap();
            assert_eq!(found.len(), expected.len());
            for (name, expected) in &expected {
                let what = format!("case {k}, {name}");
                assert_close(&numbers(&found[name]), &numbers(expected), 1e-12, &what);
            }
        }
    }
}

/// −log P of a Gaussian and of a categorical label, by hand.
#[test]
fn nats_by_hand() {
    let gaussian = Likelihood::Gaussian { sigma: 2.0 };
    let found = gaussian.nats(&matrix(1, 2, &[1.0, 0.0]), &matrix(1, 2, &[4.0, 0.0])).unwrap();
    let density = |r: f64| (-r * r / 8.0).exp() / (2.0 * (2.0 * std::f64::consts::PI).sqrt());
    assert_close(&numbers(&found), &[-(density(3.0) * density(0.0)).ln()], 1e-14, "Gaussian");
    let categorical = Likelihood::Categorical { levels: 2 };
    let logits = matrix(1, 4, &[0.0, 1.0, 2.0, 0.0]);
    let found = categorical.nats(&logits, &matrix(1, 2, &[1.0, 0.0])).unwrap();
    let e = std::f64::consts::E;
    let p = e / (1.0 + e) * (e * e / (1.0 + e * e));
    assert_close(&numbers(&found), &[-p.ln()], 1e-14, "categorical");
}

/// Labels are drawn as often as they should be, and what is made of them is unbiased: within four standard errors, which
/// are small.
#[test]
fn sampled_labels_are_the_models() {
    const DRAWS: usize = 4000;
    for (k, case) in cases().iter().enumerate() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let pass = case.network.pass(&case.x).unwrap();
        let fim = all(&case.exact().fim);
        for estimator in [Estimator::SampledSquares, Estimator::SampledMean] {
            let mut draws = vec![Vec::new(); fim.len()];
            for _ in 0..DRAWS {
                let layers =
                    with_sampled_labels(&case.network, case.likelihood, &pass, &mut random)
                        .unwrap();
                let values = all(&estimator.estimate(&layers).unwrap());
                for (draws, value) in draws.iter_mut().zip(values) {
                    draws.push(value);
                }
            }
            for (draws, f) in draws.iter().zip(&fim) {
                let Mean { mean, error, .. } = Mean::of(draws);
                let what = format!("case {k}, {}", estimator.name());
                assert!(error < 0.05 * f, "{what}: too few draws to tell: {error:e} of {f:e}");
                assert!((mean - f).abs() < 4.5 * error, "{what}: {mean:e} ± {error:e}, not {f:e}");
            }
        }
    }
}

/// What is measured is what `fadam_core::Fisher` puts into f.
#[test]
fn estimators_are_those_of_the_optimizer() {
    for (k, case) in cases().iter().enumerate() {
        let examples = [0, 2, 1, 1];
        let labels = case.data_labels(&examples);
        let layers = case.layers(&examples, &labels);
        let gradients = case.network.gradients(&layers).unwrap();
        let mut micro = fadam_core::Accumulator::with_squares();
        for two in examples.chunks(2) {
            let layers = case.layers(two, &case.data_labels(two));
            micro.add(&case.network.gradients(&layers).unwrap()).unwrap();
        }
        let squares = micro.finish().unwrap().squares.unwrap();
        for (fisher, estimator) in [
            (Fisher::Minibatch, Estimator::Minibatch),
            (Fisher::Microbatch(&squares), Estimator::Micro(2)),
            (Fisher::Sampled { gradients: &gradients, batch: 4 }, Estimator::SampledMean),
        ] {
            let fresh = cases().into_iter().nth(k).unwrap().network;
            let mut optimizer = FAdam::from_named(fresh.vars(), FAdamConfig::default()).unwrap();
            optimizer.step_with(&gradients, fisher).unwrap();
            let names: Vec<String> = optimizer.names().map(str::to_owned).collect();
            let f: Vec<f64> =
                names.iter().flat_map(|n| numbers(&optimizer.fim(n).unwrap())).collect();
            let ours = all(&estimator.estimate(&layers).unwrap());
            assert_close(&f, &ours, 1e-12, &format!("case {k}, {}", estimator.name()));
        }
    }
}

/// The ratio is linear in the estimate: over many batches its mean is that of the expectation. Everything together, on the
/// images.
#[test]
fn a_study_draws_what_it_expects_and_is_repeatable() {
    let config = Config {
        problems: vec![Problem::PixelsCe, Problem::PixelsL2],
        sigmas: vec![Sigma::Fitted, Sigma::Given(2.0)],
        seeds: 12,
        draws: 30,
        batches: vec![1, 2, 8],
        micro: 2,
        hidden: 3,
        points: vec![0, 5],
        ..Config::default()
    };
    let rows = study::run(&config, |_, _| {}).unwrap();
    // (problems and σ) × seeds × points × weights × (4 + 5 + 5 estimators of the three sizes)
    assert_eq!(rows.len(), 3 * 12 * 2 * 2 * 14);
    let mut cells = std::collections::HashMap::<_, Vec<f64>>::new();
    for row in &rows {
        let off = row.drawn.ratio / row.expected.ratio - 1.0;
        cells.entry(row.cell.clone()).or_default().push(off);
        if row.cell.estimator.samples() {
            assert!((row.expected.ratio - 1.0).abs() < 1e-12 && row.expected.error < 1e-12);
        }
    }
    assert_eq!(cells.len(), 3 * 2 * 2 * 14);
    let beyond = cells.iter().filter(|(_, off)| {
        let Mean { mean, error, .. } = Mean::of(off);
        assert!(error < 0.2, "{error}");
        mean.abs() > 4.0 * error
    });
    // Of 168 t values with 11 degrees of freedom 0.35 lie beyond 4.
    let beyond: Vec<_> = beyond.map(|(cell, _)| cell).collect();
    assert!(beyond.len() <= 2, "{beyond:?}");

    let again = study::run(&config, |_, _| {}).unwrap();
    for (a, b) in rows.iter().zip(&again) {
        assert_eq!((&a.cell, a.seed, a.drawn, a.nats), (&b.cell, b.seed, b.drawn, b.nats));
    }
    // σ is a factor and nothing else: 1/σ² of f, 1/σ⁴ of the estimates from data.
    let with = |sigma: &str| {
        let is = |row: &&study::Row| row.cell.sigma.as_deref() == Some(sigma);
        rows.iter().filter(is).collect::<Vec<_>>()
    };
    for (fitted, given) in with("fitted").into_iter().zip(with("2")) {
        let scale = (fitted.sigma.unwrap() / 2.0).powi(2);
        let scale = if fitted.cell.estimator.samples() { 1.0 } else { scale };
        assert!((given.expected.ratio / fitted.expected.ratio / scale - 1.0).abs() < 1e-9);
        assert!((given.drawn.correlation - fitted.drawn.correlation).abs() < 1e-6);
    }
}

#[test]
fn the_rule() {
    let of = |mean, error| Outcome::of(Mean { mean, error, n: 8 });
    assert_eq!(of(0.3, 0.1), Outcome::Holds);
    assert_eq!(of(-0.3, 0.1), Outcome::Contradicted);
    assert_eq!(of(0.15, 0.1), Outcome::Inconclusive);
    assert_eq!(of(f64::NAN, 0.1), Outcome::Inconclusive);
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ablate-fisher")).args(arguments).output().unwrap()
}

#[test]
fn the_program_writes_tables_and_figures() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, out) = (path("small.toml"), path("out"));
    let small = "seeds = 2\ndraws = 2\nbatches = [1, 4]\nhidden = 3\npoints = [0, 3]\n";
    std::fs::write(&config, small).unwrap();
    let done = program(&["--config", &config, "--out", &out]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    for part in ["pixels, L2, σ fitted", "shape error, expectation", "each squared (57)"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // 4 claims of losses for two sets of weights and two estimators, and 3 of batch sizes for three problems; two points.
    let verdicts = ["holds ", "contradicted ", "inconclusive "];
    let count = text.lines().filter(|l| verdicts.iter().any(|v| l.starts_with(v))).count();
    assert_eq!(count, 2 * (2 * 2 * 2 + 3 * 3), "{text}");
    let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    // problems and σ, points, weights, estimators of two sizes
    assert_eq!(read("fisher.csv").lines().count(), 1 + 4 * 2 * 2 * (4 + 5));
    assert_eq!(read("seeds.csv").lines().count(), 1 + 2 * 4 * 2 * 2 * (4 + 5));
    for figure in ["shape.svg", "ratio.svg"] {
        assert!(read(figure).contains("digit, cross-entropy, 3 steps"), "{figure}");
    }
    assert!(read("tables.txt").contains("nats an image, n = 2"));
    let again =
        program(&["--config", &path("out/config.toml"), "--out", &path("again"), "--quiet"]);
    assert!(again.status.success());
    let other = std::fs::read_to_string(folder.path().join("again/seeds.csv")).unwrap();
    assert_eq!(read("seeds.csv"), other, "the same numbers to the last bit");
}

#[test]
fn bad_input_is_one_paragraph_and_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, "micro = 4\nbatches = [1, 6]\n").unwrap();
    let file = file.to_str().unwrap();
    let absent = folder.path().join("absent.toml");
    let out = folder.path().join("bad.toml/inside");
    for (arguments, part) in [
        (vec!["--config", file], "bad.toml: batches has 6, which is no multiple of micro = 4"),
        (vec!["--config", absent.to_str().unwrap()], "absent.toml: cannot be read"),
        (vec!["--out", out.to_str().unwrap()], "inside: cannot be made"),
    ] {
        let done = program(&arguments);
        let text = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{text}");
        assert!(text.contains(part) && text.lines().count() == 1, "{text}");
    }
}
