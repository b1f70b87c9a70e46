//! `y = φ(x + b)`: a bias and an activation in one op.
//!
//! With g = ∂L/∂y: `∂L/∂x = g φ'(x + b)`, `∂L/∂b` its sum over rows. The activations and their derivatives at u = x + b:
//!
//! ```text
//! relu  max(0, u)                     [u > 0]
//! silu  u s,  s = 1/(1 + e⁻ᵘ)         s (1 + u (1 − s))
//! gelu  u (1 + t)/2                   (1 + t)/2 + u (1 − t²) a (1 + 3 c u²)/2     t = tanh(a (u + c u³)), a = √(2/π), c = 0.044715
//! tanh  t                             1 − t²
//! ```

use candle_core::{Result, Tensor};

use crate::gradients::give;
use crate::lanes::{Vectorised, vectorise};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, last_dim_is};
use crate::rows::{for_rows, sum_rows};

const NAME: &str = "bias_activation";

/// The activations of [`bias_activation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// max(0, u); its derivative at 0 is 0.
    Relu,
    /// u σ(u), also called swish (Ramachandran et al., arXiv 1710.05941).
    Silu,
    /// The Gaussian error linear unit in its tanh form (Hendrycks and Gimpel, arXiv 1606.08415).
    Gelu,
    /// tanh u
    Tanh,
}

impl Activation {
    /// Whether the derivative at u follows from φ(u).
    pub(crate) fn is_known_by_its_value(self) -> bool {
        matches!(self, Self::Relu | Self::Tanh)
    }
}

/// √(2/π) and the cubic coefficient of the tanh form of GELU.
const GELU: (f64, f64) = (0.797_884_560_802_865_4, 0.044_715);

/// `φ(x + b)` of `x [..., d]` and a bias `b [d]`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_ops::Activation;
///
/// let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
/// let b = Tensor::new(&[-3f32, 1.0], &Device::Cpu)?;
/// let y = fadam_ops::bias_activation(&x, &b, Activation::Relu)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[0.0, 3.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If `b` is not of the last dimension's size, or of another dtype or device.
pub fn bias_activation(x: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
    last_dim_is(NAME, x, "b", b)?;
    match Route::of(NAME, &[x, b])? {
        Route::Single => fused::<f32>(x, b, activation),
        Route::Double => fused::<f64>(x, b, activation),
        Route::Widened(wide) => {
            bias_activation(&x.to_dtype(wide)?, &b.to_dtype(wide)?, activation)?.to_dtype(x.dtype())
        }
        Route::Composed => composed(x, b, activation),
    }
}

/// As candle composes it, of any two tensors that it broadcasts.
pub(crate) fn composed(x: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
    let u = x.broadcast_add(b)?;
    match activation {
        Activation::Relu => u.relu(),
        Activation::Silu => u.silu(),
        // Not candle's gelu, whose backward pass has its constants to six digits.
        Activation::Gelu => {
            let inner = ((&u + (u.sqr()? * &u)?.affine(GELU.1, 0.0)?)? * GELU.0)?;
            (u * 0.5)? * (inner.tanh()? + 1.0)?
        }
        Activation::Tanh => u.tanh(),
    }
}

fn fused<T: Number>(x: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
    let d = b.elem_count();
    let y = read([x, b], |[x, b]: [&[T]; 2]| {
        let mut y = x.to_vec();
        for_rows(&mut y, d, |_, y| {
            y.chunks_exact_mut(d).for_each(|y| activate(y, b, activation));
        });
        y
    })?;
    let of = std::marker::PhantomData::<T>;
    node(NAME, [x, b], (y, x.shape().clone()), BiasActivation { activation, of })
}

