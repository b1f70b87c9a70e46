//! The fused step against the readable reference, on random shapes, dtypes and hyper-parameters; the same
//! bits whatever the number of threads; all or nothing.

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{
    AdafactorConfig, AdamConfig, AnyConfig, AnyOptimizer, Backend, Error, FAdafactorConfig,
    FAdamConfig, Gradients, NamedVars,
};
use proptest::prelude::*;

fn values(x: &Tensor) -> Vec<f64> {
    let x = x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    x.to_vec1().unwrap()
}

/// The same pseudo-random values everywhere, of about unit size.
fn noise(shape: &[usize], seed: usize, scale: f64) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988).fract() - 0.5;
    let values = (0..n).map(|i| scale * (value(i) + value(i * i % 65_537))).collect();
    Tensor::from_vec::<_, f64>(values, shape, &Device::Cpu).unwrap()
}

/// One parameter under the fused step and under the reference.
struct Pair {
    vars: [Var; 2],
    optimizers: [AnyOptimizer; 2],
    /// The largest movement of θ and the largest m so far: what rounding is relative to, since both can come
    /// back to about 0.
    largest: [f64; 2],
}

impl Pair {
    fn new(theta: &Tensor, config: &AnyConfig) -> Self {
        let vars = [0, 1].map(|_| Var::from_tensor(theta).unwrap());
        let make = |var: &Var, backend| {
            let vars = NamedVars::from_iter([("w".to_owned(), var.clone())]);
            let optimizer = AnyOptimizer::from_named(vars, config.clone());
            optimizer.unwrap().backend(backend)
        };
        let optimizers = [make(&vars[0], Backend::Fused), make(&vars[1], Backend::Reference)];
        Self { vars, optimizers, largest: [0.0; 2] }
    }

    /// A step of both; false if both refuse it because it would not be finite (clipping off, ε tiny).
    fn step(&mut self, g: &Tensor) -> bool {
        let [fused, reference] = self.optimizers.each_mut().map(|optimizer| {
            let gradients = Gradients::from([("w".to_owned(), g.clone())]);
            match optimizer.step_named(&gradients) {
                Ok(()) => true,
                Err(Error::NonFiniteUpdate { .. }) => false,
                Err(other) => panic!("{other}"),
            }
        });
        assert_eq!(fused, reference, "one of them refuses a step");
        fused
    }

    /// θ, m and the FIM agree within `share` of the largest of each (θ: of its movement, and `ulp` of θ).
    fn assert_close(&mut self, theta0: &Tensor, share: f64, ulp: f64, at: &str) {
        let largest = |x: &[f64]| x.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        let off = |a: &[f64], b: &[f64]| {
            a.iter().zip(b).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()))
        };
        let [a, b] = self.vars.each_ref().map(|var| values(var));
        self.largest[0] = self.largest[0].max(off(&b, &values(theta0)));
        let (bound, found) = (share * self.largest[0] + ulp * largest(&b), off(&a, &b));
        assert!(found <= bound, "{at}: theta is off by {found:e} > {bound:e}");
        let [a, b] = self.optimizers.each_ref().map(|o| values(&o.momentum("w").unwrap()));
        self.largest[1] = self.largest[1].max(largest(&b));
        let (bound, found) = (share * self.largest[1], off(&a, &b));
        assert!(found <= bound, "{at}: m is off by {found:e} > {bound:e}");
        let [a, b] = self.optimizers.each_ref().map(|o| values(&o.fim("w").unwrap()));
        for (a, b) in a.iter().zip(&b) {
            // One rounding of a subnormal f32 besides.
            assert!((a - b).abs() <= share * b + 1.5e-45, "{at}: fim {a:e}, not {b:e}");
        }
    }
}

