//! An op with its arguments and an independent reference, and the checks that all ops go through.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::test_runner::{Config as ProptestConfig, RngSeed};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// From arguments to a value.
pub(crate) type Op = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync>;

/// An op at a point.
pub(crate) struct Case {
    pub(crate) name: String,
    /// In f64, of numbers that f32 holds exactly.
    pub(crate) arguments: Vec<Tensor>,
    pub(crate) op: Op,
    /// The same of candle's differentiable ops.
    pub(crate) composed: Op,
}

/// Seeded numbers.
pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Evenly between −1.5 and 1.5, in f64, each a number that f32 holds exactly.
    pub(crate) fn tensor(&mut self, shape: impl Into<candle_core::Shape>) -> Tensor {
        let shape = shape.into();
        let number =
            |_| f64::from((3.0 * f64::from(self.0.next_u32()) / 2f64.powi(32) - 1.5) as f32);
        let numbers: Vec<f64> = (0..shape.elem_count()).map(number).collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.next_u32() as usize % n
    }

    /// u32 numbers below n.
    pub(crate) fn ids(&mut self, count: usize, n: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(n) as u32).collect()
    }
}

/// A few cases, the same on every run.
pub(crate) fn few() -> ProptestConfig {
    ProptestConfig {
        cases: 8,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}

pub(crate) fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn largest(x: &Tensor) -> f64 {
    numbers(x).iter().fold(0.0, |most, x| x.abs().max(most))
}

/// `max |a − b|`; a NaN in either is an infinite difference.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims(), "shapes");
    let pairs = numbers(a).into_iter().zip(numbers(b));
    let off = |(a, b): (f64, f64)| if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() };
    pairs.map(off).fold(0.0, f64::max)
}

/// `max |a − b| / max |b|`
pub(crate) fn relative(a: &Tensor, b: &Tensor) -> f64 {
    difference(a, b) / largest(b).max(1e-3)
}

pub(crate) fn assert_same(what: &str, a: &Tensor, b: &Tensor) {
    assert_eq!(a.dtype(), b.dtype(), "{what}");
    let off = difference(a, b);
    assert!(off == 0.0, "{what}: not the same bits, off by {off:e}");
}

/// `Σ y g`, a random linear functional of a value.
pub(crate) fn functional(y: &Tensor, g: &Tensor) -> Result<Tensor> {
    (y * g.to_dtype(y.dtype())?)?.sum_all()
}

pub(crate) fn vars(arguments: &[Tensor]) -> (Vec<Var>, Vec<Tensor>) {
    let vars: Vec<Var> = arguments.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
    let tensors = vars.iter().map(|var| var.as_tensor().clone()).collect();
    (vars, tensors)
}

pub(crate) fn of_all(vars: &[Var], gradients: &GradStore) -> Vec<Tensor> {
    let of = |(i, var): (usize, &Var)| {
        gradients.get(var).unwrap_or_else(|| panic!("no gradient reached argument {i}")).clone()
    };
    vars.iter().enumerate().map(of).collect()
}

/// The value, followed by the gradients of `Σ y g`.
pub(crate) fn value_and_gradients(op: &Op, arguments: &[Tensor], g: &Tensor) -> Vec<Tensor> {
    let (vars, tensors) = vars(arguments);
    let y = op(&tensors).unwrap();
    let gradients = functional(&y, g).unwrap().backward().unwrap();
    std::iter::once(y.detach()).chain(of_all(&vars, &gradients)).collect()
}

pub(crate) fn cast(tensors: &[Tensor], dtype: DType) -> Vec<Tensor> {
    tensors.iter().map(|x| x.to_dtype(dtype).unwrap()).collect()
}

impl Case {
    pub(crate) fn g(&self, seed: u64) -> Tensor {
        let y = (self.op)(&self.arguments).unwrap();
        Draw::new(seed ^ 0x5eed).tensor(y.shape())
    }

    pub(crate) fn check(&self, ulps: f64) {
        self.against_differences();
        self.against_composed(ulps);
        self.halves();
    }

    /// All but the bound on f32: of a few numbers, all gradients may be what is left of larger ones.
    pub(crate) fn check_of_any_shape(&self) {
        self.check(f64::INFINITY);
    }

