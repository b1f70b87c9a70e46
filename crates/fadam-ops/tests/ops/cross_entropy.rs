//! `cross_entropy` and `linear_cross_entropy`

use candle_core::{D, DType, Device, Result, Tensor, Var};
use fadam_ops::{CrossEntropy, Loss};
use proptest::prelude::*;

use crate::check::{Case, Draw, difference, numbers};

/// Each option alone, and all together.
pub(crate) fn options() -> [CrossEntropy; 6] {
    let plain = CrossEntropy::default();
    [
        plain,
        CrossEntropy { ignore_index: Some(1), ..plain },
        CrossEntropy { label_smoothing: 0.1, ..plain },
        CrossEntropy { z_loss: 0.02, ..plain },
        CrossEntropy { logit_scale: -0.7, ..plain },
        CrossEntropy {
            ignore_index: Some(99_999),
            label_smoothing: 0.2,
            z_loss: 0.01,
            logit_scale: 0.3,
        },
    ]
}

/// By a matrix of target probabilities, ignored rows being 0: `Σ (w log Z − Σ q z + w ζ log² Z)` with w = 1/n.
fn composed(logits: &Tensor, targets: &[u32], options: &CrossEntropy) -> Result<Tensor> {
    let classes = logits.dim(D::Minus1)?;
    let CrossEntropy { ignore_index, label_smoothing: s, z_loss, logit_scale } = *options;
    let counted = targets.iter().filter(|y| Some(**y) != ignore_index).count() as f64;
    let weight = |y: u32| if Some(y) == ignore_index { 0.0 } else { 1.0 / counted };
    let q = |(y, v): (u32, usize)| {
        let hit = if y as usize == v { 1.0 - s } else { 0.0 };
        weight(y) * (hit + s / classes as f64)
    };
    let pairs = targets.iter().flat_map(|y| (0..classes).map(move |v| (*y, v)));
    let q = Tensor::from_vec(
        pairs.map(q).collect::<Vec<f64>>(),
        (targets.len(), classes),
        &Device::Cpu,
    )?;
    let w = Tensor::new(targets.iter().map(|y| weight(*y)).collect::<Vec<f64>>(), &Device::Cpu)?;
    let z = (logits.reshape(((), classes))? * logit_scale)?;
    let log_z = z.exp()?.sum(D::Minus1)?.log()?;
    let each = (&log_z + (log_z.sqr()? * z_loss)?)?;
    (each * w)?.sum_all()? - (z * q)?.sum_all()?
}

/// Targets among the classes and, if there is one, the index that is ignored; not all of them are.
fn targets(draw: &mut Draw, rows: usize, classes: usize, options: &CrossEntropy) -> Vec<u32> {
    let mut targets = draw.ids(rows, classes);
    if let Some(ignored) = options.ignore_index {
        targets.iter_mut().skip(1).step_by(3).for_each(|y| *y = ignored);
        targets[0] = 0;
    }
    targets
}

fn as_tensor(targets: &[u32], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(targets.to_vec(), &shape[..shape.len() - 1], &Device::Cpu)
}

pub(crate) fn case(seed: u64, shape: &[usize], options: CrossEntropy) -> Case {
    let mut draw = Draw::new(seed);
    let classes = shape[shape.len() - 1];
    let of = targets(&mut draw, shape.iter().product::<usize>() / classes, classes, &options);
    let (shape, same) = (shape.to_vec(), of.clone());
    Case {
        name: format!("cross_entropy {shape:?} {options:?}"),
        arguments: vec![(draw.tensor(shape.as_slice()) * 2.0).unwrap()],
        op: Box::new(move |x: &[Tensor]| {
            Ok(fadam_ops::cross_entropy(&x[0], &as_tensor(&of, &shape)?, &options)?.objective)
        }),
        composed: Box::new(move |x: &[Tensor]| composed(&x[0], &same, &options)),
    }
}

/// Of `x [..., d]` and `classes` classes.
pub(crate) fn linear_case(
    seed: u64,
    shape: &[usize],
    classes: usize,
    options: CrossEntropy,
) -> Case {
    let mut draw = Draw::new(seed);
    let d = shape[shape.len() - 1];
    let of = targets(&mut draw, shape.iter().product::<usize>() / d, classes, &options);
    let (shape, same) = (shape.to_vec(), of.clone());
    Case {
        name: format!("linear_cross_entropy {shape:?} to {classes} {options:?}"),
        arguments: vec![draw.tensor(shape.as_slice()), draw.tensor((classes, d))],
        op: Box::new(move |x: &[Tensor]| {
            let targets = as_tensor(&of, &shape)?;
            Ok(fadam_ops::linear_cross_entropy(&x[0], &x[1], &targets, &options)?.objective)
        }),
        composed: Box::new(move |x: &[Tensor]| {
            let rows = x[0].reshape(((), d))?;
            composed(&rows.matmul(&x[1].t()?)?, &same, &options)
        }),
    }
}

#[test]
fn values_and_gradients() {
    for options in options() {
        for shape in [&[5][..], &[4, 3], &[2, 3, 33], &[300, 67], &[3, 20_000]] {
            if shape.len() == 1 && options.ignore_index.is_some() {
                continue;
            }
            // Gradients below 1e-3 are compared on that scale; log Z of 20,000 classes is a sum of as many.
            case(16, shape, options).check(16.0);
        }
    }
}

