//! `joint_rnnt_loss`

use candle_core::{DType, Device, Result, Tensor};
use fadam_ops::{Activation, Joint, Transducer};
use proptest::prelude::*;

use crate::bias_activation::ALL;
use crate::check::{Case, Draw, assert_same, cast, largest, numbers, value_and_gradients};
use crate::rnnt_loss::Batch;

/// e, p, W and b for a joint network of that width. The bend of relu is kept 1/4 from every e + p.
fn arguments(draw: &mut Draw, batch: &Batch, width: usize) -> Vec<Tensor> {
    let [b, t, u, v] = batch.size;
    let halves = |x: Tensor| ((x * 2.0).unwrap().floor().unwrap() / 2.0).unwrap();
    let e = (halves(draw.tensor((b, t, width))) + 0.25).unwrap();
    let p = halves(draw.tensor((b, u + 1, width)));
    vec![e, p, draw.tensor((v, width)), draw.tensor(v)]
}

fn loss(
    x: &[Tensor],
    batch: &Batch,
    activation: Activation,
    options: &Transducer,
) -> Result<Tensor> {
    let joint = Joint::new(&x[2], &x[3], activation);
    fadam_ops::joint_rnnt_loss(&x[0], &x[1], &joint, &batch.targets, &batch.frames, options)
}

/// The logits by candle's ops, and their loss by `rnnt_loss`.
fn composed(
    x: &[Tensor],
    batch: &Batch,
    activation: Activation,
    options: &Transducer,
) -> Result<Tensor> {
    let a = x[0].unsqueeze(2)?.broadcast_add(&x[1].unsqueeze(1)?)?;
    let h = match activation {
        Activation::Relu => a.relu()?,
        Activation::Tanh => a.tanh()?,
        Activation::Silu => (&a * (a.neg()?.exp()? + 1.0)?.recip()?)?,
        Activation::Gelu => {
            let inner =
                ((&a + (a.powf(3.0)? * 0.044_715)?)? * (2.0 / std::f64::consts::PI).sqrt())?;
            ((&a * 0.5)? * (inner.tanh()? + 1.0)?)?
        }
    };
    let (b, t, columns, width) = h.dims4()?;
    let z = h.reshape(((), width))?.matmul(&x[2].t()?)?.broadcast_add(&x[3])?;
    batch.loss(&z.reshape((b, t, columns, ()))?, options)
}

pub(crate) fn case(
    seed: u64,
    size: [usize; 4],
    width: usize,
    activation: Activation,
    options: Transducer,
) -> Case {
    let mut draw = Draw::new(seed);
    let batch = Batch::draw(&mut draw, size, options.blank, true);
    let same = batch.clone();
    Case {
        name: format!("joint_rnnt_loss {batch:?} of {width} {activation:?} {options:?}"),
        arguments: arguments(&mut draw, &batch, width),
        op: Box::new(move |x: &[Tensor]| loss(x, &batch, activation, &options)),
        composed: Box::new(move |x: &[Tensor]| composed(x, &same, activation, &options)),
    }
}

const SIZES: [([usize; 4], usize); 7] = [
    ([1, 1, 0, 2], 1),
    ([1, 1, 0, 4], 3),
    ([2, 1, 3, 4], 2),
    ([2, 4, 0, 3], 5),
    ([3, 5, 4, 6], 8),
    ([2, 3, 7, 5], 4),
    ([3, 9, 2, 20], 16),
];

#[test]
fn values_and_gradients() {
    for activation in ALL {
        for (size, width) in SIZES {
            case(100, size, width, activation, Transducer::default()).check(64.0);
        }
    }
}

/// Several segments an utterance, a frame of more cells than a segment has, and the options.
#[test]
fn segments_and_options() {
    let options = Transducer { blank: 2, fast_emit: 0.2, clamp: Some(0.05) };
    for (size, width) in [([3, 200, 6, 9], 5), ([2, 3, 700, 5], 3), ([2, 1300, 0, 3], 2)] {
        for options in [Transducer::default(), options] {
            let case = case(101, size, width, Activation::Tanh, options);
            case.against_composed(f64::INFINITY);
        }
    }
}

