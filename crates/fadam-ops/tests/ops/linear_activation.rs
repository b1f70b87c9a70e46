//! `linear_activation`

use candle_core::{DType, Device, Tensor, Var};
use fadam_ops::Activation;
use proptest::prelude::*;

use crate::bias_activation::{self, ALL};
use crate::check::{Case, Draw};

pub(crate) fn case(seed: u64, x: &[usize], o: usize, activation: Activation) -> Case {
    let mut draw = Draw::new(seed);
    let i = x[x.len() - 1];
    let scale = (i as f64).sqrt().recip();
    let (x, mut b) = (draw.tensor(x), draw.tensor(o));
    let w = (draw.tensor(&[o, i]) * scale).unwrap();
    if activation == Activation::Relu {
        // From the bend, differences cannot be taken: every u is on one side of it, by its column.
        let sides: Vec<f64> = (0..o).map(|j| if j % 2 == 0 { 9.0 } else { -9.0 }).collect();
        b = (b + Tensor::new(sides, &Device::Cpu).unwrap()).unwrap();
    }
    let of = bias_activation::case(seed, &[1, o], activation).composed;
    let single = |x: &Tensor| x.to_dtype(DType::F32).unwrap().to_dtype(DType::F64).unwrap();
    Case {
        name: format!("linear {activation:?} {:?} {o}", x.dims()),
        arguments: vec![single(&x), single(&w), single(&b)],
        op: Box::new(move |x: &[Tensor]| {
            fadam_ops::linear_activation(&x[0], &x[1], &x[2], activation)
        }),
        composed: Box::new(move |x: &[Tensor]| {
            let u = x[0].broadcast_matmul(&x[1].t()?)?;
            of(&[u, x[2].clone()])
        }),
    }
}

#[test]
fn values_and_gradients() {
    for activation in ALL {
        for (x, o) in [(&[1, 5][..], 3), (&[3, 4, 20], 33), (&[300, 16], 70), (&[9, 1], 1)] {
            case(5, x, o, activation).check(64.0);
        }
    }
}

/// What is kept of silu and gelu is used up; of tanh and relu nothing is.
#[test]
fn a_second_backward_pass() {
    for activation in ALL {
        let of = case(6, &[3, 4], 5, activation);
        let x = Var::from_tensor(&of.arguments[0]).unwrap();
        let y = fadam_ops::linear_activation(&x, &of.arguments[1], &of.arguments[2], activation);
        let y = y.unwrap().sum_all().unwrap();
        let first = y.backward().unwrap().get(&x).unwrap().to_vec2::<f64>().unwrap();
        match (activation, y.backward()) {
            (Activation::Relu | Activation::Tanh, again) => {
                assert_eq!(again.unwrap().get(&x).unwrap().to_vec2::<f64>().unwrap(), first);
            }
            (_, again) => {
                let err = again.unwrap_err().to_string();
                assert!(err.contains("linear_activation: a second backward pass"), "{err}");
            }
        }
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, i in 1usize..30, o in 1usize..40, which in 0usize..4) {
        case(seed, &[a, 2, i], o, ALL[which]).check_of_any_shape();
    }
}
