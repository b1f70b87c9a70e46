//! What holds for every op: the same bits again and on any number of threads, any layout, and gradients for those alone that ask.

use candle_core::{DType, Device, Tensor, Var};
use fadam_ops::{Activation, CrossEntropy, Joint, Transducer};

use crate::causal_attention::Shape;
use crate::check::{
    Case, Draw, assert_same, cast, functional, numbers, of_all, relative, value_and_gradients, vars,
};
use crate::grouped_linear_cross_entropy::Groups;
use crate::vector_quantize::Part;
use crate::{
    batch_norm, bias_activation, causal_attention, conv2d, cross_entropy, depthwise_conv1d,
    dropout, embedding, glu, group_norm, grouped_linear_cross_entropy, joint_rnnt_loss, layer_norm,
    linear, linear_activation, logit_laplace, lstm, rms_norm, rnnt_loss, rope, self_attention,
    softmax, swiglu, vector_quantize,
};

/// Every op, of a size that is cut into several tasks and parts.
fn all() -> Vec<Case> {
    let x = &[3, 100, 132];
    let options = cross_entropy::options();
    let recurrence = |b, state| lstm::case(56, lstm::Shape { b, t: 5, units: 70, state });
    let transducer = Transducer { blank: 3, fast_emit: 0.1, clamp: Some(0.3) };
    let attention = |b, heads, kv_heads, d, rope| {
        causal_attention::case(45, Shape { b, t: 130, heads, kv_heads, d, rope })
    };
    vec![
        rms_norm::case(30, x, 1e-5),
        layer_norm::case(31, x, 1e-5),
        linear::case(32, x, 70, false),
        linear::case(33, x, 70, true),
        attention(3, 4, 2, 16, true),
        attention(1, 3, 1, 32, false),
        rope::case(36, x, 4),
        swiglu::case(37, x),
        bias_activation::case(38, x, Activation::Relu),
        bias_activation::case(39, x, Activation::Silu),
        bias_activation::case(40, x, Activation::Gelu),
        bias_activation::case(41, x, Activation::Tanh),
        linear_activation::case(63, x, 70, Activation::Silu),
        linear_activation::case(64, x, 70, Activation::Tanh),
        softmax::case(42, x),
        cross_entropy::case(43, x, options[5]),
        cross_entropy::linear_case(44, &[3, 100, 32], 600, options[5]),
        grouped_linear_cross_entropy::case(58, &[3, 200, 24], Groups(40, 12), options[5]),
        logit_laplace::case(59, x),
        vector_quantize::case(60, &[3, 200, 12], 300, Part::Codes),
        vector_quantize::case(61, &[3, 200, 12], 300, Part::Codebook),
        vector_quantize::case(62, &[3, 200, 12], 300, Part::Commitment),
        embedding::case(46, &[3, 200], 50, 132),
        dropout::case(47, x, 0.2),
        glu::case(48, x),
        depthwise_conv1d::case(49, (150, 33), 31, &[150, 3, 100]),
        batch_norm::case(50, (150, 33), &[150, 3, 100], 1e-3),
        batch_norm::with_case(51, (3, 150, 33)),
        group_norm::case(53, (150, 33), 3, &[150, 3, 100], 1e-3),
        conv2d::case(52, conv2d::Sizes([150, 23, 4], [6, 3, 3]), &[150, 3, 100], conv2d::HALVING),
        rnnt_loss::case(56, [3, 40, 13, 67], transducer, true),
        joint_rnnt_loss::case(57, [3, 90, 13, 67], 24, Activation::Tanh, transducer),
        recurrence(3, false),
        recurrence(40, true),
        bidirectional(&[70, 33, 100], false),
        bidirectional(&[70, 33, 100], true),
    ]
}

fn bidirectional(lengths: &[usize], relative: bool) -> Case {
    let shape = self_attention::Shape { lengths, t: 100, heads: 3, d: 12, relative };
    self_attention::case(57, shape)
}

fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

#[test]
fn the_same_bits_again_and_on_any_number_of_threads() {
    for case in all() {
        let g = case.g(50);
        for dtype in [DType::F32, DType::F64] {
            let x = cast(&case.arguments, dtype);
            let run = |threads| on_threads(threads, || value_and_gradients(&case.op, &x, &g));
            let first = run(1);
            for threads in [1, 2, 3, 4, 5] {
                for (i, (a, b)) in run(threads).iter().zip(&first).enumerate() {
                    assert_same(&format!("{} {dtype:?} {i}, {threads} threads", case.name), a, b);
                }
            }
        }
    }
}

