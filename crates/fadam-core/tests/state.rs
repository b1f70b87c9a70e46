//! Saving and loading: train 4 is train 2, save, load, train 2, bit for bit; what does not fit is
//! refused by name, and nothing has changed.

use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{AnyConfig, AnyOptimizer, Gradients, NamedVars};

const DTYPES: [DType; 4] = [DType::F64, DType::F32, DType::BF16, DType::F16];

fn tensor(shape: &[usize], seed: usize, dtype: DType) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f64> = (0..n).map(|i| ((i * 7 + seed * 13) as f64 * 0.7).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn model(dtype: DType, matrix: &[usize]) -> NamedVars {
    let var = |shape: &[usize], seed| Var::from_tensor(&tensor(shape, seed, dtype)).unwrap();
    NamedVars::from_iter([
        ("bias".to_owned(), var(&[5], 1)),
        ("m".to_owned(), var(&[], 2)), // a name that is also the name of a state
        ("weight".to_owned(), var(matrix, 3)),
    ])
}

fn train(optimizer: &mut AnyOptimizer, vars: &NamedVars, steps: std::ops::Range<usize>) {
    for k in steps {
        let gradients: Gradients = vars
            .iter()
            .map(|(name, var)| (name.to_owned(), tensor(var.dims(), 100 + k, var.dtype())))
            .collect();
        optimizer.step_named(&gradients).unwrap();
    }
}

/// Names and bytes of the parameters and of the state. (The order of the metadata in a file is not
/// fixed, so files are compared by their tensors.)
fn bytes(vars: &NamedVars, optimizer: &AnyOptimizer, folder: &Path) -> Vec<(String, Vec<u8>)> {
    let file = folder.join("snapshot.safetensors");
    optimizer.save(&file).unwrap();
    let params = vars.iter().map(|(name, var)| (name.to_owned(), var.as_tensor().clone()));
    let params = safetensors::serialize(params.collect::<Vec<_>>(), None).unwrap();
    let state = std::fs::read(file).unwrap();
    let mut all = Vec::new();
    for file in [params, state] {
        for (name, view) in safetensors::SafeTensors::deserialize(&file).unwrap().iter() {
            all.push((name.to_owned(), view.data().to_vec()));
        }
    }
    all.sort();
    all
}

#[test]
fn resumed_is_uninterrupted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.safetensors");
    for name in AnyConfig::NAMES {
        for dtype in DTYPES {
            let config = AnyConfig::named(name).unwrap();
            let whole = model(dtype, &[5, 4]);
            let mut optimizer = AnyOptimizer::from_named(whole.clone(), config.clone()).unwrap();
            train(&mut optimizer, &whole, 0..4);
            let expected = bytes(&whole, &optimizer, folder.path());

            let halves = model(dtype, &[5, 4]);
            let mut first = AnyOptimizer::from_named(halves.clone(), config.clone()).unwrap();
            train(&mut first, &halves, 0..2);
            first.save(&file).unwrap();
            drop(first);
            let mut second = AnyOptimizer::from_named(halves.clone(), config).unwrap();
            second.load(&file).unwrap();
            assert_eq!(second.steps(), 2);
            train(&mut second, &halves, 2..4);
            assert_eq!(bytes(&halves, &second, folder.path()), expected, "{name} {dtype:?}");
        }
    }
}

