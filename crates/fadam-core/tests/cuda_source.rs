//! `step.cu`, compiled as host C++, with the tables and the launches of the CUDA backend: every golden case at every
//! step, tensors of every kind of partition against a plain step in f64, many tensors in one launch, and what happens
//! to a step that finds something not finite. Skipped, and says so, where there is no C++ compiler.

#[path = "../src/kernel/cuda/entry.rs"]
mod entry;
#[path = "../src/kernel/cuda/session.rs"]
mod session;
#[path = "../src/kernel/cuda/table.rs"]
mod table;

mod cuda_host;
#[allow(dead_code, reason = "each test program uses some of it")]
#[path = "common/golden.rs"]
mod golden;

use cuda_host::{Given, Host, Param, Plain, stored};
use entry::{Dtype, Kind, Numbers, Squared};
use fadam_core::AnyConfig;
use half::bf16;
use session::{Checked, OnBad, Session};

/// The numbers of a config at step `t`.
fn numbers(config: &AnyConfig, t: u64) -> Numbers {
    let preconditioned = Numbers {
        kind: Kind::Preconditioned,
        beta2: 0.0,
        t,
        offset: 0.0,
        eps: 0.0,
        eps2: None,
        rho: 0.5,
        clip: None,
        beta1: 0.0,
        share: 0.0,
        step: 0.0,
        decay: 0.0,
        aux: 0.0,
        gamma: 1.0,
        on_manifold: false,
    };
    macro_rules! fisher {
        ($c:expr) => {
            Numbers {
                beta2: $c.beta2,
                eps: $c.eps,
                eps2: $c.eps2,
                rho: $c.rho,
                clip: $c.clip,
                beta1: $c.beta1,
                share: 1.0 - $c.beta1,
                step: $c.lr,
                decay: $c.lr * $c.weight_decay,
                on_manifold: true,
                ..preconditioned
            }
        };
    }
    match config {
        AnyConfig::FAdam(c) => fisher!(c),
        AnyConfig::FAdafactor(c) => fisher!(c),
        AnyConfig::Adam(c) => Numbers {
            kind: Kind::Adam,
            beta2: c.beta2,
            eps: c.eps,
            clip: c.clip,
            beta1: c.beta1,
            share: 1.0 - c.beta1,
            step: c.lr,
            decay: c.lr * c.weight_decay,
            ..preconditioned
        },
        AnyConfig::Adafactor(c) => Numbers {
            beta2: c.beta2,
            offset: c.eps,
            clip: c.clip,
            beta1: c.beta1,
            share: (1.0 - c.beta1) * c.lr,
            step: 1.0,
            decay: c.weight_decay * if c.weight_decay_times_lr { c.lr } else { 1.0 },
            ..preconditioned
        },
        AnyConfig::Parts(_) => unreachable!("it has no kernel of its own"),
    }
}

/// f₀, and whether a matrix is factored.
fn initial(config: &AnyConfig) -> (f64, bool) {
    match config {
        AnyConfig::FAdam(_) => (1.0, false),
        AnyConfig::FAdafactor(_) => (1.0, true),
        AnyConfig::Adam(_) => (0.0, false),
        AnyConfig::Adafactor(_) => (0.0, true),
        AnyConfig::Parts(_) => unreachable!("it has no kernel of its own"),
    }
}

/// A parameter before its first step.
fn fresh(config: &AnyConfig, dims: &[usize], theta: &[f64], dtype: Dtype) -> Plain {
    let (f0, factored) = initial(config);
    let matrix = match dims {
        [.., n, width] if factored => Some((*n, *width)),
        _ => None,
    };
    Plain::new(dtype, theta, f0, matrix)
}

fn bits(values: &[Vec<f64>]) -> Vec<u64> {
    values.iter().flatten().map(|x| x.to_bits()).collect()
}

/// The same pseudo-random values everywhere, of about unit size.
fn noise(count: usize, seed: usize, scale: f64) -> Vec<f64> {
    let value = |i: usize| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988).fract() - 0.5;
    (0..count).map(|i| scale * (value(i) + value(i * i % 65_537))).collect()
}

