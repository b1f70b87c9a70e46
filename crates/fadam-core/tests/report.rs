//! The numbers of a report against the paper's lines by hand, in f64; the same from both backends.

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{
    AdafactorConfig, AdamConfig, AnyConfig, AnyOptimizer, Backend, FAdafactorConfig, FAdamConfig,
    Fisher, Gradients, Group, LossGradients, Measures, NamedVars, Quantiles, StepReport,
    TensorReport,
};

const BACKENDS: [Backend; 2] = [Backend::Fused, Backend::Reference];

fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64).sqrt()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * b.abs()
}

fn assert_measures(found: &Measures, expected: &Measures, what: &str) {
    let pairs = [
        ("RMS(g)", found.rms_g, expected.rms_g),
        ("ε̂", found.eps_hat, expected.eps_hat),
        ("RMS(ḡ)", found.rms_natural, expected.rms_natural),
        ("RMS(ḡw)", found.rms_decay, expected.rms_decay),
        ("RMS(ū)", found.rms_auxiliary, expected.rms_auxiliary),
    ];
    for (name, found, expected) in pairs {
        assert!(close(found, expected), "{what}: {name} = {found:e}, not {expected:e}");
    }
}

const THETA: [f64; 4] = [1.0, -2.0, 0.5, 3.0];
/// Of the first and the second step.
const G: [[f64; 4]; 2] = [[0.5, -1.0, 0.25, 2.0], [-1.0, 0.5, 0.125, 0.0625]];
const U: [f64; 4] = [3.0, 1.0, -2.0, 1.0];

fn tensor(numbers: &[f64]) -> Tensor {
    Tensor::new(numbers, &Device::Cpu).unwrap()
}

fn one(numbers: &[f64]) -> Gradients {
    Gradients::from([("w".to_owned(), tensor(numbers))])
}

fn scaled(numbers: &[f64], by: f64) -> Vec<f64> {
    numbers.iter().map(|x| x * by).collect()
}

fn optimizer(vars: &NamedVars, config: impl Into<AnyConfig>, backend: Backend) -> AnyOptimizer {
    AnyOptimizer::from_named(vars.clone(), config.into()).unwrap().backend(backend)
}

/// Both steps of one parameter, each with an auxiliary gradient; the second report.
fn two_steps(config: impl Into<AnyConfig>, scale: f64, backend: Backend) -> TensorReport {
    let vars = NamedVars::from_iter([("w".to_owned(), Var::from_tensor(&tensor(&THETA)).unwrap())]);
    let mut optimizer = optimizer(&vars, config, backend);
    for g in &G {
        let (g, u) = (one(&scaled(g, scale)), one(&U));
        // Without a weight, so that θ can be told by hand.
        let losses = LossGradients::new(&g).auxiliary(&u, 0.0);
        optimizer.step_with(losses, Fisher::Minibatch).unwrap();
    }
    let mut report = optimizer.report().unwrap();
    assert_eq!((report.step, report.skipped, report.grad_norm), (2, 0, None));
    assert_eq!(report.tensors.len(), 1);
    report.tensors.remove(0)
}

/// Elements 0, 0.15, 1.5 (rounded up), 2.85 and 3 of four.
fn quantiles(mut f: Vec<f64>) -> Quantiles {
    f.sort_by(f64::total_cmp);
    Quantiles { min: f[0], p05: f[0], median: f[2], p95: f[3], max: f[3] }
}

fn elements(q: Quantiles) -> [f64; 5] {
    [q.min, q.p05, q.median, q.p95, q.max]
}

fn assert_quantiles(found: Quantiles, expected: Quantiles) {
    for (a, b) in elements(found).into_iter().zip(elements(expected)) {
        assert!(close(a, b), "{found:?}, not {expected:?}");
    }
}

