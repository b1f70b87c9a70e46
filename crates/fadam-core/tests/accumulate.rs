//! Accumulated micro-batches are the whole batch; their squares are the micro-batch FIM; what does not fit is
//! refused by name and changes nothing.

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{Accumulator, Error, Gradients, NamedVars, global_norm};
use proptest::prelude::*;

fn tensor(values: &[f64], dtype: DType) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn one(g: Tensor) -> Gradients {
    Gradients::from([("w".to_owned(), g)])
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{a} {b}");
    }
}

/// Means of gradient and square over weighted micro-batches of one parameter.
fn accumulate(parts: &[(Tensor, f64)]) -> (Tensor, Tensor) {
    let mut accumulator = Accumulator::with_squares();
    for (g, weight) in parts {
        accumulator.add_weighted(&one(g.clone()), *weight).unwrap();
    }
    assert_eq!(accumulator.count(), parts.len() as u64);
    let mut done = accumulator.finish().unwrap();
    (done.gradients.remove("w").unwrap(), done.squares.unwrap().remove("w").unwrap())
}

#[test]
fn by_hand() {
    for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
        let [a, b] = [[1.0, -2.0, 0.0], [3.0, 2.0, 0.5]].map(|g| tensor(&g, dtype));
        let (g, squares) = accumulate(&[(a.clone(), 1.0), (b.clone(), 1.0)]);
        assert_eq!(values(&g), [2.0, 0.0, 0.25]);
        assert_eq!(values(&squares), [5.0, 4.0, 0.125]);
        let sums = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        assert_eq!((g.dtype(), squares.dtype()), (dtype, sums));

        let (g, squares) = accumulate(&[(a, 1.0), (b, 3.0)]);
        assert_eq!(values(&g), [2.5, 1.0, 0.375]);
        assert_eq!(values(&squares), [7.0, 4.0, 0.1875]);
    }
    let mut plain = Accumulator::new();
    plain.add(&one(tensor(&[1.0], DType::F32))).unwrap();
    assert!(plain.finish().unwrap().squares.is_none());
}

#[test]
fn many_micro_batches_are_not_lost() {
    // 0 to 256, all of which a bf16 holds, and no bf16 holds their sum, nor an f16 their squares.
    for dtype in [DType::BF16, DType::F16, DType::F32, DType::F64] {
        let parts: Vec<_> = (0..=256).map(|k| (tensor(&[f64::from(k)], dtype), 1.0)).collect();
        let (mean, squares) = accumulate(&parts);
        assert_close(&values(&mean), &[128.0], 1e-5);
        assert_close(&values(&squares), &[256.0 * 513.0 / 6.0], 1e-5);
    }
}

/// Negative log-likelihood of logistic regression: its gradients by candle.
fn logistic_gradients(vars: &NamedVars, x: &Tensor, y: &Tensor) -> Gradients {
    let (w, b) = (vars.get("w").unwrap(), vars.get("b").unwrap());
    let z = x.matmul(w).unwrap().squeeze(1).unwrap().broadcast_add(b).unwrap();
    // log(1 + e^(−yz)), y being ±1
    let loss = ((z * y).unwrap().neg().unwrap().exp().unwrap() + 1.0).unwrap().log().unwrap();
    vars.gradients(&loss.mean_all().unwrap().backward().unwrap())
}

