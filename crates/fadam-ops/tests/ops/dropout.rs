//! `dropout`

use candle_core::{DType, Device, Tensor, Var};

use crate::check::{Case, Draw, cast, numbers};

pub(crate) fn case(seed: u64, shape: &[usize], p: f64) -> Case {
    let count: usize = shape.iter().product();
    // The mask, seen in what becomes of ones.
    let ones = Tensor::ones(count, DType::F64, &Device::Cpu).unwrap();
    let mask = fadam_ops::dropout(&ones, p, seed).unwrap().reshape(shape).unwrap();
    let mask = mask.ne(0.0).unwrap().to_dtype(DType::F64).unwrap();
    Case {
        name: format!("dropout {shape:?} p {p}"),
        arguments: vec![Draw::new(seed).tensor(shape)],
        op: Box::new(move |x: &[Tensor]| fadam_ops::dropout(&x[0], p, seed)),
        composed: Box::new(move |x: &[Tensor]| (&x[0] * &mask)? / (1.0 - p)),
    }
}

#[test]
fn values_and_gradients() {
    for shape in [&[7][..], &[3, 5], &[2, 3, 64], &[300, 67]] {
        // Two roundings: of 1/(1 − p) and of the product.
        case(23, shape, 0.3).check(3.0);
        case(24, shape, 0.0).check(3.0);
    }
}

fn dropped(x: &Tensor) -> Vec<bool> {
    numbers(x).iter().map(|x| *x == 0.0).collect()
}

#[test]
fn one_in_so_many_is_dropped_wherever_it_lies() {
    let ones = Tensor::ones((100, 1000), DType::F32, &Device::Cpu).unwrap();
    for p in [0.01, 0.1, 0.5, 0.9] {
        let y = fadam_ops::dropout(&ones, p, 5).unwrap();
        let of = dropped(&y);
        // Five standard deviations, of all, of each tenth, and of pairs of neighbours: places are independent.
        let near = |of: f64, n: f64, p: f64| (of - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt();
        let count = |of: &[bool]| of.iter().filter(|x| **x).count() as f64;
        assert!(near(count(&of), 1e5, p));
        assert!(of.chunks(10_000).all(|of| near(count(of), 1e4, p)));
        for distance in [1, 1000, 1024] {
            let both: Vec<bool> = of.iter().zip(&of[distance..]).map(|(a, b)| *a && *b).collect();
            assert!(near(count(&both), both.len() as f64, p * p), "{p} {distance}");
        }
        let kept = numbers(&y).into_iter().find(|y| *y != 0.0).unwrap();
        assert!((kept * (1.0 - p) - 1.0).abs() < 1e-6);
    }
}

#[test]
fn the_mask_is_of_the_seed_and_the_place() {
    let x = Tensor::ones((3, 1000), DType::F64, &Device::Cpu).unwrap();
    let mask = |x: &Tensor, seed: u64| dropped(&fadam_ops::dropout(x, 0.4, seed).unwrap());
    let first = mask(&x, 1);
    assert_eq!(first, mask(&x, 1));
    assert_ne!(first, mask(&x, 2));
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        assert_eq!(first, mask(&cast(std::slice::from_ref(&x), dtype)[0], 1), "{dtype:?}");
    }
    // Whatever the shape; a shorter tensor has the beginning of it.
    assert_eq!(first, mask(&x.t().unwrap(), 1));
    assert_eq!(first[..1000], mask(&x.narrow(0, 0, 1).unwrap(), 1));
}

#[test]
fn backward_drops_what_forward_dropped() {
    let x = Var::ones((5, 1000), DType::F32, &Device::Cpu).unwrap();
    let y = fadam_ops::dropout(&x, 0.3, 9).unwrap();
    let dx = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone();
    assert_eq!(numbers(&dx), numbers(&y));
}

#[test]
fn without_dropout_nothing_changes() {
    let x = Draw::new(25).tensor((3, 5));
    assert_eq!(numbers(&fadam_ops::dropout(&x, 0.0, 3).unwrap()), numbers(&x));
}
