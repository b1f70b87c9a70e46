//! What does not fit is refused by file and key, and nothing has changed.

use std::path::Path;

use candle_core::{Device, Tensor, safetensors::load};
use fadam_core::{AnyConfig, AnyOptimizer, Group, StateFormat};

use crate::{BETAS, algorithms, constant_gradients, fixture, linear, numbers, tensors, write};

/// Everything that an optimizer saves.
fn saved(optimizer: &AnyOptimizer) -> Vec<(String, Vec<f64>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    optimizer.save(&path).unwrap();
    let tensors = load(&path, &Device::Cpu).unwrap();
    let mut all: Vec<_> = tensors.into_iter().map(|(key, x)| (key, numbers(&x))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Importing `file` fails with a message that names it and holds `expected`, and changes nothing.
fn refuses(config: &AnyConfig, file: &Path, expected: &str) {
    let vars = linear();
    let optimizer = AnyOptimizer::from_named(vars.clone(), config.clone()).unwrap();
    // Numbers in bf16 are replaced in place, where a file that is wrong further on would leave traces.
    let group = Group::new("*").state(StateFormat::Bf16);
    let mut optimizer = optimizer.groups(vec![group]).unwrap();
    let (gradients, _) = constant_gradients(&vars, 1, 1.0);
    optimizer.step_named(&gradients).unwrap();
    let before = saved(&optimizer);
    let err = optimizer.import_torch(file).unwrap_err().to_string();
    assert!(err.contains(&*file.display().to_string()), "names no file: {err}");
    assert!(err.contains(expected), "{expected:?} is not in: {err}");
    assert_eq!((optimizer.steps(), saved(&optimizer)), (1, before), "something changed");
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    let [fadam, .., adafactor] = algorithms();
    let full = |shape: &[usize], x: f64| Some(Tensor::full(x, shape, &Device::Cpu).unwrap());
    let whole = |x: i64| Some(Tensor::new(x, &Device::Cpu).unwrap());
    let integers = Some(Tensor::new(&[1i64, 2, 3, 4], &Device::Cpu).unwrap());
    let bad = [
        ("head.bias.exp_avg", None, r#"holds no "head.bias.exp_avg""#),
        ("head.weight.step", None, r#"holds no "head.weight.step""#),
        ("tail.exp_avg", full(&[2], 0.0), r#"holds "tail.exp_avg", which this optimizer does"#),
        ("head.bias.max_exp_avg_sq", full(&[4], 0.0), r#"holds "head.bias.max_exp_avg_sq""#),
        ("head.weight.exp_avg", full(&[5, 4], 0.0), r#""head.weight.exp_avg" has shape [5, 4]"#),
        ("head.bias.exp_avg_sq", full(&[4], f64::NAN), r#"bias.exp_avg_sq" is not finite"#),
        ("head.bias.exp_avg", full(&[4], f64::INFINITY), r#"bias.exp_avg" is not finite"#),
        ("head.bias.exp_avg_sq", full(&[4], -1e-9), r#"bias.exp_avg_sq" is negative"#),
        ("head.bias.exp_avg_sq", full(&[4], 1e60), r#""head.bias": its f is beyond the range"#),
        ("head.bias.exp_avg", integers, r#""head.bias.exp_avg" is I64, not floating point"#),
        ("head.bias.exp_avg", whole(3), r#""head.bias.exp_avg" has shape []"#),
        ("head.bias.step", full(&[], 3.0), r#""head.bias.step" is no step count"#),
        ("head.bias.step", whole(0), r#""head.bias.step" is no step count"#),
    ];
    for (key, replacement, expected) in bad {
        let mut file = tensors("adamw.safetensors");
        file.remove(key);
        file.extend(replacement.map(|x| (key.to_owned(), x)));
        write(&path, &file, "adamw", BETAS);
        for config in [&fadam, &adafactor] {
            refuses(config, &path, expected);
        }
    }
}

#[test]
fn files_that_are_no_such_state_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    let [fadam, _, adam, adafactor] = algorithms();
    let no = |expected: &str| refuses(&fadam, &path, expected);
    no("No such file");
    let whole = std::fs::read(fixture("adamw.safetensors")).unwrap();
    for cut in [0, 4, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        no("not a whole safetensors file");
    }
    let file = tensors("adamw.safetensors");
    safetensors::serialize_to_file(&file, None, &path).unwrap();
    no("no format \"torch-optimizer\"");
    let own = AnyOptimizer::from_named(linear(), fadam.clone()).unwrap();
    own.save(&path).unwrap();
    no("no format \"torch-optimizer\"");

    let version = br#""version":""#;
    let at = whole.windows(version.len()).position(|bytes| bytes == version).unwrap();
    let mut newer = whole.clone();
    newer[at + version.len()] = b'2';
    std::fs::write(&path, newer).unwrap();
    no("its version is 2");

    for (optimizer, config, expected) in [
        ("sgd", BETAS, "its optimizer is sgd"),
        ("adam", "{}", "missing field `betas`"),
        ("adam", "betas", "\"config\" cannot be read"),
        ("adam", r#"{"betas": [0.9, 1.0]}"#, "betas[1] = 1"),
        ("adam", r#"{"betas": [-0.1, 0.9]}"#, "betas[0] = -0.1"),
        ("fadam-lessw2020", BETAS, "it has no p"),
    ] {
        write(&path, &file, optimizer, config);
        no(expected);
    }

    let port = fixture("fadam.safetensors");
    refuses(&fadam, &port, "\"head.bias\": its momentum was made with p = 0.5");
    for config in [adam, adafactor] {
        refuses(&config, &port, "\"head.bias\": a state of FAdam, whose momentum only fadam and");
    }
}
