//! Forward and backward of each op at the shapes of the 4.85 M decoder (8 × 256 tokens) and of the 5.6 M Conformer (8 × 400 frames,
//! a quarter of them after its convolutions), beside the same composed of candle's ops, and of the RNN-T loss at 8 × 150 frames with
//! 40 labels: `cargo bench -p fadam-ops`.

#![allow(missing_docs, reason = "criterion_group! makes undocumented functions")]

use std::hint::black_box;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use fadam_ops::{
    Activation, Attention, Conv2d, CrossEntropy, Joint, RelativePositions, Rope, SelfAttention,
    Transducer,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The shapes.
const ROWS: usize = 8 * 256;
const D_MODEL: usize = 256;
const D_FF: usize = 1024;
const VOCAB: usize = 4096;

fn draw(shape: &[usize], std: f32) -> Var {
    let x = Tensor::randn(0f32, std, shape, &Device::Cpu).unwrap();
    Var::from_tensor(&x).unwrap()
}

/// Times forward and backward of `f`.
fn time(c: &mut Criterion, name: &str, f: impl Fn() -> Result<Tensor>) {
    c.bench_function(name, |b| {
        b.iter(|| {
            let y = f().unwrap();
            let loss = if y.rank() == 0 { y } else { y.sum_all().unwrap() };
            black_box(fadam_ops::backward(&loss).unwrap())
        });
    });
}

fn all(c: &mut Criterion) {
    let (x, w) = (draw(&[8, 256, D_MODEL], 1.0), draw(&[D_MODEL], 1.0));
    time(c, "rms_norm/fused", || fadam_ops::rms_norm(&x, &w, 1e-6));
    time(c, "rms_norm/composed", || candle_nn::ops::rms_norm_slow(&x, &w, 1e-6));
    time(c, "layer_norm/fused", || fadam_ops::layer_norm(&x, &w, &w, 1e-6));
    time(c, "layer_norm/composed", || candle_nn::ops::layer_norm_slow(&x, &w, &w, 1e-6));
    time(c, "bias_gelu/fused", || fadam_ops::bias_activation(&x, &w, Activation::Gelu));
    time(c, "bias_gelu/composed", || x.broadcast_add(&w)?.gelu());
    time(c, "softmax/fused", || fadam_ops::softmax(&x)?.sqr());
    time(c, "softmax/composed", || candle_nn::ops::softmax(&x, D::Minus1)?.sqr());
    time(c, "dropout/fused", || fadam_ops::dropout(&x, 0.1, 1));
    time(c, "dropout/composed", || candle_nn::ops::dropout(&x, 0.1));

    for (name, o, i) in [("qkv", 384, 256), ("up", 2048, 256), ("down", 256, 1024)] {
        let (x, w) = (draw(&[8, 256, i], 1.0), draw(&[o, i], 0.02));
        time(c, &format!("linear {name}/fused"), || fadam_ops::linear(&x, &w, None));
        time(c, &format!("linear {name}/composed"), || x.broadcast_matmul(&w.t()?));
    }

    let up = draw(&[8, 256, 2 * D_FF], 1.0);
    time(c, "swiglu/fused", || fadam_ops::swiglu(&up));
    time(c, "swiglu/composed", || {
        up.narrow(D::Minus1, 0, D_FF)?.silu()? * up.narrow(D::Minus1, D_FF, D_FF)?
    });

    let rope = Rope::new(256, 64, 10_000.0, DType::F32, &Device::Cpu).unwrap();
    let qkv = draw(&[8, 256, 6 * 64], 1.0);
    let attention = Attention { heads: 4, kv_heads: 1, rope: Some(rope.clone()) };
    time(c, "causal_attention/fused", || fadam_ops::causal_attention(&qkv, &attention));
    let q = draw(&[8, 4, 256, 64], 1.0);
    time(c, "rope/fused", || fadam_ops::rope(&q, &rope, 0));

    sequences(c);

    let ids: Vec<u32> = (0..ROWS).map(|i| (i * 7919 % VOCAB) as u32).collect();
    let ids = Tensor::new(ids, &Device::Cpu).unwrap();
    let (h, emb) = (draw(&[ROWS, D_MODEL], 1.0), draw(&[VOCAB, D_MODEL], 0.02));
    time(c, "embedding/fused", || fadam_ops::embedding(&ids, &emb));
    time(c, "embedding/composed", || emb.index_select(&ids, 0));
    let options = CrossEntropy::default();
    time(c, "linear_cross_entropy/fused", || {
        Ok(fadam_ops::linear_cross_entropy(&h, &emb, &ids, &options)?.objective)
    });
    time(c, "linear_cross_entropy/composed", || {
        candle_nn::loss::cross_entropy(&h.matmul(&emb.t()?)?, &ids)
    });
    let logits = draw(&[ROWS, VOCAB], 1.0);
    time(c, "cross_entropy/fused", || {
        Ok(fadam_ops::cross_entropy(&logits, &ids, &options)?.objective)
    });
    time(c, "cross_entropy/composed", || candle_nn::loss::cross_entropy(&logits, &ids));
    transducer(c);
    pictures(c);
}

/// What a VQ-VAE of 16 images of 64 × 64 needs: 1,024 patches of 192 pixel values, 1,024 codes of width 32.
fn pictures(c: &mut Criterion) {
    const PIXELS: usize = 192;
    let h = draw(&[1024, D_MODEL], 1.0);
    let (w, b) = (draw(&[PIXELS * 256, D_MODEL], 0.02), draw(&[PIXELS * 256], 0.02));
    let ids: Vec<u32> = (0..1024 * PIXELS).map(|i| (i * 7919 % 256) as u32).collect();
    let ids = Tensor::from_vec(ids, (1024, PIXELS), &Device::Cpu).unwrap();
    time(c, "grouped_linear_cross_entropy/fused", || {
        let options = CrossEntropy::default();
        Ok(fadam_ops::grouped_linear_cross_entropy(&h, &w, &b, &ids, &options)?.objective)
    });
    time(c, "grouped_linear_cross_entropy/composed", || {
        let logits = h.matmul(&w.t()?)?.broadcast_add(&b)?.reshape((1024 * PIXELS, 256))?;
        candle_nn::loss::cross_entropy(&logits, &ids.flatten_all()?)
    });
    let (z, codes) = (draw(&[1024, 32], 1.0), draw(&[1024, 32], 1.0));
    time(c, "vector_quantize/fused", || {
        let of = fadam_ops::vector_quantize(&z, &codes)?;
        of.codes.sum_all()? + (of.codebook_loss + of.commitment_loss)?
    });
    let parameters = draw(&[1024, 2 * PIXELS], 1.0);
    let x = (ids.to_dtype(DType::F32).unwrap() / 255.0).unwrap();
    time(c, "logit_laplace/fused", || fadam_ops::logit_laplace(&parameters, &x));
}

fn transducer(c: &mut Criterion) {
    let (b, t, u, v, j) = (8, 150, 40, 256, 320);
    let labels =
        |b: usize| (0..u).map(|u| 1 + ((b * 7919 + u * 104_729) % (v - 1)) as u32).collect();
    let targets: Vec<Vec<u32>> = (0..b).map(labels).collect();
    let (frames, options) = (vec![t; b], Transducer::default());
    let logits = draw(&[b, t, u + 1, v], 1.0);
    time(c, "rnnt_loss/fused", || fadam_ops::rnnt_loss(&logits, &targets, &frames, &options));
    let (e, p) = (draw(&[b, t, j], 1.0), draw(&[b, u + 1, j], 1.0));
    let (w, bias) = (draw(&[v, j], 0.05), draw(&[v], 0.05));
    let joint = Joint::new(&w, &bias, Activation::Tanh);
    time(c, "joint_rnnt_loss/fused", || {
        fadam_ops::joint_rnnt_loss(&e, &p, &joint, &targets, &frames, &options)
    });
    // The joint network of candle's ops, and the loss of its logits.
    time(c, "joint_rnnt_loss/composed", || {
        let h = e.unsqueeze(2)?.broadcast_add(&p.unsqueeze(1)?)?.tanh()?;
        let z = h.reshape(((), j))?.matmul(&w.t()?)?.broadcast_add(&bias)?;
        let logits = z.reshape((b, t, u + 1, v))?;
        fadam_ops::rnnt_loss(&logits, &targets, &frames, &options)
    });
}

/// The width of the Conformer, and the frames that its blocks see.
const WIDTH: usize = 144;
const FRAMES: usize = 100;
const KERNEL: usize = 31;

fn convolutions(c: &mut Criterion) {
    let frames = [FRAMES; 8];
    let both = draw(&[8, FRAMES, 2 * WIDTH], 1.0);
    time(c, "glu/fused", || fadam_ops::glu(&both));
    time(c, "glu/composed", || {
        let gate = candle_nn::ops::sigmoid(&both.narrow(D::Minus1, WIDTH, WIDTH)?)?;
        both.narrow(D::Minus1, 0, WIDTH)? * gate
    });
    let (x, w) = (draw(&[8, FRAMES, WIDTH], 1.0), draw(&[WIDTH], 1.0));
    time(c, "batch_norm/fused", || Ok(fadam_ops::batch_norm(&x, &w, &w, &frames, 1e-5)?.0));
    time(c, "batch_norm/composed", || {
        let mean = |x: &Tensor| x.flatten_to(1)?.mean_keepdim(0)?.unsqueeze(0);
        let centred = x.broadcast_sub(&mean(&x)?)?;
        let deviation = (mean(&centred.sqr()?)? + 1e-5)?.sqrt()?;
        centred.broadcast_div(&deviation)?.broadcast_mul(&w)?.broadcast_add(&w)
    });
    time(c, "group_norm/fused", || fadam_ops::group_norm(&x, &w, &w, 1, &frames, 1e-5));
    let taps = draw(&[WIDTH, KERNEL], 0.2);
    time(c, "depthwise_conv1d/fused", || fadam_ops::depthwise_conv1d(&x, &taps, &frames));
    time(c, "depthwise_conv1d/composed", || {
        let padded = x.pad_with_zeros(1, KERNEL / 2, KERNEL / 2)?;
        let tap =
            |k| padded.narrow(1, k, FRAMES)?.broadcast_mul(&taps.narrow(1, k, 1)?.squeeze(1)?);
        (1..KERNEL).try_fold(tap(0)?, |sum, k| sum + tap(k)?)
    });

    let conv = Conv2d { stride: (2, 2), padding: (1, 1), relu: true };
    for (name, t, f, c_in, is_data) in
        [("first", 400, 80, 1, true), ("second", 200, 40, WIDTH, false)]
    {
        let (x, w) = (draw(&[8, t, f, c_in], 1.0), draw(&[WIDTH, 3, 3, c_in], 0.02));
        let (b, lengths) = (draw(&[WIDTH], 0.1), [t; 8]);
        let x = if is_data { x.detach() } else { x.as_tensor().clone() };
        time(c, &format!("conv2d {name}/fused"), || fadam_ops::conv2d(&x, &w, &b, &lengths, &conv));
        // Channels first from the start: without the copies that their order would cost.
        let turned = |x: &Tensor| x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let (x, w) = (turned(&x), turned(&w));
        let x = if is_data { x } else { Var::from_tensor(&x).unwrap().as_tensor().clone() };
        let w = Var::from_tensor(&w).unwrap();
        time(c, &format!("conv2d {name}/composed"), || {
            x.conv2d(&w, 1, 2, 1, 1)?.broadcast_add(&b.reshape((1, WIDTH, 1, 1))?)?.relu()
        });
    }
}

/// The ops of a small Conformer transducer: 8 sequences of 100 frames and of 21 labels.
fn sequences(c: &mut Criterion) {
    const HEADS: usize = 4;
    const D_HEAD: usize = 36;
    const UNITS: usize = 320;
    let qkv = draw(&[8, 100, 3 * HEADS * D_HEAD], 1.0);
    let (r, uv) = (draw(&[199, HEADS * D_HEAD], 1.0), draw(&[2, HEADS, D_HEAD], 0.1));
    let attention = SelfAttention { heads: HEADS, lengths: &[100; 8], positions: None };
    let relative =
        SelfAttention { positions: Some(RelativePositions { r: &r, uv: &uv }), ..attention };
    time(c, "self_attention/fused", || fadam_ops::self_attention(&qkv, &attention));
    time(c, "self_attention/composed", || {
        let part = |i: usize| {
            let part = qkv.narrow(2, i * HEADS * D_HEAD, HEADS * D_HEAD)?;
            part.reshape((8, 100, HEADS, D_HEAD))?.transpose(1, 2)?.contiguous()
        };
        let scores = (part(0)?.matmul(&part(1)?.t()?)? / (D_HEAD as f64).sqrt())?;
        let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&part(2)?)?;
        mixed.transpose(1, 2)?.reshape((8, 100, HEADS * D_HEAD))
    });
    time(c, "self_attention relative/fused", || fadam_ops::self_attention(&qkv, &relative));

    let (x_gates, w_hh) = (draw(&[8, 21, 4 * UNITS], 1.0), draw(&[4 * UNITS, UNITS], 0.05));
    time(c, "lstm/fused", || Ok(fadam_ops::lstm(&x_gates, &w_hh, None)?.0));
    time(c, "lstm/composed", || {
        let mut h = Tensor::zeros((8, UNITS), DType::F32, &Device::Cpu)?;
        let (mut cell, mut all) = (h.clone(), Vec::new());
        for t in 0..21 {
            let z = (x_gates.narrow(1, t, 1)?.squeeze(1)? + h.matmul(&w_hh.t()?)?)?.chunk(4, 1)?;
            let gate = |i: usize| candle_nn::ops::sigmoid(&z[i].contiguous()?);
            cell = ((gate(1)? * cell)? + (gate(0)? * z[2].tanh()?)?)?;
            h = (gate(3)? * cell.tanh()?)?;
            all.push(h.clone());
        }
        Tensor::stack(&all, 1)
    });
}

criterion_group! {
    name = ops;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = all, convolutions
}
criterion_main!(ops);
