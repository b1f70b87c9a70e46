//! States of PyTorch's optimizers: fixtures that PyTorch made (`../data/torch/README.md`) go on as they do there, others
//! follow from the equations; what does not fit is in `refused.rs`.

mod refused;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var, safetensors::load};
use fadam_core::{
    AdafactorConfig, Adam, AdamConfig, AnyConfig, AnyOptimizer, Backend, FAdafactorConfig,
    FAdamConfig, Gradients, Group, NamedVars, Rounding, StateFormat,
};

const NAMES: [&str; 2] = ["head.bias", "head.weight"];

type Tensors = HashMap<String, Tensor>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/torch").join(name)
}

fn tensors(name: &str) -> Tensors {
    load(fixture(name), &Device::Cpu).unwrap()
}

fn tensor(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let numbers: Vec<f64> = (0..n).map(|i| ((i * 7 + seed * 13) as f64 * 0.7).sin()).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

fn variables(shapes: &[(&str, &[usize])], dtype: DType) -> NamedVars {
    let var = |shape| Var::from_tensor(&tensor(shape, 1).to_dtype(dtype).unwrap()).unwrap();
    shapes.iter().map(|(name, shape)| ((*name).to_owned(), var(shape))).collect()
}

/// The model of the fixtures.
fn linear() -> NamedVars {
    variables(&[("head.bias", &[4]), ("head.weight", &[4, 5])], DType::F32)
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// No two numbers differ by more than `tolerance` of the larger one, or of `least`.
fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64, least: f64, what: &str) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    for (a, b) in numbers(a).into_iter().zip(numbers(b)) {
        let unit = a.abs().max(b.abs()).max(least);
        assert!((a - b).abs() <= tolerance * unit, "{what}: {a:e} is not {b:e}");
    }
}

fn write(path: &Path, tensors: &Tensors, optimizer: &str, config: &str) {
    let kind = [("format", "torch-optimizer"), ("version", "1"), ("optimizer", optimizer)];
    let metadata = kind.into_iter().chain([("config", config)]);
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    safetensors::serialize_to_file(tensors, Some(metadata.collect()), path).unwrap();
}

const BETAS: &str = r#"{"betas": [0.8, 0.95]}"#;

/// The same gradients for every step, `factor` times [`tensor`], and what Adam's averages are after t of them.
fn constant_gradients(vars: &NamedVars, t: u64, factor: f64) -> (Gradients, Tensors) {
    let (mut gradients, mut file) = (Gradients::new(), Tensors::new());
    for (name, var) in vars.iter() {
        let g = (tensor(var.dims(), 9) * factor).unwrap();
        let average = |x: &Tensor, beta: f64| (x * (1.0 - beta.powi(t as i32))).unwrap();
        file.insert(format!("{name}.exp_avg"), average(&g, 0.8));
        file.insert(format!("{name}.exp_avg_sq"), average(&g.sqr().unwrap(), 0.95));
        let step = Tensor::new(i64::try_from(t).unwrap(), &Device::Cpu).unwrap();
        file.insert(format!("{name}.step"), step);
        gradients.insert(name.to_owned(), g.to_dtype(var.dtype()).unwrap());
    }
    (gradients, file)
}

/// The four algorithms with the β of [`BETAS`].
fn algorithms() -> [AnyConfig; 4] {
    let (beta1, beta2) = (0.8, 0.95);
    [
        FAdamConfig { beta1, beta2, rho: 0.4, ..Default::default() }.into(),
        FAdafactorConfig { beta1, beta2, ..Default::default() }.into(),
        AdamConfig { beta1, beta2, ..Default::default() }.into(),
        AdafactorConfig { beta1, beta2, lr: 0.02, eps: 1e-4, ..Default::default() }.into(),
    ]
}