proptest! {
    /// Micro-batches weighted by their numbers of samples give the gradient of the whole batch.
    #[test]
    fn parts_are_the_whole(parts in proptest::collection::vec(1usize..5, 1..6), equal in any::<bool>(), seed in 0u32..1000) {
        let parts = if equal { vec![parts[0]; parts.len()] } else { parts };
        let n: usize = parts.iter().sum();
        let number = |i: usize| (f64::from(seed) * 0.37 + i as f64 * 1.7).sin();
        let x = Tensor::from_vec((0..3 * n).map(number).collect(), (n, 3), &Device::Cpu).unwrap();
        let y = Tensor::from_vec((0..n).map(|i| number(7 * i + 1).signum()).collect(), n, &Device::Cpu).unwrap();
        let vars = NamedVars::from_iter([
            ("w".to_owned(), Var::new(&[[0.3], [-0.8], [0.5]], &Device::Cpu).unwrap()),
            ("b".to_owned(), Var::new(0.1, &Device::Cpu).unwrap()),
        ]);
        let mut accumulator = Accumulator::new();
        let mut at = 0;
        for &size in &parts {
            let (x, y) = (x.narrow(0, at, size).unwrap(), y.narrow(0, at, size).unwrap());
            let g = logistic_gradients(&vars, &x, &y);
            if equal { accumulator.add(&g).unwrap(); } else { accumulator.add_weighted(&g, size as f64).unwrap(); }
            at += size;
        }
        let mean = accumulator.finish().unwrap().gradients;
        let whole = logistic_gradients(&vars, &x, &y);
        prop_assert!(mean.keys().eq(whole.keys()));
        for (name, g) in &whole {
            prop_assert_eq!(g.shape(), mean[name].shape());
            assert_close(&values(&mean[name]), &values(g), 1e-13);
        }
    }

    /// Neither order nor the unit of the weights matters, but for rounding; and E[g²] ≥ E[g]².
    #[test]
    fn order_unit_and_jensen(parts in proptest::collection::vec((proptest::array::uniform4(-9.0f64..9.0), 0.1f64..9.0), 1..8), unit in 0.01f64..100.0) {
        let forward: Vec<_> = parts.iter().map(|(g, w)| (tensor(g, DType::F64), *w)).collect();
        let backward: Vec<_> = forward.iter().rev().map(|(g, w)| (g.clone(), w * unit)).collect();
        let (g, squares) = accumulate(&forward);
        let (reversed, reversed_squares) = accumulate(&backward);
        assert_close(&values(&reversed), &values(&g), 1e-13);
        assert_close(&values(&reversed_squares), &values(&squares), 1e-13);
        for (g, square) in values(&g).iter().zip(values(&squares)) {
            prop_assert!(square * (1.0 + 1e-13) >= g * g);
        }
    }

    /// A micro-batch repeated k times is that micro-batch, and so is its FIM.
    #[test]
    fn a_repeated_micro_batch_is_itself(g in proptest::array::uniform4(-9.0f64..9.0), k in 1usize..40, weight in 0.1f64..9.0) {
        for dtype in [DType::F64, DType::F32, DType::BF16] {
            let g = tensor(&g, dtype);
            let (mean, squares) = accumulate(&vec![(g.clone(), weight); k]);
            prop_assert_eq!(values(&mean), values(&g));
            let (_, once) = accumulate(&[(g, 1.0)]);
            assert_close(&values(&squares), &values(&once), 1e-13);
        }
    }

    #[test]
    fn the_norm_scales(g in proptest::collection::vec(-9.0f64..9.0, 0..50), k in -200i32..200) {
        let plain = global_norm(&one(tensor(&g, DType::F64))).unwrap();
        let k = 10f64.powi(k);
        let scaled: Vec<f64> = g.iter().map(|g| g * k).collect();
        let scaled = global_norm(&one(tensor(&scaled, DType::F64))).unwrap();
        prop_assert!((scaled - k * plain).abs() <= 1e-13 * scaled, "{} {}", scaled, k * plain);
        let by_hand = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        prop_assert!((plain - by_hand).abs() <= 1e-13 * by_hand);
    }
}

#[test]
fn the_micro_batch_fim_does_not_depend_on_their_number_and_the_squared_mean_does() {
    // Over all outcomes of k micro-batches whose gradients are +1 or −1: E[mean g²] is 1, E[(mean g)²] is 1/k.
    for k in [1usize, 2, 4, 8] {
        let (mut fim, mut squared_mean) = (0.0, 0.0);
        for outcome in 0..1u32 << k {
            let sign = |i: usize| if outcome >> i & 1 == 1 { 1.0 } else { -1.0 };
            let parts: Vec<_> = (0..k).map(|i| (tensor(&[sign(i)], DType::F32), 1.0)).collect();
            let (g, squares) = accumulate(&parts);
            fim += values(&squares)[0];
            squared_mean += values(&g)[0].powi(2);
        }
        let expected = [1.0, 1.0 / k as f64].map(|mean| mean * f64::from(1u32 << k));
        assert_close(&[fim, squared_mean], &expected, 1e-6);
    }
}

