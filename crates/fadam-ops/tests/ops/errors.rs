//! What is refused: by an error that names the op and what it expected, never by a panic.

use candle_core::{DType, Device, Result, Tensor};
use fadam_ops::{
    Activation, Attention, CrossEntropy, Loss, LstmState, RelativePositions, Rope, SelfAttention,
    bias_activation, causal_attention, cross_entropy, dropout, embedding, feed_forward, layer_norm,
    linear, linear_cross_entropy, lstm, rms_norm, rope, self_attention, sinusoidal_positions,
    softmax, swiglu,
};

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

fn double(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F64, &Device::Cpu).unwrap()
}

fn whole(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::I64, &Device::Cpu).unwrap()
}

fn ids(ids: &[u32]) -> Tensor {
    Tensor::new(ids, &Device::Cpu).unwrap()
}

/// The error begins with the op's name and contains every one of these.
fn refused<T>(result: Result<T>, op: &str, contains: &[&str]) {
    let Err(err) = result else { panic!("{op}: not refused, where {contains:?} was expected") };
    let err = err.to_string();
    assert!(err.starts_with(&format!("{op}: ")), "{op}: {err}");
    for text in contains {
        assert!(err.contains(text), "{op}: {text:?} is not in: {err}");
    }
}

#[test]
fn norms_and_activations() {
    let (x, w) = (zeros(&[2, 4]), zeros(&[4]));
    let wrong = ["w has shape [3]", "[2, 4]", "[4]"];
    refused(rms_norm(&x, &zeros(&[3]), 1e-6), "rms_norm", &wrong);
    refused(rms_norm(&x, &zeros(&[1, 4]), 1e-6), "rms_norm", &["w has shape [1, 4]"]);
    refused(rms_norm(&x, &double(&[4]), 1e-6), "rms_norm", &["F32", "F64", "one dtype"]);
    refused(rms_norm(&whole(&[2, 4]), &whole(&[4]), 1e-6), "rms_norm", &["I64", "f32, f64"]);
    refused(rms_norm(&zeros(&[]), &w, 1e-6), "rms_norm", &["last dimension"]);
    refused(layer_norm(&x, &zeros(&[3]), &w, 1e-6), "layer_norm", &wrong);
    refused(layer_norm(&x, &w, &zeros(&[3]), 1e-6), "layer_norm", &["b has shape [3]", "[4]"]);
    refused(layer_norm(&x, &w, &double(&[4]), 1e-6), "layer_norm", &["F32", "F64"]);
    refused(layer_norm(&zeros(&[]), &w, &w, 1e-6), "layer_norm", &["last dimension"]);
    let relu = |x: &Tensor, b: &Tensor| bias_activation(x, b, Activation::Relu);
    refused(relu(&x, &zeros(&[3])), "bias_activation", &["b has shape [3]", "[4]"]);
    refused(relu(&x, &double(&[4])), "bias_activation", &["F32", "F64"]);
    refused(relu(&zeros(&[]), &w), "bias_activation", &["last dimension"]);
    refused(swiglu(&zeros(&[2, 5])), "swiglu", &["[2, 5]", "odd"]);
    refused(swiglu(&whole(&[2, 4])), "swiglu", &["I64", "f32, f64"]);
    refused(swiglu(&zeros(&[])), "swiglu", &["last dimension"]);
    let up = |rows| zeros(&[rows, 4]);
    refused(
        feed_forward(&x, &up(6), &zeros(&[4, 2])),
        "feed_forward",
        &["[6, 4]", "[4, 2]", "twice"],
    );
    refused(feed_forward(&zeros(&[2, 3]), &up(4), &zeros(&[4, 2])), "feed_forward", &["[2, 3]"]);
    refused(feed_forward(&x, &up(4), &double(&[4, 2])), "feed_forward", &["F32", "F64"]);
    refused(softmax(&zeros(&[2, 0])), "softmax", &["[2, 0]", "empty"]);
    refused(softmax(&whole(&[2, 4])), "softmax", &["I64"]);
    refused(softmax(&zeros(&[])), "softmax", &["last dimension"]);
    for p in [-0.1, 1.0, 1.5, f64::NAN] {
        refused(dropout(&x, p, 0), "dropout", &[&format!("p is {p}"), "0 (included)"]);
    }
    refused(dropout(&whole(&[3]), 0.5, 0), "dropout", &["I64"]);
    refused(dropout(&whole(&[3]), 0.0, 0), "dropout", &["I64"]);
}

