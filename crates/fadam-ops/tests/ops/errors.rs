//! What is refused: by an error that names the op and what it expected, never by a panic.

use candle_core::{DType, Device, Result, Tensor};
use fadam_ops::{
    Activation, Attention, Conv2d, CrossEntropy, Joint, Loss, LstmState, RelativePositions, Rope,
    SelfAttention, Transducer, batch_norm, batch_norm_with, bias_activation, causal_attention,
    conv2d, cross_entropy, depthwise_conv1d, dropout, embedding, feed_forward, glu, group_norm,
    grouped_linear_cross_entropy, joint_rnnt_loss, layer_norm, linear, linear_activation,
    linear_cross_entropy, logit_laplace, lstm, rms_norm, rnnt_loss, rope, self_attention,
    sinusoidal_positions, softmax, swiglu, vector_quantize,
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
    let tanh = |x: &Tensor, w: &Tensor, b: &Tensor| linear_activation(x, w, b, Activation::Tanh);
    let (x, matrix) = (zeros(&[2, 4]), zeros(&[3, 4]));
    refused(tanh(&x, &matrix, &w), "linear_activation", &["b has shape [4]", "[3]"]);
    refused(tanh(&zeros(&[2, 3]), &matrix, &zeros(&[3])), "linear_activation", &["[2, 3]"]);
    refused(tanh(&x, &matrix, &double(&[3])), "linear_activation", &["F32", "F64"]);
    refused(swiglu(&zeros(&[2, 5])), "swiglu", &["[2, 5]", "odd"]);
    refused(swiglu(&whole(&[2, 4])), "swiglu", &["I64", "f32, f64"]);
    refused(swiglu(&zeros(&[])), "swiglu", &["last dimension"]);
    refused(glu(&zeros(&[2, 5])), "glu", &["[2, 5]", "odd"]);
    refused(glu(&whole(&[2, 4])), "glu", &["I64", "f32, f64"]);
    refused(glu(&zeros(&[])), "glu", &["last dimension"]);
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
fn lengths() {
    let (x, x4) = (zeros(&[2, 3, 4]), zeros(&[2, 3, 5, 4]));
    let (v, w, w4, b) = (zeros(&[4]), zeros(&[4, 3]), zeros(&[6, 3, 3, 4]), zeros(&[6]));
    let conv = Conv2d { padding: (1, 1), ..Conv2d::default() };
    let each = |lengths: &[usize]| {
        [
            ("depthwise_conv1d", depthwise_conv1d(&x, &w, lengths)),
            ("batch_norm", batch_norm(&x, &v, &v, lengths, 1e-5).map(|(y, _)| y)),
            ("group_norm", group_norm(&x, &v, &v, 2, lengths, 1e-5)),
            ("conv2d", conv2d(&x4, &w4, &b, lengths, &conv)),
        ]
    };
    for (op, y) in each(&[3, 1]) {
        assert_eq!(y.unwrap_or_else(|err| panic!("{op}: {err}")).dim(0).unwrap(), 2);
    }
    for wrong in [&[][..], &[3], &[3, 3, 3]] {
        for (op, y) in each(wrong) {
            refused(y, op, &[&format!("{} lengths", wrong.len()), "2 utterances"]);
        }
    }
    for (op, y) in each(&[3, 4]) {
        refused(y, op, &["utterance 1 has length 4", "3 frames"]);
    }
    refused(batch_norm(&x, &v, &v, &[0, 0], 1e-5), "batch_norm", &["[2, 3, 4]", "no real frame"]);
    let none = zeros(&[0, 3, 4]);
    refused(batch_norm(&none, &v, &v, &[], 1e-5), "batch_norm", &["no real frame"]);
}

#[test]
fn channels_last() {
    let (x, v, w, n) = (zeros(&[2, 3, 4]), zeros(&[4]), zeros(&[4, 3]), &[3, 3]);
    let op = "depthwise_conv1d";
    refused(depthwise_conv1d(&zeros(&[3, 4]), &w, n), op, &["[3, 4]", "[B, T, C]"]);
    refused(depthwise_conv1d(&x, &v, n), op, &["w has shape [4]", "matrix"]);
    refused(depthwise_conv1d(&x, &zeros(&[5, 3]), n), op, &["[5, 3]", "4 channels"]);
    refused(depthwise_conv1d(&x, &zeros(&[4, 2]), n), op, &["2 taps", "odd"]);
    refused(depthwise_conv1d(&x, &zeros(&[4, 0]), n), op, &["0 taps", "odd"]);
    refused(depthwise_conv1d(&x, &double(&[4, 3]), n), op, &["F32", "F64"]);
    refused(depthwise_conv1d(&whole(&[2, 3, 4]), &whole(&[4, 3]), n), op, &["I64"]);
    let op = "batch_norm";
    refused(batch_norm(&zeros(&[3, 4]), &v, &v, n, 1.0), op, &["[3, 4]", "[B, T, C]"]);
    refused(batch_norm(&x, &zeros(&[3]), &v, n, 1.0), op, &["w has shape [3]", "[4]"]);
    refused(batch_norm(&x, &v, &zeros(&[3]), n, 1.0), op, &["b has shape [3]", "[4]"]);
    refused(batch_norm(&x, &v, &double(&[4]), n, 1.0), op, &["F32", "F64"]);
    let op = "group_norm";
    refused(group_norm(&zeros(&[3, 4]), &v, &v, 2, n, 1.0), op, &["[3, 4]", "[B, T, C]"]);
    refused(group_norm(&x, &zeros(&[3]), &v, 2, n, 1.0), op, &["w has shape [3]", "[4]"]);
    for groups in [0, 3, 8] {
        let text = format!("not {groups} equal groups");
        refused(group_norm(&x, &v, &v, groups, n, 1.0), op, &["4 channels", &text]);
    }
    let (x0, v0) = (zeros(&[2, 3, 0]), zeros(&[0]));
    refused(group_norm(&x0, &v0, &v0, 1, n, 1.0), op, &["0 channels"]);
    refused(group_norm(&x, &v, &double(&[4]), 2, n, 1.0), op, &["F32", "F64"]);
    let op = "batch_norm_with";
    let with = |mean: &Tensor, variance: &Tensor| batch_norm_with(&x, &v, &v, mean, variance, 1.0);
    refused(with(&zeros(&[3]), &v), op, &["mean has shape [3]", "[4]"]);
    refused(with(&v, &zeros(&[3])), op, &["variance has shape [3]", "[4]"]);
    refused(batch_norm_with(&zeros(&[3, 4]), &v, &v, &v, &v, 1.0), op, &["[B, T, C]"]);
    refused(batch_norm_with(&x, &v, &double(&[4]), &v, &v, 1.0), op, &["F32", "F64"]);
    with(&double(&[4]), &v).unwrap();
}

#[test]
fn windows() {
    let (x, w, b) = (zeros(&[2, 3, 5, 4]), zeros(&[6, 3, 3, 4]), zeros(&[6]));
    let of = |x: &Tensor, w: &Tensor, b: &Tensor, conv: Conv2d| conv2d(x, w, b, &[3, 3], &conv);
    let (op, plain) = ("conv2d", Conv2d::default());
    refused(of(&zeros(&[2, 3, 5]), &w, &b, plain), op, &["[2, 3, 5]", "[B, T, F, C_in]"]);
    refused(of(&x, &zeros(&[6, 3, 4]), &b, plain), op, &["[6, 3, 4]", "[C_out, K_t, K_f, C_in]"]);
    refused(of(&x, &zeros(&[6, 3, 3, 2]), &b, plain), op, &["[6, 3, 3, 2]", "4 channels"]);
    for empty in [[0, 3, 3, 4], [6, 0, 3, 4], [6, 3, 0, 4]] {
        refused(of(&x, &zeros(&empty), &b, plain), op, &[&format!("{empty:?} is empty")]);
    }
    let no_channels = of(&zeros(&[2, 3, 5, 0]), &zeros(&[6, 3, 3, 0]), &b, plain);
    refused(no_channels, op, &["[6, 3, 3, 0] is empty"]);
    refused(of(&x, &w, &zeros(&[5]), plain), op, &["b has shape [5]", "[6]"]);
    for stride in [(0, 1), (1, 0)] {
        let text = format!("stride {stride:?}");
        refused(of(&x, &w, &b, Conv2d { stride, ..plain }), op, &[&text]);
    }
    let narrow = of(&zeros(&[2, 3, 2, 4]), &w, &b, plain);
    refused(narrow, op, &["3 bands of w", "2 of x with 0 of padding"]);
    let none = of(&zeros(&[2, 3, 0, 4]), &w, &b, Conv2d { padding: (9, 9), ..plain });
    refused(none, op, &["0 of x with 9 of padding"]);
    refused(of(&x, &double(&[6, 3, 3, 4]), &b, plain), op, &["F32", "F64"]);
    refused(of(&whole(&[2, 3, 5, 4]), &whole(&[6, 3, 3, 4]), &whole(&[6]), plain), op, &["I64"]);
}

#[test]
fn groups_of_classes() {
    let op = "grouped_linear_cross_entropy";
    let of = |x: &Tensor, w: &Tensor, b: &Tensor, targets: &Tensor| {
        grouped_linear_cross_entropy(x, w, b, targets, &CrossEntropy::default())
    };
    let targets = |shape: (usize, usize), y: u32| {
        Tensor::full(y, shape, &Device::Cpu).unwrap().contiguous().unwrap()
    };
    let (x, w, b, y) = (zeros(&[2, 4]), zeros(&[6, 4]), zeros(&[6]), targets((2, 3), 1));
    of(&x, &w, &b, &y).unwrap();
    refused(of(&zeros(&[2, 5]), &w, &b, &y), op, &["[2, 5]", "[6, 4]"]);
    refused(of(&x, &zeros(&[6]), &b, &y), op, &["w has shape [6]", "matrix"]);
    refused(of(&x, &w, &zeros(&[5]), &y), op, &["b has shape [5]", "[6]"]);
    refused(of(&x, &w, &b, &targets((3, 2), 1)), op, &["targets [3, 2]", "[2, 4]"]);
    refused(of(&x, &w, &b, &ids(&[0, 1])), op, &["targets [2]", "[2, 4]"]);
    of(&zeros(&[4]), &w, &b, &ids(&[5])).unwrap(); // one row, one group of six classes
    refused(of(&x, &w, &b, &targets((2, 4), 1)), op, &["6 rows of w", "4 groups"]);
    refused(of(&x, &w, &b, &targets((2, 0), 1)), op, &["6 rows of w", "0 groups"]);
    refused(of(&x, &zeros(&[0, 4]), &zeros(&[0]), &y), op, &["0 rows of w", "3 groups"]);
    refused(of(&x, &w, &b, &targets((2, 3), 2)), op, &["row 0 is 2", "2 classes"]);
    refused(of(&x, &w, &b, &whole(&[2, 3])), op, &["I64", "u32"]);
    refused(of(&x, &double(&[6, 4]), &b, &y), op, &["F32", "F64"]);
    refused(of(&x, &w, &double(&[6]), &y), op, &["F32", "F64"]);
    let ignored = CrossEntropy { ignore_index: Some(1), ..CrossEntropy::default() };
    let none = grouped_linear_cross_entropy(&x, &w, &b, &y, &ignored);
    refused(none, op, &["no target that is not ignored"]);
    let wrong = CrossEntropy { z_loss: -1.0, ..CrossEntropy::default() };
    refused(grouped_linear_cross_entropy(&x, &w, &b, &y, &wrong), op, &["z_loss is -1"]);
}

#[test]
fn pixels() {
    let op = "logit_laplace";
    let x = |numbers: &[f32]| Tensor::new(numbers, &Device::Cpu).unwrap();
    logit_laplace(&zeros(&[4]), &x(&[0.0, 1.0])).unwrap();
    refused(logit_laplace(&zeros(&[3]), &x(&[0.0, 1.0])), op, &["[3]", "[2] asks for [4]"]);
    refused(logit_laplace(&zeros(&[1, 4]), &x(&[0.0, 1.0])), op, &["[1, 4]"]);
    refused(logit_laplace(&zeros(&[2]), &zeros(&[])), op, &["last dimension"]);
    refused(logit_laplace(&zeros(&[3, 0]), &zeros(&[3, 0])), op, &["[3, 0] is empty"]);
    refused(logit_laplace(&double(&[2]), &x(&[0.5])), op, &["F64", "F32"]);
    refused(logit_laplace(&whole(&[2]), &whole(&[1])), op, &["I64"]);
    for (bad, named) in [(f32::NAN, "NaN"), (-0.01, "-0.01"), (1.5, "1.5")] {
        let said = format!("x is {named} at place 1,");
        refused(logit_laplace(&zeros(&[6]), &x(&[0.5, bad, 7.0])), op, &[&said, "0 and 1"]);
    }
}

#[test]
fn codes() {
    let op = "vector_quantize";
    let (z, c) = (zeros(&[2, 3]), zeros(&[5, 3]));
    vector_quantize(&z, &c).unwrap();
    refused(vector_quantize(&zeros(&[]), &c), op, &["last dimension"]);
    refused(vector_quantize(&z, &zeros(&[3])), op, &["codes has shape [3]", "matrix"]);
    refused(vector_quantize(&z, &zeros(&[5, 4])), op, &["[2, 3]", "[5, 4]"]);
    refused(vector_quantize(&zeros(&[2, 0]), &zeros(&[5, 0])), op, &["[2, 0]", "not 0"]);
    refused(vector_quantize(&z, &zeros(&[0, 3])), op, &["0 codes"]);
    refused(vector_quantize(&zeros(&[0, 3]), &c), op, &["[0, 3] has no row"]);
    refused(vector_quantize(&z, &double(&[5, 3])), op, &["F32", "F64"]);
    refused(vector_quantize(&whole(&[2, 3]), &whole(&[5, 3])), op, &["I64"]);
    let bad = |x: f32| Tensor::new(&[[0.0, 1.0, 2.0], [0.0, x, 2.0f32]], &Device::Cpu).unwrap();
    for (x, named) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "inf"), (1e30, "inf")] {
        let said = format!("row 1 of z has the squared length {named}");
        refused(vector_quantize(&bad(x), &c), op, &[&said]);
        let said = format!("row 1 of codes has the squared length {named}");
        refused(vector_quantize(&z, &bad(x)), op, &[&said]);
    }
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

