//! Weights that are no file, and comparisons: what `tests/goldens/make_fid.py` does, here.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

pub(crate) fn golden(name: &str) -> HashMap<String, Tensor> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/");
    candle_core::safetensors::load(format!("{folder}{name}"), &Device::Cpu).unwrap()
}

/// Numbers in [−1, 1) from FNV-1a of the name and splitmix64 of the place.
fn hashed(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (1..=count as u64).map(move |place| {
        let mut z = seed.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 * 2f64.powi(-52) - 1.0
    })
}

pub(crate) fn hashed_images(name: &str, shape: (usize, usize, usize, usize)) -> Tensor {
    let count = shape.0 * shape.1 * shape.2 * shape.3;
    let bytes: Vec<u8> = hashed(name, count).map(|u| ((u + 1.0) * 128.0).floor() as u8).collect();
    Tensor::from_vec(bytes, shape, &Device::Cpu).unwrap()
}

/// A builder that has every tensor that is asked for.
pub(crate) fn hashed_weights() -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Hashed), DType::F32, Device::Cpu)
}

struct Hashed;

impl SimpleBackend for Hashed {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let (count, dims) = (s.elem_count(), s.dims());
        let spread = if name.ends_with("running_var")
            || (name.ends_with(".weight") && s.rank() == 1)
        {
            (1.0, 0.5)
        } else if ["running_mean", "bias"].contains(&name.rsplit('.').next().unwrap_or_default()) {
            (0.0, 0.1)
        } else {
            (0.0, (6.0 / dims[1..].iter().product::<usize>() as f64).sqrt())
        };
        let values: Vec<f32> =
            hashed(name, count).map(|u| (spread.0 + spread.1 * u) as f32).collect();
        Tensor::from_vec(values, s, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// The largest difference of two tensors of one shape; NaN where there is one.
pub(crate) fn off(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.dims(), theirs.dims());
    let numbers = |x: &Tensor| {
        x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let differences = numbers(ours).into_iter().zip(numbers(theirs)).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, x| if x <= most { most } else { x })
}

/// Of `x [N, H, W, C]` what the goldens keep: of the first image, every eighth channel of the first and of a central pixel.
pub(crate) fn probe(x: &Tensor) -> Tensor {
    let (_, h, w, c) = x.dims4().unwrap();
    let channels = Tensor::arange_step(0u32, c as u32, 8, &Device::Cpu).unwrap();
    let pixel = |row: usize, column: usize| {
        let pixel = x.get(0).unwrap().get(row).unwrap().get(column).unwrap();
        pixel.index_select(&channels, 0).unwrap()
    };
    Tensor::stack(&[pixel(0, 0), pixel(h / 2, w / 2)], 0).unwrap()
}

/// Asserts that f32 numbers are those of float64, within 1e-4 of the standard deviation of these: a hundred roundings deep, where the
/// contract of a port is 1e-3, and a wrong pool or padding is off by 1e-1.
pub(crate) fn compare(what: &str, ours: &Tensor, theirs: &Tensor) {
    let theirs = theirs.to_dtype(DType::F64).unwrap();
    let centred = theirs.broadcast_sub(&theirs.mean_all().unwrap()).unwrap();
    let deviation = centred.sqr().unwrap().mean_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
    let off = off(ours, &theirs);
    assert!(off < 1e-4 * deviation, "{what}: off by {off:e}, of a deviation of {deviation}");
}