/// How many segments are in work at once is how results are computed, not what they are.
#[test]
fn the_memory_changes_no_bit() {
    let mut draw = Draw::new(102);
    let batch = Batch::draw(&mut draw, [3, 230, 6, 9], 0, true);
    let double = arguments(&mut draw, &batch, 7);
    for dtype in [DType::F32, DType::F64] {
        let x = cast(&double, dtype);
        let of = |memory: usize| {
            let batch = batch.clone();
            let op: crate::check::Op = Box::new(move |x: &[Tensor]| {
                let joint = Joint { memory, ..Joint::new(&x[2], &x[3], Activation::Relu) };
                let options = Transducer::default();
                fadam_ops::joint_rnnt_loss(
                    &x[0],
                    &x[1],
                    &joint,
                    &batch.targets,
                    &batch.frames,
                    &options,
                )
            });
            value_and_gradients(&op, &x, &Tensor::new(&[1.0, -0.5, 2.0], &Device::Cpu).unwrap())
        };
        let wanted = of(Joint::MEMORY);
        for memory in [0, 1, 100_000, 200_000] {
            for (i, (ours, wanted)) in of(memory).iter().zip(&wanted).enumerate() {
                assert_same(&format!("{memory} bytes, {dtype:?}, {i}"), ours, wanted);
            }
        }
    }
}

/// A batch is its utterances alone, to the bit but for ∂W and ∂b, which are their sums; frames and states outside of an
/// utterance may be anything, and have a gradient of 0.
#[test]
fn padding_is_neither_read_nor_moved() {
    let mut draw = Draw::new(103);
    let batch = Batch::draw(&mut draw, [4, 60, 12, 9], 0, true);
    let [_, t, u, _] = batch.size;
    let double = arguments(&mut draw, &batch, 6);
    let plain = Transducer::default();
    for dtype in [DType::F32, DType::F64] {
        let x = cast(&double, dtype);
        let mut dirty = x.clone();
        for b in 0..4 {
            for (i, (all, inside)) in
                [(t, batch.frames[b]), (u + 1, batch.targets[b].len() + 1)].into_iter().enumerate()
            {
                if inside < all {
                    let nothing = Tensor::full(f64::NAN, (1, all - inside, 6), &Device::Cpu);
                    let nothing = nothing.unwrap().to_dtype(dtype).unwrap();
                    dirty[i] =
                        dirty[i].slice_assign(&[b..b + 1, inside..all, 0..6], &nothing).unwrap();
                }
            }
        }
        let of = |batch: &Batch, x: &[Tensor]| {
            let batch = batch.clone();
            let ones = Tensor::ones(batch.size[0], DType::F64, &Device::Cpu).unwrap();
            let op: crate::check::Op =
                Box::new(move |x: &[Tensor]| loss(x, &batch, Activation::Tanh, &plain));
            value_and_gradients(&op, x, &ones)
        };
        let all = of(&batch, &dirty);
        for b in 0..4 {
            let (frames, states) = (batch.frames[b], batch.targets[b].len() + 1);
            let part = |x: &Tensor, n| {
                x.narrow(0, b, 1).unwrap().narrow(1, 0, n).unwrap().contiguous().unwrap()
            };
            let alone = Batch {
                targets: vec![batch.targets[b].clone()],
                frames: vec![frames],
                size: [1, frames, states - 1, 9],
            };
            let x = [part(&x[0], frames), part(&x[1], states), x[2].clone(), x[3].clone()];
            let alone = of(&alone, &x);
            assert_same("loss", &all[0].narrow(0, b, 1).unwrap(), &alone[0]);
            assert_same("∂e", &part(&all[1], frames), &alone[1]);
            assert_same("∂p", &part(&all[2], states), &alone[2]);
            for (x, inside) in [(&all[1], frames), (&all[2], states)] {
                let rest = x.get(b).unwrap();
                let rest = rest.narrow(0, inside, rest.dim(0).unwrap() - inside).unwrap();
                assert_eq!(largest(&rest), 0.0, "a gradient in the padding");
            }
        }
    }
}