/// Algorithm 1 with λ = 0, so that θ stays by hand: both branches of ε̂, and clipped or not.
#[test]
fn fadam_by_hand() {
    let beta2 = 0.9;
    for (scale, branch) in [(1.0, "ε"), (1e-7, "ε2 RMS(g)")] {
        for (c, rho) in [(0.3, 0.5), (1.4, 0.5), (1e9, 0.7)] {
            let (eps, eps2) = (1e-8, 0.01);
            let config = FAdamConfig {
                beta2,
                clip: Some(c),
                rho,
                weight_decay: 0.0,
                lr: 0.0,
                ..Default::default()
            };
            let [g1, g] = G.map(|g| scaled(&g, scale));
            let old = beta2 * (1.0 - beta2) / (1.0 - beta2 * beta2);
            let f: Vec<f64> =
                g1.iter().zip(&g).map(|(a, b)| old * a * a + (1.0 - old) * b * b).collect();
            let eps_hat = f64::min(eps, eps2 * rms(&g));
            assert_eq!(eps_hat == eps, branch == "ε", "the branch that is meant");
            let over_d = |x: &[f64]| -> f64 {
                let d = f.iter().map(|f| f.powf(rho) + eps_hat.powf(2.0 * rho));
                rms(&x.iter().zip(d).map(|(x, d)| x / d).collect::<Vec<_>>())
            };
            let expected = Measures {
                rms_g: rms(&g),
                eps_hat,
                rms_natural: over_d(&g),
                rms_decay: over_d(&THETA),
                rms_auxiliary: over_d(&U),
            };
            for backend in BACKENDS {
                let tensor = two_steps(config.clone(), scale, backend);
                assert_measures(&tensor.measures, &expected, &format!("{branch} {c} {backend:?}"));
                assert_eq!(tensor.clipped, expected.rms_natural > c, "{c}: {expected:?}");
                assert_eq!((tensor.name.as_str(), tensor.t, tensor.lr), ("w", 2, 0.0));
                assert_quantiles(tensor.fim, quantiles(f.clone()));
            }
            // 0.3 clips and 1e9 does not, whatever the numbers.
            assert!(c > 1.0 || expected.rms_natural > c);
        }
    }
}

/// Algorithms 3 and 4 have no decay on the manifold, and an ε that is ε; Algorithm 4 has none in d.
#[test]
fn the_baselines_by_hand() {
    let (beta1, beta2) = (0.8, 0.9);
    let g = G[1];
    for backend in BACKENDS {
        let eps = 1e-3;
        let config =
            AdamConfig { beta1, beta2, eps, lr: 0.0, clip: Some(0.5), ..Default::default() };
        let mean = |beta: f64, a: f64, b: f64| (beta * a + b) / (1.0 + beta); // corrected
        let m: Vec<f64> = G[0].iter().zip(g).map(|(a, b)| mean(beta1, *a, b)).collect();
        let f: Vec<f64> = G[0].iter().zip(g).map(|(a, b)| mean(beta2, a * a, b * b)).collect();
        let over = |x: &[f64], eps: f64| {
            rms(&x.iter().zip(&f).map(|(x, f)| x / (f.sqrt() + eps)).collect::<Vec<_>>())
        };
        let adam = two_steps(config, 1.0, backend);
        let expected = Measures {
            rms_g: rms(&g),
            eps_hat: eps,
            rms_natural: over(&m, eps),
            rms_decay: 0.0,
            rms_auxiliary: over(&U, eps),
        };
        assert_measures(&adam.measures, &expected, "adam");
        assert!(adam.clipped, "{expected:?}");
        assert_quantiles(adam.fim, quantiles(f.clone()));

        let config = AdafactorConfig {
            beta1,
            beta2,
            lr: 0.25,
            clip: None,
            weight_decay: 0.0,
            ..Default::default()
        };
        let adafactor = two_steps(config, 1.0, backend);
        let expected = Measures {
            rms_g: rms(&g),
            eps_hat: 0.0,
            rms_natural: over(&g, 0.0),
            rms_decay: 0.0,
            rms_auxiliary: over(&U, 0.0),
        };
        assert_measures(&adafactor.measures, &expected, "adafactor");
        assert!(!adafactor.clipped, "clipping is off");
        assert_eq!(adafactor.lr, 0.25);
        assert_quantiles(adafactor.fim, quantiles(f.clone()));
    }
}