/// Products that are small, of one row, of one column, deep, and large enough to be shared out; and the ops made of them with
/// fewer sequences than threads, and with more logits than are there at once.
#[test]
fn matrix_products_are_the_same_bits_on_any_number_of_threads() {
    let shapes = [
        (1, 600, 257),
        (257, 31, 1),
        (7, 1500, 64),
        (64, 2, 600),
        (300, 257, 100),
        (600, 100, 600),
    ];
    let mut cases: Vec<Case> =
        shapes.iter().map(|&(rows, i, o)| linear::case(48, &[rows, i], o, true)).collect();
    for (b, heads, kv_heads) in [(1, 4, 1), (2, 4, 2)] {
        let shape = Shape { b, t: 200, heads, kv_heads, d: 32, rope: true };
        cases.push(causal_attention::case(49, shape));
    }
    for b in [1, 8] {
        cases.push(lstm::case(58, lstm::Shape { b, t: 6, units: 320, state: false }));
    }
    cases.push(bidirectional(&[100], true));
    cases.push(cross_entropy::linear_case(50, &[400, 64], 3000, CrossEntropy::default()));
    let wide = fadam_ops::Conv2d { padding: (1, 300), ..fadam_ops::Conv2d::default() };
    cases.push(conv2d::case(51, conv2d::Sizes([20, 7, 5], [9, 3, 3]), &[20, 13], wide));
    for case in cases {
        let g = case.g(51);
        for dtype in [DType::F32, DType::F64] {
            let x = cast(&case.arguments, dtype);
            let run = |threads| on_threads(threads, || value_and_gradients(&case.op, &x, &g));
            let first = run(1);
            for threads in [2, 3, 5] {
                for (i, (a, b)) in run(threads).iter().zip(&first).enumerate() {
                    assert_same(&format!("{} {dtype:?} {i}, {threads} threads", case.name), a, b);
                }
            }
        }
    }
}

/// The same numbers in other layouts: columns first, and inside of a larger tensor.
fn layouts(x: &Tensor) -> Vec<Tensor> {
    let last = x.rank() - 1;
    let inside = |dim: usize| {
        let other = x.affine(-1.0, 9.0).unwrap();
        let around = Tensor::cat(&[&other, x, &other], dim).unwrap();
        let n = x.dims()[dim];
        around.narrow(dim, n, n).unwrap()
    };
    let mut all = vec![inside(0), inside(last)];
    if last > 0 {
        let exchanged = x.transpose(last - 1, last).unwrap().contiguous().unwrap();
        all.push(exchanged.transpose(last - 1, last).unwrap());
    }
    all
}

#[test]
fn the_layout_of_arguments_changes_nothing() {
    for case in all() {
        let g = case.g(51);
        for dtype in [DType::F32, DType::F64] {
            let x = cast(&case.arguments, dtype);
            let wanted = value_and_gradients(&case.op, &x, &g);
            for i in 0..x.len() {
                for way in 0..layouts(&x[i]).len() {
                    let (vars, mut given) = vars(&x);
                    given[i] = layouts(&given[i]).swap_remove(way);
                    assert!(!given[i].is_contiguous() || given[i].layout().start_offset() > 0);
                    let y = (case.op)(&given).unwrap();
                    assert_same(&case.name, &y.detach(), &wanted[0]);
                    assert_eq!(numbers(&given[i]), numbers(&x[i]));
                    // x is three times in what it lies inside of: there, the gradients of the others are compared.
                    let gradients = functional(&y, &g).unwrap().backward().unwrap();
                    for (j, var) in vars.iter().enumerate().filter(|(j, _)| *j != i) {
                        let what = format!("{} argument {j}, {i} in layout {way}", case.name);
                        assert_same(&what, gradients.get(var).unwrap(), &wanted[1 + j]);
                    }
                    if way == 2 {
                        let what = format!("{} argument {i}, transposed", case.name);
                        assert_same(&what, gradients.get(&vars[i]).unwrap(), &wanted[1 + i]);
                    }
                }
            }
        }
    }
}

