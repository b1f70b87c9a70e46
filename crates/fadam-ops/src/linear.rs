//! `y = x Wᵀ + b`.
//!
//! With g = ∂L/∂y: `∂L/∂x = g W`, `∂L/∂W = gᵀ x`, `∂L/∂b = Σ g` over rows.

use candle_core::{D, Result, Shape, Tensor, bail};

use crate::gradients::{accumulate, give};
use crate::matrix::{Matrix, Threads, product, product_into, transposed};
use crate::number::Number;
use crate::op::{Backward, constant, node, read};
use crate::route::{Route, is_of_rows};
use crate::rows::{for_rows, sum_rows};

const NAME: &str = "linear";

/// Rows of x below which W is read as it lies: to transpose it would cost more than the product.
const FEW: usize = 8;

/// `x Wᵀ + b`: from `x [..., i]`, `w [o, i]` and `b [o]` to `[..., o]`.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
/// let w = Tensor::new(&[[3f32, 4.0], [5.0, 6.0]], &Device::Cpu)?;
/// let b = Tensor::new(&[100f32, 200.0], &Device::Cpu)?;
/// assert_eq!(fadam_ops::linear(&x, &w, Some(&b))?.to_vec2::<f32>()?, [[111.0, 217.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit, or dtypes or devices differ.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    is_of_rows(NAME, x, w)?;
    if let Some(b) = b
        && b.dims() != [w.dim(0)?]
    {
        bail!(
            "{NAME}: b has shape {:?}, where w {:?} asks for [{}]",
            b.dims(),
            w.dims(),
            w.dim(0)?
        );
    }
    let arguments: Vec<&Tensor> = [x, w].into_iter().chain(b).collect();
    match Route::of(NAME, &arguments)? {
        Route::Single => fused::<f32>(x, w, b),
        Route::Double => fused::<f64>(x, w, b),
        Route::Widened(wide) => {
            let b = b.map(|b| b.to_dtype(wide)).transpose()?;
            linear(&x.to_dtype(wide)?, &w.to_dtype(wide)?, b.as_ref())?.to_dtype(x.dtype())
        }
        Route::Composed => {
            let width = x.dim(D::Minus1)?;
            let y = x.reshape(((), width))?.matmul(&w.t()?)?.reshape(shape_of(x, w.dim(0)?))?;
            b.map_or(Ok(y.clone()), |b| y.broadcast_add(b))
        }
    }
}

/// That of x, with o for the last dimension.
pub(crate) fn shape_of(x: &Tensor, o: usize) -> Shape {
    let before = &x.dims()[..x.rank().saturating_sub(1)];
    before.iter().copied().chain([o]).collect::<Vec<_>>().into()
}

/// `x Wᵀ`
pub(crate) fn product_of<T: Number>(x: &Tensor, w: &Tensor) -> Result<Vec<T>> {
    let (o, i) = w.dims2()?;
    read([x, w], |[x, w]: [&[T]; 2]| {
        let (x, w) = (Matrix::new(x, x.len() / i, i), Matrix::new(w, o, i));
        if x.rows < FEW {
            return product(x, w.t(), T::one(), Threads::One);
        }
        let w = transposed(w.data, o, i);
        product(x, Matrix::new(&w, i, o), T::one(), Threads::All)
    })
}

fn fused<T: Number>(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let o = w.dim(0)?;
    let mut y = product_of::<T>(x, w)?;
    let shape = shape_of(x, o);
    let of = std::marker::PhantomData;
    let Some(b) = b else {
        return node(NAME, [x, w], (y, shape), Linear::<T> { of });
    };
    read([b], |[b]: [&[T]; 1]| {
        for_rows(&mut y, o, |_, y| {
            for y in y.chunks_exact_mut(o) {
                y.iter_mut().zip(b).for_each(|(y, b)| *y += *b);
            }
        });
    })?;
    node(NAME, [x, w, b], (y, shape), Linear::<T> { of })
}

struct Linear<T> {
    of: std::marker::PhantomData<T>,
}

/// `∂L/∂x` and `∂L/∂W`
pub(crate) fn gradients<T: Number>(
    x: &Tensor,
    w: &Tensor,
    g: &Tensor,
) -> Result<[Option<Tensor>; 2]> {
    let (o, i) = w.dims2()?;
    let rows = x.elem_count() / i;
    let of_x = || {
        let dx = read([w, g], |[w, g]: [&[T]; 2]| {
            product(Matrix::new(g, rows, o), Matrix::new(w, o, i), T::one(), Threads::All)
        })?;
        constant(dx, x.shape())
    };
    let of_w = || {
        read([x, g], |[x, g]: [&[T]; 2]| {
            let (x, g) = (Matrix::new(x, rows, i), Matrix::new(g, rows, o));
            accumulate(w, |dw, into| product_into(g.t(), x, T::one(), dw, i, into, Threads::All))
        })?
    };
    // A product is not made for what asks for no gradient: data, or a frozen weight.
    let dx = if x.track_op() { Some(of_x()?) } else { None };
    let dw = if w.track_op() { of_w()? } else { None };
    Ok([dx, dw])
}

impl<T: Number> Backward<2> for Linear<T> {
    fn backward(
        &self,
        [x, w]: [&Tensor; 2],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        gradients::<T>(x, w, g)
    }
}

impl<T: Number> Backward<3> for Linear<T> {
    fn backward(
        &self,
        [x, w, b]: [&Tensor; 3],
        _: &Tensor,
        g: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let [dx, dw] = gradients::<T>(x, w, g)?;
        let o = b.elem_count();
        let db = read([g], |[g]: [&[T]; 1]| {
            // Only the sum is wanted: the rows are one element each.
            let mut rows = vec![(); g.len() / o.max(1)];
            sum_rows(&mut rows, 1, o, |first, rows, sum: &mut [T]| {
                for g in g[first * o..].chunks_exact(o).take(rows.len()) {
                    sum.iter_mut().zip(g).for_each(|(sum, g)| *sum += *g);
                }
            })
        })?;
        let db = give(b, db)?;
        Ok([dx, dw, db])
    }
}