/// f = g² = 0, 1, 4, … 400 in another order: elements 0, 1, 10, 19 and 20 of the sorted 21.
#[test]
fn quantiles_are_elements() {
    let g: Vec<f64> = (0..21).map(|i| f64::from(i * 8 % 21)).collect();
    let vars = NamedVars::from_iter([("w".to_owned(), Var::from_tensor(&tensor(&g)).unwrap())]);
    let mut fadam = optimizer(&vars, FAdamConfig::default(), Backend::Fused);
    fadam.step_named(&one(&g)).unwrap();
    let expected = Quantiles { min: 0.0, p05: 1.0, median: 100.0, p95: 361.0, max: 400.0 };
    assert_eq!(fadam.report().unwrap().tensors[0].fim, expected);
}

fn noise(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988).fract() - 0.5;
    Tensor::from_vec((0..n).map(value).collect::<Vec<f64>>(), shape, &Device::Cpu).unwrap()
}

/// The report of a step with everything that can be in it.
fn full_step(config: &AnyConfig, dtype: DType, backend: Backend) -> StepReport {
    let tensors = |seed: usize| -> Gradients {
        let of = |shape: &[usize]| noise(shape, seed).to_dtype(dtype).unwrap();
        Gradients::from([("a".to_owned(), of(&[300, 130])), ("b".to_owned(), of(&[7]))])
    };
    let var = |(name, theta)| (name, Var::from_tensor(&theta).unwrap());
    let vars: NamedVars = tensors(1).into_iter().map(var).collect();
    let optimizer = optimizer(&vars, config.clone(), backend);
    let mut optimizer = optimizer.max_grad_norm(Some(3.0)).unwrap();
    let (g, s, u) = (tensors(2), tensors(3), tensors(4));
    let losses = LossGradients::new(&g).auxiliary(&u, 0.5);
    optimizer.step_with(losses, Fisher::Sampled { gradients: &s, batch: 8 }).unwrap();
    optimizer.report().unwrap()
}

#[test]
fn both_backends_report_the_same() {
    let configs: [AnyConfig; 4] = [
        FAdamConfig { rho: 0.6, ..Default::default() }.into(),
        FAdafactorConfig { eps: 0.1, clip: Some(0.4), ..Default::default() }.into(),
        AdamConfig::default().into(),
        AdafactorConfig::default().into(),
    ];
    for config in configs {
        for (dtype, share) in [(DType::F64, 1e-12), (DType::F32, 1e-5), (DType::BF16, 1e-5)] {
            let [fused, reference] = BACKENDS.map(|backend| {
                let report = full_step(&config, dtype, backend);
                let mut numbers = vec![report.grad_norm.unwrap(), report.clipped_share()];
                for TensorReport { measures: m, fim, .. } in report.tensors {
                    numbers.extend([m.rms_g, m.eps_hat, m.rms_natural, m.rms_decay]);
                    numbers.push(m.rms_auxiliary);
                    numbers.extend(elements(fim));
                }
                numbers
            });
            assert_eq!(fused.len(), 22);
            for (k, (a, b)) in fused.iter().zip(&reference).enumerate() {
                let what = format!("{config:?} {dtype:?}: number {k}");
                assert!((a - b).abs() <= share * b.abs(), "{what}: {a:e}, not {b:e}");
            }
        }
    }
}

#[test]
fn before_any_step_there_is_nothing_to_report() {
    let vars = NamedVars::from_iter([("w".to_owned(), Var::from_tensor(&tensor(&THETA)).unwrap())]);
    let report = optimizer(&vars, FAdamConfig::default(), Backend::Fused).report().unwrap();
    assert_eq!((report.step, report.skipped, report.grad_norm), (0, 0, None));
    assert!(report.tensors.is_empty());
    assert_eq!(report.clipped_share(), 0.0);
    let optimizer = optimizer(&vars, FAdamConfig::default(), Backend::Fused);
    assert_eq!((optimizer.grad_norm(), optimizer.clipped_share()), (None, None));
}