    /// Each gradient against central differences of fourth order, `(8 (f₁ − f₋₁) − (f₂ − f₋₂)) / 12 h` with h = 1e-3: their
    /// own error is h⁴/30 of the fifth derivative and 1e-13 of rounding. Of many elements, some are looked at, and
    /// all together along a random direction.
    pub(crate) fn against_differences(&self) {
        let mut draw = Draw::new(77);
        let g = self.g(1);
        let with_gradients = value_and_gradients(&self.op, &self.arguments, &g);
        for (i, (x, gradient)) in self.arguments.iter().zip(&with_gradients[1..]).enumerate() {
            let n = x.elem_count();
            let basis = |e: usize| {
                let of = |j| f64::from(u8::from(j == e));
                Tensor::from_vec((0..n).map(of).collect(), x.shape(), &Device::Cpu).unwrap()
            };
            let few = n <= 24;
            let elements = if few {
                (0..n).collect()
            } else {
                vec![0, n - 1, draw.below(n), draw.below(n), draw.below(n)]
            };
            let mut directions: Vec<Tensor> = elements.into_iter().map(basis).collect();
            directions.push(draw.tensor(x.shape()));
            for direction in directions {
                let at = |h: f64| {
                    let mut moved = self.arguments.clone();
                    moved[i] = (x + (&direction * h).unwrap()).unwrap();
                    let y = (self.op)(&moved).unwrap();
                    numbers(&y).iter().zip(numbers(&g)).map(|(y, g)| y * g).sum::<f64>()
                };
                let h = 1e-3;
                let wanted = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                let along = numbers(gradient).into_iter().zip(numbers(&direction));
                let ours: f64 = along.map(|(g, d)| g * d).sum();
                let off = (ours - wanted).abs();
                let scale = largest(gradient).max(wanted.abs()).max(1e-3);
                assert!(
                    off <= 1e-8 * scale,
                    "{}: gradient of argument {i} is {ours}, and differences say {wanted}",
                    self.name
                );
            }
        }
    }

    /// Value and gradients: f64 to 1e-12 of the largest number, f32 to `ulps` times 2⁻²⁴ of it. Both against the composed
    /// ops in f64.
    pub(crate) fn against_composed(&self, ulps: f64) {
        let g = self.g(2);
        let wanted = value_and_gradients(&self.composed, &self.arguments, &g);
        let double = value_and_gradients(&self.op, &self.arguments, &g);
        let single = value_and_gradients(&self.op, &cast(&self.arguments, DType::F32), &g);
        let what = |i: usize| match i {
            0 => "value".to_owned(),
            i => format!("gradient of argument {}", i - 1),
        };
        for (i, wanted) in wanted.iter().enumerate() {
            let off = relative(&double[i], wanted);
            assert!(off < 1e-12, "{}, {}: f64 is off by {off:e}", self.name, what(i));
            assert_eq!(single[i].dtype(), DType::F32);
            let off = relative(&single[i], wanted) * 2f64.powi(24);
            assert!(off <= ulps, "{}, {}: f32 is off by {off} ulps", self.name, what(i));
        }
    }

    /// bf16 and f16 are the op in f32, rounded; so are the gradients.
    pub(crate) fn halves(&self) {
        let g = self.g(3);
        for half in [DType::BF16, DType::F16] {
            let narrow = cast(&self.arguments, half);
            let ours = value_and_gradients(&self.op, &narrow, &g.to_dtype(half).unwrap());
            let is_loss = ours[0].dtype() == DType::F32;
            let wide = cast(&narrow, DType::F32);
            // The gradient arrives in the dtype of the value: a loss is in f32.
            let g = if is_loss {
                g.to_dtype(half).unwrap().to_dtype(DType::F32).unwrap()
            } else {
                g.to_dtype(half).unwrap()
            };
            let wanted = value_and_gradients(&self.op, &wide, &g);
            for (i, (ours, wanted)) in ours.iter().zip(&wanted).enumerate() {
                let wanted =
                    if i == 0 && is_loss { wanted.clone() } else { wanted.to_dtype(half).unwrap() };
                assert_same(&format!("{} {half:?} {i}", self.name), ours, &wanted);
            }
        }
    }
}
