//! `rope`

use candle_core::{D, DType, Device, Result, Tensor};
use fadam_ops::Rope;
use proptest::prelude::*;

use crate::check::{Case, Draw, cast, difference, relative};

/// By angles `p · base^(−2i/d)` of positions `from`, …: a rotation written with an index a pair.
pub(crate) fn rotated(x: &Tensor, base: f64, from: usize) -> Result<Tensor> {
    let (t, d) = (x.dim(D::Minus2)?, x.dim(D::Minus1)?);
    let angle = |p: usize, i: usize| (from + p) as f64 / base.powf((2 * i) as f64 / d as f64);
    let angles: Vec<f64> =
        (0..t).flat_map(|p| (0..d).map(move |j| angle(p, j % (d / 2)))).collect();
    let angles = Tensor::from_vec(angles, (t, d), &Device::Cpu)?;
    let (a, b) = (x.narrow(D::Minus1, 0, d / 2)?, x.narrow(D::Minus1, d / 2, d / 2)?);
    let turned = Tensor::cat(&[b.neg()?, a], D::Minus1)?;
    x.broadcast_mul(&angles.cos()?)? + turned.broadcast_mul(&angles.sin()?)?
}

pub(crate) fn case(seed: u64, shape: &[usize], from: usize) -> Case {
    let [t, d] = [shape[shape.len() - 2], shape[shape.len() - 1]];
    Case {
        name: format!("rope {shape:?} from {from}"),
        arguments: vec![Draw::new(seed).tensor(shape)],
        op: Box::new(move |x: &[Tensor]| {
            let table = Rope::new(from + t, d, 100.0, x[0].dtype(), &Device::Cpu)?;
            fadam_ops::rope(&x[0], &table, from)
        }),
        composed: Box::new(move |x: &[Tensor]| rotated(&x[0], 100.0, from)),
    }
}

#[test]
fn values_and_gradients() {
    for (shape, from) in [(&[1, 2][..], 0), (&[5, 4], 3), (&[2, 3, 4, 6], 0), (&[3, 130, 64], 17)] {
        let of = case(7, shape, from);
        of.against_differences();
        of.against_composed(8.0);
    }
}

/// In half precision the table is rounded too: 2⁻⁸ and 2⁻¹¹ of each number, twice, and the result.
#[test]
fn halves() {
    let of = case(8, &[3, 20, 16], 5);
    for (half, unit) in [(DType::BF16, 2f64.powi(-8)), (DType::F16, 2f64.powi(-11))] {
        let x = cast(&of.arguments, half);
        let wide = (of.op)(&cast(&x, DType::F32)).unwrap();
        let y = (of.op)(&x).unwrap();
        assert_eq!(y.dtype(), half);
        assert!(relative(&y, &wide) < 3.0 * unit);
    }
}

/// Scores of rotated queries and keys depend on the distance alone, and position 0 is left as it is.
#[test]
fn only_distances_matter() {
    let mut draw = Draw::new(9);
    let (q, k) = (draw.tensor((1, 8)), draw.tensor((1, 8)));
    let table = Rope::new(40, 8, 10_000.0, DType::F64, &Device::Cpu).unwrap();
    assert_eq!(table.positions(), 40);
    let at = |x: &Tensor, p: usize| fadam_ops::rope(x, &table, p).unwrap();
    let score = |p: usize, s: usize| (at(&q, p) * at(&k, s)).unwrap().sum_all().unwrap();
    assert!(difference(&score(5, 2), &score(39, 36)) < 1e-12);
    assert!(difference(&score(5, 2), &score(6, 2)) > 1e-3);
    assert_eq!(difference(&at(&q, 0), &q), 0.0);
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, t in 1usize..9, half in 1usize..20, from in 0usize..30) {
        let of = case(seed, &[a, t, 2 * half], from);
        of.against_differences();
        of.against_composed(f64::INFINITY);
    }
}
