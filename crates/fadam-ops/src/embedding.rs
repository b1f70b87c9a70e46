//! Rows of a table, and a backward pass that touches those rows alone.

use candle_core::{DType, Result, Tensor, bail};

use crate::gradients::accumulate;
use crate::matrix::Into;
use crate::number::Number;
use crate::op::{Backward, node, read};
use crate::route::{Route, matrix};
use crate::rows::new_rows;

const NAME: &str = "embedding";

/// Row `ids[i]` of `w [V, d]` for each id: from ids `[...]` (u32) to `[..., d]`.
///
/// In [`backward`](crate::backward), rows are added to the gradient of `w` in place: a step over few tokens of a large
/// vocabulary costs what those tokens cost.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
///
/// let w = Var::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
/// let ids = Tensor::new(&[1u32, 1, 0], &Device::Cpu)?;
/// let x = fadam_ops::embedding(&ids, &w)?;
/// assert_eq!(x.to_vec2::<f32>()?, [[3.0, 4.0], [3.0, 4.0], [1.0, 2.0]]);
/// let gradients = fadam_ops::backward(&x.sum_all()?)?;
/// assert_eq!(gradients.get(&w).unwrap().to_vec2::<f32>()?, [[1.0, 1.0], [2.0, 2.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// An id that is no row of `w`: its place and value.
pub fn embedding(ids: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (rows, d) = matrix(NAME, "w", w)?;
    if ids.dtype() != DType::U32 {
        bail!("{NAME}: ids are {:?}, not u32", ids.dtype());
    }
    let shape: Vec<usize> = ids.dims().iter().copied().chain([d]).collect();
    let route = Route::of(NAME, &[w])?;
    if route == Route::Composed {
        return w.index_select(&ids.flatten_all()?, 0)?.reshape(shape);
    }
    let ids: Vec<u32> = ids.flatten_all()?.to_vec1()?;
    if let Some((place, id)) = (0..).zip(&ids).find(|(_, id)| **id as usize >= rows) {
        bail!("{NAME}: id {id} at place {place}, and the table has {rows} rows");
    }
    match route {
        Route::Double => fused::<f64>(ids, w, shape),
        Route::Single => fused::<f32>(ids, w, shape),
        _ => fused::<f32>(ids, &w.to_dtype(DType::F32)?, shape)?.to_dtype(w.dtype()),
    }
}

fn fused<T: Number>(ids: Vec<u32>, w: &Tensor, shape: Vec<usize>) -> Result<Tensor> {
    let d = w.dim(1)?;
    let x = read([w], |[w]: [&[T]; 1]| {
        new_rows(ids.len() * d, d, |first, x| {
            for (x, id) in x.chunks_exact_mut(d).zip(&ids[first..]) {
                x.copy_from_slice(&w[*id as usize * d..][..d]);
            }
        })
    })?;
    let of = std::marker::PhantomData;
    node(NAME, [w], (x, shape.into()), Embedding::<T> { ids, of })
}

struct Embedding<T> {
    ids: Vec<u32>,
    of: std::marker::PhantomData<T>,
}

impl<T: Number> Backward<1> for Embedding<T> {
    fn backward(&self, [w]: [&Tensor; 1], _: &Tensor, g: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let d = w.dim(1)?;
        let dw = read([g], |[g]: [&[T]; 1]| {
            accumulate(w, |dw, into| {
                if into == Into::Overwrite {
                    dw.fill(T::zero());
                }
                // An empty g of empty rows has nothing to add.
                for (g, id) in g.chunks_exact(d.max(1)).zip(&self.ids) {
                    let row = &mut dw[*id as usize * d..][..d];
                    row.iter_mut().zip(g).for_each(|(dw, g)| *dw += *g);
                }
            })
        })??;
        Ok([dw])
    }
}
