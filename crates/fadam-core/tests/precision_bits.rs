//! Low-precision state and parameters: the same bits from any number of threads and after a resume, and the fused
//! step rounds with the same random bits as the reference.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{
    Algorithm as _, AnyConfig, AnyOptimizer, Backend, Gradients, Group, NamedVars, Rounding,
    StateFormat,
};

const FORMATS: [StateFormat; 3] = [StateFormat::Full, StateFormat::Bf16, StateFormat::Blocks8];

/// Parameters in f32, and in bf16 with each rounding.
const THETAS: [(DType, Rounding); 4] = [
    (DType::F32, Rounding::Nearest),
    (DType::BF16, Rounding::Nearest),
    (DType::BF16, Rounding::Stochastic),
    (DType::BF16, Rounding::Compensated),
];

fn noise(shape: &[usize], seed: usize, scale: f64, dtype: DType) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) as f64 * 0.618_033_988).fract() - 0.5;
    let values: Vec<f64> = (0..n).map(|i| scale * (value(i) + value(i * i % 65_537))).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Tensors of several tasks, which end in the middle of a block, and of less than one.
fn model(dtype: DType) -> NamedVars {
    let shapes: [(&str, &[usize]); 5] =
        [("a", &[300, 130]), ("b", &[33_001]), ("c", &[500, 3, 3]), ("d", &[]), ("e", &[67, 63])];
    let var = |(name, shape): (&str, &[usize])| {
        (name.to_owned(), Var::from_tensor(&noise(shape, name.len(), 1.0, dtype)).unwrap())
    };
    shapes.into_iter().map(var).collect()
}

fn optimizer(vars: &NamedVars, name: &str, state: StateFormat, rounding: Rounding) -> AnyOptimizer {
    let config = AnyConfig::named(name).unwrap();
    let group = Group::new("*").state(state).rounding(rounding);
    AnyOptimizer::from_named(vars.clone(), config).unwrap().groups(vec![group]).unwrap()
}

fn train(optimizer: &mut AnyOptimizer, steps: std::ops::Range<usize>) {
    for k in steps {
        let g = |(name, var): (String, Var)| {
            let g = noise(var.dims(), 100 + k, 0.01, var.dtype());
            (name, g)
        };
        let gradients: Gradients = optimizer.vars().into_iter().map(g).collect();
        optimizer.step_named(&gradients).unwrap();
    }
}

/// All that an optimizer keeps, and its parameters.
fn kept(optimizer: &AnyOptimizer) -> BTreeMap<String, Tensor> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    optimizer.save(&file).unwrap();
    let mut all: BTreeMap<_, _> =
        candle_core::safetensors::load(file, &Device::Cpu).unwrap().into_iter().collect();
    for (name, var) in optimizer.vars() {
        all.insert(name, var.copy().unwrap());
    }
    all
}

/// The bits of the same.
fn bits(optimizer: &AnyOptimizer) -> Vec<u8> {
    let all = kept(optimizer);
    safetensors::serialize(&all, None).unwrap()
}

/// Calls `check` for every algorithm, format and rounding, but for what is all in full.
fn everywhere(check: impl Fn(&str, DType, StateFormat, Rounding)) {
    for name in AnyConfig::NAMES {
        for state in FORMATS {
            for (dtype, rounding) in THETAS {
                if state != StateFormat::Full || rounding != Rounding::Nearest {
                    check(name, dtype, state, rounding);
                }
            }
        }
    }
}

#[test]
fn the_same_bits_whatever_the_number_of_threads() {
    everywhere(|name, dtype, state, rounding| {
        let [one, two, three] = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut optimizer = optimizer(&model(dtype), name, state, rounding);
                train(&mut optimizer, 0..2);
                bits(&optimizer)
            })
        });
        assert!(one == two && two == three, "{name} {dtype:?} {state:?} {rounding:?}");
    });
}

#[test]
fn resumed_is_uninterrupted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    everywhere(|name, dtype, state, rounding| {
        let mut whole = optimizer(&model(dtype), name, state, rounding);
        train(&mut whole, 0..4);
        let vars = model(dtype);
        let mut first = optimizer(&vars, name, state, rounding);
        train(&mut first, 0..2);
        first.save(&file).unwrap();
        let mut second = optimizer(&vars, name, state, rounding);
        second.load(&file).unwrap();
        train(&mut second, 2..4);
        let what = format!("{name} {dtype:?} {state:?} {rounding:?}");
        assert!(bits(&whole) == bits(&second), "{what}");
    });
}

/// Empty, of one element, of a block more or less, of two tasks, with rows and matrices that fit no block.
const SHAPES: [&[usize]; 14] = [
    &[],
    &[0],
    &[3, 0],
    &[1],
    &[257],
    &[4096],
    &[4097],
    &[32_769],
    &[4100, 3],
    &[67, 131],
    &[1, 5000],
    &[5000, 1],
    &[2, 130, 31],
    &[5000, 3, 3],
];

