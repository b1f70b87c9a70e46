//! `self_attention` and `sinusoidal_positions`

use candle_core::{D, DType, Device, Result, Tensor, Var};
use fadam_ops::{RelativePositions, SelfAttention, sinusoidal_positions};
use proptest::prelude::*;

use crate::check::{
    Case, Draw, Op, assert_same, cast, difference, functional, largest, numbers, relative,
    value_and_gradients,
};

/// What is looked at: lengths, positions, heads and their width, and whether positions are relative.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub(crate) lengths: &'a [usize],
    pub(crate) t: usize,
    pub(crate) heads: usize,
    pub(crate) d: usize,
    pub(crate) relative: bool,
}

pub(crate) fn case(seed: u64, shape: Shape<'_>) -> Case {
    let Shape { lengths, t, heads, d, relative } = shape;
    let (b, mut draw) = (lengths.len(), Draw::new(seed));
    let mut arguments = vec![draw.tensor((b, t, 3 * heads * d))];
    if relative {
        arguments.push(draw.tensor(((2 * t).max(1) - 1, heads * d)));
        arguments.push(draw.tensor((2, heads, d)));
    }
    let composed: Vec<usize> = lengths.into();
    Case {
        name: format!(
            "self_attention of {lengths:?} in {t}, {heads} heads of {d}, relative {relative}"
        ),
        arguments,
        op: attend(lengths, heads),
        composed: Box::new(move |x: &[Tensor]| composed_of(x, &composed, heads)),
    }
}

/// The op on qkv, and on r and uv if there are.
fn attend(lengths: &[usize], heads: usize) -> Op {
    let lengths: Vec<usize> = lengths.into();
    Box::new(move |x: &[Tensor]| {
        let positions = x.get(1).map(|r| RelativePositions { r, uv: &x[2] });
        fadam_ops::self_attention(&x[0], &SelfAttention { heads, lengths: &lengths, positions })
    })
}

/// Sequence by sequence and head by head, with an r of its own for each pair of positions.
fn composed_of(x: &[Tensor], lengths: &[usize], heads: usize) -> Result<Tensor> {
    let (_, t, width) = x[0].dims3()?;
    let d = width / heads / 3;
    let mut sequences = Vec::new();
    for (i, &l) in lengths.iter().enumerate() {
        let rows = x[0].get(i)?.narrow(0, 0, l)?;
        let part =
            |part: usize, head: usize| rows.narrow(1, (part * heads + head) * d, d)?.contiguous();
        let one = |head: usize| {
            let (q, k, v) = (part(0, head)?, part(1, head)?, part(2, head)?);
            let scores = match x.get(1) {
                None => q.matmul(&k.t()?)?,
                Some(r) => {
                    let bias = |which: usize| x[2].get(which)?.get(head)?.unsqueeze(0);
                    let pairs = (0..l * l).map(|e| (t - 1 + e % l - e / l) as u32);
                    let pairs = Tensor::from_vec(pairs.collect(), l * l, &Device::Cpu)?;
                    let r = r.narrow(1, head * d, d)?.contiguous()?.index_select(&pairs, 0)?;
                    let q_v = q.broadcast_add(&bias(1)?)?.unsqueeze(1)?;
                    let by_offset = r.reshape((l, l, d))?.broadcast_mul(&q_v)?.sum(D::Minus1)?;
                    (q.broadcast_add(&bias(0)?)?.matmul(&k.t()?)? + by_offset)?
                }
            };
            let e = (scores / (d as f64).sqrt())?.exp()?;
            e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?.matmul(&v)
        };
        let all = Tensor::cat(&(0..heads).map(one).collect::<Result<Vec<_>>>()?, 1)?;
        let padding = Tensor::zeros((t - l, heads * d), x[0].dtype(), &Device::Cpu)?;
        sequences.push(Tensor::cat(&[&all, &padding], 0)?);
    }
    Tensor::stack(&sequences, 0)
}

/// Below, at and above a tile of 64 queries, and more than two of them; with and without padding.
fn each(mut f: impl FnMut(Shape)) {
    for relative in [false, true] {
        for (lengths, t) in [
            (&[1][..], 1),
            (&[2], 2),
            (&[63], 63),
            (&[64], 64),
            (&[65], 65),
            (&[130], 130),
            (&[40, 130, 1, 65], 132),
        ] {
            f(Shape { lengths, t, heads: 2, d: 3, relative });
        }
        f(Shape { lengths: &[5, 9, 7], t: 9, heads: 1, d: 16, relative });
        f(Shape { lengths: &[4, 6], t: 6, heads: 4, d: 1, relative });
        f(Shape { lengths: &[50, 64], t: 64, heads: 3, d: 36, relative });
    }
}