#[test]
fn views_scalars_and_empty_tensors() {
    for dtype in [DType::F64, DType::F32, DType::BF16] {
        let matrix = tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype).reshape((2, 3)).unwrap();
        let views = [
            matrix.t().unwrap(),
            matrix.narrow(1, 1, 2).unwrap(),
            tensor(&[7.0], dtype).broadcast_as((2, 2)).unwrap(),
            tensor(&[3.0], dtype).squeeze(0).unwrap(),
            Tensor::zeros((0, 3), dtype, &Device::Cpu).unwrap(),
        ];
        for view in views {
            let (mean, squares) = accumulate(&[(view.clone(), 1.0), ((&view * 3.0).unwrap(), 1.0)]);
            assert_eq!((mean.dims(), squares.dims()), (view.dims(), view.dims()));
            let expected: Vec<f64> = values(&view).iter().map(|v| 2.0 * v).collect();
            assert_eq!(values(&mean), expected);
            let expected: Vec<f64> = values(&view).iter().map(|v| 5.0 * v * v).collect();
            assert_eq!(values(&squares), expected);
            let norm = values(&view).iter().map(|v| v * v).sum::<f64>().sqrt();
            assert_eq!(global_norm(&one(view)).unwrap(), norm);
        }
    }
}

#[test]
fn a_batch_leaves_nothing_to_the_next() {
    for dtype in [DType::F32, DType::BF16] {
        let mut accumulator = Accumulator::with_squares();
        accumulator.add(&one(tensor(&[f64::NAN, 5.0], dtype))).unwrap();
        let first = accumulator.finish().unwrap();
        assert!(values(&first.gradients["w"])[0].is_nan(), "a NaN is not passed on");

        accumulator.add_weighted(&one(tensor(&[1.0, 2.0], dtype)), 4.0).unwrap();
        let second = accumulator.finish().unwrap();
        assert_eq!(values(&second.gradients["w"]), [1.0, 2.0]);
        assert_eq!(values(&second.squares.unwrap()["w"]), [1.0, 4.0]);
        assert_eq!(values(&first.gradients["w"])[1], 5.0); // not the buffer of the second batch

        let mut other = one(tensor(&[3.0, 4.0, 5.0], dtype));
        other.insert("v".to_owned(), tensor(&[6.0], DType::F64));
        accumulator.add(&other).unwrap();
        let third = accumulator.finish().unwrap().gradients;
        assert_eq!((values(&third["v"]), values(&third["w"])), (vec![6.0], vec![3.0, 4.0, 5.0]));
        accumulator.add(&one(tensor(&[7.0, 8.0, 9.0], DType::F64))).unwrap();
        assert_eq!(accumulator.finish().unwrap().gradients["w"].dtype(), DType::F64);
    }
}