fn configs() -> impl Strategy<Value = AnyConfig> {
    let rho = prop_oneof![Just(0.5), Just(1.0), 0.3f64..1.2];
    let eps = prop_oneof![Just(1e-8), Just(1e-15), Just(1e-30), Just(0.0)];
    let eps2 = prop_oneof![Just(Some(0.01)), Just(None), Just(Some(0.5))];
    let clip = prop_oneof![Just(Some(1.0)), Just(Some(0.3)), Just(None)];
    let decay = prop_oneof![Just(0.0), Just(0.001), Just(0.3)];
    (rho, eps, eps2, clip, decay, 0usize..4).prop_map(
        |(rho, eps, eps2, clip, weight_decay, which)| match which {
            0 => FAdamConfig { rho, eps, eps2, clip, weight_decay, ..Default::default() }.into(),
            1 => {
                FAdafactorConfig { rho, eps, eps2, clip, weight_decay, ..Default::default() }.into()
            }
            2 => {
                AdamConfig { eps: eps.max(1e-30), clip, weight_decay, ..Default::default() }.into()
            }
            _ => AdafactorConfig { clip, weight_decay, ..Default::default() }.into(),
        },
    )
}

fn shapes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![]),
        Just(vec![1]),
        proptest::collection::vec(1usize..40, 1..=1),
        proptest::collection::vec(1usize..24, 2..=2),
        proptest::collection::vec(1usize..6, 3..=4),
        Just(vec![131, 17]), // more rows than a task
        Just(vec![3, 1, 70]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(400), ..Default::default() })]

    #[test]
    fn fused_is_reference(config in configs(), shape in shapes(), seed in 0usize..1000, scale in -12i32..4) {
        let g_scale = 10f64.powi(scale);
        for (dtype, share, ulp) in [(DType::F64, 1e-9, 4e-16), (DType::F32, 2e-5, 4e-7)] {
            let theta0 = noise(&shape, seed, 1.0).to_dtype(dtype).unwrap();
            let mut pair = Pair::new(&theta0, &config);
            for t in 0..3 {
                let mut g = noise(&shape, seed + 17 * t, g_scale);
                if seed % 3 == 0 && t == 0 {
                    g = g.zeros_like().unwrap(); // nothing at first
                }
                if !pair.step(&g.to_dtype(dtype).unwrap()) { break; }
                pair.assert_close(&theta0, share, ulp, &format!("{config:?} {shape:?} {dtype:?} step {t}"));
            }
        }
    }

    #[test]
    fn half_precision_parameters_too(config in configs(), shape in shapes(), seed in 0usize..1000) {
        for (dtype, ulp) in [(DType::BF16, 2f64.powi(-7)), (DType::F16, 2f64.powi(-10))] {
            let theta0 = noise(&shape, seed, 1.0).to_dtype(dtype).unwrap();
            let mut pair = Pair::new(&theta0, &config);
            let g = noise(&shape, seed + 5, 0.01).to_dtype(dtype).unwrap();
            if !pair.step(&g) { continue; }
            pair.assert_close(&theta0, 2e-5, ulp, &format!("{config:?} {shape:?} {dtype:?}"));
        }
    }

    /// Strided, broadcast and offset gradients are read as what they are.
    #[test]
    fn any_layout_of_the_gradient(config in configs(), seed in 0usize..1000) {
        let theta0 = noise(&[6, 4], seed, 1.0);
        let whole = noise(&[4, 8], seed + 1, 0.1);
        for g in [
            whole.narrow(1, 1, 6).unwrap().t().unwrap(),
            noise(&[1, 4], seed, 0.1).broadcast_as((6, 4)).unwrap(),
            noise(&[9, 4], seed, 0.1).narrow(0, 2, 6).unwrap(),
        ] {
            let mut pair = Pair::new(&theta0, &config);
            if !pair.step(&g) { continue; }
            pair.assert_close(&theta0, 1e-9, 4e-16, &format!("{config:?} {:?}", g.layout()));
        }
    }
}

/// A model with tensors of several tasks, of less than one, and of shapes that fit no lane.
fn model(dtype: DType) -> NamedVars {
    let shapes: [(&str, &[usize]); 5] =
        [("a", &[300, 257]), ("b", &[70_001]), ("c", &[5, 3, 3]), ("d", &[]), ("e", &[1, 40_000])];
    shapes
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let var = noise(shape, i, 1.0).to_dtype(dtype).unwrap();
            ((*name).to_owned(), Var::from_tensor(&var).unwrap())
        })
        .collect()
}

