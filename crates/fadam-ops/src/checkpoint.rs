//! Activation checkpointing (Chen et al., arXiv 1604.06174): a part of the network is computed again in the backward pass
//! instead of kept.
//!
//! Forward, `y = f(x)` outside of the graph. Backward, with g = ∂L/∂y: f(x) once more, inside a graph of its own, whose loss
//! `Σ f(x) ∘ g` has the gradients that L has, of x and of every variable in f. The gradient that f(x) receives there is g,
//! multiplied by 1, so that the result is the same bits as without checkpointing.

use std::sync::Mutex;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor, Var,
    bail,
};

use crate::gradients::{collect, is_collecting};

const NAME: &str = "checkpoint";

/// `f(x)`, of which nothing is kept but x and the result: f is computed again in the backward pass, which must be
/// [`backward`](crate::backward).
///
/// f must give the same every time (dropout from a seed does) and depend on no tensor with a gradient but x and variables.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
///
/// let x = Var::new(&[[1f32, 2.0]], &Device::Cpu)?;
/// let w = Var::new(&[[3f32, 4.0], [5.0, 6.0]], &Device::Cpu)?;
/// let weight = w.as_tensor().clone();
/// let layer = move |x: &Tensor| fadam_ops::linear(x, &weight, None)?.sqr();
/// let kept = fadam_ops::backward(&layer(&x)?.sum_all()?)?;
/// let again = fadam_ops::backward(&fadam_ops::checkpoint(&x, layer)?.sum_all()?)?;
/// for var in [&x, &w] {
///     let values = |g: &candle_core::backprop::GradStore| g.get(var).unwrap().to_vec2::<f32>();
///     assert_eq!(values(&kept)?, values(&again)?);
/// }
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// Those of f; in the backward pass, if that is not [`backward`](crate::backward).
pub fn checkpoint(
    x: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let value = f(&x.detach())?.detach();
    x.apply_op1(Checkpoint { f, value: Mutex::new(Some(value)) })
}

struct Checkpoint<F> {
    f: F,
    /// On its way into the graph.
    value: Mutex<Option<Tensor>>,
}

impl<F> Checkpoint<F> {
    fn take(&self) -> Result<Tensor> {
        let value = self.value.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(value) = value else { bail!("{NAME}: its value was taken before") };
        value.contiguous()
    }
}

impl<F: Fn(&Tensor) -> Result<Tensor>> CustomOp1 for Checkpoint<F> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("{NAME}: f changed the device") };
        Ok((storage.try_clone(layout)?, value.shape().clone()))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("{NAME}: f changed the device") };
        Ok((storage.try_clone(layout)?, value.shape().clone()))
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Metal(storage) = &*storage else { bail!("{NAME}: f changed the device") };
        Ok((storage.try_clone(layout)?, value.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        if !is_collecting() {
            bail!(
                "{NAME}: use fadam_ops::backward, which collects the gradients of variables inside of f"
            );
        }
        let x = Var::from_tensor(&x.detach())?;
        let mut gradients = ((self.f)(&x)? * g)?.sum_all()?.backward()?;
        let dx = gradients.remove(&x);
        collect(&gradients)?;
        Ok(dx)
    }
}
