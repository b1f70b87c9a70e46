//! Windows over images that lie channels last, `[N, H, W, C]`: pools, depthwise convolutions, and the bilinear resize.
//!
//! On the CPU a row of the result is one task, and the innermost loop goes over channels in vector instructions. On a device the same is
//! composed of candle's ops. Nothing here keeps a graph on the CPU: these networks measure, and are not trained.

use std::ops::Range;

use candle_core::{Device, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::reduce::{Average, Depthwise, Line, Max, Reduce};

/// Where windows lie along one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) len: usize,
    pub(super) out: usize,
    kernel: usize,
    stride: usize,
    /// Places of padding before the first.
    before: usize,
}

impl Axis {
    /// `padding` places on either side: `⌊(len + 2 padding − kernel)/stride⌋ + 1` windows.
    pub(super) fn padded(len: usize, kernel: usize, stride: usize, padding: usize) -> Result<Self> {
        let Some(last) = (len + 2 * padding).checked_sub(kernel) else {
            bail!("a window of {kernel} does not fit into {len} with {padding} of padding");
        };
        Ok(Self { len, out: last / stride + 1, kernel, stride, before: padding })
    }

    /// TensorFlow's `SAME`: `⌈len/stride⌉` windows, with the smaller half of the padding before.
    pub(super) fn same(len: usize, kernel: usize, stride: usize) -> Self {
        let out = len.div_ceil(stride);
        let padding = (out.saturating_sub(1) * stride + kernel).saturating_sub(len);
        Self { len, out, kernel, stride, before: padding / 2 }
    }

    /// Padding before the first place and after the last that a window reads.
    pub(super) fn padding(&self) -> (usize, usize) {
        let reach = self.out.saturating_sub(1) * self.stride + self.kernel;
        (self.before, reach.saturating_sub(self.before + self.len))
    }

    /// The taps of a window that are not padding, and the place of the first of them.
    #[inline]
    pub(super) fn taps(&self, window: usize) -> (Range<usize>, usize) {
        let start = window * self.stride; // of the padded places
        let from = self.before.saturating_sub(start).min(self.kernel);
        let to = self.kernel.min((self.before + self.len).saturating_sub(start));
        (from..to.max(from), (start + from).saturating_sub(self.before))
    }

    #[inline]
    pub(super) fn kernel(&self) -> usize {
        self.kernel
    }

    /// The place that this tap reads in each window, of padded places.
    fn places(&self, tap: usize) -> impl Iterator<Item = usize> + use<> {
        let Self { stride, out, .. } = *self;
        (0..out).map(move |window| window * stride + tap)
    }
}

/// The numbers of a tensor on the CPU.
pub(super) fn read<R>(x: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("a tensor that is not on the CPU") };
    let start = layout.start_offset();
    Ok(f(&storage.as_slice::<f32>()?[start..start + layout.shape().elem_count()]))
}

/// 3 × 3, every place, and the mean of those that are inside (`count_include_pad = False`).
pub(super) fn average_pool(x: &Tensor) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    let (rows, columns) = (Axis::padded(h, 3, 1, 1)?, Axis::padded(w, 3, 1, 1)?);
    if x.device().is_cpu() {
        return windowed(x, rows, columns, &Average);
    }
    composed_average(x, rows, columns)
}

/// The largest of 3 × 3 places; NaN where one is among them.
pub(super) fn max_pool(x: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    let (rows, columns) =
        (Axis::padded(h, 3, stride, padding)?, Axis::padded(w, 3, stride, padding)?);
    if x.device().is_cpu() {
        return windowed(x, rows, columns, &Max);
    }
    composed_max(x, rows, columns)
}

/// Each channel with taps `w [K K, C]` of its own, plus `b [C]`, and no more than 6 and no less than 0 of it; `SAME` padding.
pub(super) fn depthwise_relu6(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    (kernel, stride): (usize, usize),
) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    let (rows, columns) = (Axis::same(height, kernel, stride), Axis::same(width, kernel, stride));
    if x.device().is_cpu() {
        return read(w, |w| read(b, |b| windowed(x, rows, columns, &Depthwise { w, b })))??;
    }
    composed_depthwise(x, w, b, rows, columns)
}

