//! `depthwise_conv1d`

use candle_core::Tensor;
use proptest::prelude::*;

use crate::check::{Case, Draw, Op};
use crate::padding::masked;

pub(crate) fn op(lengths: Vec<usize>) -> Op {
    Box::new(move |x: &[Tensor]| fadam_ops::depthwise_conv1d(&x[0], &x[1], &lengths))
}

pub(crate) fn case(seed: u64, (t, c): (usize, usize), taps: usize, lengths: &[usize]) -> Case {
    let mut draw = Draw::new(seed);
    let of = lengths.to_vec();
    Case {
        name: format!("depthwise_conv1d {t} {c} {taps} {lengths:?}"),
        arguments: vec![draw.tensor((lengths.len(), t, c)), draw.tensor((c, taps))],
        op: op(lengths.to_vec()),
        composed: Box::new(move |x: &[Tensor]| {
            // candle's own padding has no backward pass for more taps than frames.
            let real = masked(&x[0], &of)?.transpose(1, 2)?.contiguous()?;
            let real = real.pad_with_zeros(2, taps / 2, taps / 2)?;
            let y = real.conv1d(&x[1].unsqueeze(1)?, 0, 1, 1, c)?;
            masked(&y.transpose(1, 2)?.contiguous()?, &of)
        }),
    }
}

#[test]
fn values_and_gradients() {
    for (t, c, taps, lengths) in [
        (1, 1, 1, &[1][..]),
        (5, 3, 3, &[5, 2]),
        (9, 16, 5, &[9, 0, 8]),
        (4, 2, 15, &[4, 1]), // more taps than frames
        (70, 17, 9, &[70, 65]),
        (150, 33, 31, &[150, 64]),
    ] {
        case(20, (t, c), taps, lengths).check(16.0);
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, t in 1usize..20, c in 1usize..20, half in 0usize..5, short in 0usize..20) {
        case(seed, (t, c), 2 * half + 1, &[t, short.min(t)]).check_of_any_shape();
    }
}