#[test]
fn a_state_carries_its_metadata_and_goes_on_with_other_hyper_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.safetensors");
    let vars = model(DType::F32, &[5, 4]);
    let config = AnyConfig::named("fadafactor").unwrap();
    let mut optimizer = AnyOptimizer::from_named(vars.clone(), config).unwrap();
    train(&mut optimizer, &vars, 0..3);
    optimizer.save(&file).unwrap();

    let bytes = std::fs::read(&file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!((metadata["algorithm"].as_str(), metadata["step"].as_str()), ("fadafactor", "3"));
    let stored: AnyConfig = serde_json::from_str(&metadata["config"]).unwrap();
    assert_eq!(&stored, optimizer.config());

    let other: AnyConfig =
        serde_json::from_str(r#"{"algorithm": "fadafactor", "lr": 0.5, "clip": "off"}"#).unwrap();
    let mut resumed = AnyOptimizer::from_named(vars, other.clone()).unwrap();
    resumed.load(&file).unwrap();
    assert_eq!((resumed.config(), resumed.steps()), (&other, 3));
}

/// Loading `file` fails with a message that holds all of `expected`, and changes nothing.
fn refuses(name: &str, vars: &NamedVars, file: &Path, expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let config = AnyConfig::named(name).unwrap();
    let mut optimizer = AnyOptimizer::from_named(vars.clone(), config).unwrap();
    let before = bytes(vars, &optimizer, folder.path());
    let err = optimizer.load(file).unwrap_err().to_string();
    assert!(err.contains(&*file.display().to_string()), "names no file: {err}");
    for part in expected {
        assert!(err.contains(part), "{part:?} is not in: {err}");
    }
    assert!(bytes(vars, &optimizer, folder.path()) == before, "something changed");
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let save = |name: &str, vars: &NamedVars| {
        let config = AnyConfig::named(name).unwrap();
        let mut optimizer = AnyOptimizer::from_named(vars.clone(), config).unwrap();
        train(&mut optimizer, vars, 0..1);
        let file = path(&format!("{name}.safetensors"));
        optimizer.save(&file).unwrap();
        file
    };
    let vars = model(DType::F32, &[5, 4]);
    let fadam = save("fadam", &vars);

    refuses("adam", &vars, &fadam, &["a state of fadam", "this optimizer is adam"]);
    let transposed = model(DType::F32, &[4, 5]);
    refuses("fadam", &transposed, &fadam, &["\"weight.m\"", "[5, 4]", "[4, 5]"]);

    let fewer: NamedVars =
        model(DType::F32, &[5, 4]).into_iter().filter(|(name, _)| name != "bias").collect();
    refuses("fadam", &fewer, &fadam, &["\"bias.", "does not have"]);
    let mut more = model(DType::F32, &[5, 4]);
    more.insert("zulu", Var::new(&[1f32], &Device::Cpu).unwrap()).unwrap();
    refuses("fadam", &more, &fadam, &["holds no \"zulu."]);

    refuses("fadam", &vars, &path("absent.safetensors"), &["No such file"]);
    let whole = std::fs::read(&fadam).unwrap();
    for cut in [0, 4, 100, whole.len() - 1] {
        let file = path("truncated.safetensors");
        std::fs::write(&file, &whole[..cut]).unwrap();
        refuses("fadam", &vars, &file, &["not a whole safetensors file"]);
    }
    let plain = path("plain.safetensors");
    safetensors::serialize_to_file([("w", tensor(&[2], 0, DType::F32))], None, &plain).unwrap();
    refuses("fadam", &vars, &plain, &["not an optimizer state"]);
}

#[test]
fn saving_replaces_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let vars = model(DType::F32, &[5, 4]);
    let config = AnyConfig::named("fadam").unwrap();
    let optimizer = AnyOptimizer::from_named(vars, config).unwrap();
    let err = optimizer.save(folder.path().join("no/such/folder/state")).unwrap_err().to_string();
    assert!(err.contains("no/such/folder/state"), "{err}");
    optimizer.save(folder.path().join("state")).unwrap();
    optimizer.save(folder.path().join("state")).unwrap();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "a file was left aside: {left:?}");
}

#[test]
fn a_state_in_parts_is_the_same_state() {
    let folder = tempfile::tempdir().unwrap();
    let vars = model(DType::F32, &[5, 4]);
    let make = || {
        let config = AnyConfig::named("fadafactor").unwrap();
        AnyOptimizer::from_named(vars.clone(), config).unwrap()
    };
    let mut optimizer = make();
    train(&mut optimizer, &vars, 0..3);
    let whole = bytes(&vars, &optimizer, folder.path());
    for of in [1, 3, 50] {
        // More parts than some tensors have elements, read in any order.
        let path = |part: usize| folder.path().join(format!("{part}-of-{of}"));
        for part in 0..of {
            optimizer.save_part(path(part), part, of).unwrap();
        }
        let mut read = make();
        read.load_parts(&(0..of).rev().map(path).collect::<Vec<_>>()).unwrap();
        assert!(bytes(&vars, &read, folder.path()) == whole, "{of} parts");
    }
    let part = |part: usize, of: usize| folder.path().join(format!("{part}-of-{of}"));
    let mut read = make();
    let mut refused = |parts: &[std::path::PathBuf], expected: &str| {
        let err = read.load_parts(parts).unwrap_err().to_string();
        assert!(err.contains(expected), "{expected:?} is not in: {err}");
        assert_eq!(read.steps(), 0);
    };
    refused(&[part(0, 3), part(2, 3)], "missing: [1]");
    refused(&[part(0, 3), part(1, 3), part(1, 3), part(2, 3)], "another file is, too");
    refused(&[part(0, 3), part(1, 3), part(2, 50)], "differ in \"of\"");
    refused(&[], "no files");
    let plain = folder.path().join("plain");
    optimizer.save(&plain).unwrap();
    refused(&[plain], "not a part of a state");
    let err = optimizer.save_part(part(3, 3), 3, 3).unwrap_err().to_string();
    assert!(err.contains("counted from 0"), "{err}");
    train(&mut optimizer, &vars, 3..4);
    optimizer.save_part(part(1, 3), 1, 3).unwrap();
    refused(&[part(0, 3), part(1, 3), part(2, 3)], "differ in \"step\"");
}
