//! `grouped_linear_cross_entropy`

use candle_core::{D, DType, Device, Result, Tensor, Var};
use fadam_ops::{CrossEntropy, Loss};
use proptest::prelude::*;

use crate::check::{Case, Draw, assert_same, difference, numbers};
use crate::cross_entropy::options;

/// Groups and their classes.
#[derive(Clone, Copy)]
pub(crate) struct Groups(pub(crate) usize, pub(crate) usize);

/// By a matrix of target probabilities of all logits `[N G, K]`, as in `cross_entropy.rs`.
fn composed(logits: &Tensor, targets: &[u32], options: &CrossEntropy) -> Result<Tensor> {
    let classes = logits.dim(D::Minus1)?;
    let CrossEntropy { ignore_index, label_smoothing: s, z_loss, logit_scale } = *options;
    let counted = targets.iter().filter(|y| Some(**y) != ignore_index).count() as f64;
    let weight = |y: u32| if Some(y) == ignore_index { 0.0 } else { 1.0 / counted };
    let q = |(y, k): (u32, usize)| {
        let hit = if y as usize == k { 1.0 - s } else { 0.0 };
        weight(y) * (hit + s / classes as f64)
    };
    let pairs = targets.iter().flat_map(|y| (0..classes).map(move |k| (*y, k)));
    let q: Vec<f64> = pairs.map(q).collect();
    let q = Tensor::from_vec(q, (targets.len(), classes), &Device::Cpu)?;
    let w = Tensor::new(targets.iter().map(|y| weight(*y)).collect::<Vec<f64>>(), &Device::Cpu)?;
    let z = (logits * logit_scale)?;
    let log_z = z.exp()?.sum(D::Minus1)?.log()?;
    let each = (&log_z + (log_z.sqr()? * z_loss)?)?;
    (each * w)?.sum_all()? - (z * q)?.sum_all()?
}

pub(crate) fn case(
    seed: u64,
    shape: &[usize],
    Groups(groups, classes): Groups,
    options: CrossEntropy,
) -> Case {
    let mut draw = Draw::new(seed);
    let d = shape[shape.len() - 1];
    let rows = shape.iter().product::<usize>() / d;
    let mut targets = draw.ids(rows * groups, classes);
    if let Some(ignored) = options.ignore_index {
        targets.iter_mut().skip(1).step_by(3).for_each(|y| *y = ignored);
        targets[0] = 0;
    }
    let mut of_targets = shape.to_vec();
    of_targets[shape.len() - 1] = groups;
    let ids = Tensor::from_vec(targets.clone(), of_targets, &Device::Cpu).unwrap();
    Case {
        name: format!("grouped_linear_cross_entropy {shape:?} to {groups} × {classes} {options:?}"),
        arguments: vec![
            draw.tensor(shape),
            draw.tensor((groups * classes, d)),
            draw.tensor(groups * classes),
        ],
        op: Box::new(move |x: &[Tensor]| {
            let loss =
                fadam_ops::grouped_linear_cross_entropy(&x[0], &x[1], &x[2], &ids, &options)?;
            Ok(loss.objective)
        }),
        composed: Box::new(move |x: &[Tensor]| {
            let z = x[0].reshape(((), d))?.matmul(&x[1].t()?)?.broadcast_add(&x[2])?;
            composed(&z.reshape((rows * groups, classes))?, &targets, &options)
        }),
    }
}

#[test]
fn values_and_gradients() {
    for options in options() {
        // Rows are taken 512 at a time and in tiles of 256; groups in 32 lanes, in blocks of 256 classes and more. Each of these
        // with less than one, one and more than one; and small groups several a block, the last block with fewer.
        for (shape, groups, classes) in [
            (&[3][..], 1, 5),
            (&[4, 3], 6, 3),
            (&[2, 3, 8], 33, 4),
            (&[7, 5], 3, 256),
            (&[5, 4], 2, 300),
            (&[256, 3], 70, 7),
            (&[600, 2], 40, 5),
            (&[9, 2], 200, 100),
        ] {
            case(70, shape, Groups(groups, classes), options).check(16.0);
        }
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, d in 1usize..10, groups in 1usize..9, classes in 3usize..20, which in 0usize..6) {
        case(seed, &[a, b, d], Groups(groups, classes), options()[which]).check_of_any_shape();
    }
}

