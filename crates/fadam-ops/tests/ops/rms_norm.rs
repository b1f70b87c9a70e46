//! `rms_norm`

use candle_core::{D, Tensor};
use proptest::prelude::*;

use crate::check::{Case, Draw};

pub(crate) fn case(seed: u64, shape: &[usize], eps: f64) -> Case {
    let mut draw = Draw::new(seed);
    let d = shape[shape.len() - 1];
    Case {
        name: format!("rms_norm {shape:?}"),
        arguments: vec![draw.tensor(shape), draw.tensor(d)],
        op: Box::new(move |x: &[Tensor]| fadam_ops::rms_norm(&x[0], &x[1], eps)),
        composed: Box::new(move |x: &[Tensor]| {
            let mean = (x[0].sqr()?.sum_keepdim(D::Minus1)? / d as f64)?;
            x[0].broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(&x[1])
        }),
    }
}

#[test]
fn values_and_gradients() {
    // 300 rows: several parts of the sum over rows, and several tasks.
    for shape in [&[7][..], &[3, 5], &[2, 3, 64], &[300, 67], &[2, 5000]] {
        // A dot product in vectors of some lanes: few roundings meet in one sum.
        case(1, shape, 1e-5).check(8.0);
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, d in 1usize..40) {
        case(seed, &[a, b, d], 0.1).check_of_any_shape();
    }
}
