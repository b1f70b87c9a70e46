//! `layer_norm`

use candle_core::{D, Tensor};
use proptest::prelude::*;

use crate::check::{Case, Draw};

pub(crate) fn case(seed: u64, shape: &[usize], eps: f64) -> Case {
    let mut draw = Draw::new(seed);
    let d = shape[shape.len() - 1];
    Case {
        name: format!("layer_norm {shape:?}"),
        arguments: vec![draw.tensor(shape), draw.tensor(d), draw.tensor(d)],
        op: Box::new(move |x: &[Tensor]| fadam_ops::layer_norm(&x[0], &x[1], &x[2], eps)),
        composed: Box::new(move |x: &[Tensor]| {
            let mean = |x: &Tensor| x.sum_keepdim(D::Minus1)? / d as f64;
            let centred = x[0].broadcast_sub(&mean(&x[0])?)?;
            let deviation = (mean(&centred.sqr()?)? + eps)?.sqrt()?;
            centred.broadcast_div(&deviation)?.broadcast_mul(&x[1])?.broadcast_add(&x[2])
        }),
    }
}

#[test]
fn values_and_gradients() {
    for shape in [&[7][..], &[3, 5], &[2, 3, 64], &[300, 67], &[2, 5000]] {
        case(1, shape, 1e-3).check(16.0);
    }
}

/// The mean is taken away before squares are summed: an offset costs the digits that it takes from x, and no more.
#[test]
fn a_large_offset() {
    let of = case(2, &[4, 64], 1e-5);
    let near = (&of.arguments[0] * 64.0).unwrap().round().unwrap();
    let far = (&near + 1e6).unwrap();
    let run = |x: &Tensor| {
        let x = crate::check::cast(
            &[x.clone(), of.arguments[1].clone(), of.arguments[2].clone()],
            candle_core::DType::F32,
        );
        (of.op)(&x).unwrap()
    };
    let off = crate::check::relative(&run(&far), &run(&near));
    assert!(off < 3e-3, "{off}"); // the mean itself is rounded to 1/16 of near's 1/64 · 96
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, d in 1usize..40) {
        case(seed, &[a, b, d], 0.1).check_of_any_shape();
    }
}