#[test]
fn matrices() {
    let (x, w, b) = (zeros(&[2, 4]), zeros(&[3, 4]), zeros(&[3]));
    refused(linear(&x, &zeros(&[3, 5]), None), "linear", &["[2, 4]", "[3, 5]"]);
    refused(linear(&x, &zeros(&[4]), None), "linear", &["w has shape [4]", "matrix"]);
    refused(linear(&zeros(&[]), &w, None), "linear", &["last dimension"]);
    refused(linear(&zeros(&[2, 0]), &zeros(&[3, 0]), None), "linear", &["[2, 0]", "not 0"]);
    refused(linear(&x, &w, Some(&zeros(&[4]))), "linear", &["b has shape [4]", "[3]"]);
    refused(linear(&x, &double(&[3, 4]), None), "linear", &["F32", "F64"]);
    refused(linear(&x, &w, Some(&double(&[3]))), "linear", &["F32", "F64"]);
    refused(linear(&whole(&[2, 4]), &whole(&[3, 4]), None), "linear", &["I64"]);
    linear(&x, &w, Some(&b)).unwrap();
    let w = zeros(&[5, 3]);
    let out = ["id 5 at place 2", "5 rows"];
    refused(embedding(&ids(&[0, 4, 5, 9]), &w), "embedding", &out);
    refused(embedding(&whole(&[2]), &w), "embedding", &["I64", "u32"]);
    refused(embedding(&ids(&[0]), &zeros(&[5])), "embedding", &["w has shape [5]", "matrix"]);
    refused(embedding(&ids(&[0]), &whole(&[5, 3])), "embedding", &["I64"]);
}

#[test]
fn positions_and_heads() {
    let table = |t, d| Rope::new(t, d, 1e4, DType::F32, &Device::Cpu);
    refused(table(4, 5), "rope", &["width 5", "odd"]);
    let of = table(4, 6).unwrap();
    refused(rope(&zeros(&[5, 6]), &of, 0), "rope", &["5 positions", "for 4"]);
    refused(rope(&zeros(&[2, 6]), &of, 3), "rope", &["5 positions", "for 4"]);
    refused(rope(&zeros(&[2, 6]), &of, usize::MAX), "rope", &["positions", "for 4"]);
    refused(rope(&zeros(&[2, 8]), &of, 0), "rope", &["width 8", "for 6"]);
    refused(rope(&zeros(&[6]), &of, 0), "rope", &["[6]", "[..., positions, width]"]);
    refused(rope(&double(&[2, 6]), &of, 0), "rope", &["F64", "F32"]);
    let attend = |shape: &[usize], heads: usize, kv_heads: usize, rope: Option<&Rope>| {
        let attention = Attention { heads, kv_heads, rope: rope.cloned() };
        causal_attention(&zeros(shape), &attention)
    };
    let op = "causal_attention";
    for (heads, kv_heads) in [(0, 1), (1, 0), (3, 2), (1, 2)] {
        let text = format!("{heads} query heads cannot share {kv_heads}");
        refused(attend(&[1, 2, 12], heads, kv_heads, None), op, &[&text]);
    }
    refused(attend(&[1, 2, 13], 2, 2, None), op, &["rows of 13", "2 + 2 · 2 heads"]);
    refused(attend(&[1, 2, 0], 2, 2, None), op, &["rows of 0"]);
    refused(attend(&[2, 12], 2, 2, None), op, &["[2, 12]", "[B, T, (h + 2 k) d]"]);
    refused(attend(&[1, 5, 36], 2, 2, Some(&of)), op, &["5 positions", "for 4"]);
    refused(attend(&[1, 4, 12], 2, 2, Some(&of)), op, &["width 2", "for 6"]);
    let attention = Attention { heads: 2, kv_heads: 2, rope: Some(of) };
    refused(causal_attention(&double(&[1, 4, 36]), &attention), op, &["F64", "F32"]);
    let none = Attention { heads: 1, kv_heads: 1, rope: None };
    refused(causal_attention(&whole(&[1, 4, 3]), &none), op, &["I64"]);
}

