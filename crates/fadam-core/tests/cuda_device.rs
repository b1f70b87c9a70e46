//! The fused step on a CUDA device: every golden case at every step, and the step of the CPU. Skipped, and says so,
//! where there is no device. What can be tested without one is in `tests/cuda_source.rs`.
#![cfg(feature = "cuda")]

#[allow(dead_code, reason = "each test program uses some of it")]
#[path = "common/golden.rs"]
mod golden;

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{AnyConfig, AnyOptimizer, Backend, NamedVars};
use golden::{goldens, max_abs, max_difference, values};

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

#[test]
fn all_goldens() {
    let Some(device) = device() else { return };
    for golden in goldens() {
        for dtype in [DType::F64, DType::F32] {
            golden.check(Backend::Fused, &device, dtype);
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
                let (off, largest) = (max_difference(ours, cpu), max_abs(cpu));
                let bound = (share + unit) * largest;
                assert!(off <= bound, "{name} {dtype:?} tensor {k}: off by {off:e} > {bound:e}");
            }
        }
    }
}
