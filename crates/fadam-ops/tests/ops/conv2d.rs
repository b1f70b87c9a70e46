//! `conv2d`

use candle_core::{D, DType, Device, Result, Tensor, Var};
use fadam_ops::Conv2d;
use proptest::prelude::*;

use crate::check::{Case, Draw, Op, numbers};
use crate::padding::masked;

/// Half the frames and bands, as of a kernel of 3 and 3.
pub(crate) const HALVING: Conv2d = Conv2d { stride: (2, 2), padding: (1, 1), relu: false };

pub(crate) fn op(lengths: Vec<usize>, conv: Conv2d) -> Op {
    Box::new(move |x: &[Tensor]| fadam_ops::conv2d(&x[0], &x[1], &x[2], &lengths, &conv))
}

/// T, F and `C_in`; `C_out`, `K_t` and `K_f`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes(pub(crate) [usize; 3], pub(crate) [usize; 3]);

/// Places `k, k + s, ...` of a dimension.
fn every(x: &Tensor, dim: usize, k: usize, n: usize, s: usize) -> Result<Tensor> {
    let places: Vec<u32> = (0..n).map(|i| (k + i * s) as u32).collect();
    x.index_select(&Tensor::new(places, x.device())?, dim)
}

/// A product for each place of the kernel, added up.
fn composed(x: &[Tensor], lengths: &[usize], conv: Conv2d) -> Result<Tensor> {
    let (padding, stride) = (conv.padding, conv.stride);
    let (c_out, k_t, k_f, c_in) = x[1].dims4()?;
    let (b, t, f, _) = x[0].dims4()?;
    let out_t = (t + 2 * padding.0 - k_t) / stride.0 + 1;
    let out_f = (f + 2 * padding.1 - k_f) / stride.1 + 1;
    let real = masked(&x[0], lengths)?
        .pad_with_zeros(1, padding.0, padding.0)?
        .pad_with_zeros(2, padding.1, padding.1)?;
    let mut sum = Tensor::zeros((b, out_t, out_f, c_out), x[0].dtype(), x[0].device())?;
    for (i, j) in (0..k_t).flat_map(|i| (0..k_f).map(move |j| (i, j))) {
        let read = every(&every(&real, 1, i, out_t, stride.0)?, 2, j, out_f, stride.1)?;
        let w = x[1].narrow(1, i, 1)?.narrow(2, j, 1)?.reshape((c_out, c_in))?;
        sum = (sum + read.broadcast_matmul(&w.t()?)?)?;
    }
    let sum = sum.broadcast_add(&x[2])?;
    let after: Vec<usize> = lengths
        .iter()
        .map(|n| if *n == 0 { 0 } else { (n + 2 * padding.0 - k_t) / stride.0 + 1 })
        .collect();
    // relu without its bend, where differences cannot be taken: there is none near a drawn number.
    masked(&if conv.relu { sum.maximum(0.0)? } else { sum }, &after)
}

pub(crate) fn case(seed: u64, Sizes(of_x, of_w): Sizes, lengths: &[usize], conv: Conv2d) -> Case {
    let mut draw = Draw::new(seed);
    let [t, f, c_in] = of_x;
    let [c_out, k_t, k_f] = of_w;
    let of = lengths.to_vec();
    let mut arguments = vec![
        draw.tensor((lengths.len(), t, f, c_in)),
        draw.tensor((c_out, k_t, k_f, c_in)),
        draw.tensor(c_out),
    ];
    if conv.relu {
        // Differences cannot be taken across its bend: b is chosen so that no output is near it.
        let none = Conv2d { relu: false, ..conv };
        arguments[2] = away_from_zero(&composed(&arguments, lengths, none).unwrap(), &arguments[2]);
    }
    Case {
        name: format!("conv2d {of_x:?} {of_w:?} {lengths:?} {conv:?}"),
        arguments,
        op: op(lengths.to_vec(), conv),
        composed: Box::new(move |x: &[Tensor]| composed(x, &of, conv)),
    }
}

/// b moved so that no number of a channel of y is within 1/32 of 0, and some are on each side of it if there are several.
fn away_from_zero(y: &Tensor, b: &Tensor) -> Tensor {
    let rows = y.flatten_to(D::Minus2).unwrap().to_vec2::<f64>().unwrap();
    let move_by = |(c, b): (usize, f64)| {
        let mut numbers: Vec<f64> = rows.iter().map(|row| row[c]).collect();
        numbers.sort_by(f64::total_cmp);
        let gaps =
            numbers.windows(2).map(|pair| (pair[1] - pair[0], f64::midpoint(pair[0], pair[1])));
        let widest = gaps.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|gap| gap.0 > 1.0 / 16.0);
        let middle = widest.map_or(numbers[0] - 1.0, |gap| gap.1);
        f64::from((b - middle) as f32)
    };
    let b: Vec<f64> = numbers(b).into_iter().enumerate().map(move_by).collect();
    Tensor::new(b, &Device::Cpu).unwrap()
}

const PLAIN: Conv2d = Conv2d { stride: (1, 1), padding: (0, 0), relu: false };

