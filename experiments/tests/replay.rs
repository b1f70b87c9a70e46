//! The `replay` binary on the goldens and on every kind of bad input.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{DType, Device, Tensor};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/fadam-core/tests/goldens")
}

fn replay(input: &Path, output: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_replay"))
        .arg(input)
        .arg("--output")
        .arg(output)
        .args(more)
        .output()
        .unwrap()
}

fn values(file: &HashMap<String, Tensor>, name: &str) -> Vec<f64> {
    file[name].to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_golden_replays_in_every_dtype() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["fadam-default", "fadafactor-conv", "adam-asr", "adafactor-default"] {
        let input = goldens().join(format!("{name}.safetensors"));
        let golden = candle_core::safetensors::load(&input, &Device::Cpu).unwrap();
        for (dtype, state, bound) in
            [("f64", "f64", 1e-10), ("f32", "f32", 1e-5), ("bf16", "f32", 0.05)]
        {
            let output = folder.path().join(format!("{name}-{dtype}.safetensors"));
            let run = replay(&input, &output, &["--dtype", dtype]);
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            let ours = candle_core::safetensors::load(&output, &Device::Cpu).unwrap();
            assert_eq!(ours["theta"].dtype().as_str(), dtype);
            assert_eq!(ours["m"].dtype().as_str(), state);
            for column in ["theta", "m", "fim"] {
                assert_eq!(ours[column].dims(), golden[column].dims());
                let (a, b) = (values(&ours, column), values(&golden, column));
                let scale = b.iter().fold(0.0, |s: f64, v| s.max(v.abs()));
                let off = a.iter().zip(&b).fold(0.0, |o: f64, (a, b)| o.max((a - b).abs()));
                assert!(off <= bound * scale, "{name} {dtype} {column}: {off:e} of {scale:e}");
            }
        }
    }
}

/// A small good trace, with one thing changed by the caller.
fn trace(path: &Path, algorithm: &str, config: &str, tensors: &[(&str, Tensor)]) {
    let metadata = HashMap::from([
        ("algorithm".to_owned(), algorithm.to_owned()),
        ("config".to_owned(), config.to_owned()),
    ]);
    safetensors::serialize_to_file(tensors.iter().map(|(n, t)| (*n, t)), Some(metadata), path)
        .unwrap();
}

fn ones(shape: &[usize]) -> Tensor {
    Tensor::ones(shape, DType::F64, &Device::Cpu).unwrap()
}

/// Exit code 2, one paragraph that holds `expected` and the file, and no output left behind.
fn refused(input: &Path, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.safetensors");
    let run = replay(input, &output, &[]);
    let message = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(2), "{message}");
    assert!(message.contains(expected), "{expected:?} is not in: {message}");
    assert!(message.contains(&*input.display().to_string()), "names no file: {message}");
    assert!(!message.contains("panicked") && message.lines().count() == 1, "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a file was left behind");
}

#[test]
fn bad_traces_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(format!("{name}.safetensors"));
    let good = [("theta0", ones(&[2, 3])), ("grads", ones(&[4, 2, 3]))];

    trace(&path("key"), "fadam", r#"{"roh": 0.5}"#, &good);
    refused(&path("key"), "unknown field `roh`");
    trace(&path("foreign"), "adam", r#"{"rho": 0.5}"#, &good);
    refused(&path("foreign"), "unknown field `rho`");
    trace(&path("value"), "fadam", r#"{"beta2": 1.0}"#, &good);
    refused(&path("value"), "beta2 = 1");
    trace(&path("type"), "fadam", r#"{"beta2": "high"}"#, &good);
    refused(&path("type"), "invalid type: string \"high\"");
    trace(&path("json"), "fadam", "{", &good);
    refused(&path("json"), "config is not a JSON object");
    trace(&path("algorithm"), "sgd", "{}", &good);
    refused(&path("algorithm"), "unknown variant `sgd`");

    trace(&path("missing"), "fadam", "{}", &good[..1]);
    refused(&path("missing"), "no tensor \"grads\"");
    trace(&path("shape"), "fadam", "{}", &[good[0].clone(), ("grads", ones(&[4, 3, 2]))]);
    refused(&path("shape"), "`grads` has shape [4, 3, 2]");
    trace(&path("none"), "fadam", "{}", &[good[0].clone(), ("grads", ones(&[0, 2, 3]))]);
    refused(&path("none"), "`grads` has shape [0, 2, 3]");
    let whole = ones(&[2, 3]).to_dtype(DType::U8).unwrap();
    trace(&path("integers"), "fadam", "{}", &[("theta0", whole), good[1].clone()]);
    refused(&path("integers"), "`theta0` is U8");
    let nan = (ones(&[4, 2, 3]) * f64::NAN).unwrap();
    trace(&path("nan"), "fadam", "{}", &[good[0].clone(), ("grads", nan)]);
    refused(&path("nan"), "step 1: the gradient of \"theta\" is not finite");

    safetensors::serialize_to_file(good.iter().map(|(n, t)| (*n, t)), None, &path("bare")).unwrap();
    refused(&path("bare"), "its metadata has no \"config\"");
    trace(&path("whole"), "fadam", "{}", &good);
    let bytes = fs::read(path("whole")).unwrap();
    for cut in [0, 5, 60, bytes.len() - 1] {
        fs::write(path("truncated"), &bytes[..cut]).unwrap();
        refused(&path("truncated"), "not a whole safetensors file");
    }
    refused(&path("absent"), "No such file");
}

#[test]
fn an_output_that_cannot_be_written_is_bad_input_and_a_failed_run_keeps_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let good = goldens().join("fadam-scalar.safetensors");
    let file = folder.path().join("file");
    fs::write(&file, "a regular file").unwrap();
    let run = replay(&good, &file.join("out.safetensors"), &[]);
    let message = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(2), "{message}");
    assert!(message.contains("file/out.safetensors"), "{message}");

    let run = replay(&folder.path().join("absent"), &file, &[]);
    assert_eq!(run.status.code(), Some(2));
    assert_eq!(fs::read_to_string(&file).unwrap(), "a regular file");
}
