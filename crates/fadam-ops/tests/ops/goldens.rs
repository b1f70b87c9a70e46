//! PyTorch's values and gradients in float64: `tests/goldens/README.md` says how they were made.
//!
//! Both sides round to 2⁻⁵³ a few dozen times; 1e-10 leaves room for other orders of summing, and for nothing else.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use fadam_ops::{
    Activation, Attention, Conv2d, CrossEntropy, LstmState, RelativePositions, Rope, SelfAttention,
};

use crate::check::{functional, of_all, relative, vars};

fn compare(file: &str, arguments: &[&str], op: impl Fn(&[Tensor], &Golden) -> Result<Tensor>) {
    let path = format!("{}/tests/goldens/{file}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let golden: Golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let given: Vec<Tensor> = arguments.iter().map(|name| golden[*name].clone()).collect();
    let (vars, tensors) = vars(&given);
    let y = op(&tensors, &golden).unwrap();
    let off = relative(&y, &golden["y"]);
    assert!(off < 1e-10, "{file}: the value is off by {off:e}");
    for plain in [true, false] {
        let loss = functional(&op(&tensors, &golden).unwrap(), &golden["g"]).unwrap();
        let gradients = if plain { loss.backward() } else { fadam_ops::backward(&loss) };
        for (name, ours) in arguments.iter().zip(of_all(&vars, &gradients.unwrap())) {
            let off = relative(&ours, &golden[&format!("grad.{name}")]);
            assert!(off < 1e-10, "{file}: the gradient of {name} is off by {off:e}");
        }
    }
}

type Golden = HashMap<String, Tensor>;

#[test]
fn norms() {
    compare("layer_norm", &["x", "w", "b"], |x, _| {
        fadam_ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)
    });
    compare("rms_norm", &["x", "w"], |x, _| fadam_ops::rms_norm(&x[0], &x[1], 1e-6));
}

#[test]
fn activations() {
    for (file, activation) in [("gelu", Activation::Gelu), ("silu", Activation::Silu)] {
        compare(file, &["x", "b"], |x, _| fadam_ops::bias_activation(&x[0], &x[1], activation));
    }
}

#[test]
fn silu_in_swiglu() {
    compare("silu", &["x", "b"], |x, _| {
        let gate = x[0].broadcast_add(&x[1])?;
        fadam_ops::swiglu(&Tensor::cat(&[&gate, &gate.ones_like()?], 1)?)
    });
}

#[test]
fn padded_batches() {
    let lengths = |golden: &Golden| -> Result<Vec<usize>> {
        Ok(golden["lengths"].to_vec1::<i64>()?.into_iter().map(|n| n as usize).collect())
    };
    compare("depthwise_conv1d", &["x", "w"], |x, golden| {
        fadam_ops::depthwise_conv1d(&x[0], &x[1], &lengths(golden)?)
    });
    compare("batch_norm", &["x", "w", "b"], |x, golden| {
        let (y, moments) = fadam_ops::batch_norm(&x[0], &x[1], &x[2], &lengths(golden)?, 1e-5)?;
        for (name, ours) in [("mean", moments.mean), ("variance", moments.variance)] {
            let off = relative(&ours, &golden[name]);
            assert!(off < 1e-10, "batch_norm: the {name} is off by {off:e}");
        }
        Ok(y)
    });
    compare("batch_norm_with", &["x", "w", "b"], |x, golden| {
        let (mean, variance) = (&golden["mean"], &golden["variance"]);
        fadam_ops::batch_norm_with(&x[0], &x[1], &x[2], mean, variance, 1e-5)
    });
    compare("group_norm", &["x", "w", "b"], |x, golden| {
        fadam_ops::group_norm(&x[0], &x[1], &x[2], 3, &lengths(golden)?, 1e-5)
    });
    let convs = [
        ("conv2d", Conv2d { stride: (2, 2), padding: (1, 1), relu: false }),
        ("conv2d-relu", Conv2d { stride: (1, 2), padding: (2, 0), relu: true }),
    ];
    for (file, conv) in convs {
        compare(file, &["x", "w", "b"], |x, golden| {
            fadam_ops::conv2d(&x[0], &x[1], &x[2], &lengths(golden)?, &conv)
        });
    }
}