#[test]
fn lengths_and_relative_positions() {
    let op = "self_attention";
    let attend = |shape: &[usize], heads: usize, lengths: &[usize]| {
        self_attention(&zeros(shape), &SelfAttention { heads, lengths, positions: None })
    };
    refused(attend(&[2, 12], 2, &[1, 1]), op, &["[2, 12]", "[B, T, 3 h d]"]);
    refused(attend(&[1, 2, 12], 0, &[1]), op, &["rows of 12", "0 heads"]);
    refused(attend(&[1, 2, 12], 5, &[1]), op, &["rows of 12", "5 heads"]);
    refused(attend(&[1, 2, 0], 2, &[1]), op, &["rows of 0", "2 heads"]);
    refused(attend(&[2, 3, 12], 2, &[1]), op, &["1 lengths for 2 sequences"]);
    refused(attend(&[2, 3, 12], 2, &[3, 4]), op, &["sequence 1 is 4 long", "3 positions"]);
    let whole_qkv = whole(&[1, 2, 12]);
    let none = SelfAttention { heads: 2, lengths: &[1], positions: None };
    refused(self_attention(&whole_qkv, &none), op, &["I64"]);
    let with = |r: &Tensor, uv: &Tensor| {
        let positions = Some(RelativePositions { r, uv });
        let attention = SelfAttention { heads: 2, lengths: &[3], positions };
        self_attention(&zeros(&[1, 3, 12]), &attention)
    };
    let (r, uv) = (zeros(&[5, 4]), zeros(&[2, 2, 2]));
    with(&r, &uv).unwrap();
    refused(with(&zeros(&[3, 4]), &uv), op, &["r has shape [3, 4]", "[5, 4]"]);
    refused(with(&zeros(&[5, 2]), &uv), op, &["r has shape [5, 2]", "[5, 4]"]);
    refused(with(&r, &zeros(&[2, 4])), op, &["uv has shape [2, 4]", "[2, 2, 2]"]);
    refused(with(&double(&[5, 4]), &uv), op, &["F32", "F64"]);
    refused(with(&r, &double(&[2, 2, 2])), op, &["F32", "F64"]);
    let table = |d, dtype| sinusoidal_positions(4, d, dtype, &Device::Cpu);
    refused(table(5, DType::F32), "sinusoidal_positions", &["width of 5", "odd"]);
    refused(table(4, DType::U32), "sinusoidal_positions", &["U32"]);
}

#[test]
fn gates_and_states() {
    let (x, w) = (zeros(&[2, 3, 20]), zeros(&[20, 5]));
    lstm(&x, &w, None).unwrap();
    let op = "lstm";
    refused(lstm(&zeros(&[3, 20]), &w, None), op, &["[3, 20]", "[B, T, 4 H]"]);
    refused(lstm(&zeros(&[2, 3, 16]), &w, None), op, &["[2, 3, 16]", "[20, 5]"]);
    refused(lstm(&x, &zeros(&[5, 20]), None), op, &["w_hh has shape [5, 20]", "[4 H, H]"]);
    refused(lstm(&x, &zeros(&[20]), None), op, &["w_hh has shape [20]", "matrix"]);
    refused(lstm(&zeros(&[2, 3, 0]), &zeros(&[0, 0]), None), op, &["w_hh has shape [0, 0]"]);
    refused(lstm(&x, &double(&[20, 5]), None), op, &["F32", "F64"]);
    refused(lstm(&whole(&[2, 3, 20]), &whole(&[20, 5]), None), op, &["I64"]);
    let from = |h: Tensor, c: Tensor| lstm(&x, &w, Some(&LstmState { h, c }));
    from(zeros(&[2, 5]), zeros(&[2, 5])).unwrap();
    refused(from(zeros(&[1, 5]), zeros(&[2, 5])), op, &["state's h", "[1, 5]", "[2, 5]"]);
    refused(from(zeros(&[2, 5]), zeros(&[2, 4])), op, &["state's c", "[2, 4]", "[2, 5]"]);
    refused(from(zeros(&[2, 5]), double(&[2, 5])), op, &["F32", "F64"]);
}

