//! The average of weights: by hand, its laws, swapping, errors.

mod file;

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{Error, NamedVars, WeightEma};
use proptest::prelude::*;

const DTYPES: [DType; 4] = [DType::F64, DType::F32, DType::BF16, DType::F16];

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn tensor(shape: &[usize], seed: usize, dtype: DType) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f64> = (0..n).map(|i| ((i * 7 + seed * 13) as f64 * 0.7).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// A vector, a scalar, a matrix and a tensor without elements.
fn model(dtype: DType, matrix: &[usize]) -> NamedVars {
    let var = |shape: &[usize], seed| Var::from_tensor(&tensor(shape, seed, dtype)).unwrap();
    NamedVars::from_iter([
        ("bias".to_owned(), var(&[5], 1)),
        ("scale".to_owned(), var(&[], 2)),
        ("weight".to_owned(), var(matrix, 3)),
        ("void".to_owned(), var(&[0, 3], 4)),
    ])
}

/// Steps of something that trains, each followed by an update.
fn train(ema: &mut WeightEma, vars: &NamedVars, steps: std::ops::Range<usize>) {
    for k in steps {
        for (_, var) in vars.iter() {
            var.set(&tensor(var.dims(), 100 + k, var.dtype())).unwrap();
        }
        ema.update().unwrap();
    }
}

fn averages(ema: &WeightEma, vars: &NamedVars) -> Vec<Vec<f64>> {
    vars.iter().map(|(name, _)| values(&ema.average(name).unwrap())).collect()
}

fn thetas(vars: &NamedVars) -> Vec<Vec<f64>> {
    vars.iter().map(|(_, var)| values(var)).collect()
}

/// An average of one f64 vector.
fn single(theta: &[f64], decay: f64) -> (Var, WeightEma) {
    let w = Var::new(theta, &Device::Cpu).unwrap();
    let vars = NamedVars::from_iter([("w".to_owned(), w.clone())]);
    (w, WeightEma::new(&vars, decay).unwrap())
}

#[test]
fn by_hand() {
    for dtype in DTYPES {
        let w = Var::from_tensor(&tensor(&[2], 0, dtype)).unwrap();
        let set = |v: &[f64]| {
            let v = Tensor::new(v, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            w.set(&v).unwrap();
        };
        set(&[0.0, 4.0]);
        let vars = NamedVars::from_iter([("w".to_owned(), w.clone())]);
        let mut ema = WeightEma::new(&vars, 0.5).unwrap();
        assert_eq!(values(&ema.average("w").unwrap()), [0.0, 4.0]);
        for (theta, expected) in [([2.0, 0.0], [1.0, 2.0]), ([-1.0, 8.0], [0.0, 5.0])] {
            set(&theta);
            ema.update().unwrap();
            let average = ema.average("w").unwrap();
            assert_eq!(values(&average), expected);
            assert_eq!(average.dtype(), if dtype == DType::F64 { DType::F64 } else { DType::F32 });
        }
        assert_eq!(ema.steps(), 2);
    }
}

#[test]
fn warm_up_by_hand() {
    let (w, ema) = single(&[0.0], 0.24);
    let mut ema = ema.warm_up(true);
    let mut expected = 0.0;
    for d in [2.0 / 11.0, 3.0 / 12.0, 4.0 / 13.0].map(|d: f64| d.min(0.24)) {
        w.set(&(w.as_tensor() + 1.0).unwrap()).unwrap();
        ema.update().unwrap();
        expected = d * expected + (1.0 - d) * values(&w)[0];
        assert!((values(&ema.average("w").unwrap())[0] - expected).abs() < 1e-15);
    }
}

proptest! {
    /// e_n = dⁿ θ_0 + (1 − d) Σ_k d^(n−k) θ_k, which lies between the least and the largest θ.
    #[test]
    fn closed_form(thetas in proptest::collection::vec(-9.0f64..9.0, 1..12), decay in 0.0f64..1.0) {
        let (w, mut ema) = single(&thetas[..1], decay);
        for theta in &thetas[1..] {
            w.set(&Tensor::new(&[*theta], &Device::Cpu).unwrap()).unwrap();
            ema.update().unwrap();
        }
        let n = i32::try_from(thetas.len()).unwrap() - 1;
        let share = |k: i32| if k == 0 { decay.powi(n) } else { (1.0 - decay) * decay.powi(n - k) };
        let expected: f64 = (0..).zip(&thetas).map(|(k, theta)| share(k) * theta).sum();
        let average = values(&ema.average("w").unwrap())[0];
        prop_assert!((average - expected).abs() < 1e-13, "{} {}", average, expected);
        let least = thetas.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = thetas.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!((least - 1e-13..=largest + 1e-13).contains(&average));
    }

    /// The average of what does not move is that, bit for bit.
    #[test]
    fn a_constant_is_its_average(theta in proptest::array::uniform4(-9.0f64..9.0), decay in 0.0f64..1.0) {
        let (_, mut ema) = single(&theta, decay);
        for _ in 0..20 {
            ema.update().unwrap();
        }
        prop_assert_eq!(values(&ema.average("w").unwrap()), theta);
    }
}

#[test]
fn a_bf16_parameter_has_an_average_that_moves() {
    // From 1 towards 2 in steps of 0.001 and less: a bf16 has 0.0078 between neighbours there and would stay at 1.
    let one = Tensor::ones(3, DType::BF16, &Device::Cpu).unwrap();
    let w = Var::from_tensor(&one).unwrap();
    let vars = NamedVars::from_iter([("w".to_owned(), w.clone())]);
    let mut ema = WeightEma::new(&vars, 0.999).unwrap();
    w.set(&(one * 2.0).unwrap()).unwrap();
    for _ in 0..1000 {
        ema.update().unwrap();
    }
    let expected = 2.0 - 0.999f64.powi(1000);
    for e in values(&ema.average("w").unwrap()) {
        assert!((e - expected).abs() < 1e-4, "{e} {expected}");
    }
}

#[test]
fn swapping_there_and_back() {
    for dtype in DTYPES {
        let vars = model(dtype, &[5, 4]);
        let mut ema = WeightEma::new(&vars, 0.9).unwrap();
        train(&mut ema, &vars, 0..3);
        let (theta, average) = (thetas(&vars), averages(&ema, &vars));
        assert_ne!(theta, average);

        ema.swap().unwrap();
        assert!(ema.is_swapped());
        for (name, var) in vars.iter() {
            let rounded = ema.average(name).unwrap().to_dtype(dtype).unwrap();
            assert_eq!(values(var), values(&rounded), "{name} {dtype:?}");
            assert_eq!(var.dtype(), dtype);
        }
        assert_eq!(averages(&ema, &vars), average);
        let err = ema.update().unwrap_err().to_string();
        assert!(err.contains("update while the averages are swapped in"), "{err}");
        // What is done to the parameters meanwhile is lost, and the average is safe from it.
        vars.get("bias").unwrap().zero_set().unwrap();

        ema.swap().unwrap();
        assert!(!ema.is_swapped());
        assert_eq!((thetas(&vars), averages(&ema, &vars)), (theta, average));
        assert_eq!(ema.steps(), 3);
        ema.update().unwrap();
    }
}

#[test]
fn an_average_handed_out_does_not_change() {
    let (w, mut ema) = single(&[1.0], 0.5);
    let before = ema.average("w").unwrap();
    w.set(&Tensor::new(&[3.0], &Device::Cpu).unwrap()).unwrap();
    ema.update().unwrap();
    assert_eq!((values(&before), values(&ema.average("w").unwrap())), (vec![1.0], vec![2.0]));
}

#[test]
fn impossible_averages() {
    let vars = model(DType::F32, &[5, 4]);
    for decay in [-0.1, 1.0, 1.5, f64::NAN, f64::INFINITY] {
        let err = WeightEma::new(&vars, decay).unwrap_err().to_string();
        assert!(err.starts_with("decay = "), "{err}");
    }
    let ema = WeightEma::new(&vars, 0.0).unwrap();
    assert!(matches!(ema.average("wait"), Err(Error::UnknownParameter { name }) if name == "wait"));

    let mut tied = model(DType::F32, &[5, 4]);
    tied.insert("tied", tied.get("bias").unwrap().clone()).unwrap();
    let err = WeightEma::new(&tied, 0.9).unwrap_err().to_string();
    assert!(err.contains("\"bias\" and \"tied\" share their storage"), "{err}");
    let ids = NamedVars::from_iter([("ids".to_owned(), Var::new(&[1u32], &Device::Cpu).unwrap())]);
    let err = WeightEma::new(&ids, 0.9).unwrap_err().to_string();
    assert!(err.contains("\"ids\" is U32"), "{err}");
}

#[test]
fn the_same_bits_with_any_number_of_threads() {
    for dtype in [DType::F64, DType::F32, DType::BF16] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let vars = model(dtype, &[501, 401]);
                let mut ema = WeightEma::new(&vars, 0.9).unwrap().warm_up(true);
                train(&mut ema, &vars, 0..3);
                averages(&ema, &vars)
            })
        };
        assert!(run(1) == run(3), "{dtype:?}");
    }
}
