//! Gradients of weights, added up in place.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Result, Shape, Tensor, TensorId, bail};

use crate::matrix::Into;
use crate::number::Number;
use crate::op::constant;
use crate::rows::add;

/// The gradients of one backward pass so far.
#[derive(Default)]
struct Collected {
    /// Of variables in this crate's ops, added up in place.
    buffers: HashMap<TensorId, (CpuStorage, Shape)>,
    /// Of variables in candle's ops inside of a [`checkpoint`](crate::checkpoint), and on other devices.
    tensors: HashMap<TensorId, Tensor>,
}

impl Collected {
    /// All of them, onto those of a store.
    fn add_to(self, gradients: &mut GradStore) -> Result<()> {
        let buffers = self.buffers.into_iter().map(|(id, (storage, shape))| match storage {
            CpuStorage::F64(values) => Ok((id, constant(values, shape)?)),
            CpuStorage::F32(values) => Ok((id, constant(values, shape)?)),
            _ => bail!("a gradient that is neither f32 nor f64"),
        });
        for collected in buffers.chain(self.tensors.into_iter().map(Ok)) {
            let (id, collected) = collected?;
            let total = match gradients.get_id(id) {
                Some(other) => (other + collected)?,
                None => collected,
            };
            gradients.insert_id(id, total);
        }
        Ok(())
    }
}

/// Whether this thread is in [`backward`].
pub(crate) fn is_collecting() -> bool {
    COLLECTED.with_borrow(Option::is_some)
}

/// Adds the gradients of a part of the network to those of the whole.
pub(crate) fn collect(gradients: &GradStore) -> Result<()> {
    COLLECTED.with_borrow_mut(|all| {
        let Some(all) = all else { return Ok(()) };
        for id in gradients.get_ids() {
            let Some(g) = gradients.get_id(*id) else { continue };
            let total = match all.tensors.remove(id) {
                Some(other) => (other + g)?,
                None => g.clone(),
            };
            all.tensors.insert(*id, total);
        }
        Ok(())
    })
}

thread_local! {
    /// Of the backward pass that this thread is in.
    static COLLECTED: RefCell<Option<Collected>> = const { RefCell::new(None) };
}

/// `loss.backward()`, with the gradients of weights added up in place: the same gradients, sooner and in less memory.
///
/// candle adds up gradients by new tensors: each use of a weight costs a tensor of zeros and a sum, of the weight's size. In
/// here, ops of this crate add to one buffer a variable instead. Plain `loss.backward()` works as well.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
///
/// let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
/// let w = Var::new(&[[3f32, 4.0]], &Device::Cpu)?;
/// let loss = fadam_ops::linear(&x, &w, None)?.sum_all()?;
/// let gradients = fadam_ops::backward(&loss)?;
/// assert_eq!(gradients.get(&w).unwrap().to_vec2::<f32>()?, [[1.0, 2.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As `backward`; inside of another such call on the same thread.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            COLLECTED.take();
        }
    }
    if is_collecting() {
        bail!("fadam_ops::backward inside of fadam_ops::backward");
    }
    COLLECTED.set(Some(Collected::default()));
    let ended = Ended;
    let mut gradients = loss.backward()?;
    let collected = COLLECTED.take().unwrap_or_default();
    drop(ended);
    collected.add_to(&mut gradients)?;
    Ok(gradients)
}

/// The gradient of `weight` from one use of it. `f` writes it to a buffer of the weight's size, or adds it there: to the buffer
/// where [`backward`] collects this variable's gradients, and then nothing is returned.
pub(crate) fn accumulate<T: Number>(
    weight: &Tensor,
    f: impl FnOnce(&mut [T], Into),
) -> Result<Option<Tensor>> {
    update(weight, |collected| {
        let into = if collected.is_some() { Into::Add } else { Into::Overwrite };
        let mut gradient = collected.unwrap_or_else(|| vec![T::zero(); weight.elem_count()]);
        f(&mut gradient, into);
        gradient
    })
}

/// The same of a gradient that is there already.
pub(crate) fn give<T: Number>(weight: &Tensor, gradient: Vec<T>) -> Result<Option<Tensor>> {
    update(weight, |collected| match collected {
        None => gradient,
        Some(mut sum) => {
            add(&mut sum, &gradient);
            sum
        }
    })
}

/// `f` makes the sum from what was collected so far.
fn update<T: Number>(
    weight: &Tensor,
    f: impl FnOnce(Option<Vec<T>>) -> Vec<T>,
) -> Result<Option<Tensor>> {
    if !weight.is_variable() || !is_collecting() {
        return Ok(Some(constant(f(None), weight.shape())?));
    }
    // Not borrowed while f runs: it may run other tasks of the pool.
    let before = COLLECTED.with_borrow_mut(|all| all.as_mut()?.buffers.remove(&weight.id()));
    let before = before.map(|(storage, _)| T::cpu_storage_data(storage)).transpose()?;
    let storage = T::to_cpu_storage_owned(f(before));
    COLLECTED.with_borrow_mut(|all| {
        all.as_mut().map(|all| {
            let gradient = (storage, weight.shape().clone());
            all.buffers.insert(weight.id(), gradient)
        })
    });
    Ok(None)
}