/// A value that is transposed, cut up or summed afterwards hands a gradient of strides, offsets or one number back.
#[test]
fn the_layout_of_the_gradient_changes_nothing() {
    for case in all() {
        let g = case.g(52);
        let last = g.rank().saturating_sub(1);
        if last == 0 {
            continue; // a loss: its gradient is one number
        }
        for dtype in [DType::F32, DType::F64] {
            let x = cast(&case.arguments, dtype);
            let (vars, given) = vars(&x);
            let of = |loss: Tensor| of_all(&vars, &loss.backward().unwrap());
            let y = || (case.op)(&given).unwrap();
            let turned = |x: &Tensor| x.transpose(last - 1, last).unwrap();
            let first = of(functional(&y(), &g).unwrap());
            let second = of(functional(&turned(&y()), &turned(&g)).unwrap());
            let ones = of(functional(&y(), &g.ones_like().unwrap()).unwrap());
            let summed = of(y().sum_all().unwrap());
            for i in 0..vars.len() {
                assert_same(&case.name, &second[i], &first[i]);
                assert_same(&case.name, &summed[i], &ones[i]);
            }
        }
    }
}

/// `fadam_ops::backward` and `backward` add the same numbers, in another order.
#[test]
fn both_backward_passes_agree_on_variables_used_again() {
    for case in all() {
        let (g, h) = (case.g(53), case.g(54));
        for dtype in [DType::F32, DType::F64] {
            let (vars, x) = vars(&cast(&case.arguments, dtype));
            let loss = || {
                let twice = functional(&(case.op)(&x).unwrap(), &g).unwrap()
                    + functional(&(case.op)(&x).unwrap(), &h).unwrap();
                let squares = x.iter().map(|x| x.sqr().unwrap().sum_all().unwrap());
                squares.fold(twice.unwrap(), |loss, x| (loss + x).unwrap())
            };
            let plain = of_all(&vars, &loss().backward().unwrap());
            let ours = of_all(&vars, &fadam_ops::backward(&loss()).unwrap());
            let unit = if dtype == DType::F32 { 2f64.powi(-22) } else { 1e-15 };
            for (i, (ours, plain)) in ours.iter().zip(&plain).enumerate() {
                assert_eq!(ours.dtype(), dtype);
                let off = relative(ours, plain);
                assert!(off < unit, "{} argument {i}: {off:e}", case.name);
            }
        }
    }
}

/// An argument that is no variable gets no gradient, and the others get what they would get.
#[test]
fn a_detached_argument_gets_no_gradient() {
    for case in all().into_iter().filter(|case| case.arguments.len() > 1) {
        let wanted = value_and_gradients(&case.op, &case.arguments, &case.g(55));
        for i in 0..case.arguments.len() {
            let (vars, mut x) = vars(&case.arguments);
            x[i] = x[i].detach();
            let loss = || functional(&(case.op)(&x).unwrap(), &case.g(55)).unwrap();
            for gradients in [loss().backward(), fadam_ops::backward(&loss())] {
                let gradients = gradients.unwrap();
                assert!(gradients.get(&x[i]).is_none(), "{}: argument {i}", case.name);
                for (j, var) in vars.iter().enumerate().filter(|(j, _)| *j != i) {
                    assert_same(&case.name, gradients.get(var).unwrap(), &wanted[1 + j]);
                }
            }
        }
    }
}

/// After a backward pass there are gradients of variables and of nothing else: not of rotary tables, not of targets.
#[test]
fn constants_get_no_gradient() {
    for case in all() {
        let (vars, x) = vars(&case.arguments);
        let y = (case.op)(&x).unwrap();
        let loss = if y.rank() == 0 { y } else { y.sum_all().unwrap() };
        for gradients in
            [loss.backward(), fadam_ops::backward(&(case.op)(&x).unwrap().sum_all().unwrap())]
        {
            let gradients = gradients.unwrap();
            let mut ids: Vec<_> = gradients.get_ids().copied().collect();
            let mut wanted: Vec<_> = vars.iter().map(|var| var.id()).collect();
            ids.sort_by_key(|id| format!("{id:?}"));
            wanted.sort_by_key(|id| format!("{id:?}"));
            assert_eq!(ids, wanted, "{}", case.name);
        }
    }
}