/// Two tensors of different length with gradients 3 and 4 times G: the norm is that of all seven numbers together, not of what a limit
/// makes of them, and needs no limit to be known.
#[test]
fn the_norm_of_all_gradients_is_known_with_a_limit_and_without() {
    let short = &THETA[..3];
    let vars: NamedVars = [("a", &THETA[..]), ("b", short)]
        .into_iter()
        .map(|(name, of)| (name.to_owned(), Var::from_tensor(&tensor(of)).unwrap()))
        .collect();
    let (a, b) = (scaled(&G[0], 3.0), scaled(&G[0][..3], 4.0));
    let norm = a.iter().chain(&b).map(|g| g * g).sum::<f64>().sqrt();
    let gradients: Gradients =
        [("a", a), ("b", b)].into_iter().map(|(name, g)| (name.to_owned(), tensor(&g))).collect();
    for backend in BACKENDS {
        for limit in [None, Some(norm / 10.0)] {
            let optimizer = optimizer(&vars, FAdamConfig::default(), backend);
            let mut optimizer = optimizer.max_grad_norm(limit).unwrap();
            optimizer.step_named(&gradients).unwrap();
            assert!(close(optimizer.grad_norm().unwrap(), norm), "{limit:?}");
        }
    }
}

/// a is clipped and b is not; then only b has a gradient, and a skipped step is counted and changes nothing else.
#[test]
fn a_report_is_of_the_last_step() {
    let vars: NamedVars = ["a", "b"]
        .into_iter()
        .map(|name| (name.to_owned(), Var::from_tensor(&tensor(&THETA)).unwrap()))
        .collect();
    let b = Group::new("b")
        .config(FAdamConfig { clip: Some(9.0), ..Default::default() }.into())
        .lr_scale(2.0);
    let a = AnyConfig::from(FAdamConfig { clip: Some(0.5), ..Default::default() });
    for backend in BACKENDS {
        let optimizer = optimizer(&vars, a.clone(), backend).groups(vec![b.clone()]).unwrap();
        let optimizer = optimizer.skip_missing(true).skip_non_finite(true);
        let mut optimizer = optimizer.max_grad_norm(Some(100.0)).unwrap();
        let g = |names: &[&str], by: f64| -> Gradients {
            names.iter().map(|name| ((*name).to_owned(), tensor(&scaled(&G[0], by)))).collect()
        };
        optimizer.step_named(&g(&["a", "b"], 1.0)).unwrap();
        let report = optimizer.report().unwrap();
        let of = |k: usize| {
            (report.tensors[k].name.as_str(), report.tensors[k].clipped, report.tensors[k].lr)
        };
        assert_eq!((of(0), of(1)), (("a", true, 1e-3), ("b", false, 2e-3)));
        assert_eq!((report.clipped_share(), optimizer.clipped_share()), (0.5, Some(0.5)));
        assert!(close(report.grad_norm.unwrap(), 2.0 * 2f64.sqrt() * rms(&G[0])));

        optimizer.step_named(&g(&["b"], 4.0)).unwrap();
        let report = optimizer.report().unwrap();
        assert!(close(report.grad_norm.unwrap(), 8.0 * rms(&G[0])));
        let names: Vec<&str> = report.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["b"], "the tensors that the step changed");
        assert_eq!((report.step, report.tensors[0].t), (2, 2));

        optimizer.step_named(&g(&["a", "b"], f64::NAN)).unwrap();
        let mut skipped = optimizer.report().unwrap();
        assert_eq!(skipped.skipped, 1);
        skipped.skipped = 0;
        assert_eq!(skipped, report, "the last step that was taken");
    }
}
