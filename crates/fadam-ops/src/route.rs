//! Which implementation an op takes, and the checks that all ops share.

use candle_core::{DType, Result, Tensor, bail};

/// How an op is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Fused, in f32, on the CPU.
    Single,
    /// Fused, in f64, on the CPU.
    Double,
    /// bf16 and f16 on the CPU: in this wider dtype, and rounded back.
    Widened(DType),
    /// On a device: composed of candle's differentiable ops.
    Composed,
}

impl Route {
    /// The route of an op on these tensors.
    ///
    /// # Errors
    /// If they are not all floats of one dtype on one device.
    pub(crate) fn of(op: &'static str, tensors: &[&Tensor]) -> Result<Self> {
        let first = tensors[0];
        for other in tensors {
            if other.dtype() != first.dtype() {
                bail!(
                    "{op}: {:?} with {:?}; all arguments must be of one dtype",
                    first.dtype(),
                    other.dtype()
                );
            }
            if !other.device().same_device(first.device()) {
                bail!(
                    "{op}: arguments on {:?} and {:?}",
                    first.device().location(),
                    other.device().location()
                );
            }
        }
        let is_fused = first.device().is_cpu() && !is_composed();
        Ok(match (is_fused, first.dtype()) {
            (true, DType::F32) => Self::Single,
            (true, DType::F64) => Self::Double,
            (true, DType::BF16 | DType::F16) => Self::Widened(DType::F32),
            (false, DType::F32 | DType::F64 | DType::BF16 | DType::F16) => Self::Composed,
            (_, dtype) => bail!("{op}: {dtype:?} is not one of f32, f64, bf16 and f16"),
        })
    }
}

/// Whether the CPU takes the route of a device; in the tests of composed forms alone.
#[cfg(not(test))]
const fn is_composed() -> bool {
    false
}

#[cfg(test)]
use as_on_a_device::is_composed;

/// The size of x's last dimension.
pub(crate) fn last_dim(op: &str, x: &Tensor) -> Result<usize> {
    let Some(d) = x.dims().last() else { bail!("{op}: x is one number, without a last dimension") };
    Ok(*d)
}

/// The rows and columns of a matrix.
pub(crate) fn matrix(op: &str, what: &str, w: &Tensor) -> Result<(usize, usize)> {
    let [rows, columns] = *w.dims() else {
        bail!("{op}: {what} has shape {:?}, and is not a matrix", w.dims())
    };
    Ok((rows, columns))
}

/// Refuses a `w` that is not a vector of x's last dimension.
pub(crate) fn last_dim_is(op: &str, x: &Tensor, what: &str, w: &Tensor) -> Result<()> {
    let d = last_dim(op, x)?;
    if w.dims() != [d] {
        bail!(
            "{op}: {what} has shape {:?}, where the last dimension of {:?} asks for [{d}]",
            w.dims(),
            x.dims()
        );
    }
    Ok(())
}

/// Refuses a matrix `w [o, i]` that does not fit the rows of `x [..., i]`.
pub(crate) fn is_of_rows(op: &str, x: &Tensor, w: &Tensor) -> Result<()> {
    let (d, i) = (last_dim(op, x)?, matrix(op, "w", w)?.1);
    if d != i || d == 0 {
        bail!(
            "{op}: x {:?} and w {:?}; the last dimensions must be the same and not 0",
            x.dims(),
            w.dims()
        );
    }
    Ok(())
}

/// Asserts that two forms of an op, in f64, agree to rounding: values, and gradients of `Σ y² g`.
#[cfg(test)]
pub(crate) fn same(vars: &[&candle_core::Var], ours: &Tensor, theirs: &Tensor) {
    let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let off = |a: &Tensor, b: &Tensor| {
        assert_eq!(a.dims(), b.dims());
        let (a, b) = (numbers(a), numbers(b));
        // Not by `max`, which passes over NaN.
        let most = |most: f64, x: f64| if x.abs() <= most { most } else { x.abs() };
        let off = a.iter().zip(&b).map(|(a, b)| a - b).fold(0.0, most);
        off / b.into_iter().fold(1e-3, most)
    };
    assert!(off(ours, theirs) < 1e-12, "the value is off by {:e}", off(ours, theirs));
    let g: Vec<f64> = (0..ours.elem_count()).map(|i| ((i + 1) as f64).sin()).collect();
    let g = Tensor::from_vec(g, ours.shape(), ours.device()).unwrap();
    let [ours, theirs] =
        [ours, theirs].map(|y| (y.sqr().unwrap() * &g).unwrap().backward().unwrap());
    for (i, var) in vars.iter().enumerate() {
        let off = off(ours.get(var).unwrap(), theirs.get(var).unwrap());
        assert!(off < 1e-12, "the gradient of argument {i} is off by {off:e}");
    }
}

/// Ops on the CPU as they are composed on a device.
#[cfg(test)]
pub(crate) mod as_on_a_device {
    use std::cell::Cell;

    thread_local! {
        /// How many ops were composed so far, where they are to be.
        static COMPOSED: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(super) fn is_composed() -> bool {
        COMPOSED.set(COMPOSED.get().map(|ops| ops + 1));
        COMPOSED.get().is_some()
    }

    /// Runs `f` with every op composed; there must be one.
    pub(crate) fn composed<R>(f: impl FnOnce() -> R) -> R {
        COMPOSED.set(Some(0));
        let result = f();
        assert!(COMPOSED.take().is_some_and(|ops| ops > 0), "no op took a route");
        result
    }
}
