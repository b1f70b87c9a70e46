//! Estimators of the FIM: the fused step against the reference, f by hand, and whose expectation is that of Eq. 56.

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{
    Accumulator, AdafactorConfig, AdamConfig, AnyConfig, AnyOptimizer, Backend, FAdafactorConfig,
    FAdamConfig, Fisher, Gradients, LossGradients, NamedVars,
};
use proptest::prelude::*;

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn tensor(numbers: &[f64]) -> Tensor {
    Tensor::new(numbers, &Device::Cpu).unwrap()
}

/// The same pseudo-random values everywhere, of about unit size.
fn noise(shape: &[usize], seed: usize, scale: f64) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988).fract() - 0.5;
    let values = (0..n).map(|i| scale * (value(i) + value(i * i % 65_537))).collect();
    Tensor::from_vec::<_, f64>(values, shape, &Device::Cpu).unwrap()
}

fn one(g: Tensor) -> Gradients {
    Gradients::from([("w".to_owned(), g)])
}

/// One parameter `w` under an optimizer.
struct One {
    w: Var,
    optimizer: AnyOptimizer,
}

impl One {
    fn new(theta: &Tensor, config: &AnyConfig, backend: Backend) -> Self {
        let w = Var::from_tensor(theta).unwrap();
        let vars = NamedVars::from_iter([("w".to_owned(), w.clone())]);
        let optimizer = AnyOptimizer::from_named(vars, config.clone()).unwrap();
        Self { w, optimizer: optimizer.backend(backend) }
    }

    /// θ, m and the FIM.
    fn numbers(&self) -> [Vec<f64>; 3] {
        let (m, f) = (self.optimizer.momentum("w").unwrap(), self.optimizer.fim("w").unwrap());
        [values(&self.w), values(&m), values(&f)]
    }
}

fn configs(eps: impl Strategy<Value = f64>) -> impl Strategy<Value = AnyConfig> {
    let rho = prop_oneof![Just(0.5), Just(1.0), 0.3f64..1.2];
    let clip = prop_oneof![Just(Some(1.0)), Just(Some(0.3)), Just(None)];
    (rho, eps, clip, 0usize..4).prop_map(|(rho, eps, clip, which)| match which {
        0 => FAdamConfig { rho, eps, clip, weight_decay: 0.3, ..Default::default() }.into(),
        1 => FAdafactorConfig { rho, eps, clip, ..Default::default() }.into(),
        2 => AdamConfig { eps, clip, ..Default::default() }.into(),
        _ => AdafactorConfig { clip, ..Default::default() }.into(),
    })
}

fn shapes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![]),
        proptest::collection::vec(1usize..40, 1..=1),
        proptest::collection::vec(1usize..24, 2..=2),
        proptest::collection::vec(1usize..6, 3..=4),
        Just(vec![131, 17]), // more rows than a task
        Just(vec![3, 70, 5]),
        Just(vec![300, 3, 3]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(300), ..Default::default() })]

    /// θ, m and f of both backends, within rounding of what each is computed in and stored as.
    #[test]
    fn fused_is_reference(config in configs(prop_oneof![Just(1e-8), Just(1e-15), Just(1e-30)]), shape in shapes(), seed in 0usize..1000, sampled in any::<bool>(), weight in prop_oneof![Just(None), Just(Some(0.7)), Just(Some(-30.0))]) {
        for (dtype, share, ulp) in
            [(DType::F64, 1e-9, 4e-16), (DType::F32, 2e-5, 4e-7), (DType::BF16, 2e-5, 2f64.powi(-7))]
        {
            let make = |seed: usize, scale| noise(&shape, seed, scale).to_dtype(dtype).unwrap();
            let theta0 = make(seed, 1.0);
            let mut pair = [Backend::Fused, Backend::Reference].map(|b| One::new(&theta0, &config, b));
            let mut largest = [0f64; 2];
            // bf16 parameters drift apart by what they are rounded to: one step.
            for t in 0..if dtype == DType::BF16 { 1 } else { 3 } {
                let (g, s) = (one(make(seed + 3 * t, 0.01)), one(make(seed + 5 * t + 1, 0.01)));
                let (q, u) = (one(s["w"].sqr().unwrap()), one(make(seed + 7 * t + 2, 1.0)));
                let fisher = if sampled { Fisher::Sampled { gradients: &s, batch: 37 } } else { Fisher::Microbatch(&q) };
                let mut losses = LossGradients::new(&g);
                if let Some(weight) = weight {
                    losses = losses.auxiliary(&u, weight);
                }
                for one in &mut pair {
                    one.optimizer.step_with(losses, fisher).unwrap();
                }
                let [[theta, m, f], [theta_r, m_r, f_r]] = pair.each_ref().map(One::numbers);
                let size = |x: &[f64]| x.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
                let off = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
                // Rounding is relative to the largest so far, since both can come back to about 0.
                largest = [largest[0].max(off(&theta_r, &values(&theta0))), largest[1].max(size(&m_r))];
                prop_assert!(off(&theta, &theta_r) <= share * largest[0] + ulp * size(&theta_r), "{:?} step {}: theta", dtype, t);
                prop_assert!(off(&m, &m_r) <= share * largest[1], "{:?} step {}: m", dtype, t);
                for (a, b) in f.iter().zip(&f_r) {
                    prop_assert!((a - b).abs() <= share * b, "{:?} step {}: fim {:e}, not {:e}", dtype, t, a, b);
                }
            }
        }
    }

    /// The squares of one micro-batch are those of its gradient: Eq. 57 is Eq. 58 then. (A tiny ε would have the
    /// step computed in f64, where g² is not rounded to f32 as given squares are.)
    #[test]
    fn one_micro_batch_is_the_minibatch(config in configs(Just(1e-8)), shape in shapes(), seed in 0usize..1000) {
        for dtype in [DType::F64, DType::F32, DType::BF16] {
            let theta = noise(&shape, seed, 1.0).to_dtype(dtype).unwrap();
            let mut pair = [0, 1].map(|_| One::new(&theta, &config, Backend::Fused));
            for t in 0..2 {
                let g = one(noise(&shape, seed + 1 + t, 0.1).to_dtype(dtype).unwrap());
                let mut accumulator = Accumulator::with_squares();
                accumulator.add(&g).unwrap();
                let squares = accumulator.finish().unwrap().squares.unwrap();
                pair[0].optimizer.step_named(&g).unwrap();
                pair[1].optimizer.step_with(&g, Fisher::Microbatch(&squares)).unwrap();
                prop_assert_eq!(pair[0].numbers(), pair[1].numbers());
            }
        }
    }
}

