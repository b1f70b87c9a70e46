//! `logit_laplace`

use candle_core::{D, DType, Device, Tensor, Var};
use proptest::prelude::*;

use crate::check::{Case, Draw, numbers};

/// x in sixteenths of [0, 1], which every float type holds; no u is near its μ, where the loss has a corner.
pub(crate) fn case(seed: u64, shape: &[usize]) -> Case {
    let mut draw = Draw::new(seed);
    let width = shape[shape.len() - 1];
    let rows = shape.iter().product::<usize>() / width;
    let (mut parameters, mut x) = (Vec::new(), Vec::new());
    for _ in 0..rows {
        let mut mu = numbers(&draw.tensor(width));
        let row: Vec<f64> = draw.ids(width, 17).iter().map(|i| f64::from(*i) / 16.0).collect();
        for (mu, x) in mu.iter_mut().zip(&row) {
            let inner = 0.8 * x + 0.1;
            if ((inner / (1.0 - inner)).ln() - *mu).abs() < 0.05 {
                *mu += 0.25;
            }
        }
        parameters.extend(mu);
        parameters.extend(numbers(&draw.tensor(width)));
        x.extend(row);
    }
    let mut doubled = shape.to_vec();
    doubled[shape.len() - 1] = 2 * width;
    let parameters = Tensor::from_vec(parameters, doubled, &Device::Cpu).unwrap();
    let x = Tensor::from_vec(x, shape, &Device::Cpu).unwrap();
    let same = x.clone();
    Case {
        name: format!("logit_laplace {shape:?}"),
        arguments: vec![parameters],
        op: Box::new(move |given: &[Tensor]| {
            fadam_ops::logit_laplace(&given[0], &x.to_dtype(given[0].dtype())?)
        }),
        composed: Box::new(move |given: &[Tensor]| {
            let mu = given[0].narrow(D::Minus1, 0, width)?;
            let ln_sigma = given[0].narrow(D::Minus1, width, width)?;
            let inner = ((&same * 0.8)? + 0.1)?;
            let odds = (&inner / (1.0 - &inner)?)?;
            let density = (ln_sigma.exp()? * (&inner * (1.0 - &inner)?)?)?;
            let distance = ((odds.log()? - mu)?.abs()? / ln_sigma.exp()?)?;
            (distance + (density * 2.0)?.log()?)?.mean_all()
        }),
    }
}

#[test]
fn values_and_gradients() {
    for shape in [&[1][..], &[7], &[3, 5], &[2, 3, 64], &[300, 67], &[2, 5000]] {
        case(80, shape).check(16.0);
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, d in 1usize..40) {
        case(seed, &[a, b, d]).check_of_any_shape();
    }
}

fn of(mu: f64, ln_sigma: f64, x: f64) -> f64 {
    let parameters = Tensor::new(&[mu, ln_sigma], &Device::Cpu).unwrap();
    let x = Tensor::new(&[x], &Device::Cpu).unwrap();
    numbers(&fadam_ops::logit_laplace(&parameters, &x).unwrap())[0]
}

/// Losses of single numbers, written apart in NumPy.
#[test]
fn goldens() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/logit_laplace.safetensors");
    let golden = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let of_all = ["mu", "ln_sigma", "x", "nll"].map(|name| numbers(&golden[name]));
    assert_eq!(of_all[3].len(), 512);
    for (i, wanted) in of_all[3].iter().enumerate() {
        let ours = of(of_all[0][i], of_all[1][i], of_all[2][i]);
        assert!((ours - wanted).abs() <= 1e-12 * wanted.abs().max(1.0), "{i}: {ours} {wanted}");
    }
}

/// exp(−ℓ) is a density: over x' from 0.1 to 0.9 it has the probability that the Laplace distribution of logit x' has there. By
/// Simpson's rule, in two parts with the corner between them; the rest is in the tails, so that a wrong sign would show.
#[test]
fn the_density_is_the_distributions() {
    let logit = |p: f64| (p / (1.0 - p)).ln();
    for (mu, ln_sigma) in [(0.0, 0.0), (0.7, -1.0), (-1.2, 0.5), (1.5, 1.0), (-0.3, -2.0)] {
        let sigma = f64::exp(ln_sigma);
        let below = |u: f64| {
            let tail = 0.5 * (-(u - mu).abs() / sigma).exp();
            if u < mu { tail } else { 1.0 - tail }
        };
        let wanted = below(logit(0.9)) - below(logit(0.1));
        let corner = (1.0 / (1.0 + f64::exp(-mu)) - 0.1) / 0.8;
        let density = |x: f64| 0.8 * (-of(mu, ln_sigma, x)).exp();
        let simpson = |from: f64, to: f64| {
            let (n, step) = (2000, (to - from) / 2000.0);
            let weight = |i: i32| if i == 0 || i == n { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
            let place = |i: i32| (from + f64::from(i) * step).clamp(0.0, 1.0);
            (0..=n).map(|i| weight(i) * density(place(i))).sum::<f64>() * step / 3.0
        };
        let found = simpson(0.0, corner) + simpson(corner, 1.0);
        assert!((found - wanted).abs() < 1e-9, "{mu} {ln_sigma}: {found} {wanted}");
    }
}

/// At its corner the loss has a gradient of 0 for μ; x gets none.
#[test]
fn corners_and_data() {
    let parameters = Var::new(&[[0f64, 0.3]], &Device::Cpu).unwrap();
    let x = Var::new(&[[0.5f64]], &Device::Cpu).unwrap();
    let loss = fadam_ops::logit_laplace(&parameters, &x).unwrap();
    let gradients = loss.backward().unwrap();
    let g = numbers(gradients.get(&parameters).unwrap());
    assert_eq!(g[0], 0.0);
    assert!((g[1] - 1.0).abs() < 1e-12);
    assert!(gradients.get(&x).is_none());
    let half = [&parameters, &x].map(|x| x.to_dtype(DType::BF16).unwrap());
    let loss = fadam_ops::logit_laplace(&half[0], &half[1]).unwrap();
    assert_eq!(loss.dtype(), DType::F32);
}