/// No rows: an empty value, and gradients of 0. A loss of no rows is no mean, and says so.
#[test]
fn empty_batches() {
    let none = [0, 6];
    let draw = |shape: &[usize]| Draw::new(60).tensor(shape);
    let cases: Vec<(Vec<Tensor>, crate::check::Op)> = vec![
        (vec![draw(&none), draw(&[6])], rms_norm::case(1, &[1, 6], 0.1).op),
        (vec![draw(&none), draw(&[6]), draw(&[6])], layer_norm::case(1, &[1, 6], 0.1).op),
        (vec![draw(&none), draw(&[5, 6])], linear::case(1, &[1, 6], 5, false).op),
        (vec![draw(&none), draw(&[5, 6]), draw(&[5])], linear::case(1, &[1, 6], 5, true).op),
        (vec![draw(&none)], swiglu::case(1, &[1, 6]).op),
        (vec![draw(&none), draw(&[6])], bias_activation::case(1, &[1, 6], Activation::Gelu).op),
        (
            vec![draw(&none), draw(&[5, 6]), draw(&[5])],
            linear_activation::case(1, &[1, 6], 5, Activation::Gelu).op,
        ),
        (vec![draw(&none)], softmax::case(1, &[1, 6]).op),
        (vec![draw(&none)], dropout::case(1, &[1, 6], 0.1).op),
        (vec![draw(&[0, 2, 6])], rope::case(1, &[2, 6], 0).op),
        (vec![draw(&[2, 0, 6])], rope::case(1, &[2, 6], 0).op),
        (vec![draw(&[5, 6])], embedding::case(1, &[0], 5, 6).op),
        (vec![draw(&[0, 3, 12])], attention_of(3)),
        (vec![draw(&[2, 0, 12])], attention_of(1)),
        (vec![draw(&[0, 3, 12]), draw(&[12, 3])], lstm_of(0)),
        (vec![draw(&[2, 0, 12]), draw(&[12, 3])], lstm_of(2)),
        (vec![draw(&[0, 3, 12])], bidirectional_of(&[])),
        (vec![draw(&[2, 0, 12])], bidirectional_of(&[0, 0])),
        (vec![draw(&[0, 3, 12]), draw(&[5, 4]), draw(&[2, 2, 2])], bidirectional_of(&[])),
        (vec![draw(&[2, 0, 12]), draw(&[0, 4]), draw(&[2, 2, 2])], bidirectional_of(&[0, 0])),
        (vec![draw(&none)], glu::case(1, &[1, 6]).op),
        (vec![draw(&[0, 3, 4]), draw(&[4, 3])], depthwise_conv1d::op(vec![])),
        (vec![draw(&[2, 0, 4]), draw(&[4, 3])], depthwise_conv1d::op(vec![0, 0])),
        (vec![draw(&[0, 3, 4]), draw(&[4]), draw(&[4])], batch_norm::with_case(1, (1, 1, 4)).op),
        (vec![draw(&[0, 3, 4]), draw(&[4]), draw(&[4])], group_norm::op(2, vec![], 0.1)),
        (vec![draw(&[2, 0, 4]), draw(&[4]), draw(&[4])], group_norm::op(2, vec![0, 0], 0.1)),
        (
            vec![draw(&[0, 3, 5, 2]), draw(&[4, 3, 3, 2]), draw(&[4])],
            conv2d::op(vec![], conv2d::HALVING),
        ),
        (
            vec![draw(&[2, 0, 5, 2]), draw(&[4, 3, 3, 2]), draw(&[4])],
            conv2d::op(vec![0, 0], conv2d::HALVING),
        ),
        (vec![draw(&[0, 2, 3, 4])], no_utterances()),
        (
            vec![draw(&[0, 2, 6]), draw(&[0, 3, 6]), draw(&[4, 6]), draw(&[4])],
            no_joint_utterances(),
        ),
    ];
    for (i, (arguments, op)) in cases.iter().enumerate() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let (vars, x) = vars(&cast(arguments, dtype));
            let y = op(&x).unwrap_or_else(|err| panic!("case {i}: {err}"));
            assert_eq!(y.elem_count(), 0, "case {i}");
            for in_place in [false, true] {
                let loss = functional(&op(&x).unwrap(), &y.ones_like().unwrap()).unwrap();
                let gradients = if in_place { fadam_ops::backward(&loss) } else { loss.backward() };
                for dx in of_all(&vars, &gradients.unwrap()) {
                    assert!(numbers(&dx).iter().all(|dx| *dx == 0.0), "case {i}");
                }
            }
        }
    }
    let targets = Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap();
    let plain = CrossEntropy::default();
    let of_groups = Tensor::zeros((0, 2), DType::U32, &Device::Cpu).unwrap();
    let (x, w, b) = (draw(&none), draw(&[4, 6]), draw(&[4]));
    let losses = [
        fadam_ops::cross_entropy(&draw(&none), &targets, &plain),
        fadam_ops::linear_cross_entropy(&draw(&none), &draw(&[3, 6]), &targets, &plain),
        fadam_ops::grouped_linear_cross_entropy(&x, &w, &b, &of_groups, &plain),
    ];
    for loss in losses {
        let err = loss.unwrap_err().to_string();
        assert!(err.contains("cross_entropy: there is no target"), "{err}");
    }
}