/// Both transducer losses of 2 utterances with up to 3 frames, 2 labels and 4 symbols.
fn transducers(
    targets: &[Vec<u32>],
    frames: &[usize],
    options: &Transducer,
) -> [(&'static str, Result<Tensor>); 2] {
    let (w, b) = (zeros(&[4, 5]), zeros(&[4]));
    let joint = Joint::new(&w, &b, Activation::Tanh);
    let [e, p] = [zeros(&[2, 3, 5]), zeros(&[2, 3, 5])];
    [
        ("rnnt_loss", rnnt_loss(&zeros(&[2, 3, 3, 4]), targets, frames, options)),
        ("joint_rnnt_loss", joint_rnnt_loss(&e, &p, &joint, targets, frames, options)),
    ]
}

#[test]
fn utterances() {
    let plain = Transducer::default();
    let fits: [Vec<u32>; 2] = [vec![1, 3], vec![]];
    for (op, loss) in transducers(&fits, &[3, 1], &plain) {
        loss.unwrap_or_else(|err| panic!("{op}: {err}"));
    }
    for frames in [&[3][..], &[3, 1, 1]] {
        for (op, loss) in transducers(&fits, frames, &plain) {
            refused(
                loss,
                op,
                &["2 sequences", &format!("{} numbers", frames.len()), "2 utterances"],
            );
        }
    }
    for (op, loss) in transducers(&fits[..1], &[3, 1], &plain) {
        refused(loss, op, &["1 sequences of labels", "2 utterances"]);
    }
    for (b, frames) in [(0, [0, 1]), (1, [3, 4]), (1, [3, usize::MAX])] {
        for (op, loss) in transducers(&fits, &frames, &plain) {
            refused(loss, op, &[&format!("utterance {b} has {} frames", frames[b]), "1 and 3"]);
        }
    }
    let cases: [(&[u32], &Transducer, &[&str]); 5] = [
        (&[1, 2, 3], &plain, &["utterance 1 has 3 labels", "room for 2"]),
        (&[1, 4], &plain, &["label 1 of utterance 1 is 4", "4 symbols"]),
        (&[u32::MAX], &plain, &["label 0 of utterance 1 is 4294967295", "4 symbols"]),
        (&[0], &plain, &["label 0 of utterance 1 is 0", "the blank"]),
        (&[1, 2], &Transducer { blank: 2, ..plain }, &["label 1 of utterance 1 is 2", "the blank"]),
    ];
    for (labels, options, said) in cases {
        for (op, loss) in transducers(&[vec![1], labels.to_vec()], &[3, 3], options) {
            refused(loss, op, said);
        }
    }
}

#[test]
fn options_of_transducers() {
    let plain = Transducer::default();
    let cases = [
        (Transducer { blank: 4, ..plain }, "the blank is 4"),
        (Transducer { fast_emit: -0.1, ..plain }, "fast_emit is -0.1"),
        (Transducer { fast_emit: f64::NAN, ..plain }, "fast_emit is NaN"),
        (Transducer { fast_emit: f64::INFINITY, ..plain }, "fast_emit is inf"),
        (Transducer { clamp: Some(0.0), ..plain }, "clamp is 0"),
        (Transducer { clamp: Some(-1.0), ..plain }, "clamp is -1"),
        (Transducer { clamp: Some(f64::NAN), ..plain }, "clamp is NaN"),
        (Transducer { clamp: Some(f64::INFINITY), ..plain }, "clamp is inf"),
    ];
    for (options, said) in cases {
        for (op, loss) in transducers(&[vec![1], vec![]], &[3, 1], &options) {
            refused(loss, op, &[said]);
        }
    }
}

#[test]
fn shapes_of_transducers() {
    let plain = Transducer::default();
    let op = "rnnt_loss";
    let of = |logits: &Tensor| rnnt_loss(logits, &[vec![]], &[1], &plain);
    refused(of(&zeros(&[3, 3, 4])), op, &["[3, 3, 4]", "[B, T, U + 1, V]"]);
    refused(of(&zeros(&[1, 3, 3, 0])), op, &["the blank is 0", "0 symbols"]);
    refused(of(&zeros(&[1, 3, 0, 4])), op, &["no cells"]);
    refused(of(&zeros(&[1, 0, 3, 4])), op, &["utterance 0 has 1 frames", "1 and 0"]);
    refused(of(&whole(&[1, 3, 3, 4])), op, &["I64", "f32, f64"]);
    let op = "joint_rnnt_loss";
    let of = |e: &[usize], p: &[usize], w: &[usize], b: Tensor| {
        let w = zeros(w);
        let joint = Joint::new(&w, &b, Activation::Relu);
        joint_rnnt_loss(&zeros(e), &zeros(p), &joint, &[vec![]], &[1], &plain)
    };
    let (e, p, w, b) = (&[1, 3, 5], &[1, 2, 5], &[4, 5], zeros(&[4]));
    of(e, p, w, b.clone()).unwrap();
    refused(of(&[1, 5], p, w, b.clone()), op, &["[1, 5]", "[B, T, J]"]);
    refused(of(e, &[2, 5], w, b.clone()), op, &["[2, 5]", "[B, U + 1, J]"]);
    refused(of(&[2, 3, 5], p, w, b.clone()), op, &["[2, 3, 5]", "[1, 2, 5]", "[4, 5]"]);
    refused(of(&[1, 3, 6], p, w, b.clone()), op, &["[1, 3, 6]", "[V, J]"]);
    refused(of(e, &[1, 2, 6], w, b.clone()), op, &["[1, 2, 6]", "[V, J]"]);
    refused(of(&[1, 3, 0], &[1, 2, 0], &[4, 0], b.clone()), op, &["J > 0"]);
    refused(of(e, p, &[5], b.clone()), op, &["w has shape [5]", "matrix"]);
    refused(of(e, p, &[3, 5], b), op, &["b has shape [4]", "[3]"]);
    refused(of(e, p, &[0, 5], zeros(&[0])), op, &["the blank is 0", "0 symbols"]);
    refused(of(e, &[1, 0, 5], w, zeros(&[4])), op, &["no cells"]);
    refused(of(e, p, w, double(&[4])), op, &["F32", "F64"]);
}

/// NaN and +∞ are named by the place they are at; −∞ is none of them.
#[test]
fn logits_that_are_none() {
    let (targets, frames) = ([vec![1, 2], vec![3]], [2, 3]);
    let place = |b: usize, t: usize, u: usize, v: usize| ((b * 3 + t) * 3 + u) * 4 + v;
    for (bad, named) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        for ((b, t, u, v), others) in [
            ((0, 0, 0, 0), None),
            ((0, 1, 2, 3), Some((1, 0, 0, 0))),
            ((1, 2, 1, 2), None),
            ((1, 0, 1, 1), Some((1, 1, 0, 0))),
        ] {
            for fill in [0.5, f32::NEG_INFINITY] {
                let mut z = vec![fill; 2 * 3 * 3 * 4];
                z[place(b, t, u, v)] = bad;
                if let Some((b, t, u, v)) = others {
                    z[place(b, t, u, v)] = f32::NAN;
                }
                // Outside of both utterances.
                z[place(0, 2, 0, 0)] = f32::NAN;
                z[place(1, 0, 2, 0)] = f32::INFINITY;
                let z = Tensor::from_vec(z, (2, 3, 3, 4), &Device::Cpu).unwrap();
                let said =
                    format!("symbol {v} in utterance {b}, frame {t}, after {u} labels, is {named}");
                for dtype in [DType::F32, DType::F64, DType::BF16] {
                    let z = z.to_dtype(dtype).unwrap();
                    let loss = rnnt_loss(&z, &targets, &frames, &Transducer::default());
                    refused(loss, "rnnt_loss", &[&said]);
                }
            }
        }
    }
    let e =
        Tensor::new(&[[[0f32], [0.0], [0.0]], [[0.0], [0.0], [f32::NAN]]], &Device::Cpu).unwrap();
    let (w, b) = (zeros(&[4, 1]), zeros(&[4]));
    let joint = Joint::new(&w, &b, Activation::Tanh);
    let plain = Transducer::default();
    let loss = joint_rnnt_loss(&e, &zeros(&[2, 3, 1]), &joint, &targets, &frames, &plain);
    refused(loss, "joint_rnnt_loss", &["utterance 1, frame 2, after 0 labels", "NaN or +∞"]);
}
