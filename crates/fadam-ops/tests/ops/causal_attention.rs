//! `causal_attention`

use candle_core::{D, DType, Device, Tensor};
use fadam_ops::{Attention, Rope};

use crate::check::{Case, Draw, cast, difference, relative};
use crate::rope::rotated;

/// What is looked at: sequences, positions, heads and key heads, width of a head, and whether positions are rotary.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) b: usize,
    pub(crate) t: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) d: usize,
    pub(crate) rope: bool,
}

impl Shape {
    fn attention(self, dtype: DType) -> Attention {
        let Self { t, heads, kv_heads, d, .. } = self;
        let rope = self.rope.then(|| Rope::new(t, d, 100.0, dtype, &Device::Cpu).unwrap());
        Attention { heads, kv_heads, rope }
    }
}

pub(crate) fn case(seed: u64, shape: Shape) -> Case {
    let Shape { b, t, heads, kv_heads, d, rope } = shape;
    Case {
        name: format!(
            "causal_attention of {b} x {t}, {heads} / {kv_heads} heads of {d}, rope {rope}"
        ),
        arguments: vec![Draw::new(seed).tensor((b, t, (heads + 2 * kv_heads) * d))],
        op: Box::new(move |x: &[Tensor]| {
            fadam_ops::causal_attention(&x[0], &shape.attention(x[0].dtype()))
        }),
        // Head by head, with e^−1e300 = 0 for what is later.
        composed: Box::new(move |x: &[Tensor]| {
            let head = |i: usize| x[0].narrow(D::Minus1, i * d, d);
            let turn = |x: Tensor| if rope { rotated(&x, 100.0, 0) } else { Ok(x) };
            let later = |e: usize| if e % t > e / t { -1e300 } else { 0.0 };
            let mask = Tensor::from_vec((0..t * t).map(later).collect(), (t, t), &Device::Cpu)?;
            let one = |i: usize| {
                let kv = heads + i / (heads / kv_heads);
                let (q, k, v) = (turn(head(i)?)?, turn(head(kv)?)?, head(kv + kv_heads)?);
                let scores = (q.contiguous()?.matmul(&k.t()?.contiguous()?)? / (d as f64).sqrt())?;
                let e = scores.broadcast_add(&mask)?.exp()?;
                e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?.matmul(&v.contiguous()?)
            };
            Tensor::cat(&(0..heads).map(one).collect::<candle_core::Result<Vec<_>>>()?, D::Minus1)
        }),
    }
}

/// Multi-head, grouped and multi-query.
const HEADS: [(usize, usize); 4] = [(1, 1), (3, 3), (4, 2), (4, 1)];

fn each(mut f: impl FnMut(Shape)) {
    for (heads, kv_heads) in HEADS {
        for rope in [false, true] {
            // Below, at and above a tile of 64 queries, and more than two of them.
            for t in [1, 2, 63, 64, 65, 130] {
                f(Shape { b: 1, t, heads, kv_heads, d: 4, rope });
            }
            f(Shape { b: 3, t: 5, heads, kv_heads, d: 6, rope });
            f(Shape { b: 2, t: 70, heads, kv_heads, d: 16, rope });
        }
    }
}

#[test]
fn gradients_are_the_differences() {
    each(|shape| case(10, shape).against_differences());
}

#[test]
fn values_and_gradients() {
    // Four products in a row, and softmax: each adds some roundings.
    each(|shape| case(11, shape).against_composed(32.0));
}

#[test]
fn halves() {
    for (heads, kv_heads) in HEADS {
        case(12, Shape { b: 2, t: 66, heads, kv_heads, d: 4, rope: false }).halves();
        // With a table that is itself rounded: 2⁻⁸ and 2⁻¹¹ of q and of k, in scores of about 1.
        let of = case(12, Shape { b: 2, t: 66, heads, kv_heads, d: 4, rope: true });
        for (half, unit) in [(DType::BF16, 2f64.powi(-8)), (DType::F16, 2f64.powi(-11))] {
            let x = cast(&of.arguments, half);
            let (y, wide) = ((of.op)(&x).unwrap(), (of.op)(&cast(&x, DType::F32)).unwrap());
            assert_eq!(y.dtype(), half);
            assert!(relative(&y, &wide) < 4.0 * unit);
        }
    }
}

#[test]
fn a_later_position_changes_nothing_earlier() {
    for rope in [false, true] {
        let of = case(13, Shape { b: 2, t: 70, heads: 4, kv_heads: 2, d: 8, rope });
        let x = &of.arguments[0];
        let other = Draw::new(14).tensor(x.shape());
        for at in [1, 33, 64, 69] {
            let (first, rest) =
                (x.narrow(1, 0, at).unwrap(), other.narrow(1, at, 70 - at).unwrap());
            let changed = Tensor::cat(&[&first, &rest], 1).unwrap();
            let [a, b] = [x, &changed].map(|x| (of.op)(std::slice::from_ref(x)).unwrap());
            let part = |y: &Tensor, from: usize, n: usize| y.narrow(1, from, n).unwrap();
            assert_eq!(difference(&part(&a, 0, at), &part(&b, 0, at)), 0.0, "{at}");
            assert!(difference(&part(&a, at, 1), &part(&b, at, 1)) > 1e-2, "{at}");
            // and the gradient of earlier outputs does not reach it
            let var = candle_core::Var::from_tensor(x).unwrap();
            let y = (of.op)(&[var.as_tensor().clone()]).unwrap();
            let gradients = part(&y, 0, at).sum_all().unwrap().backward().unwrap();
            let dx = gradients.get(&var).unwrap();
            assert_eq!(crate::check::largest(&part(dx, at, 70 - at)), 0.0);
            assert!(crate::check::largest(&part(dx, 0, at)) > 1e-2);
        }
    }
}

/// Large scores, of which softmax takes the largest away, and a sequence alone or beside others.
#[test]
fn far_scores_and_each_sequence_alone() {
    let of = case(15, Shape { b: 3, t: 9, heads: 2, kv_heads: 1, d: 4, rope: true });
    let x = (&of.arguments[0] * 1e3).unwrap().to_dtype(DType::F32).unwrap();
    let y = (of.op)(std::slice::from_ref(&x)).unwrap();
    assert!(crate::check::largest(&y) <= 1500.0);
    for i in 0..3 {
        let alone = (of.op)(&[x.narrow(0, i, 1).unwrap()]).unwrap();
        assert!(relative(&alone, &y.narrow(0, i, 1).unwrap()) < 1e-5);
    }
}
