//! State files and the formats that numbers are kept in: what is kept in one is read in another, what is damaged is
//! refused by its key and changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{AnyConfig, AnyOptimizer, Gradients, Group, NamedVars, Rounding, StateFormat};

/// Rows that fit no block, two tasks if it is factored.
const SHAPE: (usize, usize) = (67, 90);

fn noise(seed: usize, dtype: DType) -> Tensor {
    // From 1e-4 to 1, of both signs: more than a factor that 8 bits do not reach.
    let value = |i: usize| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988).fract();
    let x = |i: usize| {
        10f64.powf(-4.0 * value(i)) * if value(i * i % 65_537) < 0.5 { -1.0 } else { 1.0 }
    };
    let x: Vec<f64> = (0..SHAPE.0 * SHAPE.1).map(x).collect();
    Tensor::from_vec(x, SHAPE, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn optimizer(w: &Var, name: &str, state: StateFormat, rounding: Rounding) -> AnyOptimizer {
    let vars = NamedVars::from_iter([("w".to_owned(), w.clone())]);
    let optimizer = AnyOptimizer::from_named(vars, AnyConfig::named(name).unwrap()).unwrap();
    let group = Group::new("*").state(state).rounding(rounding);
    optimizer.groups(vec![group]).unwrap()
}

fn new(name: &str, dtype: DType, state: StateFormat) -> AnyOptimizer {
    optimizer(&Var::from_tensor(&noise(1, dtype)).unwrap(), name, state, Rounding::Nearest)
}

fn train(optimizer: &mut AnyOptimizer, steps: std::ops::Range<usize>) {
    let dtype = optimizer.vars().get("w").unwrap().dtype();
    for k in steps {
        let g = Gradients::from([("w".to_owned(), noise(10 + k, dtype))]);
        optimizer.step_named(&g).unwrap();
    }
}

/// m and the FIM.
fn state(optimizer: &AnyOptimizer) -> [Vec<f64>; 2] {
    [optimizer.momentum("w").unwrap(), optimizer.fim("w").unwrap()].map(|x| values(&x))
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn save(&self, optimizer: &AnyOptimizer) -> PathBuf {
        let file = self.0.path().join("state");
        optimizer.save(&file).unwrap();
        file
    }
}

/// The same state in another optimizer.
fn convert(from: &AnyOptimizer, dtype: DType, format: StateFormat) -> AnyOptimizer {
    let name = fadam_core::Algorithm::name(from.config());
    let folder = Folder::new();
    let mut to = new(name, dtype, format);
    to.load(folder.save(from)).unwrap();
    assert_eq!(to.steps(), from.steps());
    to
}

fn assert_within(a: &[f64], b: &[f64], what: &str, bound: impl Fn(f64) -> f64) {
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= bound(b.abs()), "{what}: {a:e}, not {b:e}");
    }
}

/// A code is an eighth of its number and of the least one (2⁻¹⁵ of the largest for m, 2⁻³¹ for f), a bf16 a 128th;
/// rounding is up or down, and right on average.
#[test]
fn from_one_format_to_the_next_and_back() {
    for name in AnyConfig::NAMES {
        let mut full = new(name, DType::F32, StateFormat::Full);
        train(&mut full, 0..3);
        let blocks = convert(&full, DType::F32, StateFormat::Blocks8);
        let bf16 = convert(&blocks, DType::F32, StateFormat::Bf16);
        let back = convert(&bf16, DType::F32, StateFormat::Full);
        let [full, blocks, bf16, back] = [&full, &blocks, &bf16, &back].map(state);
        assert_eq!(back, bf16, "{name}: f32 holds every bf16");
        for (k, least) in [2f64.powi(-15), 2f64.powi(-31)].into_iter().enumerate() {
            let what = format!("{name} {}", ["m", "f"][k]);
            if k == 1 && name.ends_with("factor") {
                assert_eq!(
                    (&blocks[k], &bf16[k]),
                    (&full[k], &full[k]),
                    "{what}: R and C are in full"
                );
                continue;
            }
            let largest = full[k].iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            assert_within(&blocks[k], &full[k], &what, |x| (x + 1.07 * least * largest) / 8.0);
            assert_within(&bf16[k], &blocks[k], &what, |x| x / 128.0);
            assert_ne!(blocks[k], full[k], "{what}: nothing was converted");
            assert_ne!(bf16[k], blocks[k], "{what}: nothing was converted");
            // 6030 numbers, each off by a twentieth of itself: the sum of their sizes is off by a thousandth.
            let sum = |x: &[f64]| x.iter().map(|x| x.abs()).sum::<f64>();
            for (low, bound) in [(&blocks[k], 0.005), (&bf16[k], 0.0055)] {
                let off = sum(low) / sum(&full[k]) - 1.0;
                assert!(off.abs() < bound, "{what}: the sum is off by {off}");
            }
        }
    }
}

