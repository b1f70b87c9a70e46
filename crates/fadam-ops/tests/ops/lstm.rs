//! `lstm`

use candle_core::{D, DType, Device, Result, Tensor, Var};
use fadam_ops::LstmState;
use proptest::prelude::*;

use crate::check::{Case, Draw, assert_same, cast, difference, functional, largest, relative};

/// What is looked at: sequences, steps, H, and whether the first state is given.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) b: usize,
    pub(crate) t: usize,
    pub(crate) units: usize,
    pub(crate) state: bool,
}

/// `1/(1 + e⁻ᵘ)`
fn sigmoid(u: &Tensor) -> Result<Tensor> {
    (u.neg()?.exp()? + 1.0)?.recip()
}

/// Step by step; all h, and the last state.
fn composed(x_gates: &Tensor, w_hh: &Tensor, state: &LstmState) -> Result<(Tensor, LstmState)> {
    let mut state = state.clone();
    let mut all = Vec::new();
    for t in 0..x_gates.dim(1)? {
        let z = (x_gates.get_on_dim(1, t)? + state.h.matmul(&w_hh.t()?)?)?;
        let z = z.chunk(4, D::Minus1)?;
        let new = (sigmoid(&z[0])? * z[2].tanh()?)?;
        state.c = ((sigmoid(&z[1])? * &state.c)? + new)?;
        state.h = (sigmoid(&z[3])? * state.c.tanh()?)?;
        all.push(state.h.unsqueeze(1)?);
    }
    Ok((Tensor::cat(&all, 1)?, state))
}

fn zeros(b: usize, units: usize) -> LstmState {
    let zeros = Tensor::zeros((b, units), DType::F64, &Device::Cpu).unwrap();
    LstmState { h: zeros.clone(), c: zeros }
}

/// Multiples of 1/64 up to 1.5, which bf16 and f16 hold exactly.
fn drawn(seed: u64, b: usize, units: usize) -> LstmState {
    let mut draw = Draw::new(seed);
    let mut one = || {
        let numbers = draw.ids(b * units, 193).into_iter().map(|i| (f64::from(i) - 96.0) / 64.0);
        Tensor::from_vec(numbers.collect(), (b, units), &Device::Cpu).unwrap()
    };
    LstmState { h: one(), c: one() }
}

fn to_dtype(state: &LstmState, dtype: DType) -> LstmState {
    let [h, c] = [&state.h, &state.c].map(|x| x.to_dtype(dtype).unwrap());
    LstmState { h, c }
}

pub(crate) fn case(seed: u64, shape: Shape) -> Case {
    let Shape { b, t, units, state } = shape;
    let mut draw = Draw::new(seed);
    // About 1/√H, so that the gradient neither vanishes nor explodes; a power of two.
    let gain = ((units as f64).log2() / -2.0).round().exp2();
    let first = if state { drawn(seed ^ 1, b, units) } else { zeros(b, units) };
    let given = state.then(|| first.clone());
    Case {
        name: format!("lstm of {b} x {t} and {units} units, state {state}"),
        arguments: vec![
            draw.tensor((b, t, 4 * units)),
            (draw.tensor((4 * units, units)) * gain).unwrap(),
        ],
        op: Box::new(move |x: &[Tensor]| {
            let state = given.as_ref().map(|state| to_dtype(state, x[0].dtype()));
            Ok(fadam_ops::lstm(&x[0], &x[1], state.as_ref())?.0)
        }),
        composed: Box::new(move |x: &[Tensor]| Ok(composed(&x[0], &x[1], &first)?.0)),
    }
}

#[test]
fn values_and_gradients() {
    for state in [false, true] {
        for (b, t, units) in [(1, 1, 1), (1, 3, 2), (2, 1, 5), (3, 4, 3), (5, 7, 33)] {
            // Each step adds its roundings to those of the steps before.
            case(20, Shape { b, t, units, state }).check(64.0);
        }
        // Rows of several tasks, and too many weights for the differences to be near the gradient along all of them.
        case(20, Shape { b: 9, t: 4, units: 130, state }).against_composed(64.0);
    }
}

proptest! {
    #![proptest_config(crate::check::few())]
    #[test]
    fn any_shape(seed: u64, b in 1usize..5, t in 1usize..6, units in 1usize..20, state: bool) {
        case(seed, Shape { b, t, units, state }).check_of_any_shape();
    }
}

/// The state after all steps: its h is the last output, and its c that of the composed form.
#[test]
fn the_last_state() {
    let (b, t, units) = (3, 6, 17);
    let of = case(21, Shape { b, t, units, state: true });
    let first = drawn(3, b, units);
    let (_, wanted) = composed(&of.arguments[0], &of.arguments[1], &first).unwrap();
    for (dtype, bound) in [(DType::F64, 1e-13), (DType::F32, 1e-6)] {
        let x = cast(&of.arguments, dtype);
        let (h, state) = fadam_ops::lstm(&x[0], &x[1], Some(&to_dtype(&first, dtype))).unwrap();
        assert_same("h", &state.h, &h.get_on_dim(1, t - 1).unwrap());
        assert_eq!((state.c.dims(), state.c.dtype()), (&[b, units][..], dtype));
        assert!(relative(&state.h, &wanted.h) < bound && relative(&state.c, &wanted.c) < bound);
    }
    let x = cast(&of.arguments, DType::BF16);
    let (_, state) = fadam_ops::lstm(&x[0], &x[1], None).unwrap();
    assert_eq!((state.h.dtype(), state.c.dtype()), (DType::BF16, DType::BF16));
}