/// How far apart two numbers at most are that round to codes next to each other: a code is an eighth or a 128th of
/// the number, with 8 bits counted from the least one, 2⁻¹⁵ of the largest of its block for m, 2⁻³¹ for f. The parts
/// of an m can cancel, which leaves what they were rounded to.
fn a_code(key: &str, state: StateFormat, x: f64, largest: f64) -> f64 {
    let (least, rounding) = if key == "m" { (2f64.powi(-15), 1e-6) } else { (2f64.powi(-31), 0.0) };
    let code = match state {
        StateFormat::Bf16 => x / 128.0,
        StateFormat::Blocks8 => (x + 1.07 * largest * least) / 8.0,
        _ => 2e-5 * largest,
    };
    code + rounding * largest
}

/// How many numbers differ; no two by more than `bound` of both.
fn differing(a: &[f64], b: &[f64], what: &str, bound: impl Fn(f64) -> f64) -> usize {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        let bound = bound(a.abs().max(b.abs()));
        assert!((a - b).abs() <= bound * (1.0 + 1e-6), "{what}: {a:e} and {b:e}, beyond {bound:e}");
    }
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

/// Both backends round with the same random bits, so that where their numbers, which are computed in f32 and in
/// f64, differ by 1e-7 or so, a code differs once in a few ten thousand, and then by one.
#[test]
fn fused_rounds_as_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    everywhere(|name, dtype, state, rounding| {
        for shape in SHAPES {
            let theta = noise(shape, 3, 1.0, dtype);
            let what = format!("{name} {shape:?} {dtype:?} {state:?} {rounding:?}");
            let [mut fused, mut reference] = [Backend::Fused, Backend::Reference].map(|backend| {
                let var = Var::from_tensor(&theta).unwrap();
                let vars = NamedVars::from_iter([("w".to_owned(), var)]);
                optimizer(&vars, name, state, rounding).backend(backend)
            });
            train(&mut fused, 0..1);
            train(&mut reference, 0..1);
            assert_same_rounding(&fused, &reference, state, &what);
            // Once more from the same numbers.
            fused.save(&file).unwrap();
            reference.load(&file).unwrap();
            let of = |optimizer: &AnyOptimizer| optimizer.vars().get("w").unwrap().clone();
            of(&reference).set(&of(&fused)).unwrap();
            train(&mut fused, 1..2);
            train(&mut reference, 1..2);
            assert_same_rounding(&fused, &reference, state, &what);
        }
    });
}

fn assert_same_rounding(a: &AnyOptimizer, b: &AnyOptimizer, state: StateFormat, what: &str) {
    let numbers = |o: &AnyOptimizer| {
        let (m, f) = (o.momentum("w").unwrap(), o.fim("w").unwrap());
        [values(&m), values(&f), values(o.vars().get("w").unwrap())]
    };
    let var = a.vars().get("w").unwrap().clone();
    let (n, half) = (var.elem_count(), var.dtype() == DType::BF16);
    let few = 1 + n / 1000;
    let largest = |x: &[f64]| x.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let factored = a.config().name().ends_with("factor") && var.rank() > 1;
    let ([m, f, theta], [m2, f2, theta2]) = (numbers(a), numbers(b));
    for (key, a, b) in [("m", &m, &m2), ("f", &f, &f2)] {
        // Less than 4096 elements are kept in full, and so is what f is factored into.
        let small = state == StateFormat::Blocks8 && n < 4096;
        let full = small || (key == "f" && factored);
        let (state, largest) = (if full { StateFormat::Full } else { state }, largest(b));
        let bound = |x| a_code(key, state, x, largest);
        let count = differing(a, b, &format!("{what}: {key}"), bound);
        assert!(count <= few || state == StateFormat::Full, "{what}: {count} of {key}");
    }
    // A unit in the last place of θ, and hardly ever that; beside 2e-5 of a step of 1e-3, which can bring θ to
    // about 0.
    let unit = if half { 1.0 / 128.0 } else { 2f64.powi(-23) };
    let count = differing(&theta, &theta2, &format!("{what}: theta"), |x| unit * x + 2e-8);
    assert!(count <= few || !half, "{what}: {count} of theta");
    if let Some(low) = kept(a).get("w.theta.low") {
        // Together with what was rounded away, as exact as that.
        let exact = |theta: &[f64], low: &Tensor| -> Vec<f64> {
            theta.iter().zip(values(low)).map(|(high, low)| high + low).collect()
        };
        let (a, b) = (exact(&theta, low), exact(&theta2, &kept(b)["w.theta.low"]));
        differing(&a, &b, &format!("{what}: theta and its rest"), |x| x / 65_536.0 + 2e-8);
    }
}
