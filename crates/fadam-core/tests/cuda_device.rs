//! The fused step on a CUDA device: every golden case at every step, and the step of the CPU. Skipped, and says so,
//! where there is no device. What can be tested without one is in `tests/cuda_source.rs`.
#![cfg(feature = "cuda")]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var, safetensors::Load};
use fadam_core::{AnyConfig, AnyOptimizer, Gradients, NamedVars};
use safetensors::SafeTensors;

/// The first CUDA device.
fn device() -> Option<Device> {
    match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(err) => {
            eprintln!("SKIPPED: no CUDA device, so the fused step is not tested on one: {err}");
            None
        }
    }
}

struct Case {
    name: String,
    config: AnyConfig,
    tensors: HashMap<String, Tensor>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let cases: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .map(|path| case(&path))
        .collect();
    assert_eq!(cases.len(), 37, "a golden file is missing or new");
    cases
}

fn case(path: &Path) -> Case {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&metadata["config"]).unwrap();
    config["algorithm"] = metadata["algorithm"].clone().into();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let load =
        |(name, view): (&str, _)| (name.to_owned(), Load::load(&view, &Device::Cpu).unwrap());
    Case {
        name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
        config: serde_json::from_value(config).unwrap(),
        tensors: tensors.iter().map(load).collect(),
    }
}

fn values(x: &Tensor) -> Vec<f64> {
    let x = x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn max_abs(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |most, v| most.max(v.abs()))
}

fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

impl Case {
    /// With the tolerances of `tests/goldens.rs`.
    fn check(&self, device: &Device, dtype: DType) {
        let (share, unit) =
            if dtype == DType::F64 { (1e-10, 2f64.powi(-53)) } else { (1e-5, 2f64.powi(-24)) };
        let (theta0, grads) = (&self.tensors["theta0"], &self.tensors["grads"]);
        let on_device = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(device).unwrap();
        let w = Var::from_tensor(&on_device(theta0)).unwrap();
        let vars = NamedVars::from_iter([("w".to_owned(), w.clone())]);
        let mut optimizer = AnyOptimizer::from_named(vars, self.config.clone()).unwrap();

        let steps = grads.dims()[0];
        let golden = |name: &str, k: usize| values(&self.tensors[name].get(k).unwrap());
        let travelled = difference(&golden("theta", steps - 1), &values(theta0));
        let largest = max_abs(&values(&self.tensors["theta"])).max(max_abs(&values(theta0)));
        let theta_bound = share * travelled + steps as f64 * unit * largest;
        for k in 0..steps {
            let g = on_device(&grads.get(k).unwrap());
            optimizer.step_named(&Gradients::from([("w".to_owned(), g)])).unwrap();
            let at = format!("{}, {dtype:?}, step {}", self.name, k + 1);

            let off = difference(&values(&w), &golden("theta", k));
            assert!(off <= theta_bound, "{at}: theta is off by {off:e} > {theta_bound:e}");
            let m = golden("m", k);
            let off = difference(&values(&optimizer.momentum("w").unwrap()), &m);
            assert!(off <= share * max_abs(&m), "{at}: m is off by {off:e}");
            let fim = values(&optimizer.fim("w").unwrap());
            for (i, (ours, theirs)) in fim.iter().zip(golden("fim", k)).enumerate() {
                let off = (ours - theirs).abs();
                assert!(off <= share * theirs.abs(), "{at}: fim[{i}] = {ours:e}, not {theirs:e}");
            }
        }
    }
}

#[test]
fn all_goldens() {
    let Some(device) = device() else { return };
    for case in cases() {
        for dtype in [DType::F64, DType::F32] {
            case.check(&device, dtype);
        }
    }
}

/// The same pseudo-random values everywhere, of about unit size.
fn noise(shape: &[usize], seed: usize, scale: f64) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988).fract() - 0.5;
    let values = (0..n).map(|i| scale * (value(i) + value(i * i % 65_537))).collect();
    Tensor::from_vec::<_, f64>(values, shape, &Device::Cpu).unwrap()
}

/// θ and m of a model after three steps: tensors of many chunks, of less than one, of tiles and of small matrices.
fn three_steps(config: &AnyConfig, device: &Device, dtype: DType) -> Vec<Vec<f64>> {
    let shapes: [&[usize]; 7] =
        [&[3000, 257], &[70_001], &[5, 3, 3], &[], &[1, 40_000], &[2, 700, 40], &[1000, 3, 3]];
    let on_device = |x: Tensor| x.to_dtype(dtype).unwrap().to_device(device).unwrap();
    let vars: NamedVars = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            (format!("w{i}"), Var::from_tensor(&on_device(noise(shape, i, 1.0))).unwrap())
        })
        .collect();
    let mut optimizer = AnyOptimizer::from_named(vars.clone(), config.clone()).unwrap();
    for t in 0..3 {
        let gradient = |(name, var): (&str, &Var)| {
            (name.to_owned(), on_device(noise(var.dims(), 100 + t, 0.01)))
        };
        optimizer.step_named(&vars.iter().map(gradient).collect()).unwrap();
    }
    let both =
        |(name, var): (&str, &Var)| [values(var), values(&optimizer.momentum(name).unwrap())];
    vars.iter().flat_map(both).collect()
}

#[test]
fn the_same_bits_every_time_and_the_step_of_the_cpu() {
    let Some(device) = device() else { return };
    for name in AnyConfig::NAMES {
        let config = AnyConfig::named(name).unwrap();
        for (dtype, share, unit) in [
            (DType::F64, 1e-9, 4e-16),
            (DType::F32, 2e-5, 4e-7),
            (DType::BF16, 2e-2, 2f64.powi(-6)),
            (DType::F16, 2e-2, 2f64.powi(-9)),
        ] {
            let on_device = three_steps(&config, &device, dtype);
            let bits =
                |x: &[Vec<f64>]| -> Vec<u64> { x.iter().flatten().map(|x| x.to_bits()).collect() };
            for _ in 0..3 {
                let again = three_steps(&config, &device, dtype);
                assert!(bits(&again) == bits(&on_device), "{name} {dtype:?}: other bits");
            }
            let on_cpu = three_steps(&config, &Device::Cpu, dtype);
            for (k, (ours, cpu)) in on_device.iter().zip(&on_cpu).enumerate() {
                let (off, largest) = (difference(ours, cpu), max_abs(cpu));
                let bound = (share + unit) * largest;
                assert!(off <= bound, "{name} {dtype:?} tensor {k}: off by {off:e} > {bound:e}");
            }
        }
    }
}