/// Both losses, of 2 rows and 3 classes.
fn losses(targets: &Tensor, options: &CrossEntropy) -> [(&'static str, Result<Loss>); 2] {
    [
        ("cross_entropy", cross_entropy(&zeros(&[2, 3]), targets, options)),
        (
            "linear_cross_entropy",
            linear_cross_entropy(&zeros(&[2, 4]), &zeros(&[3, 4]), targets, options),
        ),
    ]
}

#[test]
fn targets_and_options() {
    let plain = CrossEntropy::default();
    let ignoring = CrossEntropy { ignore_index: Some(7), ..plain };
    for (op, loss) in losses(&ids(&[2, 3]), &plain) {
        refused(loss, op, &["row 1 is 3", "3 classes"]);
    }
    for (op, loss) in losses(&ids(&[7, 8]), &ignoring) {
        refused(loss, op, &["row 1 is 8", "3 classes"]);
    }
    for (op, loss) in losses(&ids(&[7, 7]), &ignoring) {
        refused(loss, op, &["no target that is not ignored"]);
    }
    for (op, loss) in losses(&ids(&[0, 1, 2]), &plain) {
        refused(loss, op, &["3 targets for 2 rows"]);
    }
    for (op, loss) in losses(&whole(&[2]), &plain) {
        refused(loss, op, &["I64", "u32"]);
    }
    let bad = [
        ("label_smoothing", CrossEntropy { label_smoothing: 1.0, ..plain }),
        ("label_smoothing", CrossEntropy { label_smoothing: -0.1, ..plain }),
        ("label_smoothing", CrossEntropy { label_smoothing: f64::NAN, ..plain }),
        ("z_loss", CrossEntropy { z_loss: -1.0, ..plain }),
        ("z_loss", CrossEntropy { z_loss: f64::INFINITY, ..plain }),
        ("z_loss", CrossEntropy { z_loss: f64::NAN, ..plain }),
        ("logit_scale", CrossEntropy { logit_scale: f64::NAN, ..plain }),
        ("logit_scale", CrossEntropy { logit_scale: f64::INFINITY, ..plain }),
    ];
    for (field, options) in bad {
        for (op, loss) in losses(&ids(&[0, 1]), &options) {
            refused(loss, op, &[&format!("{field} is ")]);
        }
    }
    for (op, loss) in losses(&ids(&[0, 1]), &plain) {
        loss.unwrap_or_else(|err| panic!("{op}: {err}"));
    }
}

#[test]
fn shapes_of_losses() {
    let (plain, two) = (CrossEntropy::default(), ids(&[0, 1]));
    let op = "cross_entropy";
    refused(cross_entropy(&zeros(&[]), &two, &plain), op, &["last dimension"]);
    refused(cross_entropy(&zeros(&[2, 0]), &two, &plain), op, &["[2, 0]", "no classes"]);
    refused(cross_entropy(&whole(&[2, 3]), &two, &plain), op, &["I64"]);
    let op = "linear_cross_entropy";
    let of = |x: &Tensor, w: &Tensor| linear_cross_entropy(x, w, &two, &plain);
    refused(of(&zeros(&[2, 4]), &zeros(&[3, 5])), op, &["[2, 4]", "[3, 5]"]);
    refused(of(&zeros(&[2, 4]), &zeros(&[4])), op, &["w has shape [4]", "matrix"]);
    refused(of(&zeros(&[2, 4]), &zeros(&[0, 4])), op, &["row 0 is 0", "0 classes"]);
    refused(of(&zeros(&[]), &zeros(&[3, 4])), op, &["last dimension"]);
    refused(of(&zeros(&[2, 4]), &double(&[3, 4])), op, &["F32", "F64"]);
}