fn assert_close(a: &[f64], b: &[f64], relative: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= relative * b.abs(), "{a:e}, not {b:e}");
    }
}

/// β̂2 = 0 at t = 1, so that f is the estimate itself (line 6); at t = 2 it is the mean of two, weighted with
/// β̂2 = β2 (1 − β2) / (1 − β2²) = β2 / (1 + β2).
#[test]
fn f_by_hand() {
    let g = [[0.5, -0.25], [1.0, 2.0]];
    let of = |k: usize| one(tensor(&g[k]));
    let mean = one(tensor(&[0.75, 0.875]));
    let squares = one(tensor(&[f64::midpoint(0.25, 1.0), f64::midpoint(0.0625, 4.0)]));
    let sampled = of(1);
    let cases = [
        (Fisher::Minibatch, [0.5625, 0.765_625]),
        (Fisher::Microbatch(&squares), [0.625, 2.03125]),
        (Fisher::Sampled { gradients: &sampled, batch: 48 }, [48.0, 192.0]),
    ];
    let theta = tensor(&[1.0, 1.0]);
    for (fisher, expected) in cases {
        for backend in [Backend::Fused, Backend::Reference] {
            for name in AnyConfig::NAMES {
                let config = AnyConfig::named(name).unwrap();
                let mut one = One::new(&theta, &config, backend);
                one.optimizer.step_with(&mean, fisher).unwrap();
                assert_close(&one.numbers()[2], &expected, 1e-14);
                one.optimizer.step_named(&of(0)).unwrap();
                let beta2 = 0.999;
                // Adam's recursion from 0, corrected by 1 − β2², is the same mean.
                let old = beta2 / (1.0 + beta2);
                let f: Vec<f64> =
                    expected.iter().zip(g[0]).map(|(f, g)| old * f + (1.0 - old) * g * g).collect();
                assert_close(&one.numbers()[2], &f, 1e-12);
            }
        }
    }
}

/// Lines 7 to 9 of Algorithm 2 with q for g²: `R_i C_j / ΣR`.
#[test]
fn factored_f_by_hand() {
    let g = one(tensor(&[0.1; 4]).reshape((2, 2)).unwrap());
    let q = one(tensor(&[1.0, 2.0, 3.0, 10.0]).reshape((2, 2)).unwrap());
    let s = one(q["w"].sqrt().unwrap());
    for config in [AnyConfig::from(FAdafactorConfig::default()), AdafactorConfig::default().into()]
    {
        for (fisher, unit) in
            [(Fisher::Microbatch(&q), 1.0), (Fisher::Sampled { gradients: &s, batch: 5 }, 5.0)]
        {
            let mut one = One::new(&g["w"], &config, Backend::Fused);
            one.optimizer.step_with(&g, fisher).unwrap();
            let f = [3.0 * 4.0, 3.0 * 12.0, 13.0 * 4.0, 13.0 * 12.0].map(|rc| unit * rc / 16.0);
            assert_close(&one.numbers()[2], &f, 1e-14);
        }
    }
}

/// ε̂ is of the gradient and not of the estimate.
#[test]
fn the_estimate_does_not_reach_eps_hat() {
    let (g, q) = (one(tensor(&[3e-9, 4e-9])), one(tensor(&[1.0, 1.0])));
    for backend in [Backend::Fused, Backend::Reference] {
        let mut one = One::new(&tensor(&[1.0, 1.0]), &FAdamConfig::default().into(), backend);
        one.optimizer.step_with(&g, Fisher::Microbatch(&q)).unwrap();
        let measures = one.optimizer.report().unwrap().tensors[0].measures;
        assert_close(&[measures.eps_hat], &[0.01 * 12.5e-18f64.sqrt()], 1e-12);
    }
}

/// Equal micro-batches, however many: f is what it is of one. `Sampled` grows with its B instead.
#[test]
fn the_number_of_micro_batches_does_not_matter() {
    let g = one(noise(&[7, 3], 1, 0.1));
    let after = |fisher: Fisher<'_>| {
        let mut one =
            One::new(&noise(&[7, 3], 2, 1.0), &FAdamConfig::default().into(), Backend::Fused);
        one.optimizer.step_with(&g, fisher).unwrap();
        one.numbers()
    };
    let of = |count: usize| {
        let mut accumulator = Accumulator::with_squares();
        for _ in 0..count {
            accumulator.add(&g).unwrap();
        }
        after(Fisher::Microbatch(&accumulator.finish().unwrap().squares.unwrap()))
    };
    assert_eq!(of(5), of(1));
    assert_eq!(of(64), of(1));
    let [few, many] = [4, 64].map(|batch| after(Fisher::Sampled { gradients: &g, batch }));
    let sixteen_times: Vec<f64> = few[2].iter().map(|f| 16.0 * f).collect();
    assert_eq!(many[2], sixteen_times);
}
