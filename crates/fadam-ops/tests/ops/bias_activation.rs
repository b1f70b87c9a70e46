//! `bias_activation`

use candle_core::{Device, Tensor, Var};
use fadam_ops::Activation;
use proptest::prelude::*;

use crate::check::{Case, Draw};

pub(crate) const ALL: [Activation; 4] =
    [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::Tanh];

pub(crate) fn case(seed: u64, shape: &[usize], activation: Activation) -> Case {
    let mut draw = Draw::new(seed);
    let d = shape[shape.len() - 1];
    let (x, b) = (draw.tensor(shape), draw.tensor(d));
    // From the bend of relu, differences cannot be taken: u = x + b is kept 1/8 from it.
    let u = (2.0 * x.broadcast_add(&b).unwrap()).unwrap();
    let sign = ((u.ge(0.0).unwrap().to_dtype(u.dtype()).unwrap() * 2.0).unwrap() - 1.0).unwrap();
    let x = (u + sign * 0.125).unwrap().broadcast_sub(&b).unwrap();
    let x = x.to_dtype(candle_core::DType::F32).unwrap().to_dtype(candle_core::DType::F64).unwrap();
    Case {
        name: format!("{activation:?} {shape:?}"),
        arguments: vec![x, b],
        op: Box::new(move |x: &[Tensor]| fadam_ops::bias_activation(&x[0], &x[1], activation)),
        composed: Box::new(move |x: &[Tensor]| {
            let u = x[0].broadcast_add(&x[1])?;
            match activation {
                Activation::Relu => u.relu(),
                Activation::Silu => &u * (u.neg()?.exp()? + 1.0)?.recip()?,
                Activation::Gelu => {
                    let inner = ((&u + (u.powf(3.0)? * 0.044_715)?)?
                        * (2.0 / std::f64::consts::PI).sqrt())?;
                    (&u * 0.5)? * (inner.tanh()? + 1.0)?
                }
                Activation::Tanh => u.tanh(),
            }
        }),
    }
}

/// tanh near 0 has the absolute precision of the type, and the slope of gelu is 1 − tanh² times up to 3 of it; where a case
/// is small, so may be the largest gradient that this is relative to.
const ULPS: f64 = 64.0;

#[test]
fn values_and_gradients() {
    for activation in ALL {
        for shape in [&[7][..], &[3, 5], &[2, 3, 64], &[300, 67], &[2, 20_000]] {
            case(5, shape, activation).check(ULPS);
        }
    }
}

#[test]
fn far_numbers_saturate_and_relu_has_no_slope_at_0() {
    let b = Tensor::new(&[0f32; 4], &Device::Cpu).unwrap();
    let far = Var::new(&[[-1e4f32, -100.0, 100.0, 1e4]], &Device::Cpu).unwrap();
    for activation in ALL {
        let y = fadam_ops::bias_activation(&far, &b, activation).unwrap();
        let dx =
            y.sum_all().unwrap().backward().unwrap().get(&far).unwrap().to_vec2::<f32>().unwrap();
        let (values, slopes) = match activation {
            Activation::Tanh => ([-1.0, -1.0, 1.0, 1.0], [0.0; 4]),
            _ => ([0.0, 0.0, 100.0, 1e4], [0.0, 0.0, 1.0, 1.0]),
        };
        assert_eq!(y.to_vec2::<f32>().unwrap(), [values], "{activation:?}");
        assert_eq!(dx, [slopes], "{activation:?}");
    }
    let zero = Var::new(&[[0f32; 4]], &Device::Cpu).unwrap();
    let y = fadam_ops::bias_activation(&zero, &b, Activation::Relu).unwrap().sum_all().unwrap();
    assert_eq!(y.backward().unwrap().get(&zero).unwrap().to_vec2::<f32>().unwrap(), [[0.0; 4]]);
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, d in 1usize..40, which in 0usize..4) {
        case(seed, &[a, b, d], ALL[which]).check_of_any_shape();
    }
}
