//! What an optimizer can be asked to do with a step: go up, clip the norm of all gradients, skip what is not finite.

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{
    AnyConfig, AnyOptimizer, Backend, Error, Fisher, Gradients, Group, LossGradients,
};

const BACKENDS: [Backend; 2] = [Backend::Fused, Backend::Reference];
const DTYPES: [DType; 4] = [DType::F64, DType::F32, DType::BF16, DType::F16];

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn tensor(shape: &[usize], seed: usize, dtype: DType) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f64> = (0..n).map(|i| ((i * 7 + seed * 13) as f64 * 0.7).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// A matrix of several tasks, if it is factored, and a vector.
fn gradients(seed: usize, dtype: DType) -> Gradients {
    Gradients::from([
        ("a".to_owned(), tensor(&[70, 5], seed, dtype)),
        ("b".to_owned(), tensor(&[3], seed + 1, dtype)),
    ])
}

fn times(gradients: &Gradients, factor: f64) -> Gradients {
    gradients.iter().map(|(name, g)| (name.clone(), (g * factor).unwrap())).collect()
}

fn squares(gradients: &Gradients) -> Gradients {
    gradients.iter().map(|(name, g)| (name.clone(), g.sqr().unwrap())).collect()
}

fn optimizer(name: &str, dtype: DType, backend: Backend) -> AnyOptimizer {
    let var = |(name, theta)| (name, Var::from_tensor(&theta).unwrap());
    let vars = gradients(1, dtype).into_iter().map(var).collect();
    AnyOptimizer::from_named(vars, AnyConfig::named(name).unwrap()).unwrap().backend(backend)
}

/// θ, m and f of all parameters.
fn numbers(optimizer: &AnyOptimizer) -> Vec<f64> {
    let mut all = Vec::new();
    for (name, var) in optimizer.vars() {
        let (m, f) = (optimizer.momentum(&name).unwrap(), optimizer.fim(&name).unwrap());
        all.extend([values(&var), values(&m), values(&f)].concat());
    }
    all
}

/// Calls `check` for every algorithm, dtype and backend.
fn everywhere(check: impl Fn(&dyn Fn() -> AnyOptimizer, DType, &str)) {
    for name in AnyConfig::NAMES {
        for dtype in DTYPES {
            for backend in BACKENDS {
                let what = format!("{name} {dtype:?} {backend:?}");
                check(&|| optimizer(name, dtype, backend), dtype, &what);
            }
        }
    }
}

#[test]
fn up_with_minus_g_is_down_with_g() {
    everywhere(|new, dtype, what| {
        let (mut up, mut down, mut plain) = (new().maximize(true), new().maximize(false), new());
        for k in 0..3 {
            let (g, s, u) =
                (gradients(10 + k, dtype), gradients(20 + k, dtype), gradients(30 + k, dtype));
            let sampled = Fisher::Sampled { gradients: &s, batch: 4 };
            let (minus_g, minus_u) = (times(&g, -1.0), times(&u, -1.0));
            let losses = LossGradients::new(&minus_g).auxiliary(&minus_u, 0.5);
            up.step_with(losses, sampled).unwrap();
            for optimizer in [&mut down, &mut plain] {
                let losses = LossGradients::new(&g).auxiliary(&u, 0.5);
                optimizer.step_with(losses, sampled).unwrap();
            }
        }
        assert_eq!(numbers(&up), numbers(&down), "{what}");
        assert_eq!(numbers(&down), numbers(&plain), "{what}");
    });
}

/// Weight decay still decays: going up with g and down with −g are one, and not down with g.
#[test]
fn up_is_not_down() {
    everywhere(|new, dtype, what| {
        let (mut up, mut down) = (new().maximize(true), new());
        let g = gradients(10, dtype);
        up.step_named(&g).unwrap();
        down.step_named(&g).unwrap();
        for name in ["a", "b"] {
            let [up, down] = [&up, &down].map(|o| values(&o.momentum(name).unwrap()));
            let minus: Vec<f64> = down.iter().map(|m| -m).collect();
            assert_eq!(up, minus, "{what}");
        }
        assert_ne!(numbers(&up), numbers(&down), "{what}");
    });
}

/// Gradients of norm 5 exactly: four of ±2 in a, of 70 × 5, and 3 in b.
fn norm_5(dtype: DType) -> Gradients {
    let mut a = vec![0.0; 350];
    (a[3], a[100], a[101], a[349]) = (2.0, -2.0, -2.0, 2.0);
    let a = Tensor::from_vec(a, (70, 5), &Device::Cpu).unwrap();
    let b = Tensor::new(&[0.0, -3.0, 0.0], &Device::Cpu).unwrap();
    let of = |x: &Tensor| x.to_dtype(dtype).unwrap();
    Gradients::from([("a".to_owned(), of(&a)), ("b".to_owned(), of(&b))])
}

/// By a power of two, by hand, bit for bit; the squares by its square. (A quarter of an f16 may be subnormal.)
#[test]
fn clipped_to_a_quarter_is_a_quarter_of_the_gradients() {
    everywhere(|new, dtype, what| {
        if dtype == DType::F16 {
            return;
        }
        let mut clipped = new().max_grad_norm(Some(1.25)).unwrap();
        let mut by_hand = new();
        let (g, s, u) = (norm_5(dtype), gradients(20, dtype), gradients(30, dtype));
        let q = squares(&s);
        let (g4, s4, u4) = (times(&g, 0.25), times(&s, 0.25), times(&u, 0.25));
        let q16 = times(&q, 0.0625);
        clipped.step_named(&g).unwrap();
        by_hand.step_named(&g4).unwrap();
        let losses = LossGradients::new(&g).auxiliary(&u, 0.5);
        clipped.step_with(losses, Fisher::Sampled { gradients: &s, batch: 4 }).unwrap();
        clipped.step_with(losses, Fisher::Microbatch(&q)).unwrap();
        let losses = LossGradients::new(&g4).auxiliary(&u4, 0.5);
        by_hand.step_with(losses, Fisher::Sampled { gradients: &s4, batch: 4 }).unwrap();
        by_hand.step_with(losses, Fisher::Microbatch(&q16)).unwrap();
        assert_eq!(numbers(&clipped), numbers(&by_hand), "{what}");
        assert_eq!(clipped.report().unwrap().grad_norm, Some(5.0), "{what}");
    });
}

#[test]
fn clipped_by_any_other_factor_too() {
    for name in AnyConfig::NAMES {
        for (dtype, share) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
            for backend in BACKENDS {
                let new = || optimizer(name, dtype, backend);
                let max = 0.7;
                let (mut clipped, mut by_hand) = (new().max_grad_norm(Some(max)).unwrap(), new());
                for k in 0..3 {
                    let g = gradients(10 + k, dtype);
                    let norm: f64 = g.values().flat_map(values).map(|g| g * g).sum::<f64>().sqrt();
                    clipped.step_named(&g).unwrap();
                    by_hand.step_named(&times(&g, max / norm)).unwrap();
                }
                let what = format!("{name} {dtype:?} {backend:?}");
                for (parameter, var) in clipped.vars() {
                    let of = |optimizer: &AnyOptimizer| {
                        let (m, f) = (optimizer.momentum(&parameter), optimizer.fim(&parameter));
                        let theta = optimizer.vars().get(&parameter).unwrap().as_tensor().clone();
                        [theta, m.unwrap(), f.unwrap()].map(|x| values(&x))
                    };
                    let ([theta, m, f], [theta2, m2, f2]) = (of(&clipped), of(&by_hand));
                    // θ and the parts of an m, which can cancel, are of about 1; f adds up.
                    for (a, b) in theta.iter().chain(&m).zip(theta2.iter().chain(&m2)) {
                        assert!((a - b).abs() <= share, "{what}: {a:e}, not {b:e}");
                    }
                    for (a, b) in f.iter().zip(&f2) {
                        assert!((a - b).abs() <= share * b, "{what}: fim {a:e}, not {b:e}");
                    }
                    assert_eq!(f.len(), var.elem_count());
                }
            }
        }
    }
}