#[test]
fn gradients_are_the_differences() {
    each(|shape| case(80, shape).against_differences());
}

#[test]
fn values_and_gradients() {
    // Products in a row, and softmax: each adds some roundings. Of one position, the gradients of r and of the biases are 0, and
    // f32 leaves nothing but them.
    each(|shape| {
        let ulps = if shape.t == 1 { f64::INFINITY } else { 64.0 };
        case(81, shape).against_composed(ulps);
    });
}

#[test]
fn halves() {
    for relative in [false, true] {
        case(82, Shape { lengths: &[65, 70], t: 70, heads: 2, d: 4, relative }).halves();
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, lengths in prop::collection::vec(1usize..80, 1..4), more in 0usize..3,
                 heads in 1usize..4, d in 1usize..6, relative: bool) {
        let t = lengths.iter().max().unwrap() + more;
        case(seed, Shape { lengths: &lengths, t, heads, d, relative }).check_of_any_shape();
    }
}

const PADDED: Shape = Shape { lengths: &[5, 0, 70, 1], t: 73, heads: 2, d: 4, relative: true };

/// `x [B, T, ..]` with `by` in place of what lies beyond the lengths.
fn with_padding(x: &Tensor, lengths: &[usize], by: f64) -> Tensor {
    let (_, t, width) = x.dims3().unwrap();
    let fill = |(e, x): (usize, f64)| if e / width % t < lengths[e / width / t] { x } else { by };
    let numbers = numbers(x).into_iter().enumerate().map(fill).collect();
    Tensor::from_vec(numbers, x.shape(), &Device::Cpu).unwrap().to_dtype(x.dtype()).unwrap()
}

/// NaN in padding reaches nothing, neither as an argument nor as a gradient of the value; and there, all is 0.
#[test]
fn padding_is_not_read() {
    for relative in [false, true] {
        let shape = Shape { relative, ..PADDED };
        let of = case(83, shape);
        for dtype in [DType::F32, DType::F64] {
            let mut x = cast(&of.arguments, dtype);
            let g = with_padding(&of.g(84), shape.lengths, 0.0);
            x[0] = with_padding(&x[0], shape.lengths, 0.0);
            let wanted = value_and_gradients(&of.op, &x, &g);
            for y in &wanted[..2] {
                assert_same("padding", y, &with_padding(y, shape.lengths, 0.0));
                assert!(largest(y) > 0.1);
            }
            x[0] = with_padding(&x[0], shape.lengths, f64::NAN);
            for by in [0.0, f64::NAN, f64::INFINITY] {
                let g = with_padding(&g, shape.lengths, by);
                for (i, (ours, wanted)) in
                    value_and_gradients(&of.op, &x, &g).iter().zip(&wanted).enumerate()
                {
                    assert_same(&format!("{} {dtype:?} {by} {i}", of.name), ours, wanted);
                }
            }
        }
    }
}

/// A sequence beside others and with padding is the sequence alone, with the offsets that it has.
#[test]
fn each_sequence_alone() {
    for relative in [false, true] {
        let shape = Shape { lengths: &[5, 73, 65, 1], relative, ..PADDED };
        let Shape { lengths, t, heads, .. } = shape;
        let of = case(85, shape);
        for dtype in [DType::F32, DType::F64] {
            let x = cast(&of.arguments, dtype);
            let g = of.g(86);
            let whole = value_and_gradients(&of.op, &x, &g);
            let mut sums: Vec<Tensor> =
                whole[2..].iter().map(|x| x.zeros_like().unwrap()).collect();
            for (i, &l) in lengths.iter().enumerate() {
                let own = |x: &Tensor| x.narrow(0, i, 1).unwrap().narrow(1, 0, l).unwrap();
                let mut alone = vec![own(&x[0])];
                if relative {
                    alone.push(x[1].narrow(0, t - l, 2 * l - 1).unwrap());
                    alone.push(x[2].clone());
                }
                let alone = value_and_gradients(&attend(&[l], heads), &alone, &own(&g));
                for (alone, whole) in alone.iter().zip(&whole).take(2) {
                    assert_same(&format!("{} {i} alone", of.name), alone, &own(whole));
                }
                if relative {
                    let more = alone[2].pad_with_zeros(0, t - l, t - l).unwrap();
                    sums[0] = (&sums[0] + more).unwrap();
                    sums[1] = (&sums[1] + &alone[3]).unwrap();
                }
            }
            for (sum, whole) in sums.iter().zip(&whole[2..]) {
                assert_same("added up in the order of the sequences", sum, whole);
            }
        }
    }
}

