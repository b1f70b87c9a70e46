//! `feed_forward`

use candle_core::{D, Tensor, Var};
use proptest::prelude::*;

use crate::check::{Case, Draw, assert_same, value_and_gradients};

pub(crate) fn case(seed: u64, x: &[usize], n: usize, o: usize) -> Case {
    let mut draw = Draw::new(seed);
    let d = x[x.len() - 1];
    Case {
        name: format!("feed_forward {x:?} {n} {o}"),
        arguments: vec![draw.tensor(x), draw.tensor((2 * n, d)), draw.tensor((o, n))],
        op: Box::new(|x: &[Tensor]| fadam_ops::feed_forward(&x[0], &x[1], &x[2])),
        composed: Box::new(move |x: &[Tensor]| {
            let u = x[0].broadcast_matmul(&x[1].t()?)?;
            let gate = u.narrow(D::Minus1, 0, n)?;
            let sigmoid = (gate.neg()?.exp()? + 1.0)?.recip()?;
            let s = ((gate * sigmoid)? * u.narrow(D::Minus1, n, n)?)?;
            s.broadcast_matmul(&x[2].t()?)
        }),
    }
}

#[test]
fn values_and_gradients() {
    for (x, n, o) in [
        (&[1, 1, 1][..], 1, 1),
        (&[1, 5, 4], 3, 2),
        (&[2, 9, 8], 16, 8),
        (&[3, 70, 16], 24, 16),
        (&[1, 600, 6], 10, 3),
    ] {
        case(8, x, n, o).check(64.0);
    }
}

#[test]
fn it_is_the_three_ops_to_the_bit() {
    let of = case(9, &[2, 50, 32], 48, 32);
    let g = of.g(4);
    let separate: crate::check::Op = Box::new(|x: &[Tensor]| {
        let s = fadam_ops::swiglu(&fadam_ops::linear(&x[0], &x[1], None)?)?;
        fadam_ops::linear(&s, &x[2], None)
    });
    let (ours, theirs) = (
        value_and_gradients(&of.op, &of.arguments, &g),
        value_and_gradients(&separate, &of.arguments, &g),
    );
    for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_same(&format!("part {i}"), ours, theirs);
    }
}

#[test]
fn a_second_backward_pass_is_refused() {
    let of = case(1, &[1, 5, 4], 3, 2);
    let x = Var::from_tensor(&of.arguments[0]).unwrap();
    let y = fadam_ops::feed_forward(&x, &of.arguments[1], &of.arguments[2]).unwrap();
    let loss = y.sum_all().unwrap();
    loss.backward().unwrap();
    let err = loss.backward().unwrap_err().to_string();
    assert!(err.contains("feed_forward: a second backward pass"), "{err}");
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, b in 1usize..3, t in 1usize..20, d in 1usize..9, n in 1usize..9, o in 1usize..9) {
        case(seed, &[b, t, d], n, o).check_of_any_shape();
    }
}