fn gradients(vars: &NamedVars, seed: usize) -> Gradients {
    vars.iter()
        .map(|(name, var)| {
            let g = noise(var.dims(), seed, 0.01).to_dtype(var.dtype()).unwrap();
            (name.to_owned(), g)
        })
        .collect()
}

/// Bits of parameters and momenta after three steps on a pool of `threads`.
fn bits(config: &AnyConfig, dtype: DType, threads: usize) -> Vec<u64> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let vars = model(dtype);
        let mut optimizer = AnyOptimizer::from_named(vars.clone(), config.clone()).unwrap();
        for t in 0..3 {
            optimizer.step_named(&gradients(&vars, 100 + t)).unwrap();
        }
        let all = vars.iter().flat_map(|(name, var)| {
            [values(var), values(&optimizer.momentum(name).unwrap())].concat()
        });
        all.map(f64::to_bits).collect()
    })
}

#[test]
fn the_same_bits_whatever_the_number_of_threads() {
    for name in AnyConfig::NAMES {
        let config = AnyConfig::named(name).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            let one = bits(&config, dtype, 1);
            for threads in [2, 3, 8] {
                assert!(bits(&config, dtype, threads) == one, "{name} {dtype:?} {threads}");
            }
        }
    }
}

#[test]
fn nothing_has_changed_when_any_gradient_is_not_finite() {
    for name in AnyConfig::NAMES {
        for (which, bad) in [("a", f32::NAN), ("d", f32::INFINITY), ("e", f32::NEG_INFINITY)] {
            let vars = model(DType::F32);
            let config = AnyConfig::named(name).unwrap();
            let mut optimizer = AnyOptimizer::from_named(vars.clone(), config).unwrap();
            optimizer.step_named(&gradients(&vars, 1)).unwrap();
            let all = |o: &AnyOptimizer| -> Vec<f64> {
                vars.iter()
                    .flat_map(|(name, var)| {
                        let (m, f) = (o.momentum(name).unwrap(), o.fim(name).unwrap());
                        [values(var), values(&m), values(&f)].concat()
                    })
                    .collect()
            };
            let before = all(&optimizer);
            let mut g = gradients(&vars, 2);
            // one element, the last
            let n = g[which].elem_count();
            let mut data = g[which].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            data[n - 1] = bad;
            let tensor = Tensor::from_vec(data, g[which].shape(), &Device::Cpu).unwrap();
            g.insert(which.to_owned(), tensor);
            let err = optimizer.step_named(&g).unwrap_err().to_string();
            assert!(err.contains(&format!("gradient of {which:?}")), "{name}: {err}");
            assert!(all(&optimizer) == before, "{name}: something changed");
        }
    }
}

/// The parameters as their own gradients.
fn themselves(vars: &NamedVars) -> Gradients {
    vars.iter().map(|(name, var)| (name.to_owned(), var.as_tensor().clone())).collect()
}

/// A gradient may be a parameter, its own or another: it is copied before anything changes.
#[test]
fn a_gradient_that_is_a_parameter() {
    let vars = model(DType::F32);
    let copies = model(DType::F32);
    let config = AnyConfig::from(FAdamConfig::default());
    let mut aliased = AnyOptimizer::from_named(vars.clone(), config.clone()).unwrap();
    let mut copied = AnyOptimizer::from_named(copies.clone(), config).unwrap();
    aliased.step_named(&themselves(&vars)).unwrap();
    let copy = |(name, x): (String, Tensor)| (name, x.copy().unwrap());
    copied.step_named(&themselves(&copies).into_iter().map(copy).collect()).unwrap();
    for (name, var) in vars.iter() {
        assert_eq!(values(var), values(copies.get(name).unwrap()), "{name}");
    }
}
