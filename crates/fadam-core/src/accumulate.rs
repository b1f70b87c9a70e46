//! Gradients of several micro-batches as those of one batch, and the norm of all gradients.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};

use crate::inplace::{self, Op};
use crate::{Error, Gradients, Result};

/// Means over micro-batches: of the gradient, and if asked of its square.
///
/// With weights `w_k` (1 for [`add`](Self::add)) and the gradients `g_k` of the mean loss of micro-batch k,
///
/// ```text
/// g = Σ w_k g_k / Σ w_k        squares = Σ w_k g_k² / Σ w_k
/// ```
///
/// g is the gradient of the whole batch: weight each micro-batch by what its loss is the mean of (sequences,
/// tokens) if they are not equally large. The squares are the micro-batch estimate of the diagonal FIM, equations
/// 20 and 57 of the paper: `E[(∇ log P)²]` with a micro-batch in the place of a sample, where Adam and
/// FAdam as printed square the mean (equation 21). They are never less than g². Of micro-batches of b samples
/// each they are, near an optimum, 1/b of the FIM of single samples, whatever the number of micro-batches;
/// where the weights differ so does b, and the squares are of a size between.
///
/// Each micro-batch moves the means by its share `w_k / (w_1 + … + w_k)` of the way: a repeated one changes
/// nothing, not even by rounding. They are kept in f64 for f64 gradients and in f32 for f32, bf16 and f16:
/// what one of a hundred micro-batches adds is lost in a bf16. On the CPU they are moved in place and on all
/// threads, with the same bits whatever their number. NaN and infinity are passed on, for the step to report.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_core::{Accumulator, Gradients};
///
/// let mut accumulator = Accumulator::with_squares();
/// for numbers in [[1f32, -2.0], [3.0, 2.0]] {
///     let g = Tensor::new(&numbers, &Device::Cpu)?;
///     accumulator.add(&Gradients::from([("w".to_owned(), g)]))?;
/// }
/// let mean = accumulator.finish()?;
/// assert_eq!(mean.gradients["w"].to_vec1::<f32>()?, [2.0, 0.0]);
/// assert_eq!(mean.squares.unwrap()["w"].to_vec1::<f32>()?, [5.0, 4.0]);
/// assert_eq!(accumulator.count(), 0); // ready for the next batch
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Accumulator {
    means: BTreeMap<String, Means>,
    /// Buffers that the last batch left, in another dtype than its gradients.
    spare: BTreeMap<String, Var>,
    squares: bool,
    /// Σw since the last [`finish`](Self::finish).
    weight: f64,
    count: u64,
}

/// The means of one parameter so far.
#[derive(Debug)]
struct Means {
    /// That of the gradients.
    dtype: DType,
    gradient: Var,
    square: Option<Var>,
}

/// What an [`Accumulator`] gives: means over the micro-batches.
#[derive(Debug, Clone)]
pub struct Accumulated {
    /// `Σ w g / Σ w`, in the dtype of the first micro-batch's gradient.
    pub gradients: Gradients,
    /// `Σ w g² / Σ w`, in the dtype that means are kept in (f64 for f64 gradients, else f32), if it was
    /// [asked for](Accumulator::with_squares).
    pub squares: Option<Gradients>,
}

impl Accumulator {
    /// An accumulator of gradients.
    pub fn new() -> Self {
        Self::default()
    }

    /// An accumulator of gradients and of their squares.
    pub fn with_squares() -> Self {
        Self { squares: true, ..Self::default() }
    }

    /// Adds the gradients of one micro-batch with weight 1.
    ///
    /// # Errors
    /// Those of [`add_weighted`](Self::add_weighted).
    pub fn add(&mut self, gradients: &Gradients) -> Result<()> {
        self.add_weighted(gradients, 1.0)
    }

    /// Adds the gradients of one micro-batch with a weight: the number of tokens, say, that its loss is the
    /// mean of. The first micro-batch of a batch says which names and shapes there are. A gradient of another
    /// dtype than the first one's is converted.
    ///
    /// # Errors
    /// [`Error::Config`] for a weight that is not above 0 and finite (a micro-batch without a token is to be left
    /// out), [`Error::UnsupportedDType`] for a gradient that is not floating point; and where the first
    /// micro-batch had others, [`Error::UnknownParameter`], [`Error::MissingGradient`] (all names) or
    /// [`Error::GradientShape`], or candle's error for another device. Nothing is changed then.
    pub fn add_weighted(&mut self, gradients: &Gradients, weight: f64) -> Result<()> {
        if !(weight > 0.0 && weight.is_finite()) {
            let expected = "above 0 and finite; leave an empty micro-batch out";
            return Err(Error::Config { field: "weight", value: weight, expected });
        }
        for (name, g) in gradients {
            mean_dtype(name, g.dtype())?;
        }
        let total = self.weight + weight;
        let (linear, square) = if self.count == 0 {
            self.begin(gradients)?;
            (Op::Store, Op::StoreSquare)
        } else {
            self.check(gradients)?;
            let share = weight / total;
            (Op::Approach { share }, Op::ApproachSquare { share })
        };
        for (means, g) in self.means.values().zip(gradients.values()) {
            linear.apply(&means.gradient, g)?;
            if let Some(mean) = &means.square {
                square.apply(mean, g)?;
            }
        }
        self.weight = total;
        self.count += 1;
        Ok(())
    }

