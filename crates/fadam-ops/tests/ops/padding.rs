//! What holds for every op of padded batches: what lies beyond an utterance's length reaches nothing, and an utterance in a batch
//! is the utterance alone.

use candle_core::{DType, Tensor};

use crate::check::{Draw, Op, assert_same, cast, of_all, relative, value_and_gradients, vars};
use crate::{batch_norm, conv2d, depthwise_conv1d, group_norm};

/// An op on `[B, T, ...]`, of given lengths.
pub(crate) type Padded = fn(Vec<usize>) -> Op;

/// x multiplied with 1 for real frames and 0 for others.
pub(crate) fn masked(x: &Tensor, lengths: &[usize]) -> candle_core::Result<Tensor> {
    let mut shape = vec![1; x.rank()];
    shape[..2].copy_from_slice(&x.dims()[..2]);
    let frames = x.dim(1)?;
    let real = lengths.iter().flat_map(|n| (0..frames).map(move |t| f64::from(u8::from(t < *n))));
    let mask = Tensor::from_vec(real.collect::<Vec<f64>>(), shape, x.device())?;
    x.broadcast_mul(&mask.to_dtype(x.dtype())?)
}

/// x with a number in place of what lies beyond.
fn filled(x: &Tensor, lengths: &[usize], with: f64) -> Tensor {
    let real = masked(&x.ones_like().unwrap(), lengths).unwrap().ne(0.0).unwrap();
    real.where_cond(x, &(x.zeros_like().unwrap() + with).unwrap()).unwrap()
}

struct Example {
    name: &'static str,
    op: Padded,
    arguments: Vec<Tensor>,
    lengths: Vec<usize>,
    /// Of the result.
    after: Vec<usize>,
}

/// Several tasks an utterance, a length that is T, one that is short and one that is 0.
fn examples() -> Vec<Example> {
    let mut draw = Draw::new(80);
    let lengths = vec![150, 131, 2, 0];
    let mut example = |name, op, shapes: &[&[usize]], after: Vec<usize>| Example {
        name,
        op,
        arguments: shapes.iter().map(|shape| draw.tensor(*shape)).collect(),
        lengths: lengths.clone(),
        after,
    };
    vec![
        example(
            "depthwise_conv1d",
            depthwise_conv1d::op,
            &[&[4, 150, 20], &[20, 31]],
            lengths.clone(),
        ),
        example(
            "batch_norm",
            |lengths| batch_norm::op(lengths, 1e-3),
            &[&[4, 150, 20], &[20], &[20]],
            lengths.clone(),
        ),
        example(
            "group_norm",
            |lengths| group_norm::op(4, lengths, 1e-3),
            &[&[4, 150, 20], &[20], &[20]],
            lengths.clone(),
        ),
        example(
            "conv2d",
            |lengths| conv2d::op(lengths, conv2d::HALVING),
            &[&[4, 150, 40, 3], &[5, 3, 3, 3], &[5]],
            vec![75, 66, 1, 0],
        ),
    ]
}

#[test]
fn what_padding_holds_reaches_nothing() {
    for Example { name, op, arguments, lengths, after } in examples() {
        let op = op(lengths.clone());
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let mut x = cast(&arguments, dtype);
            let g = Draw::new(81).tensor(op(&x).unwrap().shape());
            let wanted = value_and_gradients(&op, &x, &g.to_dtype(dtype).unwrap());
            let (y, dx) = (&wanted[0], &wanted[1]);
            assert_same(name, y, &filled(y, &after, 0.0));
            assert_same(name, dx, &filled(dx, &lengths, 0.0));
            for garbage in [1e30, f64::NAN, f64::INFINITY] {
                x[0] = filled(&x[0], &lengths, garbage);
                let (vars, x) = vars(&x);
                let y = op(&x).unwrap();
                assert_same(name, &y.detach(), &wanted[0]);
                // Not by a product, which would make NaN of the zeros that y has there: by what a gradient of y is.
                let g = filled(&g.to_dtype(dtype).unwrap(), &after, garbage);
                let gradients = given(&y, &g).backward().unwrap();
                for (i, ours) in of_all(&vars, &gradients).iter().enumerate() {
                    let what = format!("{name} {dtype:?}, argument {i}, {garbage} in padding");
                    assert_same(&what, ours, &wanted[1 + i]);
                }
            }
        }
    }
}

