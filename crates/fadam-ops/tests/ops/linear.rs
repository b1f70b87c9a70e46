//! `linear`

use candle_core::{D, Tensor};
use proptest::prelude::*;

use crate::check::{Case, Draw};

/// From `x [..., i]` to `[..., o]`.
pub(crate) fn case(seed: u64, shape: &[usize], o: usize, bias: bool) -> Case {
    let mut draw = Draw::new(seed);
    let i = shape[shape.len() - 1];
    let mut arguments = vec![draw.tensor(shape), draw.tensor((o, i))];
    if bias {
        arguments.push(draw.tensor(o));
    }
    Case {
        name: format!("linear {shape:?} to {o}, bias {bias}"),
        arguments,
        op: Box::new(|x: &[Tensor]| fadam_ops::linear(&x[0], &x[1], x.get(2))),
        composed: Box::new(|x: &[Tensor]| {
            let o = x[1].dim(0)?;
            let shape: Vec<usize> =
                x[0].dims()[..x[0].rank() - 1].iter().copied().chain([o]).collect();
            let rows = x[0].reshape(((), x[0].dim(D::Minus1)?))?;
            let y = rows.matmul(&x[1].t()?)?;
            let y = if let Some(b) = x.get(2) { y.broadcast_add(b)? } else { y };
            y.reshape(shape)
        }),
    }
}

#[test]
fn values_and_gradients() {
    for bias in [false, true] {
        for (shape, o) in
            [(&[5][..], 3), (&[1, 1], 1), (&[4, 3], 7), (&[2, 3, 16], 33), (&[200, 40], 24)]
        {
            // Sums of up to 200 products, of random signs.
            case(3, shape, o, bias).check(16.0);
        }
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, i in 1usize..30, o in 1usize..30, bias: bool) {
        case(seed, &[a, b, i], o, bias).check_of_any_shape();
    }
}