fn attention_of(t: usize) -> crate::check::Op {
    causal_attention::case(1, Shape { b: 1, t, heads: 2, kv_heads: 2, d: 2, rope: true }).op
}

fn lstm_of(b: usize) -> crate::check::Op {
    lstm::case(1, lstm::Shape { b, t: 1, units: 3, state: b > 0 }).op
}

fn bidirectional_of(lengths: &[usize]) -> crate::check::Op {
    let shape = self_attention::Shape { lengths, t: 0, heads: 2, d: 2, relative: false };
    self_attention::case(1, shape).op
}

fn no_utterances() -> crate::check::Op {
    Box::new(|x: &[Tensor]| fadam_ops::rnnt_loss(&x[0], &[], &[], &Transducer::default()))
}

fn no_joint_utterances() -> crate::check::Op {
    Box::new(|x: &[Tensor]| {
        let joint = Joint::new(&x[2], &x[3], Activation::Tanh);
        fadam_ops::joint_rnnt_loss(&x[0], &x[1], &joint, &[], &[], &Transducer::default())
    })
}

/// No columns: an empty value too, or an error, never a panic.
#[test]
fn empty_rows() {
    let draw = |shape: &[usize]| Var::from_tensor(&Draw::new(61).tensor(shape)).unwrap();
    let (x, w) = (draw(&[3, 0]), draw(&[0]));
    let ids = Tensor::new(&[1u32, 0], &Device::Cpu).unwrap();
    let values = [
        fadam_ops::rms_norm(&x, &w, 0.1),
        fadam_ops::layer_norm(&x, &w, &w, 0.1),
        fadam_ops::swiglu(&x),
        fadam_ops::glu(&x),
        fadam_ops::depthwise_conv1d(&draw(&[2, 3, 0]), &draw(&[0, 3]), &[3, 1]),
        fadam_ops::batch_norm(&draw(&[2, 3, 0]), &w, &w, &[3, 1], 0.1).map(|(y, _)| y),
        fadam_ops::batch_norm_with(&draw(&[2, 3, 0]), &w, &w, &w, &w, 0.1),
        fadam_ops::bias_activation(&x, &w, Activation::Relu),
        fadam_ops::dropout(&x, 0.5, 1),
        fadam_ops::embedding(&ids, &draw(&[2, 0])),
        fadam_ops::linear(&draw(&[3, 4]), &draw(&[0, 4]), None),
        fadam_ops::linear(&draw(&[3, 4]), &draw(&[0, 4]), Some(&w)),
        fadam_ops::linear_activation(&draw(&[3, 4]), &draw(&[0, 4]), &w, Activation::Tanh),
    ];
    for (i, y) in values.into_iter().enumerate() {
        let y = y.unwrap_or_else(|err| panic!("case {i}: {err}"));
        assert_eq!(y.elem_count(), 0, "case {i}");
        functional(&y, &y.ones_like().unwrap()).unwrap().backward().unwrap();
    }
    let targets = Tensor::new(&[0u32; 3], &Device::Cpu).unwrap();
    let plain = CrossEntropy::default();
    let errors = [
        fadam_ops::softmax(&x).unwrap_err(),
        fadam_ops::linear(&x, &draw(&[4, 0]), None).unwrap_err(),
        fadam_ops::cross_entropy(&x, &targets, &plain).unwrap_err(),
        fadam_ops::linear_cross_entropy(&draw(&[3, 2]), &draw(&[0, 2]), &targets, &plain)
            .unwrap_err(),
    ];
    for err in errors {
        assert!(!err.to_string().is_empty());
    }
}