#[test]
fn linear_values_and_gradients() {
    for options in options() {
        // Rows are taken 256 at a time: fewer, as many, more and not a multiple; parts of 256 classes.
        for (shape, classes) in
            [(&[4, 3][..], 5), (&[2, 3, 8], 300), (&[256, 5], 7), (&[300, 4], 11), (&[600, 3], 270)]
        {
            linear_case(17, shape, classes, options).check(16.0);
        }
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, a in 1usize..4, b in 1usize..5, d in 1usize..10, classes in 3usize..30, which in 0usize..6) {
        case(seed, &[a, b, classes], options()[which]).check_of_any_shape();
        linear_case(seed, &[a, b, d], classes, options()[which]).check_of_any_shape();
    }
}

/// `cross_entropy` is the plain mean whatever the other options, and has no gradient; the objective of a later op is scaled.
#[test]
fn the_plain_mean_and_a_scaled_loss() {
    let mut draw = Draw::new(18);
    let (x, w) = (draw.tensor((7, 5)), draw.tensor((11, 5)));
    let logits = x.matmul(&w.t().unwrap()).unwrap();
    for options in options() {
        let of = targets(&mut draw, 7, 11, &options);
        let ids = Tensor::new(of.clone(), &Device::Cpu).unwrap();
        let plain = CrossEntropy { label_smoothing: 0.0, z_loss: 0.0, ..options };
        let wanted = composed(&logits, &of, &plain).unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let losses: [Loss; 2] = [
            fadam_ops::cross_entropy(&x.matmul(&w.t().unwrap()).unwrap(), &ids, &options).unwrap(),
            fadam_ops::linear_cross_entropy(&x, &w, &ids, &options).unwrap(),
        ];
        for loss in losses {
            assert!(difference(&loss.cross_entropy, &wanted) < 1e-12);
            assert!(loss.objective.dims().is_empty() && !loss.cross_entropy.track_op());
            let once = loss.objective.backward();
            let once = once.unwrap().get(&x).unwrap().clone();
            let again = fadam_ops::linear_cross_entropy(&x, &w, &ids, &options).unwrap().objective;
            let scaled = (again * -3.0).unwrap().backward().unwrap().get(&x).unwrap().clone();
            assert!(difference(&scaled, &(once * -3.0).unwrap()) < 1e-12);
        }
    }
}

/// An ignored row has no part in the loss and a gradient of 0; −∞ logits are classes that cannot be.
#[test]
fn ignored_rows_and_impossible_classes() {
    let options = CrossEntropy {
        label_smoothing: 0.0,
        z_loss: 0.1,
        ignore_index: Some(0),
        ..CrossEntropy::default()
    };
    let logits =
        Var::new(&[[1f64, f64::NEG_INFINITY, 2.0], [5.0, 5.0, 5.0]], &Device::Cpu).unwrap();
    let targets = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
    let loss = fadam_ops::cross_entropy(&logits, &targets, &options).unwrap();
    let log_z = (1f64.exp() + 2f64.exp()).ln();
    let wanted = log_z - 2.0 + 0.1 * log_z * log_z;
    assert!((numbers(&loss.objective)[0] - wanted).abs() < 1e-12);
    let dz = loss.objective.backward().unwrap().get(&logits).unwrap().to_vec2::<f64>().unwrap();
    assert_eq!(dz[1], [0.0; 3]);
    assert_eq!(dz[0][1], 0.0);
    assert!((dz[0][0] - (1.0 - log_z).exp() * (1.0 + 0.2 * log_z)).abs() < 1e-12);
}

#[test]
fn logits_far_from_0() {
    let logits = Tensor::new(&[[1e4f32, 1e4 - 1.0], [-1e4, -1e4]], &Device::Cpu).unwrap();
    let targets = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    let loss = fadam_ops::cross_entropy(&logits, &targets, &CrossEntropy::default()).unwrap();
    let wanted = f64::midpoint((1.0 + (-1f64).exp()).ln(), 2f64.ln());
    assert!((numbers(&loss.cross_entropy)[0] - wanted).abs() < 1e-6);
    // The same by a product: x of ±1e4 and w of 1.
    let x = Tensor::new(&[[1e4f32, 1.0], [-1e4, 1.0]], &Device::Cpu).unwrap();
    let w = Tensor::new(&[[1f32, 0.0], [1.0, -1.0]], &Device::Cpu).unwrap();
    let loss = fadam_ops::linear_cross_entropy(&x, &w, &targets, &CrossEntropy::default()).unwrap();
    let wanted = f64::midpoint((1.0 + (-1f64).exp()).ln(), 1.0 + (1.0 + (-1f64).exp()).ln());
    assert!((numbers(&loss.cross_entropy)[0] - wanted).abs() < 1e-3); // 1e4 has a unit of 1/1024
}

#[test]
fn half_precision_losses_are_in_f32() {
    let x = Draw::new(19).tensor((3, 4)).to_dtype(DType::BF16).unwrap();
    let targets = Tensor::new(&[0u32, 1, 2], &Device::Cpu).unwrap();
    let loss = fadam_ops::cross_entropy(&x, &targets, &CrossEntropy::default()).unwrap();
    assert_eq!([loss.objective.dtype(), loss.cross_entropy.dtype()], [DType::F32; 2]);
}

#[test]
fn a_second_backward_pass_of_the_linear_form_says_so() {
    let (x, w) = (
        Var::ones((2, 3), DType::F32, &Device::Cpu).unwrap(),
        Tensor::ones((4, 3), DType::F32, &Device::Cpu).unwrap(),
    );
    let targets = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    let loss = fadam_ops::linear_cross_entropy(&x, &w, &targets, &CrossEntropy::default()).unwrap();
    loss.objective.backward().unwrap();
    let err = loss.objective.backward().unwrap_err().to_string();
    assert!(err.contains("linear_cross_entropy: a second backward pass"), "{err}");
}