/// Before f: f is of what is left of g.
#[test]
fn the_norm_is_clipped_before_f() {
    let mut fadam =
        optimizer("fadam", DType::F64, Backend::Fused).max_grad_norm(Some(2.5)).unwrap();
    fadam.step_named(&norm_5(DType::F64)).unwrap();
    assert_eq!(values(&fadam.fim("b").unwrap()), [0.0, 1.5 * 1.5, 0.0]);
}

#[test]
fn a_norm_within_its_bound_is_left_alone() {
    everywhere(|new, dtype, what| {
        let (mut bounded, mut free) = (new().max_grad_norm(Some(5.0)).unwrap(), new());
        let mut loose = new().max_grad_norm(Some(20.0)).unwrap();
        let mut off = new().max_grad_norm(Some(1.0)).unwrap().max_grad_norm(None).unwrap();
        free.step_named(&norm_5(dtype)).unwrap();
        for optimizer in [&mut bounded, &mut loose, &mut off] {
            optimizer.step_named(&norm_5(dtype)).unwrap();
            assert_eq!(numbers(optimizer), numbers(&free), "{what}");
        }
        let norm = |optimizer: &AnyOptimizer| optimizer.report().unwrap().grad_norm;
        assert_eq!((norm(&bounded), norm(&free), norm(&off)), (Some(5.0), None, None));
    });
}

