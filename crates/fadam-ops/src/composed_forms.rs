//! What a device computes is what the CPU does: values and gradients of every op in its composed form, which a device takes,
//! beside the fused one, both on the CPU in f64.

use candle_core::{Device, Result, Tensor, Var};

use crate::route::as_on_a_device;
use crate::{
    Activation, Attention, CrossEntropy, LstmState, RelativePositions, Rope, SelfAttention,
};

type Op = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// The same pseudo-random numbers everywhere, between −2 and 2.
fn noise(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let number =
        |i: usize| 4.0 * ((i * 7919 + seed * 104_729 + 1) as f64 * 0.618_033_988).fract() - 2.0;
    Tensor::from_vec((0..n).map(number).collect::<Vec<f64>>(), shape, &Device::Cpu).unwrap()
}

fn ids(count: u32, n: u32) -> Tensor {
    let ids: Vec<u32> = (0..count).map(|i| i * 7 % n).collect();
    Tensor::new(ids, &Device::Cpu).unwrap()
}

/// The value, and the gradients of `Σ y g`.
fn run(op: &Op, arguments: &[Tensor]) -> Vec<Tensor> {
    let vars: Vec<Var> = arguments.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = op(&tensors).unwrap();
    let loss = (&y * noise(y.dims(), 99)).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let of = |var: &Var| gradients.get(var).expect("a gradient").clone();
    std::iter::once(y.detach()).chain(vars.iter().map(of)).collect()
}

fn largest(x: &Tensor) -> f64 {
    let x: Vec<f64> = x.flatten_all().unwrap().to_vec1().unwrap();
    x.iter().fold(0.0, |most, x| if x.is_nan() { f64::INFINITY } else { x.abs().max(most) })
}

fn compare(cases: Vec<(&str, Vec<Tensor>, Op)>) {
    for (name, arguments, op) in cases {
        let fused = run(&op, &arguments);
        let composed = as_on_a_device::composed(|| run(&op, &arguments));
        for (i, (fused, composed)) in fused.iter().zip(&composed).enumerate() {
            assert_eq!(fused.dims(), composed.dims(), "{name}, part {i}");
            let off = largest(&(fused - composed).unwrap());
            let size = largest(fused).max(1e-3);
            assert!(off <= 1e-12 * size, "{name}, part {i}: off by {off:e} of {size:e}");
        }
    }
}

/// Boxes an op, so that a list has one type.
fn op(f: impl Fn(&[Tensor]) -> Result<Tensor> + 'static) -> Op {
    Box::new(f)
}

#[test]
fn rows() {
    let x = || noise(&[3, 4, 8], 1);
    let mut cases = vec![
        ("softmax", vec![x()], op(|x| crate::softmax(&x[0]))),
        ("swiglu", vec![x()], op(|x| crate::swiglu(&x[0]))),
        ("dropout", vec![noise(&[3, 900], 1)], op(|x| crate::dropout(&x[0], 0.3, 5))),
    ];
    // Small and large, of which the large one is no number of f32.
    for eps in [1e-6, 0.1] {
        let arguments = vec![x(), noise(&[8], 2)];
        cases.push(("rms_norm", arguments, op(move |x| crate::rms_norm(&x[0], &x[1], eps))));
        let arguments = vec![x(), noise(&[8], 2), noise(&[8], 3)];
        let f = move |x: &[Tensor]| crate::layer_norm(&x[0], &x[1], &x[2], eps);
        cases.push(("layer_norm", arguments, op(f)));
    }
    for kind in [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::Tanh] {
        let f = move |x: &[Tensor]| crate::bias_activation(&x[0], &x[1], kind);
        cases.push(("bias_activation", vec![x(), noise(&[8], 2)], op(f)));
    }
    compare(cases);
}

#[test]
fn matrices() {
    let x = || noise(&[3, 4, 8], 1);
    compare(vec![
        ("linear", vec![x(), noise(&[5, 8], 2)], op(|x| crate::linear(&x[0], &x[1], None))),
        (
            "linear with a bias",
            vec![x(), noise(&[5, 8], 2), noise(&[5], 3)],
            op(|x| crate::linear(&x[0], &x[1], Some(&x[2]))),
        ),
        (
            "linear_activation",
            vec![x(), noise(&[5, 8], 2), noise(&[5], 3)],
            op(|x| crate::linear_activation(&x[0], &x[1], &x[2], crate::Activation::Gelu)),
        ),
        (
            "feed_forward",
            vec![x(), noise(&[12, 8], 2), noise(&[7, 6], 3)],
            op(|x| crate::feed_forward(&x[0], &x[1], &x[2])),
        ),
        ("embedding", vec![noise(&[9, 4], 1)], op(|x| crate::embedding(&ids(12, 9), &x[0]))),
    ]);
}

#[test]
fn losses() {
    let plain = CrossEntropy::default();
    let all = CrossEntropy {
        ignore_index: Some(7),
        label_smoothing: 0.1,
        z_loss: 0.01,
        logit_scale: 0.5,
    };
    for options in [plain, all] {
        compare(vec![
            (
                "cross_entropy",
                vec![noise(&[12, 9], 1)],
                op(move |x| Ok(crate::cross_entropy(&x[0], &ids(12, 9), &options)?.objective)),
            ),
            (
                "linear_cross_entropy",
                vec![noise(&[12, 4], 1), noise(&[9, 4], 2)],
                op(move |x| {
                    let loss = crate::linear_cross_entropy(&x[0], &x[1], &ids(12, 9), &options)?;
                    Ok(loss.objective)
                }),
            ),
        ]);
    }
}

