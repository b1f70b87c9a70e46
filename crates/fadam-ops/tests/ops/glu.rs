//! `glu`

use candle_core::{D, Tensor};
use proptest::prelude::*;

use crate::check::{Case, Draw};

pub(crate) fn case(seed: u64, shape: &[usize]) -> Case {
    let d = shape[shape.len() - 1] / 2;
    Case {
        name: format!("glu {shape:?}"),
        // Gates between −6 and 6.
        arguments: vec![(Draw::new(seed).tensor(shape) * 4.0).unwrap()],
        op: Box::new(|x: &[Tensor]| fadam_ops::glu(&x[0])),
        composed: Box::new(move |x: &[Tensor]| {
            let sigmoid = (x[0].narrow(D::Minus1, d, d)?.neg()?.exp()? + 1.0)?.recip()?;
            x[0].narrow(D::Minus1, 0, d)? * sigmoid
        }),
    }
}

#[test]
fn values_and_gradients() {
    for shape in [&[2][..], &[8], &[3, 6], &[2, 3, 64], &[300, 134], &[2, 20_000]] {
        case(21, shape).check(8.0);
    }
}

#[test]
fn far_gates_saturate() {
    let x =
        Tensor::new(&[[2f32, 2.0, 2.0, 2.0, -1e4, -200.0, 200.0, 1e4]], &candle_core::Device::Cpu);
    let x = candle_core::Var::from_tensor(&x.unwrap()).unwrap();
    let y = fadam_ops::glu(&x).unwrap();
    assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.0, 0.0, 2.0, 2.0]]);
    let dx = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(dx, [[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]);
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, d in 1usize..40) {
        case(seed, &[a, b, 2 * d]).check_of_any_shape();
    }
}