/// A bias of −∞ is a symbol that cannot be emitted; where a label cannot, there is no path and no gradient.
#[test]
fn impossible_symbols() {
    let mut draw = Draw::new(104);
    let mut batch = Batch::draw(&mut draw, [2, 4, 2, 5], 0, false);
    batch.targets = vec![vec![1, 2], vec![1, 3]];
    let mut x = arguments(&mut draw, &batch, 3);
    let without = |v: u32| {
        let mut b = numbers(&x[3]);
        b[v as usize] = f64::NEG_INFINITY;
        Tensor::new(b, &Device::Cpu).unwrap()
    };
    let (unused, used) = (without(4), without(3));
    let g = Tensor::new(&[1.0, 1.0], &Device::Cpu).unwrap();
    let (same, plain) = (batch.clone(), Transducer::default());
    let op: crate::check::Op =
        Box::new(move |x: &[Tensor]| loss(x, &same, Activation::Tanh, &plain));
    x[3] = unused;
    let ours = value_and_gradients(&op, &x, &g);
    let fewer =
        [x[0].clone(), x[1].clone(), x[2].narrow(0, 0, 4).unwrap(), x[3].narrow(0, 0, 4).unwrap()];
    let wanted = value_and_gradients(&op, &fewer, &g);
    for i in 0..5 {
        // Of W and b, what is not of the symbol.
        let of = |x: &Tensor| if i > 2 { x.narrow(0, 0, 4).unwrap() } else { x.clone() };
        assert!(crate::check::relative(&of(&ours[i]), &wanted[i]) < 1e-13, "{i}");
    }
    x[3] = used;
    let ours = value_and_gradients(&op, &x, &g);
    assert!(numbers(&ours[0])[0].is_finite());
    assert_eq!(numbers(&ours[0])[1], f64::INFINITY);
    for (i, gradient) in ours[1..].iter().enumerate() {
        assert!(numbers(gradient).iter().all(|g| g.is_finite()), "{i}");
    }
    assert_eq!(largest(&ours[1].get(1).unwrap()), 0.0);
    assert!(largest(&ours[1].get(0).unwrap()) > 0.0);
}

/// The gradients of variables go to where `backward` collects them, used once or again.
#[test]
fn evaluation_and_collected_gradients() {
    let case = case(105, [2, 6, 3, 5], 4, Activation::Tanh, Transducer::default());
    let (vars, x) = crate::check::vars(&case.arguments);
    let loss = (case.op)(&x).unwrap();
    assert_same("value", &(case.op)(&case.arguments).unwrap(), &loss.detach());
    assert!(!(case.op)(&case.arguments).unwrap().track_op());
    let twice = || {
        let loss = (case.op)(&x).unwrap().sum_all().unwrap();
        (loss + (case.op)(&x).unwrap().sqr().unwrap().sum_all().unwrap()).unwrap()
    };
    let plain = crate::check::of_all(&vars, &twice().backward().unwrap());
    let ours = crate::check::of_all(&vars, &fadam_ops::backward(&twice()).unwrap());
    for (ours, plain) in ours.iter().zip(&plain) {
        assert!(crate::check::relative(ours, plain) < 1e-14);
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(
        seed: u64,
        (b, t, u, width) in (1usize..4, 1usize..6, 0usize..5, 1usize..9),
        (v, blank) in (2usize..9).prop_flat_map(|v| (Just(v), 0..v as u32)),
        which in 0usize..4,
    ) {
        let options = Transducer { blank, ..Transducer::default() };
        case(seed, [b, t, u, v], width, ALL[which], options).check_of_any_shape();
    }
}