/// What is loaded in another format is what training goes on with.
#[test]
fn training_goes_on_from_converted_numbers() {
    for name in AnyConfig::NAMES {
        let mut full = new(name, DType::F32, StateFormat::Full);
        train(&mut full, 0..3);
        let mut blocks = convert(&full, DType::F32, StateFormat::Blocks8);
        // The same θ, so that nothing but the rounding of the state is between them.
        blocks.vars().get("w").unwrap().set(full.vars().get("w").unwrap()).unwrap();
        train(&mut full, 3..4);
        train(&mut blocks, 3..4);
        let ([m, _], [m_full, _]) = (state(&blocks), state(&full));
        let size = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let off = size(&mut m.iter().zip(&m_full).map(|(a, b)| a - b));
        let off = off / size(&mut m_full.iter().copied());
        // Stochastic rounding to eighths is off by 5 % or so.
        assert!((0.01..0.08).contains(&off), "{name}: {off}");
    }
}

#[test]
fn f64_and_f32_read_each_other() {
    for name in AnyConfig::NAMES {
        let mut single = new(name, DType::F32, StateFormat::Full);
        train(&mut single, 0..3);
        let double = convert(&single, DType::F64, StateFormat::Full);
        let kept = |o: &AnyOptimizer, to: DType| -> BTreeMap<String, Vec<f64>> {
            let file = candle_core::safetensors::load(Folder::new().save(o), &Device::Cpu);
            let rounded = |x: &Tensor| values(&x.to_dtype(to).unwrap());
            file.unwrap().iter().map(|(key, x)| (key.clone(), rounded(x))).collect()
        };
        assert_eq!(kept(&double, DType::F64), kept(&single, DType::F64), "{name}: exactly");
        assert_eq!(double.momentum("w").unwrap().dtype(), DType::F64);

        let mut double = new(name, DType::F64, StateFormat::Full);
        train(&mut double, 0..3);
        let single = convert(&double, DType::F32, StateFormat::Full);
        assert_eq!(kept(&single, DType::F64), kept(&double, DType::F32), "{name}: to the nearest");
    }
}

/// The tensors and the metadata of a file.
fn read(file: &Path) -> (BTreeMap<String, Tensor>, HashMap<String, String>) {
    let bytes = std::fs::read(file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    (tensors.into_iter().collect(), header.metadata().clone().unwrap())
}

/// What a bf16 parameter is beside itself goes on from a file, bit for bit; without it, θ goes on without.
#[test]
fn what_was_rounded_away_is_saved_and_resumed() {
    for name in AnyConfig::NAMES {
        let folder = Folder::new();
        let start = || Var::from_tensor(&noise(1, DType::BF16)).unwrap();
        let of = |w: &Var| optimizer(w, name, StateFormat::Full, Rounding::Compensated);
        let (whole, halves) = (start(), start());
        let mut uninterrupted = of(&whole);
        train(&mut uninterrupted, 0..6);
        let mut first = of(&halves);
        train(&mut first, 0..3);
        let file = folder.save(&first);
        let (mut tensors, metadata) = read(&file);
        let low = values(&tensors["w.theta.low"]);
        let rested = low.iter().filter(|low| **low != 0.0).count();
        assert!(rested > low.len() / 2, "{name}: {rested} were rounded");
        let middle = halves.copy().unwrap();
        let go_on = |file: &Path| {
            let w = Var::from_tensor(&middle).unwrap();
            let mut second = of(&w);
            second.load(file).unwrap();
            train(&mut second, 3..6);
            let (tensors, _) = read(&folder.save(&second));
            (values(&w), values(&tensors["w.theta.low"]), state(&second))
        };
        let (expected, _) = read(&folder.save(&uninterrupted));
        let expected = (values(&whole), values(&expected["w.theta.low"]), state(&uninterrupted));
        let file = folder.save(&first);
        assert_eq!(go_on(&file), expected, "{name}");
        tensors.remove("w.theta.low");
        safetensors::serialize_to_file(&tensors, Some(metadata), &file).unwrap();
        let without = go_on(&file);
        assert_ne!(without.0, expected.0, "{name}: it matters");
        // A parameter that is rounded otherwise has no use for it.
        let mut nearest = optimizer(&halves, name, StateFormat::Full, Rounding::Nearest);
        nearest.load(folder.save(&first)).unwrap();
        assert_eq!(state(&nearest), state(&first));
    }
}