/// Loads weights and state of a fixture, and goes through the steps that PyTorch took after it.
fn goes_on(name: &str, config: AnyConfig, backend: Backend) {
    let run = tensors(&format!("{name}-goes-on.safetensors"));
    let vars = linear();
    for (key, var) in vars.iter() {
        var.set(&run[&format!("{key}.before")]).unwrap();
    }
    let optimizer = AnyOptimizer::from_named(vars.clone(), config).unwrap();
    let mut optimizer = optimizer.backend(backend);
    optimizer.import_torch(fixture(&format!("{name}.safetensors"))).unwrap();
    assert_eq!(optimizer.steps(), 5);
    for k in 0..3 {
        let at = |key: &str, what: &str| run[&format!("{key}.{what}")].get(k).unwrap();
        let gradients =
            vars.iter().map(|(key, _)| (key.to_owned(), at(key, "gradients"))).collect();
        optimizer.step_named(&gradients).unwrap();
        for (key, var) in vars.iter() {
            let what = format!("{key} {} steps after the import, {backend:?}", k + 1);
            assert_close(var, &at(key, "after"), 1e-6, 1.0, &what);
        }
    }
}

#[test]
fn adam_goes_on_as_pytorchs_adamw() {
    for backend in [Backend::Fused, Backend::Reference] {
        let [_, _, AnyConfig::Adam(config), _] = algorithms() else { unreachable!() };
        let config = AdamConfig { lr: 0.01, clip: None, weight_decay: 0.1, ..config };
        goes_on("adamw", config.into(), backend);
    }
}

/// The port's ε̂ is ε max(1, RMS(g)), ours at most ε: beside √f > 0.1 both are nothing.
#[test]
fn fadam_goes_on_as_its_port() {
    for backend in [Backend::Fused, Backend::Reference] {
        let [AnyConfig::FAdam(config), ..] = algorithms() else { unreachable!() };
        let config = FAdamConfig { lr: 0.01, weight_decay: 0.1, rho: 0.5, ..config };
        goes_on("fadam", config.into(), backend);
    }
}

#[test]
fn adam_takes_the_averages_as_they_are() {
    let file = tensors("adamw.safetensors");
    let config = AdamConfig { beta1: 0.8, beta2: 0.95, ..Default::default() };
    let mut adam = Adam::from_named(linear(), config).unwrap();
    adam.import_torch(fixture("adamw.safetensors")).unwrap();
    for name in NAMES {
        let m = &file[&format!("{name}.exp_avg")];
        assert_close(&adam.momentum(name).unwrap(), m, 0.0, 0.0, name);
        let f_hat = (&file[&format!("{name}.exp_avg_sq")] / (1.0 - 0.95f64.powi(5))).unwrap();
        assert_close(&adam.fim(name).unwrap(), &f_hat, 1e-6, 0.0, name);
    }
    // With other β it is the corrected averages that stay.
    let mut other = Adam::from_named(linear(), AdamConfig::default()).unwrap();
    other.import_torch(fixture("adamw.safetensors")).unwrap();
    for name in NAMES {
        let [ours, theirs] = [0.9f64, 0.8].map(|beta| 1.0 - beta.powi(5));
        let m = (adam.momentum(name).unwrap() * (ours / theirs)).unwrap();
        assert_close(&other.momentum(name).unwrap(), &m, 1e-6, 0.0, name);
        assert_close(&other.fim(name).unwrap(), &adam.fim(name).unwrap(), 1e-6, 0.0, name);
    }
}

/// Where all gradients were the same, the import is the state that the algorithm would have come to itself: clipped
/// and not, with ε̂ below ε, after few steps and many.
#[test]
fn of_constant_gradients_the_import_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    for (dtype, unit) in [(DType::F64, 1e-12), (DType::F32, 2e-6), (DType::BF16, 2e-2)] {
        for (t, factor) in [(1, 1.0), (3, 1e-3), (40, 30.0), (7, 1e-7)] {
            let shapes: [(&str, &[usize]); 5] = [
                ("conv", &[2, 3, 4]),
                ("matrix", &[4, 5]),
                ("none", &[0, 3]),
                ("scalar", &[]),
                ("vector", &[4]),
            ];
            let model = || variables(&shapes, dtype);
            let (gradients, file) = constant_gradients(&model(), t, factor);
            write(&path, &file, "adam", BETAS);
            for config in algorithms() {
                let what = format!("{config:?}, t = {t}, {factor} {dtype:?}");
                let mut own = AnyOptimizer::from_named(model(), config.clone()).unwrap();
                for _ in 0..t {
                    own.step_named(&gradients).unwrap();
                }
                let mut imported = AnyOptimizer::from_named(model(), config).unwrap();
                imported.import_torch(&path).unwrap();
                assert_eq!(imported.steps(), t);
                for (name, _) in shapes {
                    let [a, b] = [&own, &imported].map(|x| x.fim(name).unwrap());
                    assert_close(&a, &b, unit, 0.0, &what);
                    let [a, b] = [&own, &imported].map(|x| x.momentum(name).unwrap());
                    assert_close(&a, &b, unit, 0.0, &what);
                }
            }
        }
    }
}