/// θ = 0 − m, with m = 1 · m + 0 · g: what an f16 and a bf16 are rounded to.
#[test]
fn half_precision_is_rounded_to_the_nearest() {
    let Some(host) = Host::start() else { return };
    let by = Numbers {
        beta1: 1.0,
        share: 0.0,
        step: 1.0,
        decay: 0.0,
        ..numbers(&AnyConfig::named("fadam").unwrap(), 1)
    };
    for (dtype, limit) in [(Dtype::BF16, f64::from(bf16::MAX)), (Dtype::F16, 65_519.996)] {
        let every = (0..=u32::MAX).step_by(19_937).map(|bits| f64::from(f32::from_bits(bits)));
        // Half way between two, and the smallest.
        let ties = (0..2000)
            .map(|k| (f64::from(k) + 0.5) * 2f64.powi(-24))
            .chain([65_519.0, 65_519.996, 2049.0]);
        let m: Vec<f64> = every.chain(ties).filter(|m| m.abs() <= limit).collect();
        let mut plain = Plain::new(dtype, &vec![0.0; m.len()], 1.0, None);
        plain.m.clone_from(&m);
        let param = Param::new(&host, "w", &plain, Squared::OfGradient, false);
        let mut session = Session::new(host.clone(), OnBad::Halt).unwrap();
        let g = vec![1.0; m.len()];
        session.step(&[param.entry(by, &Given { g: &g, squares: None, auxiliary: None })]).unwrap();
        assert_eq!(session.check().unwrap(), Checked::default());
        let minus: Vec<f64> = m.iter().map(|m| 0.0 - m).collect();
        assert!(bits(&param.values()[..1]) == bits(&[stored(&minus, dtype)]), "{dtype:?}");
    }
}

#[test]
fn what_cannot_be_stored_is_found() {
    let Some(host) = Host::start() else { return };
    let config = AnyConfig::named("fadam").unwrap();
    let adam = AnyConfig::named("adam").unwrap();
    // θ moves beyond an f16; an infinite square; a negative one; an infinite auxiliary gradient; clipping is off and f64 overflows.
    let far = Numbers { step: 1e9, ..numbers(&config, 1) };
    let plain_step = numbers(&config, 1);
    let helped = Numbers { aux: 1.0, ..plain_step };
    let (one, infinite): (&[f64], &[f64]) = (&[1.0], &[f64::INFINITY]);
    let cases: [(_, _, _, &[f64], Option<&[f64]>, _); 5] = [
        (Dtype::F16, far, Squared::OfGradient, one, None, "theta"),
        (Dtype::F32, plain_step, Squared::Given(1.0), infinite, None, "f"),
        (Dtype::F32, plain_step, Squared::Given(1.0), &[-0.5], None, "squares"),
        (Dtype::F32, helped, Squared::OfGradient, one, Some(infinite), "g"),
        (Dtype::F64, numbers(&adam, 1), Squared::Sampled(1.0), infinite, None, "f"),
    ];
    for (dtype, by, squares, given, auxiliary, what) in cases {
        let plain = Plain::new(dtype, &[1.0], 1.0, None);
        let param = Param::new(&host, "w", &plain, squares, auxiliary.is_some());
        let mut session = Session::new(host.clone(), OnBad::Halt).unwrap();
        let given = Given { g: one, squares: Some(given), auxiliary };
        session.step(&[param.entry(by, &given)]).unwrap();
        let first = session.check().unwrap().first;
        assert_eq!(first, Some(("w".to_owned(), what)), "{dtype:?} {squares:?}");
        assert!(bits(&param.values()) == bits(&plain.values()), "{dtype:?} {squares:?}");
    }
}

/// g = 1e20 is an f32 and so is what Adam makes of it, but g² is not.
#[test]
fn squares_beyond_f32_are_computed_in_f64() {
    let Some(host) = Host::start() else { return };
    let by = numbers(&AnyConfig::named("adam").unwrap(), 1);
    let mut plain = Plain::new(Dtype::F32, &[1.0, 1.0], 0.0, None);
    let param = Param::new(&host, "w", &plain, Squared::OfGradient, false);
    let mut session = Session::new(host, OnBad::Halt).unwrap();
    let g = stored(&[1e20, 1.0], Dtype::F32);
    session.step(&[param.entry(by, &Given { g: &g, squares: None, auxiliary: None })]).unwrap();
    assert_eq!(session.check().unwrap(), Checked::default());
    let q: Vec<f64> = g.iter().map(|g| g * g).collect();
    assert!(plain.step(&by, &g, &q, None));
    for (ours, plain) in param.values().iter().flatten().zip(plain.values().iter().flatten()) {
        assert!((ours - plain).abs() <= 1e-6 * plain.abs(), "{ours:e}, not {plain:e}");
    }
}
