//! `batch_norm` and `batch_norm_with`

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use crate::check::{Case, Draw, Op, cast, difference, numbers, relative};
use crate::padding::masked;

pub(crate) fn op(lengths: Vec<usize>, eps: f64) -> Op {
    Box::new(move |x: &[Tensor]| Ok(fadam_ops::batch_norm(&x[0], &x[1], &x[2], &lengths, eps)?.0))
}

pub(crate) fn case(seed: u64, (t, c): (usize, usize), lengths: &[usize], eps: f64) -> Case {
    let mut draw = Draw::new(seed);
    let of = lengths.to_vec();
    Case {
        name: format!("batch_norm {t} {c} {lengths:?}"),
        arguments: vec![draw.tensor((lengths.len(), t, c)), draw.tensor(c), draw.tensor(c)],
        op: op(lengths.to_vec(), eps),
        // The real frames one after another, and back.
        composed: Box::new(move |x: &[Tensor]| {
            let frames = |b: usize| (0..of[b]).map(move |i| (b * t + i) as u32);
            let places: Vec<u32> = (0..of.len()).flat_map(frames).collect();
            let places = Tensor::new(places, &Device::Cpu)?;
            let real = x[0].reshape(((), c))?.index_select(&places, 0)?;
            let centred = real.broadcast_sub(&real.mean_keepdim(0)?)?;
            let deviation = (centred.sqr()?.mean_keepdim(0)? + eps)?.sqrt()?;
            let y =
                centred.broadcast_div(&deviation)?.broadcast_mul(&x[1])?.broadcast_add(&x[2])?;
            let none = Tensor::zeros((of.len() * t, c), y.dtype(), &Device::Cpu)?;
            none.index_add(&places, &y, 0)?.reshape((of.len(), t, c))
        }),
    }
}

/// With given statistics.
pub(crate) fn with_case(seed: u64, shape: (usize, usize, usize)) -> Case {
    let mut draw = Draw::new(seed);
    let c = shape.2;
    let (mean, variance) = (draw.tensor(c), draw.tensor(c).sqr().unwrap());
    let given = (mean.clone(), variance.clone());
    Case {
        name: format!("batch_norm_with {shape:?}"),
        arguments: vec![draw.tensor(shape), draw.tensor(c), draw.tensor(c)],
        op: Box::new(move |x: &[Tensor]| {
            fadam_ops::batch_norm_with(&x[0], &x[1], &x[2], &mean, &variance, 0.1)
        }),
        composed: Box::new(move |x: &[Tensor]| {
            let n = x[0].broadcast_sub(&given.0)?.broadcast_div(&(&given.1 + 0.1)?.sqrt()?)?;
            n.broadcast_mul(&x[1])?.broadcast_add(&x[2])
        }),
    }
}

#[test]
fn values_and_gradients() {
    for (t, c, lengths) in [
        (7, 1, &[7][..]),
        (5, 3, &[5, 2]),
        (9, 16, &[9, 0, 8]),
        (70, 17, &[70, 65]),
        (300, 33, &[300, 64, 129]),
    ] {
        case(22, (t, c), lengths, 1e-3).check(32.0);
    }
}

#[test]
fn values_and_gradients_with_given_statistics() {
    for shape in [(1, 1, 1), (2, 5, 3), (3, 70, 17), (1, 300, 32)] {
        with_case(23, shape).check(32.0);
    }
}

/// Mean and variance are those of the real frames, and outside of the graph; with them, evaluation gives what training gave.
#[test]
fn moments() {
    let (t, lengths) = (150, [150, 7, 0, 131]);
    let of = case(24, (t, 5), &lengths, 1e-3);
    let real = masked(&of.arguments[0], &lengths).unwrap();
    for (dtype, bound) in [(DType::F64, 1e-14), (DType::F32, 1e-6), (DType::BF16, 0.01)] {
        let x: Vec<Var> =
            cast(&of.arguments, dtype).iter().map(|x| Var::from_tensor(x).unwrap()).collect();
        let (y, moments) = fadam_ops::batch_norm(&x[0], &x[1], &x[2], &lengths, 1e-3).unwrap();
        assert_eq!(moments.count, 288);
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let mean = (real.sum((0, 1)).unwrap() / 288.0).unwrap();
        let centred = masked(&real.broadcast_sub(&mean).unwrap(), &lengths).unwrap();
        let variance = (centred.sqr().unwrap().sum((0, 1)).unwrap() / 288.0).unwrap();
        for (ours, wanted) in [(&moments.mean, mean), (&moments.variance, variance)] {
            assert_eq!((ours.dtype(), ours.dims()), (wide, &[5][..]));
            assert!(!ours.track_op());
            let off = relative(ours, &wanted);
            assert!(off < bound, "{dtype:?}: off by {off:e}");
        }
        let (mean, variance) = (&moments.mean, &moments.variance);
        let with = fadam_ops::batch_norm_with(&x[0], &x[1], &x[2], mean, variance, 1e-3).unwrap();
        let off = difference(&masked(&with.detach(), &lengths).unwrap(), &y.detach());
        assert!(off <= bound, "{dtype:?}: evaluation is off by {off:e}");
    }
}

/// The mean is taken away before squares are summed: an offset costs the digits that it takes from x, and no more.
#[test]
fn a_large_offset() {
    let of = case(25, (200, 4), &[200, 130], 1e-5);
    let near = (&of.arguments[0] * 64.0).unwrap().round().unwrap();
    let run = |x: &Tensor| {
        let [x, w, b] = [x, &of.arguments[1], &of.arguments[2]];
        let x = cast(&[x.clone(), w.clone(), b.clone()], DType::F32);
        fadam_ops::batch_norm(&x[0], &x[1], &x[2], &[200, 130], 1e-5).unwrap()
    };
    let ((near, of_near), (far, of_far)) = (run(&near), run(&(&near + 1e6).unwrap()));
    // The mean of a part is rounded to 1/16 of numbers between −96 and 96.
    assert!(relative(&far, &near) < 3e-3, "{}", relative(&far, &near));
    assert!(relative(&of_far.variance, &of_near.variance) < 1e-3);
}

/// A channel that does not vary: y is b, and gradients are finite.
#[test]
fn no_variance() {
    let x = Var::from_tensor(&Tensor::full(3f32, (2, 4, 1), &Device::Cpu).unwrap()).unwrap();
    let (w, b) = (Tensor::new(&[2f32], x.device()), Tensor::new(&[7f32], x.device()));
    let (w, b) = (w.unwrap(), b.unwrap());
    for lengths in [[4, 4], [1, 0]] {
        let (y, moments) = fadam_ops::batch_norm(&x, &w, &b, &lengths, 1e-5).unwrap();
        assert_eq!(moments.variance.to_vec1::<f32>().unwrap(), [0.0]);
        let real = numbers(&y.detach());
        assert_eq!(real[0], 7.0);
        let dx = y.sqr().unwrap().sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone();
        assert!(numbers(&dx).iter().all(|dx| *dx == 0.0), "{dx}");
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, t in 1usize..20, c in 1usize..20, short in 0usize..20) {
        case(seed, (t, c), &[t, short.min(t)], 0.1).check_of_any_shape();
        with_case(seed, (2, t, c)).check_of_any_shape();
    }
}