#[test]
fn pictures() {
    let plain = CrossEntropy::default();
    let all = CrossEntropy {
        ignore_index: Some(7),
        label_smoothing: 0.1,
        z_loss: 0.01,
        logit_scale: 0.5,
    };
    let mut cases = Vec::new();
    for options in [plain, all] {
        cases.push((
            "grouped_linear_cross_entropy",
            vec![noise(&[2, 2, 5], 1), noise(&[27, 5], 2), noise(&[27], 3)],
            op(move |x| {
                let targets = ids(12, 9).reshape((2, 2, 3))?;
                let (x, w, b) = (&x[0], &x[1], &x[2]);
                Ok(crate::grouped_linear_cross_entropy(x, w, b, &targets, &options)?.objective)
            }),
        ));
    }
    cases.push((
        "logit_laplace",
        vec![noise(&[4, 6], 1)],
        op(|x| crate::logit_laplace(&x[0], &noise(&[4, 3], 2).abs()?.affine(0.5, 0.0)?)),
    ));
    let quantized = |z: &Tensor, codes: &Tensor| crate::vector_quantize(z, codes);
    cases.push((
        "codes",
        vec![noise(&[3, 4, 5], 1)],
        op(move |x| Ok(quantized(&x[0], &noise(&[7, 5], 2))?.codes)),
    ));
    cases.push((
        "commitment",
        vec![noise(&[3, 4, 5], 1)],
        op(move |x| Ok(quantized(&x[0], &noise(&[7, 5], 2))?.commitment_loss)),
    ));
    cases.push((
        "codebook",
        vec![noise(&[7, 5], 2)],
        op(move |x| Ok(quantized(&noise(&[3, 4, 5], 1), &x[0])?.codebook_loss)),
    ));
    compare(cases);
    let (z, codes) = (noise(&[9, 5], 1), noise(&[7, 5], 2));
    let of = || quantized(&z, &codes).unwrap().indices.to_vec1::<u32>().unwrap();
    assert_eq!(of(), as_on_a_device::composed(of));
    // A row of zeros has the direction 0 and a gradient, not NaN.
    let zeros = Tensor::zeros((1, 5), candle_core::DType::F64, &Device::Cpu).unwrap();
    let with_zeros = Tensor::cat(&[&zeros, &z], 0).unwrap();
    compare(vec![(
        "a row of zeros",
        vec![with_zeros],
        op(move |x| Ok(quantized(&x[0], &noise(&[7, 5], 2))?.commitment_loss)),
    )]);
}

#[test]
fn rotary_positions_and_causal_attention() {
    let rope = Rope::new(9, 4, 100.0, candle_core::DType::F64, &Device::Cpu).unwrap();
    let table = rope.clone();
    let mut cases =
        vec![("rope", vec![noise(&[2, 3, 5, 4], 1)], op(move |x| crate::rope(&x[0], &table, 4)))];
    for (heads, kv_heads) in [(2, 2), (4, 2), (3, 1)] {
        for rope in [None, Some(rope.clone())] {
            let arguments = vec![noise(&[2, 9, (heads + 2 * kv_heads) * 4], 1)];
            let attention = Attention { heads, kv_heads, rope };
            let f = move |x: &[Tensor]| crate::causal_attention(&x[0], &attention);
            cases.push(("causal_attention", arguments, op(f)));
        }
    }
    compare(cases);
}

/// With a sequence of no positions, and NaN in all padding.
#[test]
fn bidirectional_attention() {
    const LENGTHS: [usize; 4] = [5, 0, 7, 1];
    let (t, heads, d) = (7, 3, 2);
    let padding = |e: usize| e / (3 * heads * d) % t >= LENGTHS[e / (3 * heads * d) / t];
    let fill = |(e, x): (usize, f64)| if padding(e) { f64::NAN } else { x };
    let x: Vec<f64> = noise(&[4 * t * 3 * heads * d], 1).to_vec1().unwrap();
    let x: Vec<f64> = x.into_iter().enumerate().map(fill).collect();
    let qkv = Tensor::from_vec(x, (4, t, 3 * heads * d), &Device::Cpu).unwrap();
    let (r, uv) = (noise(&[2 * t - 1, heads * d], 2), noise(&[2, heads, d], 3));
    let attention = move |x: &[Tensor]| {
        let positions = x.get(1).map(|r| RelativePositions { r, uv: &x[2] });
        crate::self_attention(&x[0], &SelfAttention { heads, lengths: &LENGTHS, positions })
    };
    compare(vec![
        ("self_attention", vec![qkv.clone()], op(attention)),
        ("self_attention with positions", vec![qkv, r, uv], op(attention)),
    ]);
}

#[test]
fn recurrence() {
    let arguments = || vec![noise(&[3, 6, 20], 1), noise(&[20, 5], 2)];
    let state = LstmState { h: noise(&[3, 5], 3), c: noise(&[3, 5], 4) };
    let last = state.clone();
    compare(vec![
        ("lstm", arguments(), op(|x| Ok(crate::lstm(&x[0], &x[1], None)?.0))),
        (
            "lstm from a state",
            arguments(),
            op(move |x| Ok(crate::lstm(&x[0], &x[1], Some(&state))?.0)),
        ),
    ]);
    let x = arguments();
    let of = || crate::lstm(&x[0], &x[1], Some(&last)).unwrap().1;
    let (fused, composed) = (of(), as_on_a_device::composed(of));
    for (fused, composed) in [(fused.h, composed.h), (fused.c, composed.c)] {
        assert!(largest(&(fused - composed).unwrap()) < 1e-12);
    }
}