    /// Room for the means of these gradients.
    fn begin(&mut self, gradients: &Gradients) -> Result<()> {
        let mut means = BTreeMap::new();
        for (name, g) in gradients {
            let dtype = mean_dtype(name, g.dtype())?;
            let room = || Var::zeros(g.shape(), dtype, g.device());
            let gradient = match self.spare.get(name) {
                Some(spare) if fits(spare, g) && spare.dtype() == dtype => spare.clone(),
                _ => room()?,
            };
            let square = if self.squares { Some(room()?) } else { None };
            means.insert(name.clone(), Means { dtype: g.dtype(), gradient, square });
        }
        self.means = means;
        self.spare.clear();
        Ok(())
    }

    /// Whether these are gradients of the same parameters as the first micro-batch's.
    fn check(&self, gradients: &Gradients) -> Result<()> {
        if let Some(name) = gradients.keys().find(|name| !self.means.contains_key(*name)) {
            return Err(Error::UnknownParameter { name: name.clone() });
        }
        let missing: Vec<String> =
            self.means.keys().filter(|name| !gradients.contains_key(*name)).cloned().collect();
        if !missing.is_empty() {
            return Err(Error::MissingGradient { names: missing });
        }
        for ((name, g), Means { gradient: mean, .. }) in gradients.iter().zip(self.means.values()) {
            if g.shape() != mean.shape() {
                let (expected, got) = (mean.shape().clone(), g.shape().clone());
                return Err(Error::GradientShape { name: name.clone(), expected, got });
            }
            if !fits(mean, g) {
                let (own, got) = (mean.device().location(), g.device().location());
                let text = format!("the gradient of {name:?} is on {got:?}, the first on {own:?}");
                return Err(Error::Candle(candle_core::Error::msg(text)));
            }
        }
        Ok(())
    }

    /// The number of micro-batches since the last [`finish`](Self::finish).
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The means over the micro-batches. The accumulator is empty afterwards; it keeps its buffers where they
    /// are not what is handed out, which is for bf16 and f16 gradients.
    ///
    /// # Errors
    /// candle's, if no micro-batch was added.
    pub fn finish(&mut self) -> Result<Accumulated> {
        if self.count == 0 {
            let text = "no micro-batch was added: there is no mean of nothing";
            return Err(Error::Candle(candle_core::Error::msg(text)));
        }
        let mut gradients = Gradients::new();
        let mut squares = Gradients::new();
        for (name, Means { dtype, gradient, square }) in std::mem::take(&mut self.means) {
            let handed_out = if gradient.dtype() == dtype {
                gradient
            } else {
                let rounded = Var::zeros(gradient.shape(), dtype, gradient.device())?;
                Op::Store.apply(&rounded, &gradient)?;
                self.spare.insert(name.clone(), gradient);
                rounded
            };
            gradients.insert(name.clone(), handed_out.as_detached_tensor());
            if let Some(square) = square {
                squares.insert(name, square.as_detached_tensor());
            }
        }
        self.weight = 0.0;
        self.count = 0;
        Ok(Accumulated { gradients, squares: self.squares.then_some(squares) })
    }
}

/// Whether a gradient can be taken into this mean.
fn fits(mean: &Var, g: &Tensor) -> bool {
    mean.shape() == g.shape() && mean.device().same_device(g.device())
}

/// What the mean of gradients of this dtype is kept in.
fn mean_dtype(name: &str, dtype: DType) -> Result<DType> {
    match dtype {
        DType::F64 => Ok(DType::F64),
        DType::F32 | DType::F16 | DType::BF16 => Ok(DType::F32),
        _ => Err(Error::UnsupportedDType { name: name.into(), dtype }),
    }
}

/// The Euclidean norm of all gradients together, `√ΣΣg²`, in f64 whatever their dtypes: what clipping by the
/// global norm compares with its bound. (Pascanu et al., arXiv 1211.5063, section 3.2. The paper clips
/// otherwise: by the RMS of each natural gradient.)
///
/// Squares neither overflow nor vanish unless the norm itself does. On the CPU all threads take part, and the bits
/// do not depend on their number. 0 without gradients; not finite if one of them is not.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_core::{Gradients, global_norm};
///
/// let g = |numbers: &[f32]| Tensor::new(numbers, &Device::Cpu);
/// let mut gradients =
///     Gradients::from([("a".to_owned(), g(&[2.0, 4.0])?), ("b".to_owned(), g(&[4.0])?)]);
/// let norm = global_norm(&gradients)?;
/// assert_eq!(norm, 6.0);
/// let bound = 3.0;
/// if norm > bound {
///     for g in gradients.values_mut() {
///         *g = (&*g * (bound / norm))?;
///     }
/// }
/// assert_eq!(global_norm(&gradients)?, 3.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnsupportedDType`] for a gradient that is not floating point.
pub fn global_norm(gradients: &Gradients) -> Result<f64> {
    norm_of(gradients)
}

/// [`global_norm`] of some gradients by name.
pub(crate) fn norm_of<'a>(
    gradients: impl IntoIterator<Item = (&'a String, &'a Tensor)>,
) -> Result<f64> {
    let mut norm = 0f64;
    for (name, g) in gradients {
        mean_dtype(name, g.dtype())?;
        norm = norm.hypot(inplace::norm(g)?);
    }
    Ok(norm)
}
