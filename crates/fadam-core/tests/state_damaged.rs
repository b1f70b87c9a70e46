//! A state file that is damaged is refused by the key that is wrong, and changes nothing.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{AnyConfig, AnyOptimizer, Gradients, Group, NamedVars, Rounding, StateFormat};

fn tensor(n: usize, seed: usize, dtype: DType) -> Tensor {
    let x: Vec<f64> = (0..n).map(|i| ((i * 7 + seed * 13) as f64 * 0.7).sin()).collect();
    Tensor::from_vec(x, n, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// `w` of 4100 elements (17 blocks) after two steps, beside a small `b`.
fn optimizer(dtype: DType, state: StateFormat, rounding: Rounding) -> AnyOptimizer {
    let var = |(name, n)| (String::from(name), Var::from_tensor(&tensor(n, n, dtype)).unwrap());
    let vars: NamedVars = [("b", 3), ("w", 4100)].into_iter().map(var).collect();
    let fadam = AnyOptimizer::from_named(vars, AnyConfig::named("fadam").unwrap()).unwrap();
    let mut fadam = fadam.groups(vec![Group::new("*").state(state).rounding(rounding)]).unwrap();
    for k in 0..2 {
        let g = |(name, n)| (String::from(name), tensor(n, 10 + k, dtype));
        fadam.step_named(&Gradients::from([("b", 3), ("w", 4100)].map(g))).unwrap();
    }
    fadam
}

type Contents = (BTreeMap<String, Tensor>, HashMap<String, String>);

/// What an optimizer saves.
fn contents(optimizer: &AnyOptimizer) -> Contents {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    optimizer.save(&file).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    (tensors.into_iter().collect(), header.metadata().clone().unwrap())
}

/// The bytes of the same and of the parameters, and the step count.
fn bytes(optimizer: &AnyOptimizer) -> (Vec<u8>, Vec<u8>, u64) {
    let (tensors, _) = contents(optimizer);
    let params = optimizer.vars().into_iter().map(|(name, var)| (name, var.as_tensor().clone()));
    let of = |tensors: Vec<(String, Tensor)>| safetensors::serialize(tensors, None).unwrap();
    (of(params.collect()), of(tensors.into_iter().collect()), optimizer.steps())
}

/// Loading this fails with a message that holds `expected`, and changes nothing.
fn refuses(optimizer: &mut AnyOptimizer, (tensors, metadata): &Contents, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged");
    safetensors::serialize_to_file(tensors, Some(metadata.clone()), &file).unwrap();
    let before = bytes(optimizer);
    let Err(err) = optimizer.load(&file) else {
        panic!("took a file of which it should have said: {expected}");
    };
    let err = err.to_string();
    assert!(err.contains("damaged"), "names no file: {err}");
    assert!(err.contains(expected), "{expected:?} is not in: {err}");
    assert!(bytes(optimizer) == before, "something changed: {err}");
}

/// A file of `optimizer`'s own format, with one thing changed: what is wrong with it is said.
fn refuses_damage(make: impl Fn() -> AnyOptimizer, cases: &[(&str, Option<Tensor>, &str)]) {
    let saved = contents(&make());
    let mut optimizer = make();
    for (key, tensor, expected) in cases {
        let mut damaged = saved.clone();
        assert!(damaged.0.remove(*key).is_some(), "{key} is not in the file");
        if let Some(tensor) = tensor {
            damaged.0.insert((*key).to_owned(), tensor.clone());
        }
        refuses(&mut optimizer, &damaged, expected);
    }
}

/// `n` numbers of which the last is another one.
fn with_last(n: usize, number: f64, dtype: DType) -> Tensor {
    let mut x = vec![1.0; n];
    x[n - 1] = number;
    Tensor::from_vec(x, n, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

#[test]
fn damaged_blocks() {
    let make = || optimizer(DType::F32, StateFormat::Blocks8, Rounding::Nearest);
    let no_blocks = |key: &str| format!("\"{key}\" is no 8-bit state");
    for kind in ["m", "f"] {
        let key = format!("w.{kind}");
        let (codes, scales) = (format!("{key}.codes"), format!("{key}.scales"));
        let no_blocks = no_blocks(&key);
        let shaped = |key: &str, shape: &str| format!("\"{key}\" has shape {shape}");
        refuses_damage(
            make,
            &[
                (&codes, None, &format!("holds no \"{key}\"")),
                (&codes, Some(zeros(&[4099], DType::U8)), &shaped(&codes, "[4099]")),
                (&codes, Some(zeros(&[4, 1025], DType::U8)), &shaped(&codes, "[4, 1025]")),
                (&codes, Some(zeros(&[4100], DType::F32)), &no_blocks),
                (&codes, Some(zeros(&[4100], DType::I64)), &no_blocks),
                (&scales, None, &format!("holds no \"{scales}\"")),
                (&scales, Some(zeros(&[16], DType::F32)), &shaped(&scales, "[16]")),
                (&scales, Some(zeros(&[17, 1], DType::F32)), &shaped(&scales, "[17, 1]")),
                (&scales, Some(zeros(&[17], DType::BF16)), &no_blocks),
                (&scales, Some(zeros(&[17], DType::F64)), &no_blocks),
                (&scales, Some(with_last(17, f64::NAN, DType::F32)), &no_blocks),
                (&scales, Some(with_last(17, f64::INFINITY, DType::F32)), &no_blocks),
                // What no block is scaled by: f would be negative, or infinite.
                (&scales, Some(with_last(17, -1.0, DType::F32)), &format!("\"{key}")),
                (
                    &scales,
                    Some(with_last(17, f64::from(f32::MAX), DType::F32)),
                    &format!("\"{key}"),
                ),
            ],
        );
    }
}

#[test]
fn damaged_numbers() {
    for (dtype, state, stored) in [
        (DType::F32, StateFormat::Full, DType::F32),
        (DType::F32, StateFormat::Bf16, DType::BF16),
        (DType::F64, StateFormat::Full, DType::F64),
    ] {
        let make = || optimizer(dtype, state, Rounding::Nearest);
        for kind in ["m", "f"] {
            let key = format!("w.{kind}");
            let not_finite = format!("\"{key}\" is not finite, or no float");
            refuses_damage(
                make,
                &[
                    (&key, None, &format!("holds no \"{key}\"")),
                    (&key, Some(zeros(&[4099], stored)), &format!("\"{key}\" has shape [4099]")),
                    (&key, Some(zeros(&[4100], DType::U8)), &not_finite),
                    (&key, Some(zeros(&[4100], DType::I64)), &not_finite),
                    (&key, Some(with_last(4100, f64::NAN, stored)), &not_finite),
                    (&key, Some(with_last(4100, f64::INFINITY, stored)), &not_finite),
                    (&key, Some(with_last(4100, f64::NEG_INFINITY, stored)), &not_finite),
                    // In any dtype that is converted, too.
                    (&key, Some(with_last(4100, f64::NAN, DType::F16)), &not_finite),
                ],
            );
        }
        refuses_damage(
            make,
            &[
                ("w.t", None, "holds no \"w.t\""),
                ("w.t", Some(zeros(&[1], DType::I64)), "\"w.t\" is no step count"),
                ("w.t", Some(zeros(&[], DType::F32)), "\"w.t\" is no step count"),
                (
                    "b.t",
                    Some(Tensor::new(-1i64, &Device::Cpu).unwrap()),
                    "\"b.t\" is no step count",
                ),
            ],
        );
    }
}

/// f is a mean of squares, and so are the row and column sums of it.
#[test]
fn a_negative_f_is_refused() {
    let key = "w.f";
    for (dtype, state) in [
        (DType::F32, StateFormat::Full),
        (DType::F32, StateFormat::Bf16),
        (DType::F64, StateFormat::Full),
    ] {
        let negative = Some(with_last(4100, -1e-20, DType::F32));
        let make = || optimizer(dtype, state, Rounding::Nearest);
        refuses_damage(make, &[(key, negative, "\"w.f\" is negative somewhere")]);
    }
}

/// What is finite in a file, and is not in the format that it is to be converted to.
#[test]
fn numbers_beyond_the_format() {
    let saved = contents(&optimizer(DType::F64, StateFormat::Full, Rounding::Nearest));
    for state in [StateFormat::Full, StateFormat::Bf16, StateFormat::Blocks8] {
        let mut single = optimizer(DType::F32, state, Rounding::Nearest);
        for (kind, number) in [("m", 1e39), ("m", -1e39), ("f", 1e300)] {
            let key = format!("w.{kind}");
            let mut beyond = saved.clone();
            beyond.0.insert(key.clone(), with_last(4100, number, DType::F64));
            refuses(&mut single, &beyond, &format!("\"{key}\""));
        }
    }
}

#[test]
fn damaged_rest_of_a_compensated_parameter() {
    let low = "w.theta.low";
    refuses_damage(
        || optimizer(DType::BF16, StateFormat::Full, Rounding::Compensated),
        &[
            (low, Some(zeros(&[4099], DType::BF16)), "\"w.theta.low\" has shape [4099]"),
            (
                low,
                Some(zeros(&[4100], DType::F32)),
                "\"w.theta.low\" is F32, this optimizer's is BF16",
            ),
            (low, Some(with_last(4100, f64::NAN, DType::BF16)), "\"w.theta.low\""),
            (low, Some(with_last(4100, f64::INFINITY, DType::BF16)), "\"w.theta.low\""),
        ],
    );
}

#[test]
fn what_no_parameter_takes_is_refused() {
    let mut saved = contents(&optimizer(DType::F32, StateFormat::Blocks8, Rounding::Nearest));
    saved.0.insert("w.m".into(), tensor(4100, 1, DType::F32)); // beside its codes
    let mut fadam = optimizer(DType::F32, StateFormat::Blocks8, Rounding::Nearest);
    refuses(&mut fadam, &saved, "holds \"w.m\", which this optimizer does not have");
}
