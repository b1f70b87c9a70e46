//! Every op on a CUDA device, where it is composed of candle's ops or, as the RNN-T loss, computed on the host: values and
//! gradients are those of the CPU. Skipped, and says so, where there is no device.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Result, Tensor, Var};
use fadam_ops::{
    Activation, Attention, Conv2d, CrossEntropy, Joint, RelativePositions, Rope, SelfAttention,
    Transducer, backward, batch_norm, batch_norm_with, bias_activation, causal_attention,
    checkpoint, conv2d, cross_entropy, depthwise_conv1d, dropout, embedding, feed_forward, glu,
    group_norm, grouped_linear_cross_entropy, joint_rnnt_loss, layer_norm, linear,
    linear_activation, linear_cross_entropy, logit_laplace, lstm, rms_norm, rnnt_loss, rope,
    self_attention, softmax, swiglu, vector_quantize,
};

type Op = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// The same pseudo-random numbers everywhere, between −1 and 1.
fn noise(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let number =
        |i: usize| 2.0 * ((i * 7919 + seed * 104_729 + 1) as f64 * 0.618_033_988).fract() - 1.0;
    Tensor::from_vec((0..n).map(number).collect::<Vec<f64>>(), shape, &Device::Cpu).unwrap()
}

/// The value and all gradients of `Σ y g`, on the CPU in f64.
fn run(op: &Op, arguments: &[Tensor], dtype: DType, device: &Device) -> Vec<Tensor> {
    let place = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(device).unwrap();
    let vars: Vec<Var> = arguments.iter().map(|x| Var::from_tensor(&place(x)).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = op(&tensors).unwrap();
    let g = place(&noise(y.dims(), 99)).to_dtype(y.dtype()).unwrap();
    let gradients = backward(&(&y * g).unwrap().sum_all().unwrap()).unwrap();
    let mut all = vec![y.detach()];
    all.extend(vars.iter().map(|var| gradients.get(var).expect("a gradient").clone()));
    all.iter().map(|x| x.to_dtype(DType::F64).unwrap().to_device(&Device::Cpu).unwrap()).collect()
}

fn largest(x: &Tensor) -> f64 {
    x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// Two heads, and a sequence of no positions.
fn encoder(x: &[Tensor]) -> Result<Tensor> {
    let positions = x.get(1).map(|r| RelativePositions { r, uv: &x[2] });
    self_attention(&x[0], &SelfAttention { heads: 2, lengths: &[6, 0, 9], positions })
}

fn sequences() -> Vec<(&'static str, Vec<Tensor>, Op)> {
    vec![
        ("self_attention", vec![noise(&[3, 9, 24], 1)], Box::new(encoder)),
        (
            "self_attention with positions",
            vec![noise(&[3, 9, 24], 1), noise(&[17, 8], 2), noise(&[2, 2, 4], 3)],
            Box::new(encoder),
        ),
        (
            "lstm",
            vec![noise(&[3, 7, 20], 1), noise(&[20, 5], 2)],
            Box::new(|x| Ok(lstm(&x[0], &x[1], None)?.0)),
        ),
    ]
}

#[test]
fn all_ops() {
    let device = match Device::new_cuda(0) {
        Ok(device) => device,
        Err(err) => {
            eprintln!("SKIPPED: no CUDA device, so the ops are not tested on one: {err}");
            return;
        }
    };
    let ids = |x: &Tensor, n: u32| {
        let ids: Vec<u32> = (0..12u32).map(|i| i * 7 % n).collect();
        Tensor::from_vec(ids, 12, x.device()).unwrap()
    };
    let table = |x: &Tensor| Rope::new(9, 4, 100.0, x.dtype(), x.device()).unwrap();
    let options = CrossEntropy {
        ignore_index: Some(7),
        label_smoothing: 0.1,
        z_loss: 0.01,
        logit_scale: 0.5,
    };
    // In sixteenths, which bf16 holds: no nearest code is another one there.
    let coarse = |shape: &[usize], seed| {
        ((noise(shape, seed) * 16.0).unwrap().round().unwrap() / 16.0).unwrap()
    };
    let codes =
        move |x: &Tensor, seed| coarse(&[12, 5], seed).to_dtype(x.dtype())?.to_device(x.device());
    let transducer = Transducer { blank: 2, fast_emit: 0.1, clamp: Some(0.3) };
    let targets = || [vec![1u32, 0, 1], vec![4]];
    let mut cases: Vec<(&str, Vec<Tensor>, Op)> = vec![
        (
            "rms_norm",
            vec![noise(&[3, 4, 8], 1), noise(&[8], 2)],
            Box::new(|x| rms_norm(&x[0], &x[1], 1e-6)),
        ),
        (
            "layer_norm",
            vec![noise(&[3, 4, 8], 1), noise(&[8], 2), noise(&[8], 3)],
            Box::new(|x| layer_norm(&x[0], &x[1], &x[2], 1e-6)),
        ),
        (
            "linear",
            vec![noise(&[3, 4, 8], 1), noise(&[5, 8], 2), noise(&[5], 3)],
            Box::new(|x| linear(&x[0], &x[1], Some(&x[2]))),
        ),
        (
            "feed_forward",
            vec![noise(&[3, 4, 8], 1), noise(&[12, 8], 2), noise(&[8, 6], 3)],
            Box::new(|x| feed_forward(&x[0], &x[1], &x[2])),
        ),
        ("swiglu", vec![noise(&[3, 4, 8], 1)], Box::new(|x| swiglu(&x[0]))),
        ("glu", vec![noise(&[3, 4, 8], 1)], Box::new(|x| glu(&x[0]))),
        (
            "depthwise_conv1d",
            vec![noise(&[3, 9, 8], 1), noise(&[8, 5], 2)],
            Box::new(|x| depthwise_conv1d(&x[0], &x[1], &[9, 4, 0])),
        ),
        (
            "batch_norm",
            vec![noise(&[3, 9, 8], 1), noise(&[8], 2), noise(&[8], 3)],
            Box::new(|x| Ok(batch_norm(&x[0], &x[1], &x[2], &[9, 4, 0], 1e-3)?.0)),
        ),
        (
            "group_norm",
            vec![noise(&[3, 9, 8], 1), noise(&[8], 2), noise(&[8], 3)],
            Box::new(|x| group_norm(&x[0], &x[1], &x[2], 2, &[9, 4, 0], 1e-3)),
        ),
        (
            "batch_norm_with",
            vec![noise(&[3, 9, 8], 1), noise(&[8], 2), noise(&[8], 3)],
            Box::new(|x| {
                let given = |seed| noise(&[8], seed).to_device(x[0].device());
                let (mean, variance) = (given(4)?, given(5)?.sqr()?);
                batch_norm_with(&x[0], &x[1], &x[2], &mean, &variance, 0.1)
            }),
        ),
        (
            "conv2d",
            vec![noise(&[3, 9, 8, 2], 1), noise(&[4, 3, 3, 2], 2), noise(&[4], 3)],
            Box::new(|x| {
                let conv = Conv2d { stride: (2, 2), padding: (1, 1), relu: false };
                conv2d(&x[0], &x[1], &x[2], &[9, 4, 0], &conv)
            }),
        ),
        (
            "conv2d, two strides",
            vec![noise(&[3, 9, 8, 2], 1), noise(&[4, 3, 2, 2], 2), noise(&[4], 3)],
            Box::new(|x| {
                let conv = Conv2d { stride: (1, 3), ..Conv2d::default() };
                conv2d(&x[0], &x[1], &x[2], &[9, 4, 0], &conv)
            }),
        ),
        ("softmax", vec![noise(&[3, 4, 8], 1)], Box::new(|x| softmax(&x[0]))),
        ("dropout", vec![noise(&[3, 4, 800], 1)], Box::new(|x| dropout(&x[0], 0.3, 5))),
        ("rope", vec![noise(&[2, 3, 5, 4], 1)], Box::new(move |x| rope(&x[0], &table(&x[0]), 4))),
        (
            "causal_attention",
            vec![noise(&[2, 9, 32], 1)],
            Box::new(move |x| {
                let rope = Some(table(&x[0]));
                causal_attention(&x[0], &Attention { heads: 4, kv_heads: 2, rope })
            }),
        ),
        (
            "bias_activation gelu",
            vec![noise(&[3, 4, 8], 1), noise(&[8], 2)],
            Box::new(|x| bias_activation(&x[0], &x[1], Activation::Gelu)),
        ),
        (
            "bias_activation silu",
            vec![noise(&[3, 4, 8], 1), noise(&[8], 2)],
            Box::new(|x| bias_activation(&x[0], &x[1], Activation::Silu)),
        ),
        (
            "linear_activation gelu",
            vec![noise(&[3, 4, 8], 1), noise(&[5, 8], 2), noise(&[5], 3)],
            Box::new(|x| linear_activation(&x[0], &x[1], &x[2], Activation::Gelu)),
        ),
        (
            "linear_activation tanh",
            vec![noise(&[3, 4, 8], 1), noise(&[5, 8], 2), noise(&[5], 3)],
            Box::new(|x| linear_activation(&x[0], &x[1], &x[2], Activation::Tanh)),
        ),
        ("embedding", vec![noise(&[9, 4], 1)], Box::new(move |x| embedding(&ids(&x[0], 9), &x[0]))),
        (
            "cross_entropy",
            vec![noise(&[12, 9], 1)],
            Box::new(move |x| Ok(cross_entropy(&x[0], &ids(&x[0], 9), &options)?.objective)),
        ),
        (
            "linear_cross_entropy",
            vec![noise(&[12, 4], 1), noise(&[9, 4], 2)],
            Box::new(move |x| {
                Ok(linear_cross_entropy(&x[0], &x[1], &ids(&x[0], 9), &options)?.objective)
            }),
        ),
        (
            "grouped_linear_cross_entropy",
            vec![noise(&[4, 5], 1), noise(&[27, 5], 2), noise(&[27], 3)],
            Box::new(move |x| {
                let targets = ids(&x[0], 9).reshape((4, 3))?;
                Ok(grouped_linear_cross_entropy(&x[0], &x[1], &x[2], &targets, &options)?.objective)
            }),
        ),
        (
            "logit_laplace",
            vec![noise(&[4, 6], 1)],
            Box::new(|x| {
                let data = Tensor::new(&[[0f32, 0.25, 1.0]], x[0].device())?.repeat((4, 1))?;
                logit_laplace(&x[0], &data.to_dtype(x[0].dtype())?)
            }),
        ),
        (
            "vector_quantize, codes",
            vec![coarse(&[3, 4, 5], 1)],
            Box::new(move |x| Ok(vector_quantize(&x[0], &codes(&x[0], 2)?)?.codes)),
        ),
        (
            "vector_quantize, commitment",
            vec![coarse(&[3, 4, 5], 1)],
            Box::new(move |x| Ok(vector_quantize(&x[0], &codes(&x[0], 2)?)?.commitment_loss)),
        ),
        (
            "vector_quantize, codebook",
            vec![coarse(&[12, 5], 2)],
            Box::new(move |x| Ok(vector_quantize(&codes(&x[0], 1)?, &x[0])?.codebook_loss)),
        ),
        (
            "rnnt_loss",
            vec![noise(&[2, 5, 4, 6], 1)],
            Box::new(move |x| rnnt_loss(&x[0], &targets(), &[5, 3], &transducer)),
        ),
        (
            "joint_rnnt_loss",
            vec![noise(&[2, 5, 8], 1), noise(&[2, 4, 8], 2), noise(&[6, 8], 3), noise(&[6], 4)],
            Box::new(move |x| {
                let joint = Joint::new(&x[2], &x[3], Activation::Tanh);
                joint_rnnt_loss(&x[0], &x[1], &joint, &targets(), &[5, 3], &transducer)
            }),
        ),
        (
            "checkpoint",
            vec![noise(&[3, 4, 8], 1), noise(&[8], 2)],
            Box::new(|x| {
                let w = x[1].clone();
                checkpoint(&x[0], move |x| rms_norm(x, &w, 1e-6)?.sqr())
            }),
        ),
    ];
    cases.extend(sequences());
    let mut wrong = Vec::new();
    for (name, arguments, op) in &cases {
        for (dtype, bound) in [(DType::F64, 1e-11), (DType::F32, 3e-5), (DType::BF16, 0.06)] {
            let here = run(op, arguments, DType::F64, &Device::Cpu);
            let there = run(op, arguments, dtype, &device);
            for (i, (here, there)) in here.iter().zip(&there).enumerate() {
                let (off, size) = (largest(&(here - there).unwrap()), largest(here));
                // Not `>`: a NaN must fail.
                let is_close = off <= bound * size;
                if !is_close {
                    wrong.push(format!("{name}, {dtype:?}, part {i}: off by {off:e} of {size:e}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
