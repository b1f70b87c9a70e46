//! Which estimators of the FIM are unbiased: the softmax regression `p(y|x) ∝ exp(x·W_y)`, whose diagonal FIM over the
//! inputs of a batch (Eq. 56) is a sum over all labels and so known exactly.

use candle_core::{Device, Tensor, Var};
use fadam_core::{Accumulator, FAdam, FAdamConfig, Fisher, Gradients, NamedVars};

/// Inputs of a batch, features, classes.
const B: usize = 12;
const D: usize = 3;
const K: usize = 4;
const DRAWS: usize = 6000;

/// The same uniform numbers in 0..1 everywhere (`SplitMix64`).
struct Uniform(u64);

impl Uniform {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 * 2f64.powi(-53)
    }
}

type Scores = [f64; D * K];

struct Model {
    x: Vec<[f64; D]>,
    p: Vec<[f64; K]>,
}

impl Model {
    fn new(uniform: &mut Uniform) -> Self {
        let w: Scores = std::array::from_fn(|_| 2.0 * uniform.next() - 1.0);
        let mut input = || std::array::from_fn(|_| 2.0 * uniform.next() - 0.5);
        let x: Vec<[f64; D]> = (0..B).map(|_| input()).collect();
        let p = |x: &[f64; D]| {
            let e: [f64; K] =
                std::array::from_fn(|k| (0..D).map(|d| x[d] * w[d * K + k]).sum::<f64>().exp());
            e.map(|one| one / e.iter().sum::<f64>())
        };
        Self { p: x.iter().map(p).collect(), x }
    }

    /// `−∇ log p(y|x_i)`: `x_d (p_k − [y = k])`.
    fn gradient(&self, i: usize, y: usize) -> Scores {
        let residual = |k: usize| self.p[i][k] - f64::from(u8::from(y == k));
        std::array::from_fn(|j| self.x[i][j / K] * residual(j % K))
    }

    /// Eq. 56: the mean over the inputs of `Σ_y p(y|x) (∇ log p(y|x))²`.
    fn fim(&self) -> Scores {
        let mut f = [0.0; D * K];
        for i in 0..B {
            for (y, p) in self.p[i].iter().enumerate() {
                for (f, g) in f.iter_mut().zip(self.gradient(i, y)) {
                    *f += p * g * g / B as f64;
                }
            }
        }
        f
    }

    /// The gradients of a label for each input, drawn from the model.
    fn draw(&self, uniform: &mut Uniform) -> Vec<Scores> {
        (0..B)
            .map(|i| {
                let (mut left, mut y) = (uniform.next(), 0);
                while y + 1 < K && left >= self.p[i][y] {
                    left -= self.p[i][y];
                    y += 1;
                }
                self.gradient(i, y)
            })
            .collect()
    }
}

fn named(scores: &Scores) -> Gradients {
    Gradients::from([("w".to_owned(), Tensor::new(scores, &Device::Cpu).unwrap())])
}

/// What an optimizer's first step makes of an estimator: f, without a past.
fn f_after(g: &Gradients, fisher: Fisher<'_>) -> Scores {
    let w = Var::from_tensor(&g["w"].ones_like().unwrap()).unwrap();
    let vars = NamedVars::from_iter([("w".to_owned(), w)]);
    let mut optimizer = FAdam::from_named(vars, FAdamConfig::default()).unwrap();
    optimizer.step_with(g, fisher).unwrap();
    optimizer.fim("w").unwrap().to_vec1().unwrap().try_into().unwrap()
}

/// Means of draws with their standard errors.
#[derive(Default)]
struct Mean {
    sum: Scores,
    squares: Scores,
}

impl Mean {
    fn add(&mut self, f: Scores) {
        for (j, f) in f.into_iter().enumerate() {
            self.sum[j] += f / DRAWS as f64;
            self.squares[j] += f * f / DRAWS as f64;
        }
    }

    /// Whether this is an estimate of `share` of f: within four standard errors, which are at most 3 % of it.
    fn assert_is(&self, share: f64, f: &Scores, what: &str) {
        for ((mean, square), f) in self.sum.iter().zip(&self.squares).zip(f) {
            let (error, expected) = (((square - mean * mean) / DRAWS as f64).sqrt(), share * f);
            assert!(error < 0.03 * expected, "{what}: too few draws to tell: {error:e}");
            assert!((mean - expected).abs() < 4.0 * error, "{what}: {mean:e}, not {expected:e}");
        }
    }
}

#[test]
fn sampled_and_micro_batches_of_one_are_unbiased_and_the_minibatch_is_smaller_by_b() {
    let mut uniform = Uniform(1);
    let model = Model::new(&mut uniform);
    let exact = model.fim();
    let (mut sampled, mut micro, mut mini) = (Mean::default(), Mean::default(), Mean::default());
    for _ in 0..DRAWS {
        let mut accumulator = Accumulator::with_squares();
        for g in model.draw(&mut uniform) {
            accumulator.add(&named(&g)).unwrap();
        }
        let mean = accumulator.finish().unwrap();
        let (g, squares) = (mean.gradients, mean.squares.unwrap());
        sampled.add(f_after(&g, Fisher::Sampled { gradients: &g, batch: B }));
        micro.add(f_after(&g, Fisher::Microbatch(&squares)));
        mini.add(f_after(&g, Fisher::Minibatch));
    }
    sampled.assert_is(1.0, &exact, "sampled");
    micro.assert_is(1.0, &exact, "micro-batches");
    // The gradients of the model's own labels are noise of mean 0.
    mini.assert_is(1.0 / B as f64, &exact, "minibatch");
}

/// The scores by hand are those that candle's backward finds.
#[test]
fn scores_by_hand() {
    let mut uniform = Uniform(1);
    let w: Scores = std::array::from_fn(|_| 2.0 * uniform.next() - 1.0);
    let model = Model::new(&mut Uniform(1));
    let w = Var::from_tensor(&Tensor::new(&w, &Device::Cpu).unwrap()).unwrap();
    for i in 0..B {
        let x = Tensor::new(&[model.x[i]], &Device::Cpu).unwrap();
        let logits = x.matmul(&w.reshape((D, K)).unwrap()).unwrap();
        let y = Tensor::new(&[(i % K) as u32], &Device::Cpu).unwrap();
        let loss = candle_nn::loss::cross_entropy(&logits, &y).unwrap();
        let found: Vec<f64> = loss.backward().unwrap().get(&w).unwrap().to_vec1().unwrap();
        for (a, b) in found.iter().zip(model.gradient(i, i % K)) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
    }
}