fn losses(groups: Groups, targets: &Tensor, bias: bool) -> (Loss, Loss) {
    let mut draw = Draw::new(71);
    let Groups(g, k) = groups;
    let [x, w, b] = [draw.tensor((9, 6)), draw.tensor((g * k, 6)), draw.tensor(g * k)];
    let b = if bias { b } else { b.zeros_like().unwrap() };
    let plain = CrossEntropy::default();
    let grouped = fadam_ops::grouped_linear_cross_entropy(&x, &w, &b, targets, &plain).unwrap();
    let logits = fadam_ops::linear(&x, &w, Some(&b)).unwrap().reshape((9 * g, k)).unwrap();
    (grouped, fadam_ops::cross_entropy(&logits, targets, &plain).unwrap())
}

/// The loss of the logits themselves, and with one group and no bias that of the op without groups.
#[test]
fn other_ways_to_the_same_loss() {
    let mut draw = Draw::new(72);
    let targets = Tensor::from_vec(draw.ids(9 * 5, 11), (9, 5), &Device::Cpu).unwrap();
    let (grouped, of_logits) = losses(Groups(5, 11), &targets, true);
    assert!(difference(&grouped.objective, &of_logits.objective) < 1e-13);
    assert_same("plain", &grouped.objective.detach(), &grouped.cross_entropy);
    let targets = Tensor::from_vec(draw.ids(9, 11), (9, 1), &Device::Cpu).unwrap();
    let (grouped, of_logits) = losses(Groups(1, 11), &targets, false);
    assert!(difference(&grouped.objective, &of_logits.objective) < 1e-13);
}

/// Without a gradient to make, the same bits; and halves give f32.
#[test]
fn evaluation_is_the_forward_pass() {
    let of = case(73, &[300, 5], Groups(40, 9), options()[5]);
    for dtype in [DType::F32, DType::F64] {
        let x = crate::check::cast(&of.arguments, dtype);
        let trained: Vec<Var> = x.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
        let trained: Vec<Tensor> = trained.iter().map(|x| x.as_tensor().clone()).collect();
        let (a, b) = ((of.op)(&trained).unwrap().detach(), (of.op)(&x).unwrap());
        assert_same("evaluation", &a, &b);
    }
    let half = crate::check::cast(&of.arguments, DType::BF16);
    assert_eq!((of.op)(&half).unwrap().dtype(), DType::F32);
}

#[test]
fn logits_far_from_0() {
    let x = Tensor::new(&[[1e4f32]], &Device::Cpu).unwrap();
    let w = Tensor::new(&[[1f32], [-1.0], [0.5], [0.5]], &Device::Cpu).unwrap();
    let b = Tensor::new(&[0f32, 0.0, 1.0, 0.0], &Device::Cpu).unwrap();
    let targets = Tensor::new(&[[0u32, 1]], &Device::Cpu).unwrap();
    let plain = CrossEntropy::default();
    let loss = fadam_ops::grouped_linear_cross_entropy(&x, &w, &b, &targets, &plain).unwrap();
    let wanted = f64::midpoint(0.0, 1.0 + (1.0 + (-1f64).exp()).ln());
    assert!((numbers(&loss.cross_entropy)[0] - wanted).abs() < 1e-3);
}

#[test]
fn a_second_backward_pass_says_so() {
    let x = Var::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
    let (w, b) = (x.ones_like().unwrap(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
    let targets = Tensor::new(&[[0u32], [1]], &Device::Cpu).unwrap();
    let plain = CrossEntropy::default();
    let loss = fadam_ops::grouped_linear_cross_entropy(&x, &w, &b, &targets, &plain).unwrap();
    loss.objective.backward().unwrap();
    let err = loss.objective.backward().unwrap_err().to_string();
    assert!(err.contains("grouped_linear_cross_entropy: a second backward pass"), "{err}");
}