/// Positions that are all 0 are none.
#[test]
fn positions_of_zeros() {
    let of = case(87, Shape { lengths: &[9, 70], t: 70, heads: 2, d: 6, relative: true });
    let mut x = of.arguments.clone();
    for x in &mut x[1..] {
        *x = x.zeros_like().unwrap();
    }
    assert_same("positions of zeros", &(of.op)(&x).unwrap(), &(of.op)(&x[..1]).unwrap());
    assert!(difference(&(of.op)(&of.arguments).unwrap(), &(of.op)(&x).unwrap()) > 0.1);
}

/// Backwards in time, with the offsets backwards as well, is the same backwards; with the offsets as they were, it is not.
#[test]
fn backwards_in_time() {
    let t = 70;
    let of = case(88, Shape { lengths: &[t, t], t, heads: 2, d: 6, relative: true });
    let back = |x: &Tensor, dim: usize| x.flip(&[dim]).unwrap();
    let x = &of.arguments;
    let turned = [back(&x[0], 1), back(&x[1], 0), x[2].clone()];
    let y = (of.op)(x).unwrap();
    assert!(relative(&back(&(of.op)(&turned).unwrap(), 1), &y) < 1e-13);
    let half = [turned[0].clone(), x[1].clone(), x[2].clone()];
    assert!(relative(&back(&(of.op)(&half).unwrap(), 1), &y) > 1e-2);
    assert!(
        relative(&back(&(of.op)(&turned[..1]).unwrap(), 1), &(of.op)(&x[..1]).unwrap()) < 1e-13
    );
}

/// Large scores, of which softmax takes the largest away.
#[test]
fn far_scores() {
    let of = case(89, Shape { lengths: &[7, 9], t: 9, heads: 2, d: 4, relative: true });
    let x: Vec<Var> =
        of.arguments.iter().map(|x| Var::from_tensor(&(x * 1e3).unwrap()).unwrap()).collect();
    let tensors: Vec<Tensor> = x.iter().map(|x| x.as_tensor().clone()).collect();
    for dtype in [DType::F32, DType::F64] {
        let y = (of.op)(&cast(&tensors, dtype)).unwrap();
        assert!(largest(&y) <= 1500.0 && largest(&y) > 100.0);
        let gradients = functional(&y, &y.ones_like().unwrap()).unwrap().backward().unwrap();
        for x in &x {
            let dx = gradients.get(x).unwrap();
            assert!(difference(dx, dx) == 0.0, "not all are numbers");
        }
    }
}

/// Row m is the offset t − 1 − m, with the frequencies of pairs falling from 1 by equal ratios to near 1e-4.
#[test]
fn sines_and_cosines() {
    let (t, d) = (50, 12);
    let x = sinusoidal_positions(t, d, DType::F64, &Device::Cpu).unwrap();
    assert_eq!(x.dims(), [2 * t - 1, d]);
    let rows = x.to_vec2::<f64>().unwrap();
    for (m, row) in rows.iter().enumerate() {
        for (i, pair) in row.chunks(2).enumerate() {
            let angle = (49.0 - m as f64) * (-(10_000f64.ln()) * i as f64 / 6.0).exp();
            assert!((pair[0] - angle.sin()).abs() < 1e-12 && (pair[1] - angle.cos()).abs() < 1e-12);
        }
    }
    let single = sinusoidal_positions(t, d, DType::F32, &Device::Cpu).unwrap();
    assert_same("rounded", &single, &x.to_dtype(DType::F32).unwrap());
    // A shorter table is the middle of a longer one.
    let short = sinusoidal_positions(20, d, DType::F64, &Device::Cpu).unwrap();
    assert_same("shorter", &short, &x.narrow(0, 30, 39).unwrap());
    assert_eq!(sinusoidal_positions(0, 4, DType::F32, &Device::Cpu).unwrap().dims(), [0, 4]);
}