struct BiasActivation<T> {
    activation: Activation,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<2> for BiasActivation<T> {
    fn backward(
        &self,
        [x, b]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let (d, activation) = (b.elem_count(), self.activation);
        let (dx, db) = read([x, b, g], |[x, b, g]: [&[T]; 3]| {
            let mut dx = x.to_vec();
            let db = sum_rows(&mut dx, d, d, |first, dx, db| {
                for (dx, g) in dx.chunks_exact_mut(d).zip(g[first * d..].chunks_exact(d)) {
                    reverse(dx, db, b, g, activation);
                }
            });
            (dx, db)
        })?;
        let db = give(b, db)?;
        Ok([Some(constant(dx, x.shape())?), db])
    }
}

/// `y = φ(y + b)`
pub(crate) fn activate<T: Number>(y: &mut [T], b: &[T], activation: Activation) {
    vectorise(Forward { y, b, activation });
}

/// `dx = g φ'(dx + b)`, where dx begins as x; `db += dx`
pub(crate) fn reverse<T: Number>(
    dx: &mut [T],
    db: &mut [T],
    b: &[T],
    g: &[T],
    activation: Activation,
) {
    vectorise(Reverse { dx, db, b, g, activation });
}

/// `dy = g φ'(u)`, where dy begins as y = φ(u), by which the activation must be known; `db += dy`
pub(crate) fn reverse_of_value<T: Number>(
    dy: &mut [T],
    db: &mut [T],
    g: &[T],
    activation: Activation,
) {
    vectorise(ReverseOfValue { dy, db, g, activation });
}

/// The work of [`activate`].
struct Forward<'a, T> {
    y: &'a mut [T],
    b: &'a [T],
    activation: Activation,
}

impl<T: Number> Vectorised for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let each = self.y.iter_mut().zip(self.b);
        // One loop an activation: a branch inside would keep the loop from being vectorised.
        match self.activation {
            Activation::Relu => each.for_each(|(y, b)| *y = (*y + *b).or_larger(T::zero())),
            Activation::Silu => each.for_each(|(y, b)| *y = silu(*y + *b).0),
            Activation::Gelu => each.for_each(|(y, b)| *y = gelu(*y + *b).0),
            Activation::Tanh => each.for_each(|(y, b)| *y = tanh(*y + *b)),
        }
    }
}

/// The work of [`reverse`].
struct Reverse<'a, T> {
    dx: &'a mut [T],
    db: &'a mut [T],
    b: &'a [T],
    g: &'a [T],
    activation: Activation,
}

impl<T: Number> Vectorised for Reverse<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let one = T::one();
        match self.activation {
            Activation::Relu => self.by(|u| if u > T::zero() { one } else { T::zero() }),
            Activation::Silu => self.by(|u| silu(u).1),
            Activation::Gelu => self.by(|u| gelu(u).1),
            Activation::Tanh => self.by(|u| one - tanh(u) * tanh(u)),
        }
    }
}

/// The work of [`reverse_of_value`].
struct ReverseOfValue<'a, T> {
    dy: &'a mut [T],
    db: &'a mut [T],
    g: &'a [T],
    activation: Activation,
}

impl<T: Number> Vectorised for ReverseOfValue<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let one = T::one();
        match self.activation {
            Activation::Relu => self.by(|y| if y > T::zero() { one } else { T::zero() }),
            Activation::Tanh => self.by(|y| one - y * y),
            Activation::Silu | Activation::Gelu => unreachable!("not known by their values"),
        }
    }
}

impl<T: Number> ReverseOfValue<'_, T> {
    #[inline(always)]
    fn by(self, derivative: impl Fn(T) -> T) {
        let Self { dy, db, g, .. } = self;
        for ((dy, db), g) in dy.iter_mut().zip(db).zip(g) {
            *dy = *g * derivative(*dy);
            *db += *dy;
        }
    }
}

impl<T: Number> Reverse<'_, T> {
    #[inline(always)]
    fn by(self, derivative: impl Fn(T) -> T) {
        let Self { dx, db, b, g, .. } = self;
        for ((dx, db), (b, g)) in dx.iter_mut().zip(db).zip(b.iter().zip(g)) {
            *dx = *g * derivative(*dx + *b);
            *db += *dx;
        }
    }
}

/// Value and derivative.
#[inline(always)]
fn silu<T: Number>(u: T) -> (T, T) {
    let one = T::one();
    let s = one / (one + (-u).exponential());
    (u * s, s * (one + u * (one - s)))
}

/// Value and derivative.
#[inline(always)]
fn gelu<T: Number>(u: T) -> (T, T) {
    let (a, c, half, one) = (T::of(GELU.0), T::of(GELU.1), T::of(0.5), T::one());
    let t = tanh(a * (u + c * u * u * u));
    let slope = a * (one + T::of(3.0) * c * u * u);
    (half * u * (one + t), half * (one + t) + half * u * (one - t * t) * slope)
}

/// `1 − 2/(e²ᵘ + 1)`: near 0 it has the absolute, not the relative precision of the type.
#[inline(always)]
pub(crate) fn tanh<T: Number>(u: T) -> T {
    let (one, two) = (T::one(), T::of(2.0));
    one - two / ((two * u).exponential() + one)
}