fn windowed<R: Reduce>(x: &Tensor, rows: Axis, columns: Axis, reduce: &R) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let shape = (n, rows.out, columns.out, c);
    let mut y = vec![0f32; n * rows.out * columns.out * c];
    read(x, |x| {
        y.par_chunks_mut((columns.out * c).max(1)).enumerate().for_each(|(i, y)| {
            let (image, row) = (i / rows.out, i % rows.out);
            let x = &x[image * h * w * c..][..h * w * c];
            pulp::Arch::new().dispatch(Line { x, y, channels: c, row, rows, columns, reduce });
        });
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}

/// One tap of all windows, `[N, H', W', C]`, of padded places.
fn tap(x: &Tensor, rows: Axis, columns: Axis, (i, j): (usize, usize)) -> Result<Tensor> {
    let select = |x: &Tensor, axis: Axis, tap: usize, dim: usize| {
        let places: Vec<u32> = axis.places(tap).map(|place| place as u32).collect();
        x.index_select(&Tensor::from_vec(places, axis.out, x.device())?, dim)
    };
    select(&select(x, rows, i, 1)?, columns, j, 2)
}

/// `fold` over the taps of all windows, row by row.
fn composed(
    x: &Tensor,
    rows: Axis,
    columns: Axis,
    mut fold: impl FnMut(Option<Tensor>, usize, Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut y = None;
    for i in 0..rows.kernel {
        for j in 0..columns.kernel {
            let x = tap(x, rows, columns, (i, j))?;
            y = Some(fold(y.take(), i * columns.kernel + j, x)?);
        }
    }
    let Some(y) = y else { bail!("a window without a tap") };
    Ok(y)
}

/// With zeros for the padding.
fn zero_padded(x: &Tensor, rows: Axis, columns: Axis) -> Result<Tensor> {
    let ((top, bottom), (left, right)) = (rows.padding(), columns.padding());
    x.pad_with_zeros(1, top, bottom)?.pad_with_zeros(2, left, right)?.contiguous()
}

fn composed_average(x: &Tensor, rows: Axis, columns: Axis) -> Result<Tensor> {
    let sum = composed(&zero_padded(x, rows, columns)?, rows, columns, |sum, _, x| {
        sum.map_or(Ok(x.clone()), |sum| sum + x)
    })?;
    let shares: Vec<f32> = (0..rows.out)
        .flat_map(|i| {
            (0..columns.out)
                .map(move |j| 1.0 / (rows.taps(i).0.len() * columns.taps(j).0.len()) as f32)
        })
        .collect();
    sum.broadcast_mul(&Tensor::from_vec(shares, (1, rows.out, columns.out, 1), x.device())?)
}

/// Padding repeats the first or the last place, which is in the window already.
fn composed_max(x: &Tensor, rows: Axis, columns: Axis) -> Result<Tensor> {
    let ((top, bottom), (left, right)) = (rows.padding(), columns.padding());
    let x = x.pad_with_same(1, top, bottom)?.pad_with_same(2, left, right)?.contiguous()?;
    composed(&x, rows, columns, |most, _, x| most.map_or(Ok(x.clone()), |most| most.maximum(&x)))
}

fn composed_depthwise(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    rows: Axis,
    columns: Axis,
) -> Result<Tensor> {
    let sum = composed(&zero_padded(x, rows, columns)?, rows, columns, |sum, tap, x| {
        let x = x.broadcast_mul(&w.get(tap)?)?;
        sum.map_or(Ok(x.clone()), |sum| sum + x)
    })?;
    sum.broadcast_add(b)?.clamp(0f32, 6f32)
}

/// `x [N, C, H, W]` at `size × size`: bilinear, without corners aligned and without a filter against aliasing, as
/// `torch.nn.functional.interpolate` does it.
///
/// Place o reads s = max((o + ½) len/size − ½, 0) as (1 − λ) x[⌊s⌋] + λ x[⌊s⌋ + 1] with λ = s − ⌊s⌋, the last place being read again
/// beyond the end. Along one dimension that is a matrix, so that a resize is two products.
pub(super) fn resize(x: &Tensor, size: usize) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    if (h, w) == (size, size) {
        return Ok(x.clone());
    }
    let across = interpolation(w, size, x.device())?;
    let down = interpolation(h, size, x.device())?;
    let x = x.contiguous()?.reshape((n * c * h, w))?.matmul(&across)?;
    let x = x.reshape((n * c, h, size))?.transpose(1, 2)?.contiguous()?;
    let x = x.reshape((n * c * size, h))?.matmul(&down)?;
    x.reshape((n, c, size, size))?.transpose(2, 3)?.contiguous()
}

/// `[len, size]`: what each place gives to each of the new ones. In f32 and fused, as PyTorch computes it: in another way a place
/// near 100 is off by 1e-5.
fn interpolation(len: usize, size: usize, device: &Device) -> Result<Tensor> {
    let mut matrix = vec![0f32; len * size];
    let scale = len as f32 / size as f32;
    for place in 0..size {
        let source = scale.mul_add(place as f32 + 0.5, -0.5).max(0.0);
        let first = (source as usize).min(len - 1);
        let share = source - first as f32;
        matrix[first * size + place] += 1.0 - share;
        matrix[(first + 1).min(len - 1) * size + place] += share;
    }
    Tensor::from_vec(matrix, (len, size), device)
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{golden, off};
    use super::*;

    #[test]
    fn resize_is_pytorchs() {
        let golden = golden("fid_parts.safetensors");
        for k in 0..5 {
            let x = &golden[&format!("resize.{k}.x")];
            let theirs = &golden[&format!("resize.{k}.y")];
            let size = theirs.dim(3).unwrap();
            let mut ours = resize(x, size).unwrap();
            if size == 299 {
                // Of this one every 23rd row is in the file.
                let rows = Tensor::arange_step(0u32, 299, 23, &Device::Cpu).unwrap();
                ours = ours.index_select(&rows, 2).unwrap();
            }
            // Numbers below 1, four products each.
            assert!(off(&ours, theirs) < 5e-7, "case {k}: off by {:e}", off(&ours, theirs));
        }
    }

    #[test]
    fn pools_are_pytorchs_and_so_are_their_composed_forms() {
        let golden = golden("fid_parts.safetensors");
        let last = |name: &str| {
            let x = golden[name].to_dtype(candle_core::DType::F32).unwrap();
            x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
        };
        let x = last("pool.x");
        let [rows, columns] = [6, 7].map(|len| Axis::padded(len, 3, 1, 1).unwrap());
        let [rows2, columns2] = [6, 7].map(|len| Axis::padded(len, 3, 2, 0).unwrap());
        for (name, ours) in [
            ("pool.average", average_pool(&x)),
            ("pool.average", composed_average(&x, rows, columns)),
            ("pool.max", max_pool(&x, 1, 1)),
            ("pool.max", composed_max(&x, rows, columns)),
            ("pool.max2", max_pool(&x, 2, 0)),
            ("pool.max2", composed_max(&x, rows2, columns2)),
        ] {
            let off = off(&ours.unwrap(), &last(name));
            // Nine numbers below 1 are added up.
            assert!(off < 5e-7, "{name}: off by {off:e}");
        }
    }

    #[test]
    fn same_padding_is_tensorflows() {
        // len, kernel, stride: windows, padding before and after.
        for (len, kernel, stride, out, padding) in [
            (224, 3, 2, 112, (0, 1)),
            (112, 5, 2, 56, (1, 2)),
            (7, 3, 2, 4, (1, 1)),
            (14, 5, 1, 14, (2, 2)),
            (1, 3, 2, 1, (1, 1)),
        ] {
            let axis = Axis::same(len, kernel, stride);
            assert_eq!((axis.out, axis.padding()), (out, padding), "{len} {kernel} {stride}");
        }
    }

    #[test]
    fn depthwise_is_a_direct_sum() {
        let draw =
            |n: usize, a: f32| (0..n).map(|i| (i as f32 * a).sin() * 2.0).collect::<Vec<_>>();
        for (h, w, kernel, stride) in [(5, 8, 3, 1), (6, 7, 3, 2), (9, 4, 5, 2), (2, 3, 5, 1)] {
            let (c, n) = (37, 2);
            let (x, taps, b) =
                (draw(n * h * w * c, 0.37), draw(kernel * kernel * c, 0.91), draw(c, 1.7));
            let (rows, columns) = (Axis::same(h, kernel, stride), Axis::same(w, kernel, stride));
            let mut wanted = Vec::new();
            for at in 0..n * rows.out * columns.out * c {
                let (image, row) =
                    (at / (rows.out * columns.out * c), at / (columns.out * c) % rows.out);
                let (column, channel) = (at / c % columns.out, at % c);
                let mut sum = f64::from(b[channel]);
                for i in 0..kernel {
                    for j in 0..kernel {
                        let y = (row * stride + i).wrapping_sub(rows.padding().0);
                        let z = (column * stride + j).wrapping_sub(columns.padding().0);
                        if y < h && z < w {
                            sum += f64::from(x[((image * h + y) * w + z) * c + channel])
                                * f64::from(taps[(i * kernel + j) * c + channel]);
                        }
                    }
                }
                wanted.push(sum.clamp(0.0, 6.0) as f32);
            }
            let shape = (n, rows.out, columns.out, c);
            let wanted = Tensor::from_vec(wanted, shape, &Device::Cpu).unwrap();
            let x = Tensor::from_vec(x, (n, h, w, c), &Device::Cpu).unwrap();
            let taps = Tensor::from_vec(taps, (kernel * kernel, c), &Device::Cpu).unwrap();
            let b = Tensor::from_vec(b, c, &Device::Cpu).unwrap();
            let ours = depthwise_relu6(&x, &taps, &b, (kernel, stride)).unwrap();
            let composed = composed_depthwise(&x, &taps, &b, rows, columns).unwrap();
            // 25 products below 4, in f32.
            assert!(off(&ours, &wanted) < 1e-5 && off(&composed, &wanted) < 1e-5);
        }
    }
}
