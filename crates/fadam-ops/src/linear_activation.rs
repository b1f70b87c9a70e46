//! `y = φ(x Wᵀ + b)` as one op.
//!
//! With g = ∂L/∂y and u = x Wᵀ + b: `∂u = g φ'(u)`, `∂x = ∂u W`, `∂W = ∂uᵀ x`, `∂b = Σ ∂u` over rows. Of tanh and relu nothing is kept, since y
//! says what the derivative is, `1 − y²` and `[y > 0]`; of the others x Wᵀ is, and ∂u takes its place. As two ops, candle would keep
//! x Wᵀ in any case, and would copy its gradient onto a tensor of zeros.

use std::sync::Mutex;

use candle_core::{Result, Tensor, bail};

use crate::activation::{Activation, activate, composed, reverse, reverse_of_value};
use crate::gradients::give;
use crate::linear;
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, is_of_rows};
use crate::rows::{for_rows, sum_rows};

const NAME: &str = "linear_activation";

/// `φ(x Wᵀ + b)`: from `x [..., i]`, `w [o, i]` and `b [o]` to `[..., o]`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use fadam_ops::Activation;
///
/// let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
/// let w = Tensor::new(&[[3f32, 4.0], [5.0, 6.0]], &Device::Cpu)?;
/// let b = Tensor::new(&[-20f32, 3.0], &Device::Cpu)?;
/// let y = fadam_ops::linear_activation(&x, &w, &b, Activation::Relu)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[0.0, 20.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit, or dtypes or devices differ. Of silu and gelu, a second backward pass through the same result is refused.
pub fn linear_activation(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    is_of_rows(NAME, x, w)?;
    let o = w.dim(0)?;
    if b.dims() != [o] {
        bail!("{NAME}: b has shape {:?}, where w {:?} asks for [{o}]", b.dims(), w.dims());
    }
    match Route::of(NAME, &[x, w, b])? {
        Route::Single => fused::<f32>(x, w, b, activation),
        Route::Double => fused::<f64>(x, w, b, activation),
        Route::Widened(wide) => {
            let [x32, w, b] = [x.to_dtype(wide)?, w.to_dtype(wide)?, b.to_dtype(wide)?];
            linear_activation(&x32, &w, &b, activation)?.to_dtype(x.dtype())
        }
        Route::Composed => composed(&linear::linear(x, w, None)?, b, activation),
    }
}

fn fused<T: Number>(x: &Tensor, w: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
    let o = w.dim(0)?;
    let mut y = linear::product_of::<T>(x, w)?;
    let u = (!activation.is_known_by_its_value()).then(|| y.clone());
    read([b], |[b]: [&[T]; 1]| {
        for_rows(&mut y, o, |_, y| {
            y.chunks_exact_mut(o).for_each(|y| activate(y, b, activation));
        });
    })?;
    let backward = LinearActivation { u: Mutex::new(u), activation };
    node(NAME, [x, w, b], (y, linear::shape_of(x, o)), backward)
}

struct LinearActivation<T> {
    /// x Wᵀ, where it is kept.
    u: Mutex<Option<Vec<T>>>,
    activation: Activation,
}

impl<T: Number> LinearActivation<T> {
    /// What becomes ∂u: y, or x Wᵀ.
    fn kept(&self, y: &Tensor) -> Result<Vec<T>> {
        if self.activation.is_known_by_its_value() {
            return read([y], |[y]: [&[T]; 1]| y.to_vec());
        }
        let u = self.u.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match u {
            Some(u) => Ok(u),
            None => bail!("{NAME}: a second backward pass; compute the result again"),
        }
    }
}

impl<T: Number> Backward<3> for LinearActivation<T> {
    fn backward(
        &self,
        [x, w, b]: [&Tensor; 3],
        y: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (o, activation) = (b.elem_count(), self.activation);
        let mut du = self.kept(y)?;
        let db = read([b, g], |[b, g]: [&[T]; 2]| {
            sum_rows(&mut du, o, o, |first, du, db| {
                for (du, g) in du.chunks_exact_mut(o).zip(g[first * o..].chunks_exact(o)) {
                    if activation.is_known_by_its_value() {
                        reverse_of_value(du, db, g, activation);
                    } else {
                        reverse(du, db, b, g, activation);
                    }
                }
            })
        })?;
        let [dx, dw] = linear::gradients::<T>(x, w, &constant(du, y.shape())?)?;
        Ok([dx, dw, give(b, db)?])
    }
}
