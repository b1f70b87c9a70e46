//! Images, as the networks of this module take them.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::planes::resize;

/// Numbers of a byte.
const BYTE: f64 = 255.0;

/// Refuses what is not `[N, 3, H, W]` of u8, or of f32 from 0 to 1; with the name of `network`.
pub(super) fn check(network: &str, images: &Tensor) -> Result<()> {
    let [n, 3, h, w] = *images.dims() else {
        bail!("{network}: images of shape {:?}, where [N, 3, H, W] is expected", images.dims())
    };
    if n * h * w == 0 {
        bail!("{network}: images of shape {:?}, which are none", images.dims());
    }
    match images.dtype() {
        DType::U8 => Ok(()),
        DType::F32 => check_numbers(network, images),
        dtype => bail!("{network}: images of {dtype:?}, where u8 or f32 is expected"),
    }
}

fn check_numbers(network: &str, images: &Tensor) -> Result<()> {
    let pixels = images.dim(2)? * images.dim(3)? * 3;
    super::planes::read(&images.to_device(&Device::Cpu)?, |x| {
        // Written so that NaN is found.
        match x.iter().position(|x| !(0.0..=1.0).contains(x)) {
            Some(i) => bail!(
                "{network}: image {} has the number {}, where f32 images are of 0 to 1",
                i / pixels,
                x[i]
            ),
            None => Ok(()),
        }
    })?
}

/// Checked images at `size × size`, as `scale x + offset` of x from 0 to 1, channels last, on `device`.
pub(super) fn prepared(
    images: &Tensor,
    size: usize,
    (scale, offset): (f64, f64),
    device: &Device,
) -> Result<Tensor> {
    let x = images.to_device(device)?.detach();
    let x = if x.dtype() == DType::U8 { (x.to_dtype(DType::F32)? / BYTE)? } else { x };
    resize(&x, size)?.affine(scale, offset)?.permute((0, 2, 3, 1))?.contiguous()
}

/// `f` of at most `count` images at a time, one after another.
pub(super) fn in_parts(
    images: &Tensor,
    count: usize,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let n = images.dim(0)?;
    let part = |first: usize| f(&images.narrow(0, first, count.min(n - first))?);
    let parts = (0..n).step_by(count).map(part).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, 0)
}
