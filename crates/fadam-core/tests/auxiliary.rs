//! The gradient of an auxiliary loss goes past f and m (section 3.4.3): θ moves by −η w clip(u / d) and by nothing
//! else. What does not fit, of it or of an estimator of the FIM, is an error that changes nothing.

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{
    AdafactorConfig, AdamConfig, Algorithm, AnyConfig, AnyOptimizer, Backend, Error,
    FAdafactorConfig, FAdamConfig, Fisher, Gradients, LossGradients, NamedVars,
};

const BACKENDS: [Backend; 2] = [Backend::Fused, Backend::Reference];

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Pseudo-random numbers of about `scale`, none of them near 0.
fn tensor(shape: &[usize], seed: usize, scale: f64) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988).fract() + 0.1;
    let sign = |i: usize| if (i + seed).is_multiple_of(3) { -scale } else { scale };
    let values: Vec<f64> = (0..n).map(|i| sign(i) * value(i)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64).sqrt()
}

/// Parameters `a`, of several tasks where they are matrices, and `b`.
struct Two {
    vars: NamedVars,
    optimizer: AnyOptimizer,
}

fn gradients(seed: usize, scale: f64, dtype: DType) -> Gradients {
    let of = |shape: &[usize], seed| tensor(shape, seed, scale).to_dtype(dtype).unwrap();
    Gradients::from([("a".into(), of(&[70, 5], seed)), ("b".into(), of(&[9], seed + 1))])
}

impl Two {
    fn new(config: AnyConfig, dtype: DType, backend: Backend) -> Self {
        let var = |(name, theta)| (name, Var::from_tensor(&theta).unwrap());
        let vars: NamedVars = gradients(1, 1.0, dtype).into_iter().map(var).collect();
        let optimizer = AnyOptimizer::from_named(vars.clone(), config).unwrap();
        Self { vars, optimizer: optimizer.backend(backend) }
    }

    fn theta(&self, name: &str) -> Vec<f64> {
        values(self.vars.get(name).unwrap())
    }

    /// m and the FIM.
    fn state(&self, name: &str) -> [Vec<f64>; 2] {
        let (m, f) = (self.optimizer.momentum(name).unwrap(), self.optimizer.fim(name).unwrap());
        [values(&m), values(&f)]
    }

    fn everything(&self) -> Vec<Vec<f64>> {
        let mut all = vec![vec![self.optimizer.steps() as f64]];
        for name in ["a", "b"] {
            all.push(self.theta(name));
            all.extend(self.state(name));
        }
        all
    }
}

/// The four, and other exponents and clips; weight decay on.
fn configs() -> Vec<AnyConfig> {
    let mut configs: Vec<AnyConfig> =
        AnyConfig::NAMES.iter().map(|name| AnyConfig::named(name).unwrap()).collect();
    configs.push(FAdamConfig { rho: 0.7, clip: Some(0.3), eps: 0.1, ..Default::default() }.into());
    configs.push(FAdafactorConfig { rho: 1.0, clip: None, ..Default::default() }.into());
    configs.push(AdamConfig { clip: Some(2.5), eps: 1e-3, ..Default::default() }.into());
    configs.push(AdafactorConfig { clip: Some(0.2), ..Default::default() }.into());
    configs
}

/// d of the last step from the FIM, in the paper's words, and c.
fn divisor(config: &AnyConfig, g: &[f64], fim: &[f64]) -> (Vec<f64>, Option<f64>) {
    let fisher = |eps: f64, eps2: Option<f64>, rho: f64| {
        let floor = eps.min(eps2.unwrap() * rms(g)).powf(2.0 * rho);
        fim.iter().map(|f| f.powf(rho) + floor).collect()
    };
    match config {
        AnyConfig::FAdam(c) => (fisher(c.eps, c.eps2, c.rho), c.clip),
        AnyConfig::FAdafactor(c) => (fisher(c.eps, c.eps2, c.rho), c.clip),
        AnyConfig::Adam(c) => (fim.iter().map(|f| f.sqrt() + c.eps).collect(), c.clip),
        AnyConfig::Adafactor(c) => (fim.iter().map(|f| f.sqrt()).collect(), c.clip),
        AnyConfig::Parts(_) => unreachable!("not in configs()"),
    }
}