#[test]
fn values_and_gradients() {
    let all = [
        (Sizes([1, 1, 1], [1, 1, 1]), &[1][..], PLAIN),
        (Sizes([5, 4, 2], [3, 3, 3]), &[5, 4], PLAIN),
        (Sizes([8, 7, 1], [4, 3, 3]), &[8, 5, 0], HALVING),
        (Sizes([7, 8, 3], [2, 3, 3]), &[7, 1], HALVING),
        (Sizes([9, 6, 2], [3, 5, 2]), &[9, 2], Conv2d { stride: (1, 3), padding: (2, 1), ..PLAIN }),
        (Sizes([6, 9, 2], [3, 1, 4]), &[6, 3], Conv2d { stride: (3, 2), ..PLAIN }),
        // Padding wider than the kernel, and windows of nothing else.
        (Sizes([3, 2, 2], [3, 2, 2]), &[3, 1], Conv2d { stride: (2, 1), padding: (3, 4), ..PLAIN }),
        // Several tasks an utterance, with windows across; steps over frames that no window reads.
        (Sizes([90, 23, 4], [5, 7, 3]), &[90, 71], Conv2d { padding: (3, 1), ..PLAIN }),
        (Sizes([99, 23, 4], [5, 3, 3]), &[99, 50], HALVING),
        (Sizes([200, 30, 3], [5, 1, 3]), &[200, 140], Conv2d { stride: (3, 1), ..PLAIN }),
    ];
    for (sizes, lengths, conv) in all {
        case(26, sizes, lengths, conv).check(64.0);
    }
}

/// With relu, of few outputs: each channel's are kept from its bend.
#[test]
fn values_and_gradients_with_relu() {
    for (sizes, lengths) in [
        (Sizes([5, 4, 2], [3, 3, 3]), &[5, 4][..]),
        (Sizes([6, 5, 1], [16, 3, 3]), &[6, 3]),
        (Sizes([3, 3, 20], [7, 2, 2]), &[3]),
    ] {
        case(27, sizes, lengths, Conv2d { relu: true, ..HALVING }).check(64.0);
    }
}

/// One window has more numbers than a task of many, and a task of one output frame is larger than a task may be.
#[test]
fn large_windows() {
    let wide = Conv2d { padding: (1, 300), ..PLAIN };
    case(28, Sizes([4, 3, 2], [2, 3, 1]), &[4, 2], wide).check(64.0);
    // More tasks than parts of the gradient of w.
    case(28, Sizes([20, 3, 1], [2, 3, 3]), &[20, 17], wide).against_composed(64.0);
    case(29, Sizes([5, 40, 40], [3, 5, 40]), &[5, 4], Conv2d { padding: (2, 20), ..PLAIN })
        .against_composed(64.0);
}

#[test]
fn relu_keeps_nan_and_has_no_slope_at_0() {
    let x = Tensor::new(&[f32::NAN, 0.0, -1.0, 2.0], &Device::Cpu).unwrap();
    let x = Var::from_tensor(&x.reshape((1, 4, 1, 1)).unwrap()).unwrap();
    let w = Tensor::ones((1, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
    let b = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
    let y = fadam_ops::conv2d(&x, &w, &b, &[4], &Conv2d { relu: true, ..PLAIN }).unwrap();
    let values = numbers(&y.detach());
    assert!(values[0].is_nan());
    assert_eq!(values[1..], [0.0, 0.0, 2.0]);
    let dx = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone();
    assert_eq!(numbers(&dx)[1..], [0.0, 0.0, 1.0]);
}

#[test]
fn lengths_after() {
    let of = |stride, padding| Conv2d { stride: (stride, 3), padding: (padding, 0), relu: false };
    let halving = of(2, 1);
    let lengths: Vec<usize> = (0..8).map(|n| halving.output_len(n, 3)).collect();
    assert_eq!(lengths, [0, 1, 1, 2, 2, 3, 3, 4]);
    let none = of(1, 0);
    assert_eq!([0, 1, 2, 3, 4].map(|n| none.output_len(n, 3)), [0, 0, 0, 1, 2]);
    assert_eq!([0, 1, 2].map(|n| of(1, 2).output_len(n, 3)), [0, 3, 4]);
    assert_eq!([2, 3, 5, 6].map(|n| none.output_bands(n, 3)), [0, 1, 1, 2]);
}

/// Utterances of fewer frames than the kernel: no output, and gradients of 0.
#[test]
fn too_few_frames() {
    let draw = |shape: &[usize]| Var::from_tensor(&Draw::new(30).tensor(shape)).unwrap();
    let (x, w, b) = (draw(&[2, 2, 5, 3]), draw(&[4, 3, 3, 3]), draw(&[4]));
    let y = fadam_ops::conv2d(&x, &w, &b, &[2, 1], &PLAIN).unwrap();
    assert_eq!(y.dims(), [2, 0, 3, 4]);
    let (x, y) =
        (draw(&[2, 4, 5, 3]), |x: &Tensor| fadam_ops::conv2d(x, &w, &b, &[2, 1], &PLAIN).unwrap());
    let y = y(&x);
    assert_eq!(y.dims(), [2, 2, 3, 4]);
    assert!(numbers(&y.detach()).iter().all(|y| *y == 0.0));
    let gradients = y.sum_all().unwrap().backward().unwrap();
    for var in [&x, &w, &b] {
        assert!(numbers(gradients.get(var).unwrap()).iter().all(|g| *g == 0.0));
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(
        seed: u64,
        (t, f, c_in) in (3usize..9, 3usize..9, 1usize..4),
        (c_out, k_t, k_f) in (1usize..5, 1usize..4, 1usize..4),
        (stride, padding) in ((1usize..4, 1usize..4), (0usize..3, 0usize..3)),
        short in 3usize..9,
    ) {
        let sizes = Sizes([t, f, c_in], [c_out, k_t, k_f]);
        let conv = Conv2d { stride, padding, relu: false };
        case(seed, sizes, &[t, short.min(t)], conv).check_of_any_shape();
    }
}