/// The norm of frozen parameters' gradients is no concern of the others.
#[test]
fn the_norm_is_of_what_is_trained() {
    let frozen = vec![Group::new("a").frozen(true)];
    let fadam = optimizer("fadam", DType::F64, Backend::Fused).groups(frozen).unwrap();
    let mut fadam = fadam.max_grad_norm(Some(3.0)).unwrap();
    fadam.step_named(&norm_5(DType::F64)).unwrap();
    assert_eq!(fadam.report().unwrap().grad_norm, Some(3.0));
}

#[test]
fn an_impossible_bound_is_an_error() {
    for norm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let fadam = optimizer("fadam", DType::F64, Backend::Fused);
        let err = fadam.max_grad_norm(Some(norm)).unwrap_err();
        assert!(matches!(err, Error::Config { field: "max_grad_norm", .. }), "{err}");
    }
}

/// These, but for the last number of `b`.
fn spoilt(mut gradients: Gradients, number: f64) -> Gradients {
    let mut b = values(&gradients["b"]);
    *b.last_mut().unwrap() = number;
    let dtype = gradients["b"].dtype();
    let b = Tensor::new(b, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    gradients.insert("b".into(), b);
    gradients
}

/// Steps of which each has something that is not finite: g, squares, a sampled gradient, the auxiliary gradient.
fn bad_steps(dtype: DType, mut step: impl FnMut(LossGradients<'_>, Fisher<'_>)) {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let g = gradients(10, dtype);
        let spoilt = spoilt(squares(&g), bad);
        step((&spoilt).into(), Fisher::Minibatch);
        step((&g).into(), Fisher::Microbatch(&spoilt));
        step((&g).into(), Fisher::Sampled { gradients: &spoilt, batch: 2 });
        step(LossGradients::new(&g).auxiliary(&spoilt, 1.0), Fisher::Minibatch);
    }
}

#[test]
fn the_skip_policy_counts_and_goes_on_as_if_nothing_had_been() {
    everywhere(|new, dtype, what| {
        let mut skipping = new().skip_non_finite(true).max_grad_norm(Some(1.0)).unwrap();
        let mut plain = new().max_grad_norm(Some(1.0)).unwrap();
        skipping.step_named(&gradients(11, dtype)).unwrap();
        plain.step_named(&gradients(11, dtype)).unwrap();
        let mut count = 0;
        bad_steps(dtype, |losses, fisher| {
            skipping.step_with(losses, fisher).unwrap();
            count += 1;
            assert_eq!((skipping.skipped_steps(), skipping.steps()), (count, 1), "{what}");
            assert_eq!(numbers(&skipping), numbers(&plain), "{what}");
        });
        assert_eq!(count, 12);
        skipping.step_named(&gradients(12, dtype)).unwrap();
        plain.step_named(&gradients(12, dtype)).unwrap();
        assert_eq!(numbers(&skipping), numbers(&plain), "{what}");
        assert_eq!((skipping.steps(), plain.skipped_steps()), (2, 0), "{what}");
    });
}

#[test]
fn other_errors_are_not_skipped() {
    let mut skipping = optimizer("fadam", DType::F32, Backend::Fused).skip_non_finite(true);
    let mut g = gradients(10, DType::F32);
    g.remove("b");
    assert!(matches!(skipping.step_named(&g), Err(Error::MissingGradient { .. })));
    let negative = times(&squares(&gradients(10, DType::F32)), -1.0);
    let g = gradients(10, DType::F32);
    let err = skipping.step_with(&g, Fisher::Microbatch(&negative)).unwrap_err();
    assert!(matches!(err, Error::NegativeSquares { .. }), "{err}");
    assert_eq!(skipping.skipped_steps(), 0);
}

/// The numbers, the step count and the report.
#[test]
fn the_error_policy_leaves_everything_as_it_was() {
    everywhere(|new, dtype, what| {
        for max in [None, Some(1.0)] {
            let mut optimizer = new().max_grad_norm(max).unwrap();
            optimizer.step_named(&gradients(11, dtype)).unwrap();
            let (before, report) = (numbers(&optimizer), optimizer.report().unwrap());
            bad_steps(dtype, |losses, fisher| {
                let err = optimizer.step_with(losses, fisher).unwrap_err();
                assert!(
                    matches!(&err, Error::NonFiniteGradient { name } if name == "b"),
                    "{what}: {err}"
                );
                assert_eq!(numbers(&optimizer), before, "{what}");
                assert_eq!(optimizer.report().unwrap(), report, "{what}");
            });
        }
    });
}