/// A sequence at once is the sequence in pieces, as decoding takes it: all steps of one, and pieces of several.
#[test]
fn a_state_handed_on_is_the_sequence_at_once() {
    for (dtype, bound) in [(DType::F64, 1e-13), (DType::F32, 1e-6)] {
        for (b, t, units) in [(1, 7, 12), (4, 7, 40)] {
            let of = case(22, Shape { b, t, units, state: false });
            let x = cast(&of.arguments, dtype);
            let (whole, last) = fadam_ops::lstm(&x[0], &x[1], None).unwrap();
            for pieces in [&[1; 7][..], &[2, 5], &[3, 1, 3]] {
                let (mut state, mut from): (Option<LstmState>, _) = (None, 0);
                for n in pieces {
                    let piece = x[0].narrow(1, from, *n).unwrap();
                    let (h, next) = fadam_ops::lstm(&piece, &x[1], state.as_ref()).unwrap();
                    let off = difference(&h, &whole.narrow(1, from, *n).unwrap());
                    assert!(off < bound, "{dtype:?} {pieces:?} from {from}: {off:e}");
                    (state, from) = (Some(next), from + n);
                }
                let state = state.unwrap();
                assert!(difference(&state.h, &last.h) < bound);
                assert!(difference(&state.c, &last.c) < bound);
            }
        }
    }
}

/// No state is a state of zeros; and a given one is a constant, as is the last.
#[test]
fn states_are_outside_of_the_graph() {
    let of = case(23, Shape { b: 2, t: 3, units: 4, state: false });
    let x: Vec<Var> = of.arguments.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
    let (h, _) = fadam_ops::lstm(&x[0], &x[1], None).unwrap();
    let (same, _) = fadam_ops::lstm(&x[0], &x[1], Some(&zeros(2, 4))).unwrap();
    assert_same("a state of zeros", &h, &same);
    let first = drawn(4, 2, 4);
    let [h0, c0] = [&first.h, &first.c].map(|x| Var::from_tensor(x).unwrap());
    let state = LstmState { h: h0.as_tensor().clone(), c: c0.as_tensor().clone() };
    let (h, last) = fadam_ops::lstm(&x[0], &x[1], Some(&state)).unwrap();
    assert!(!last.h.track_op() && !last.c.track_op());
    let gradients = h.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&h0).is_none() && gradients.get(&c0).is_none());
    assert!(gradients.get(&x[0]).is_some() && gradients.get(&x[1]).is_some());
}

/// The gradient of outputs up to a step does not reach later steps, nor other sequences.
#[test]
fn a_gradient_goes_back_in_time_and_stays_in_its_sequence() {
    let (t, units) = (6, 9);
    let of = case(24, Shape { b: 3, t, units, state: true });
    let x = Var::from_tensor(&of.arguments[0]).unwrap();
    let h = (of.op)(&[x.as_tensor().clone(), of.arguments[1].clone()]).unwrap();
    let some = h.narrow(0, 1, 1).unwrap().narrow(1, 0, 4).unwrap();
    let gradients = some.sum_all().unwrap().backward().unwrap();
    let dx = gradients.get(&x).unwrap();
    let part = |b: usize, from: usize, n: usize| {
        largest(&dx.narrow(0, b, 1).unwrap().narrow(1, from, n).unwrap())
    };
    assert!(part(1, 0, 1) > 1e-3 && part(1, 3, 1) > 1e-2);
    assert_eq!([part(1, 4, 2), part(0, 0, t), part(2, 0, t)], [0.0; 3]);
}

/// Gates far beyond where σ and tanh are flat: no NaN, neither forward nor backward.
#[test]
fn saturated_gates() {
    let of = case(25, Shape { b: 2, t: 4, units: 5, state: true });
    for dtype in [DType::F32, DType::F64] {
        for by in [1e3, 1e30] {
            let x = (&of.arguments[0] * by).unwrap().to_dtype(dtype).unwrap();
            let x = [x, of.arguments[1].to_dtype(dtype).unwrap()]
                .map(|x| Var::from_tensor(&x).unwrap());
            let y = (of.op)(&x.each_ref().map(|x| x.as_tensor().clone())).unwrap();
            assert!(largest(&y) <= 1.0);
            let gradients = functional(&y, &y.ones_like().unwrap()).unwrap().backward().unwrap();
            for x in &x {
                let dx = gradients.get(x).unwrap();
                assert!(difference(dx, dx) == 0.0, "{dtype:?} {by}: not all are numbers");
            }
        }
    }
}