#[test]
fn groups_take_what_they_keep_and_steps_are_the_largest_t() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let mut file = tensors("adamw.safetensors");
    file.insert("head.bias.step".into(), Tensor::new(7i64, &Device::Cpu).unwrap());
    write(&path, &file, "adam", BETAS);
    let [_, fadafactor, adam, _] = algorithms();
    let groups = vec![Group::new("*").ranks(2, 2).config(fadafactor).lr_scale(0.5)];
    let optimizer = AnyOptimizer::from_named(linear(), adam).unwrap();
    let mut optimizer = optimizer.groups(groups).unwrap();
    optimizer.import_torch(&path).unwrap();
    assert_eq!(optimizer.steps(), 7);
    let m = &file["head.bias.exp_avg"];
    assert_close(&optimizer.momentum("head.bias").unwrap(), m, 0.0, 0.0, "m");
    let f = (&file["head.weight.exp_avg_sq"] / (1.0 - 0.95f64.powi(5))).unwrap();
    let [r, c] = [1, 0].map(|dim| f.sum_keepdim(dim).unwrap());
    let product = (r.matmul(&c).unwrap() / numbers(&f.sum_all().unwrap())[0]).unwrap();
    assert_close(&optimizer.fim("head.weight").unwrap(), &product, 1e-6, 0.0, "R C / ΣR");
}

/// 8-bit and bf16 states take it up by their rounding, compensated parameters have nothing rounded away, and all
/// goes on.
#[test]
fn low_precision_takes_it_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let g = tensor(&[64, 80], 4);
    let file = Tensors::from([
        ("w.exp_avg".to_owned(), g.clone()),
        ("w.exp_avg_sq".to_owned(), (g.sqr().unwrap() + 0.1).unwrap()),
        ("w.step".to_owned(), Tensor::new(100i64, &Device::Cpu).unwrap()),
    ]);
    write(&path, &file, "adamw", BETAS);
    // A unit of bf16 is 2⁻⁷, of an 8-bit number 2⁻³ and of the least of its block.
    for (format, unit) in [(StateFormat::Bf16, 0.008), (StateFormat::Blocks8, 0.126)] {
        let vars = variables(&[("w", &[64, 80])], DType::BF16);
        let group = Group::new("*").state(format).rounding(Rounding::Compensated);
        let adam = Adam::from_named(vars, AdamConfig::default()).unwrap();
        let mut adam = adam.groups(vec![group]).unwrap();
        let gradients = Gradients::from([("w".to_owned(), g.to_dtype(DType::BF16).unwrap())]);
        adam.step_named(&gradients).unwrap();
        adam.import_torch(&path).unwrap();
        let given_out = |beta: f64| 1.0 - beta.powi(100);
        let m = (&g * (given_out(0.9) / given_out(0.8))).unwrap();
        let f_hat = (&file["w.exp_avg_sq"] / given_out(0.95)).unwrap();
        assert_close(&adam.momentum("w").unwrap(), &m, unit, 1e-3, "m");
        assert_close(&adam.fim("w").unwrap(), &f_hat, unit, 1e-3, "f");
        let saved = folder.path().join("saved");
        adam.save(&saved).unwrap();
        let low = &load(saved, &Device::Cpu).unwrap()["w.theta.low"];
        assert!(numbers(low).iter().all(|x| *x == 0.0));
        adam.step_named(&gradients).unwrap();
        assert_eq!(adam.steps(), 101);
    }
}