#[test]
fn gated_linear_units() {
    compare("glu", &["x"], |x, _| fadam_ops::glu(&x[0]));
}

#[test]
fn attention_with_rotary_positions() {
    let rope = Rope::new(11, 4, 10_000.0, DType::F64, &Device::Cpu).unwrap();
    for (heads, kv_heads) in [(2, 2), (4, 2), (3, 1)] {
        let attention = Attention { heads, kv_heads, rope: Some(rope.clone()) };
        compare(&format!("attention-{heads}-{kv_heads}"), &["qkv"], |x, _| {
            fadam_ops::causal_attention(&x[0], &attention)
        });
    }
}

#[test]
fn attention_of_encoders() {
    for file in ["self_attention", "self_attention-relative"] {
        let arguments: &[&str] = match file {
            "self_attention" => &["qkv"],
            _ => &["qkv", "r", "uv"],
        };
        compare(file, arguments, |x, golden| {
            let lengths = golden["lengths"].to_vec1::<i64>()?;
            let lengths: Vec<usize> = lengths.into_iter().map(|l| l as usize).collect();
            let positions = x.get(1).map(|r| RelativePositions { r, uv: &x[2] });
            let attention = SelfAttention { heads: 3, lengths: &lengths, positions };
            fadam_ops::self_attention(&x[0], &attention)
        });
    }
}

#[test]
fn recurrence() {
    for file in ["lstm", "lstm-state"] {
        compare(file, &["x", "w_ih", "w_hh", "b"], |x, golden| {
            let state =
                golden.get("h0").map(|h| LstmState { h: h.clone(), c: golden["c0"].clone() });
            let x_gates = fadam_ops::linear(&x[0], &x[1], Some(&x[3]))?;
            let (y, last) = fadam_ops::lstm(&x_gates, &x[2], state.as_ref())?;
            for (what, last) in [("h_n", &last.h), ("c_n", &last.c)] {
                let off = relative(last, &golden[what]);
                assert!(off < 1e-10, "{file}: {what} is off by {off:e}");
            }
            Ok(y)
        });
    }
}

#[test]
fn losses() {
    let options =
        CrossEntropy { ignore_index: Some(1000), label_smoothing: 0.1, ..CrossEntropy::default() };
    compare("cross_entropy", &["x"], |x, golden| {
        let targets = golden["targets"].to_dtype(DType::U32)?;
        Ok(fadam_ops::cross_entropy(&x[0], &targets, &options)?.objective)
    });
    // With the unit matrix for W, x is the logits.
    compare("cross_entropy", &["x"], |x, golden| {
        let targets = golden["targets"].to_dtype(DType::U32)?;
        let unit = Tensor::eye(7, DType::F64, &Device::Cpu)?;
        Ok(fadam_ops::linear_cross_entropy(&x[0], &unit, &targets, &options)?.objective)
    });
}

#[test]
fn pictures() {
    compare("grouped_linear_cross_entropy", &["x", "w", "b"], |x, golden| {
        let targets = golden["targets"].to_dtype(DType::U32)?;
        let options = CrossEntropy { label_smoothing: 0.1, ..CrossEntropy::default() };
        let (x, w, b) = (&x[0], &x[1], &x[2]);
        Ok(fadam_ops::grouped_linear_cross_entropy(x, w, b, &targets, &options)?.objective)
    });
    compare("logit_laplace-mean", &["x"], |x, golden| {
        fadam_ops::logit_laplace(&x[0], &golden["data"])
    });
}

#[test]
fn quantisation() {
    let of = |z: &Tensor, codes: &Tensor, golden: &Golden| {
        let found = fadam_ops::vector_quantize(z, codes)?;
        assert_eq!(
            found.indices.to_vec2::<u32>()?,
            golden["index"].to_dtype(DType::U32)?.to_vec2::<u32>()?
        );
        Ok::<_, candle_core::Error>(found)
    };
    compare("vector_quantize-codes", &["x"], |x, golden| {
        Ok(of(&x[0], &golden["codes"], golden)?.codes)
    });
    compare("vector_quantize-codebook", &["x"], |x, golden| {
        Ok(of(&golden["z"], &x[0], golden)?.codebook_loss)
    });
    compare("vector_quantize-commitment", &["x"], |x, golden| {
        Ok(of(&x[0], &golden["codes"], golden)?.commitment_loss)
    });
}