/// A scalar whose gradient by y is g, whatever y and g hold.
fn given(y: &Tensor, g: &Tensor) -> Tensor {
    struct Given(Tensor);
    impl candle_core::CustomOp1 for Given {
        fn name(&self) -> &'static str {
            "given"
        }

        fn cpu_fwd(
            &self,
            x: &candle_core::CpuStorage,
            layout: &candle_core::Layout,
        ) -> candle_core::Result<(candle_core::CpuStorage, candle_core::Shape)> {
            Ok((x.clone(), layout.shape().clone()))
        }

        fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
            Ok(Some(self.0.clone()))
        }
    }
    y.apply_op1(Given(g.clone())).unwrap().sum_all().unwrap()
}

/// Batch norm's statistics are of all utterances: in place of a batch alone, its utterances one after another.
#[test]
fn a_batch_is_its_utterances_alone() {
    for Example { name, op, arguments, lengths, after } in examples() {
        let alone = |i: usize, x: &Tensor, n: usize| x.narrow(0, i, 1)?.narrow(1, 0, n);
        let g = Draw::new(82).tensor(op(lengths.clone())(&arguments).unwrap().shape());
        let batch = value_and_gradients(&op(lengths.clone()), &arguments, &g);
        let of_x = |x: &Tensor, lengths: &[usize]| -> Vec<Tensor> {
            let each = lengths.iter().enumerate().filter(|(_, n)| **n > 0);
            each.map(|(i, n)| alone(i, x, *n).unwrap()).collect()
        };
        let parts = of_x(&arguments[0], &lengths);
        let parts =
            if name == "batch_norm" { vec![Tensor::cat(&parts, 1).unwrap()] } else { parts };
        let gs = of_x(&g, &after);
        let gs = if name == "batch_norm" { vec![Tensor::cat(&gs, 1).unwrap()] } else { gs };
        let (mut values, mut dxs, mut others) = (Vec::new(), Vec::new(), Vec::<Tensor>::new());
        for (x, g) in parts.iter().zip(&gs) {
            let mut arguments = arguments.clone();
            arguments[0] = x.clone();
            let mut of = value_and_gradients(&op(vec![x.dim(1).unwrap()]), &arguments, g);
            let rest = of.split_off(2);
            others = if others.is_empty() {
                rest
            } else {
                others.iter().zip(&rest).map(|(a, b)| (a + b).unwrap()).collect()
            };
            dxs.push(of.pop().unwrap());
            values.push(of.pop().unwrap());
        }
        for (what, ours, lengths, alone) in
            [("value", &batch[0], &after, values), ("gradient of x", &batch[1], &lengths, dxs)]
        {
            let ours = Tensor::cat(&of_x(ours, lengths), 1).unwrap();
            let off = relative(&ours, &Tensor::cat(&alone, 1).unwrap());
            assert!(off < 1e-13, "{name}: the {what} is off by {off:e}");
        }
        for (i, (ours, alone)) in batch[2..].iter().zip(&others).enumerate() {
            let off = relative(ours, alone);
            assert!(off < 1e-12, "{name}: the gradient of argument {} is off by {off:e}", i + 1);
        }
    }
}

/// A batch padded further has the same results.
#[test]
fn room_beyond_the_longest_changes_nothing() {
    for Example { name, op, arguments, lengths, after } in examples() {
        let (n, to) = (lengths[1], after[1]);
        let op = op(lengths.iter().map(|len| n.min(*len)).collect());
        let mut cut = arguments.clone();
        cut[0] = arguments[0].narrow(1, 0, n).unwrap();
        let g = Draw::new(83).tensor(op(&arguments).unwrap().shape());
        let wide = value_and_gradients(&op, &arguments, &g);
        let narrow = value_and_gradients(&op, &cut, &g.narrow(1, 0, to).unwrap());
        for (i, (wide, narrow)) in wide.iter().zip(&narrow).enumerate() {
            let frames = narrow.dim(1).ok().filter(|_| i < 2);
            let wide = frames.map_or(wide.clone(), |n| wide.narrow(1, 0, n).unwrap());
            assert_same(&format!("{name} {i}"), &wide, narrow);
        }
    }
}
