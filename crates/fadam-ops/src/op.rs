//! How a fused op enters candle's graph: the value is computed first, and [`node`] makes it a tensor with a
//! backward pass of its own.

use std::sync::Mutex;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, WithDType,
    bail,
};

/// From the arguments, the value and the value's gradient to the gradients of the arguments; `None` for an argument that
/// has none, or whose gradient went to where [`backward`](crate::backward) collects them.
pub(crate) trait Backward<const N: usize>: Send + Sync + 'static {
    fn backward(
        &self,
        arguments: [&Tensor; N],
        value: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Option<Tensor>; N]>;
}

/// A value, on its way into the graph.
struct Node<B> {
    name: &'static str,
    value: Mutex<Option<(CpuStorage, Shape)>>,
    backward: B,
}

impl<B> Node<B> {
    fn new<T: WithDType>(name: &'static str, value: Vec<T>, shape: Shape, backward: B) -> Self {
        let value = Mutex::new(Some((T::to_cpu_storage_owned(value), shape)));
        Self { name, value, backward }
    }

    fn take(&self) -> Result<(CpuStorage, Shape)> {
        let mut value = self.value.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(value) = value.take() else { bail!("{}: its value was taken before", self.name) };
        Ok(value)
    }
}

/// `value`, of this shape, as the result of an op on the arguments.
pub(crate) fn node<T: WithDType, B: Backward<N>, const N: usize>(
    name: &'static str,
    arguments: [&Tensor; N],
    (value, shape): (Vec<T>, Shape),
    backward: B,
) -> Result<Tensor>
where
    Arguments<N>: Apply<B>,
{
    Arguments::<N>::apply(&arguments, Node::new(name, value, shape, backward))
}

/// One, two or three arguments, as candle's custom ops have.
pub(crate) struct Arguments<const N: usize>;

#[allow(private_interfaces, reason = "only `node` calls it")]
pub(crate) trait Apply<B> {
    fn apply(arguments: &[&Tensor], node: Node<B>) -> Result<Tensor>;
}

#[allow(private_interfaces, reason = "as the trait")]
impl<B: Backward<1>> Apply<B> for Arguments<1> {
    fn apply(arguments: &[&Tensor], node: Node<B>) -> Result<Tensor> {
        arguments[0].apply_op1(node)
    }
}

#[allow(private_interfaces, reason = "as the trait")]
impl<B: Backward<2>> Apply<B> for Arguments<2> {
    fn apply(arguments: &[&Tensor], node: Node<B>) -> Result<Tensor> {
        arguments[0].apply_op2(arguments[1], node)
    }
}

#[allow(private_interfaces, reason = "as the trait")]
impl<B: Backward<3>> Apply<B> for Arguments<3> {
    fn apply(arguments: &[&Tensor], node: Node<B>) -> Result<Tensor> {
        arguments[0].apply_op3(arguments[1], arguments[2], node)
    }
}

impl<B: Backward<1>> CustomOp1 for Node<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, a: &Tensor, value: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let [a] = gradients(&self.backward, [a], value, gradient)?;
        Ok(a)
    }
}

impl<B: Backward<2>> CustomOp2 for Node<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        value: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok(gradients(&self.backward, [a, b], value, gradient)?.into())
    }
}

impl<B: Backward<3>> CustomOp3 for Node<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        value: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok(gradients(&self.backward, [a, b, c], value, gradient)?.into())
    }
}

/// Those of the arguments that ask for one: candle would keep the others as well, for nobody.
fn gradients<const N: usize>(
    backward: &impl Backward<N>,
    arguments: [&Tensor; N],
    value: &Tensor,
    gradient: &Tensor,
) -> Result<[Option<Tensor>; N]> {
    let mut all = backward.backward(arguments, value, gradient)?;
    for (gradient, argument) in all.iter_mut().zip(arguments) {
        *gradient = gradient.take().filter(|_| argument.track_op());
    }
    Ok(all)
}

/// Runs `f` on the elements of CPU tensors, in row-major order; a tensor that is not contiguous is copied first.
pub(crate) fn read<T: WithDType, R, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[T]; N]) -> R,
) -> Result<R> {
    let tensors = tensors.iter().map(|x| x.contiguous()).collect::<Result<Vec<_>>>()?;
    let locked: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[T]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&locked) {
        let Storage::Cpu(storage) = &**storage else { bail!("a tensor that is not on the CPU") };
        let start = layout.start_offset();
        *slice = &T::cpu_storage_as_slice(storage)?[start..start + layout.shape().elem_count()];
    }
    Ok(f(slices))
}

/// A tensor of these elements on the CPU, outside of the graph.
pub(crate) fn constant<T: WithDType>(values: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
}