#[test]
fn theta_moves_by_the_clipped_natural_gradient_and_f_and_m_do_not_see_it() {
    let lr = 0.25;
    for mut config in configs() {
        config.set_lr(lr);
        for backend in BACKENDS {
            // u is clipped in the first case, and not in the second.
            for (scale, weight) in [(100.0, 0.5), (1e-4, -3.0)] {
                let mut with = Two::new(config.clone(), DType::F64, backend);
                let mut without = Two::new(config.clone(), DType::F64, backend);
                let (g, u) = (gradients(10, 0.1, DType::F64), gradients(20, scale, DType::F64));
                let losses = LossGradients::new(&g).auxiliary(&u, weight);
                with.optimizer.step_with(losses, Fisher::Minibatch).unwrap();
                without.optimizer.step_named(&g).unwrap();
                for name in ["a", "b"] {
                    assert_eq!(with.state(name), without.state(name), "{config:?}");
                    let (d, clip) = divisor(&config, &values(&g[name]), &with.state(name)[1]);
                    let natural: Vec<f64> =
                        values(&u[name]).iter().zip(&d).map(|(u, d)| u / d).collect();
                    let factor = clip.map_or(1.0, |c| (rms(&natural) / c).max(1.0));
                    assert!(clip.is_none() || (factor > 1.0) == (scale > 1.0), "as intended");
                    let (theta, plain) = (with.theta(name), without.theta(name));
                    for ((theta, plain), natural) in theta.iter().zip(&plain).zip(&natural) {
                        let expected = lr * weight * natural / factor;
                        let moved = plain - theta;
                        // Rounding is of θ, as large as 1, and of the movement.
                        let bound = 1e-12 * expected.abs() + 1e-15;
                        assert!(
                            (moved - expected).abs() < bound,
                            "{config:?} {backend:?}: {moved:e}, not {expected:e}"
                        );
                    }
                    let report = with.optimizer.report().unwrap();
                    let found = report.tensors.iter().find(|t| t.name == name).unwrap();
                    let off = found.measures.rms_auxiliary / rms(&natural) - 1.0;
                    assert!(off.abs() < 1e-12, "reported: {off:e}");
                }
            }
        }
    }
}

#[test]
fn f_and_m_do_not_see_it_in_any_dtype_however_often() {
    for name in AnyConfig::NAMES {
        for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
            let [mut with, mut without] =
                [0, 1].map(|_| Two::new(AnyConfig::named(name).unwrap(), dtype, Backend::Fused));
            for k in 0..4 {
                let (g, u) = (gradients(10 + k, 0.1, dtype), gradients(20 + k, 50.0, dtype));
                let losses = LossGradients::new(&g).auxiliary(&u, 3.0);
                with.optimizer.step_with(losses, Fisher::Minibatch).unwrap();
                without.optimizer.step_named(&g).unwrap();
                for parameter in ["a", "b"] {
                    assert_eq!(with.state(parameter), without.state(parameter), "{name} {dtype:?}");
                    assert_ne!(with.theta(parameter), without.theta(parameter));
                }
            }
        }
    }
}

/// Twice as large a u is the same step where it is clipped, and g's clipping does not see it at all.
#[test]
fn it_is_clipped_on_its_own() {
    for backend in BACKENDS {
        for name in AnyConfig::NAMES {
            let after = |scale: f64| {
                let mut two = Two::new(AnyConfig::named(name).unwrap(), DType::F64, backend);
                let (g, mut u) = (gradients(10, 0.1, DType::F64), gradients(20, 1.0, DType::F64));
                for u in u.values_mut() {
                    *u = (&*u * scale).unwrap();
                }
                let losses = LossGradients::new(&g).auxiliary(&u, 1.0);
                two.optimizer.step_with(losses, Fisher::Minibatch).unwrap();
                two.everything()
            };
            let (once, large) = (after(1.0), after(2f64.powi(30)));
            for (a, b) in once.iter().flatten().zip(large.iter().flatten()) {
                assert!((a - b).abs() < 1e-15, "{name} {backend:?}: {a} {b}");
            }
        }
    }
}

#[test]
fn it_may_miss_parameters_and_a_weight_of_0_is_none() {
    for backend in BACKENDS {
        for name in AnyConfig::NAMES {
            let [mut with, mut without, mut zero] =
                [0; 3].map(|_| Two::new(AnyConfig::named(name).unwrap(), DType::F32, backend));
            let (g, u) = (gradients(10, 0.1, DType::F32), gradients(20, 1.0, DType::F32));
            let only_a = Gradients::from([("a".to_owned(), u["a"].clone())]);
            let losses = LossGradients::new(&g).auxiliary(&only_a, 1.0);
            with.optimizer.step_with(losses, Fisher::Minibatch).unwrap();
            without.optimizer.step_with(&g, Fisher::Minibatch).unwrap();
            assert_eq!(with.theta("b"), without.theta("b"), "{name}");
            assert_ne!(with.theta("a"), without.theta("a"), "{name}");
            let losses = LossGradients::new(&g).auxiliary(&u, 0.0);
            zero.optimizer.step_with(losses, Fisher::Minibatch).unwrap();
            assert_eq!(zero.everything(), without.everything(), "{name}");
        }
    }
}

