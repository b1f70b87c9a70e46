//! One step over one tensor that fits a core's cache, on one thread: what the arithmetic costs, without memory.
//!
//! `cargo bench -p fadam-core`; with a word, only the cases whose name holds it. For whole models and other
//! optimizers: `cargo run --release --bin bench -- optimizer`.

use std::hint::black_box;

use candle_core::{DType, Device, Tensor, Var};
use criterion::{Criterion, Throughput};
use fadam_core::{AnyConfig, AnyOptimizer, FAdamConfig, Gradients, Group, NamedVars, StateFormat};

/// The shape of the tensor.
const SHAPE: [usize; 2] = [128, 256];

fn step(c: &mut Criterion, name: &str, config: AnyConfig, dtype: DType, state: StateFormat) {
    let filled = |scale: f64| {
        let n = SHAPE[0] * SHAPE[1];
        let numbers: Vec<f64> =
            (0..n).map(|i| scale * ((i as f64 * 0.618).fract() - 0.5)).collect();
        Tensor::from_vec(numbers, &SHAPE, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    };
    let var = Var::from_tensor(&filled(0.1)).unwrap();
    let vars = NamedVars::from_iter([("w".to_owned(), var)]);
    let gradients = Gradients::from([("w".to_owned(), filled(0.01))]);
    let mut optimizer = AnyOptimizer::from_named(vars, config)
        .unwrap()
        .groups(vec![Group::new("*").state(state)])
        .unwrap();
    let mut group = c.benchmark_group("step");
    group.throughput(Throughput::Elements((SHAPE[0] * SHAPE[1]) as u64));
    group.bench_function(name, |b| b.iter(|| optimizer.step_named(black_box(&gradients)).unwrap()));
    group.finish();
}

fn steps(c: &mut Criterion) {
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().unwrap();
    let fadam = |rho| FAdamConfig { rho, ..Default::default() }.into();
    let named = |name| AnyConfig::named(name).unwrap();
    let full = StateFormat::Full;
    for (name, config) in [
        ("fadam f32", fadam(0.5)),
        ("fadam f32 rho=0.7", fadam(0.7)),
        ("fadam f32 rho=1", fadam(1.0)),
        ("fadafactor f32", named("fadafactor")),
        ("adam f32", named("adam")),
        ("adafactor f32", named("adafactor")),
    ] {
        step(c, name, config, DType::F32, full);
    }
    step(c, "fadam bf16", fadam(0.5), DType::BF16, full);
    step(c, "fadam f64", fadam(0.5), DType::F64, full);
    step(c, "fadam f32, state bf16", fadam(0.5), DType::F32, StateFormat::Bf16);
    step(c, "fadam f32, state 8bit", fadam(0.5), DType::F32, StateFormat::Blocks8);
    step(c, "fadafactor f32, state 8bit", named("fadafactor"), DType::F32, StateFormat::Blocks8);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    steps(&mut criterion);
    criterion.final_summary();
}
