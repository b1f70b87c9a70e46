//! `group_norm`

use candle_core::{Tensor, Var};
use proptest::prelude::*;

use crate::check::{Case, Draw, Op, assert_same, numbers, relative, value_and_gradients};

pub(crate) fn op(groups: usize, lengths: Vec<usize>, eps: f64) -> Op {
    Box::new(move |x: &[Tensor]| fadam_ops::group_norm(&x[0], &x[1], &x[2], groups, &lengths, eps))
}

pub(crate) fn case(
    seed: u64,
    (t, c): (usize, usize),
    groups: usize,
    lengths: &[usize],
    eps: f64,
) -> Case {
    let mut draw = Draw::new(seed);
    let of = lengths.to_vec();
    Case {
        name: format!("group_norm {t} {c} {groups} {lengths:?}"),
        arguments: vec![draw.tensor((lengths.len(), t, c)), draw.tensor(c), draw.tensor(c)],
        op: op(groups, lengths.to_vec(), eps),
        // Each utterance and group alone, and zeros behind.
        composed: Box::new(move |x: &[Tensor]| {
            let utterance = |(i, n): (usize, &usize)| {
                let real = x[0].narrow(0, i, 1)?.narrow(1, 0, *n)?;
                let group = |k: usize| {
                    let x = real.narrow(2, k * (c / groups), c / groups)?;
                    let all = 1.0 / (*n * c / groups) as f64;
                    let centred = x.broadcast_sub(&(x.sum_all()? * all)?)?;
                    let variance = (centred.sqr()?.sum_all()? * all)?;
                    centred.broadcast_div(&(variance + eps)?.sqrt()?)
                };
                let none = || x[0].narrow(0, i, 1)?.narrow(1, 0, t - n)?.zeros_like();
                if *n == 0 {
                    return none();
                }
                let groups = (0..groups).map(group).collect::<candle_core::Result<Vec<_>>>()?;
                let y = Tensor::cat(&groups, 2)?.broadcast_mul(&x[1])?.broadcast_add(&x[2])?;
                if *n == t { Ok(y) } else { Tensor::cat(&[y, none()?], 1) }
            };
            let all = of.iter().enumerate().map(utterance);
            Tensor::cat(&all.collect::<candle_core::Result<Vec<_>>>()?, 0)
        }),
    }
}

#[test]
fn values_and_gradients() {
    for (t, c, groups, lengths) in [
        (7, 1, 1, &[7][..]),
        (5, 6, 3, &[5, 2]),
        (9, 16, 1, &[9, 0, 8]),
        (9, 16, 16, &[9, 4]),
        (70, 18, 2, &[70, 65]),
        (300, 33, 11, &[300, 64, 129]),
    ] {
        case(31, (t, c), groups, lengths, 1e-3).check(32.0);
    }
}

/// One group of one utterance that is all real is `layer_norm` of all its numbers, with a weight each.
#[test]
fn one_group_is_a_layer_norm_of_an_utterance() {
    let of = case(32, (20, 6), 1, &[20, 20], 1e-3);
    let flat: Op = Box::new(|x: &[Tensor]| {
        let wide = |w: &Tensor| w.broadcast_as((20, 6))?.flatten_all();
        let y = fadam_ops::layer_norm(&x[0].flatten(1, 2)?, &wide(&x[1])?, &wide(&x[2])?, 1e-3)?;
        y.reshape((2, 20, 6))
    });
    let g = of.g(5);
    let ours = value_and_gradients(&of.op, &of.arguments, &g);
    for (ours, theirs) in ours.iter().zip(value_and_gradients(&flat, &of.arguments, &g)) {
        assert!(relative(ours, &theirs) < 1e-13, "{:e}", relative(ours, &theirs));
    }
}

/// With ε = 0 too: an utterance without frames has nothing to divide by, and adds nothing.
#[test]
fn an_utterance_without_frames_adds_nothing() {
    let of = case(33, (8, 4), 2, &[8, 0], 0.0);
    let vars: Vec<Var> = of.arguments.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
    let run = |x: &Tensor, lengths: &[usize]| {
        let y = fadam_ops::group_norm(x, &vars[1], &vars[2], 2, lengths, 0.0).unwrap();
        let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        [&vars[1], &vars[2]].map(|var| gradients.get(var).unwrap().clone())
    };
    let alone = run(&vars[0].narrow(0, 0, 1).unwrap(), &[8]);
    for (ours, alone) in run(&vars[0], &[8, 0]).iter().zip(&alone) {
        assert!(numbers(ours).iter().all(|x| x.is_finite()));
        assert_same("a weight's gradient", ours, alone);
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, t in 1usize..20, size in 1usize..5, groups in 1usize..5, short in 0usize..20) {
        case(seed, (t, size * groups), groups, &[t, short.min(t)], 0.1).check_of_any_shape();
    }
}