/// The error of a step that is refused, after a good one; `what` is wrong with it, and it changes nothing.
fn refused(
    name: &str,
    backend: Backend,
    what: &str,
    (losses, fisher): (LossGradients<'_>, Fisher<'_>),
) -> Error {
    let mut two = Two::new(AnyConfig::named(name).unwrap(), DType::F32, backend);
    two.optimizer.step_named(&gradients(10, 0.1, DType::F32)).unwrap();
    let before = two.everything();
    let Err(err) = two.optimizer.step_with(losses, fisher) else {
        panic!("{name} {backend:?} takes a step that should be refused: {what}");
    };
    assert_eq!(two.everything(), before, "{name} {backend:?} changed something: {err}");
    err
}

/// These gradients, with another last number in `b`.
fn spoilt(mut g: Gradients, number: f64) -> Gradients {
    let mut b = values(&g["b"]);
    *b.last_mut().unwrap() = number;
    g.insert("b".into(), Tensor::new(b, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap());
    g
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    let g = gradients(11, 0.1, DType::F32);
    let q: Gradients = g.iter().map(|(name, g)| (name.clone(), g.sqr().unwrap())).collect();
    let mut unknown = q.clone();
    unknown.insert("c".into(), q["b"].clone());
    let none = Gradients::new();
    let only = |name: &str| Gradients::from([(name.to_owned(), q[name].clone())]);
    let (only_a, only_b) = (only("a"), only("b"));
    let shape =
        Gradients::from([("a".to_owned(), q["a"].clone()), ("b".to_owned(), q["a"].clone())]);
    let (nan, infinite) = (spoilt(q.clone(), f64::NAN), spoilt(q.clone(), f64::INFINITY));
    let negative = spoilt(q.clone(), -1e-30);
    let sampled = |gradients| Fisher::Sampled { gradients, batch: 8 };
    let plain = || LossGradients::new(&g);
    let not_finite = "the gradient of \"b\" is not finite";
    let cases = [
        (plain(), Fisher::Microbatch(&none), "given nothing for [\"a\", \"b\"]"),
        (plain(), Fisher::Microbatch(&only_a), "given nothing for [\"b\"]"),
        (plain(), sampled(&only_b), "given nothing for [\"a\"]"),
        (plain(), Fisher::Microbatch(&unknown), "\"c\" is not a parameter"),
        (plain(), sampled(&unknown), "\"c\" is not a parameter"),
        (plain().auxiliary(&unknown, 1.0), Fisher::Minibatch, "\"c\" is not a parameter"),
        (plain(), Fisher::Microbatch(&shape), "the gradient of \"b\" has shape [70, 5]"),
        (
            plain().auxiliary(&shape, 1.0),
            Fisher::Minibatch,
            "the gradient of \"b\" has shape [70, 5]",
        ),
        (plain(), Fisher::Microbatch(&negative), "the squares given for \"b\" are negative"),
        (plain(), Fisher::Microbatch(&nan), not_finite),
        (plain(), Fisher::Microbatch(&infinite), not_finite),
        (plain(), sampled(&nan), not_finite),
        (plain(), sampled(&infinite), not_finite),
        (plain().auxiliary(&nan, 1.0), Fisher::Minibatch, not_finite),
        (plain().auxiliary(&infinite, 1.0), Fisher::Minibatch, not_finite),
        (plain().auxiliary(&q, f64::NAN), Fisher::Minibatch, "auxiliary weight = NaN"),
        (plain().auxiliary(&q, f64::INFINITY), Fisher::Minibatch, "auxiliary weight = inf"),
    ];
    for (losses, fisher, expected) in cases {
        for backend in BACKENDS {
            for name in AnyConfig::NAMES {
                let err = refused(name, backend, expected, (losses, fisher)).to_string();
                assert!(
                    err.contains(expected),
                    "{name} {backend:?}: {expected:?} is not in: {err}"
                );
            }
        }
    }
}

/// Squares beyond f32 would make an f of infinity, which no later gradient could ever bring back.
#[test]
fn an_estimate_beyond_f32_is_an_error() {
    let g = gradients(11, 0.1, DType::F32);
    let huge = spoilt(g.clone(), 1e25);
    for backend in BACKENDS {
        for name in AnyConfig::NAMES {
            let sampled = Fisher::Sampled { gradients: &huge, batch: 8 };
            let err = refused(name, backend, "f is infinite", ((&g).into(), sampled));
            assert!(matches!(err, Error::NonFiniteUpdate { .. }), "{name} {backend:?}: {err}");
        }
    }
}
