//! Initial weights from a seed.
//!
//! candle's CPU device cannot be seeded, so weights are drawn here: each parameter from its own
//! `ChaCha8` stream, chosen by the parameter's name. The same seed gives the same weights on every
//! machine, and a parameter added to a model does not change the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Error, Result, Shape, Tensor, Var};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal, StandardUniform};

/// Variables that come into being when a model first asks for them.
///
/// ```
/// use candle_core::{DType, Device};
/// use fadam_models::init::SeededVars;
///
/// let vars = SeededVars::new(7);
/// let vb = vars.builder(DType::F32, &Device::Cpu);
/// let _linear = candle_nn::linear(4, 2, vb.pp("head"))?;
/// let names: Vec<String> = vars.into_named().into_keys().collect();
/// assert_eq!(names, ["head.bias", "head.weight"]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SeededVars {
    seed: u64,
    limit: usize,
    vars: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl SeededVars {
    /// No variables yet; those to come are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, limit: usize::MAX, vars: Arc::default() }
    }

    /// No variables yet, and never more than this many numbers in all: for a model whose weights are somewhere already, where
    /// dimensions that ask for more are wrong.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use fadam_models::init::SeededVars;
    ///
    /// let vb = SeededVars::at_most(10).builder(DType::F32, &Device::Cpu);
    /// assert!(candle_nn::linear(4, 2, vb.pp("fits")).is_ok());
    /// let refused = candle_nn::linear(4, 2, vb.pp("more")).unwrap_err();
    /// assert!(refused.to_string().starts_with("more.weight: with its 8 numbers the model has more than 10"));
    /// ```
    pub fn at_most(numbers: usize) -> Self {
        Self { limit: numbers, ..Self::new(0) }
    }

    /// A builder that creates a variable at the first request for its name, and returns the same one
    /// (checking its shape) at the next: asking twice ties weights.
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// The variables created so far, by name.
    pub fn into_named(self) -> BTreeMap<String, Var> {
        self.vars.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl SimpleBackend for SeededVars {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        let mut vars = self.vars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(var) = vars.get(name) {
            if var.shape() == &s {
                return Ok(var.as_tensor().clone());
            }
            let (expected, got) = (s, var.shape().clone());
            let msg = format!("parameter {name:?} was created with another shape");
            return Err(Error::UnexpectedShape { msg, expected, got });
        }
        let numbers = s.dims().iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let taken: usize = vars.values().map(|var| var.elem_count()).sum();
        if numbers.and_then(|n| n.checked_add(taken)).is_none_or(|n| n > self.limit) {
            let (numbers, limit) =
                (numbers.map_or("countless".to_owned(), |n| n.to_string()), self.limit);
            return Err(Error::Msg(format!(
                "{name}: with its {numbers} numbers the model has more than {limit}"
            )));
        }
        let var = Var::from_tensor(&draw(self.seed, name, h, s, dev)?.to_dtype(dtype)?)?;
        let tensor = var.as_tensor().clone();
        vars.insert(name.to_owned(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _dtype: DType, _dev: &Device) -> Result<Tensor> {
        let vars = self.vars.lock().unwrap_or_else(PoisonError::into_inner);
        let var =
            vars.get(name).ok_or_else(|| Error::CannotFindTensor { path: name.into() }.bt())?;
        Ok(var.as_tensor().clone())
    }

    /// True for every name: what is asked for comes into being.
    fn contains_tensor(&self, _name: &str) -> bool {
        true
    }
}

/// The initial values of one parameter, f32.
fn draw(seed: u64, name: &str, init: Init, shape: Shape, device: &Device) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(fnv1a(name));
    let (centre, spread, dist) = match init {
        Init::Const(v) => return Tensor::full(v as f32, shape, device),
        Init::Randn { mean, stdev } => (mean, stdev, NormalOrUniform::Normal),
        // Uniform in centre ± spread.
        Init::Uniform { lo, up } => {
            (f64::midpoint(lo, up), (up - lo) / 2.0, NormalOrUniform::Uniform)
        }
        Init::Kaiming { dist, fan, non_linearity } => {
            let stdev = non_linearity.gain() / (fan.for_shape(&shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Normal => (0.0, stdev, dist),
                NormalOrUniform::Uniform => (0.0, 3f64.sqrt() * stdev, dist),
            }
        }
    };
    let values: Vec<f32> = (0..shape.elem_count())
        .map(|_| {
            let unit: f64 = match dist {
                NormalOrUniform::Normal => StandardNormal.sample(&mut rng),
                NormalOrUniform::Uniform => {
                    let u: f64 = StandardUniform.sample(&mut rng);
                    2.0 * u - 1.0
                }
            };
            (centre + spread * unit) as f32
        })
        .collect();
    Tensor::from_vec(values, shape, device)
}

/// FNV-1a, 64 bits: a stable number for a name. Source: Fowler, Noll, Vo,
/// <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
