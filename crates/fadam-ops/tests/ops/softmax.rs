//! `softmax`

use candle_core::{D, Device, Tensor};
use proptest::prelude::*;

use crate::check::{Case, Draw};

pub(crate) fn case(seed: u64, shape: &[usize]) -> Case {
    Case {
        name: format!("softmax {shape:?}"),
        arguments: vec![(Draw::new(seed).tensor(shape) * 2.0).unwrap()],
        op: Box::new(|x: &[Tensor]| fadam_ops::softmax(&x[0])),
        composed: Box::new(|x: &[Tensor]| {
            let e = x[0].exp()?; // numbers of up to 3: no maximum need be taken away
            e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
        }),
    }
}

#[test]
fn values_and_gradients() {
    for shape in [&[7][..], &[3, 5], &[2, 3, 64], &[300, 67]] {
        case(6, shape).check(16.0);
    }
}

/// The scale is that of small probabilities here: what is added up is relative to them.
#[test]
fn long_rows() {
    let of = case(6, &[2, 5000]);
    of.against_composed(64.0);
    let y = fadam_ops::softmax(&of.arguments[0]).unwrap().sum(D::Minus1).unwrap();
    assert!(y.to_vec1::<f64>().unwrap().iter().all(|sum| (sum - 1.0).abs() < 1e-12));
}

#[test]
fn masked_and_far_logits() {
    let x = [[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0], [1e30, 0.0, -1e30, 1e30]];
    let y = fadam_ops::softmax(&Tensor::new(&x, &Device::Cpu).unwrap()).unwrap();
    assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.0, 0.5, 0.0, 0.5], [0.5, 0.0, 0.0, 0.5]]);
    let none = Tensor::new(&[[f32::NEG_INFINITY; 3]], &Device::Cpu).unwrap();
    let y = fadam_ops::softmax(&none).unwrap().to_vec2::<f32>().unwrap();
    assert!(y[0].iter().all(|y| y.is_nan()));
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, d in 1usize..40) {
        case(seed, &[a, b, d]).check_of_any_shape();
    }
}