#[test]
fn a_later_micro_batch_in_another_dtype_is_converted() {
    let (first, second) = (tensor(&[1.0, 2.0], DType::F32), tensor(&[3.0, 4.0], DType::F64));
    let (mean, _) = accumulate(&[(first.clone(), 1.0), (second.clone(), 1.0)]);
    assert_eq!((mean.dtype(), values(&mean)), (DType::F32, vec![2.0, 3.0]));
    let (mean, _) = accumulate(&[(second, 1.0), (first, 1.0)]);
    assert_eq!((mean.dtype(), values(&mean)), (DType::F64, vec![2.0, 3.0]));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let good = || ["a", "b", "c"].map(|name| (name.to_owned(), ones(&[2, 3])));
    let refuse = |gradients: &Gradients, weight: f64, expected: &str| {
        let mut accumulator = Accumulator::with_squares();
        accumulator.add(&Gradients::from(good())).unwrap();
        let err = accumulator.add_weighted(gradients, weight).unwrap_err();
        assert!(err.to_string().contains(expected), "{err}");
        accumulator.add_weighted(&Gradients::from(good()), 2.0).unwrap();
        assert_eq!(accumulator.count(), 2);
        let done = accumulator.finish().unwrap();
        for (name, mean) in done.gradients.iter().chain(&done.squares.unwrap()) {
            assert_eq!(values(mean), [1.0; 6], "{name} changed after: {err}");
        }
        err
    };
    let mut bad = Gradients::from(good());
    bad.insert("d".to_owned(), ones(&[1]));
    let err = refuse(&bad, 1.0, "\"d\" is not a parameter");
    assert!(matches!(err, Error::UnknownParameter { .. }));

    let only_b: Gradients = good().into_iter().filter(|(name, _)| name == "b").collect();
    let err = refuse(&only_b, 1.0, "no gradient for [\"a\", \"c\"]");
    assert!(matches!(err, Error::MissingGradient { .. }));
    refuse(&Gradients::new(), 1.0, "no gradient for [\"a\", \"b\", \"c\"]");

    let mut bad = Gradients::from(good());
    bad.insert("c".to_owned(), ones(&[3, 2]));
    let err = refuse(&bad, 1.0, "\"c\" has shape [3, 2], the parameter [2, 3]");
    assert!(matches!(err, Error::GradientShape { .. }));

    let mut bad = Gradients::from(good());
    bad.insert("c".to_owned(), ones(&[2, 3]).to_dtype(DType::U32).unwrap());
    refuse(&bad, 1.0, "\"c\" is U32");
    for err in [Accumulator::new().add(&bad).unwrap_err(), global_norm(&bad).unwrap_err()] {
        assert!(err.to_string().contains("\"c\" is U32"), "{err}");
    }
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refuse(&Gradients::from(good()), weight, "weight = ");
    }
    let err = Accumulator::new().finish().unwrap_err().to_string();
    assert!(err.contains("no micro-batch was added"), "{err}");
}

#[test]
fn norms_by_hand() {
    assert_eq!(global_norm(&Gradients::new()).unwrap(), 0.0);
    let mixed = Gradients::from([
        ("a".to_owned(), tensor(&[2.0, 1.0], DType::BF16)),
        ("b".to_owned(), tensor(&[4.0], DType::F16)),
        ("c".to_owned(), tensor(&[-6.0, 8.0], DType::F32)),
        ("d".to_owned(), tensor(&[0.0, 20.0], DType::F64)),
    ]);
    assert!((global_norm(&mixed).unwrap() - 521f64.sqrt()).abs() < 1e-12);
    for (g, norm) in [([0.0, 0.0], 0.0), ([3e-320, 4e-320], 5e-320), ([3e300, 4e300], 5e300)] {
        let found = global_norm(&one(tensor(&g, DType::F64))).unwrap();
        assert!((found - norm).abs() <= 1e-3 * norm, "{found:e} {norm:e}");
    }
    let with = |x, dtype| global_norm(&one(tensor(&[1.0, x], dtype))).unwrap();
    assert_eq!(with(f64::NEG_INFINITY, DType::F32), f64::INFINITY);
    assert!(with(f64::NAN, DType::BF16).is_nan());
}

#[test]
fn the_same_bits_with_any_number_of_threads() {
    let value = |i: usize| (i as f64 * 4_909.618_033).fract() - 0.5;
    let noise: Vec<f64> = (0..300_007).map(value).collect();
    for dtype in [DType::F64, DType::F32, DType::BF16] {
        let micro_batches =
            [0, 1, 2].map(|k| (tensor(&noise[k..300_005 + k], dtype), 1.0 + k as f64));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (g, squares) = accumulate(&micro_batches);
                let norm = global_norm(&one(g.clone())).unwrap();
                (values(&g), values(&squares), norm.to_bits())
            })
        };
        assert!(run(1) == run(3), "{dtype:?}");
    }
}
