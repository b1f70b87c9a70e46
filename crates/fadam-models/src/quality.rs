//! How like an image is to another, pixel by pixel: PSNR and SSIM.

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

/// Side of SSIM's window.
const WINDOW: usize = 11;

/// σ of the Gaussian in SSIM's window, in pixels.
const SIGMA: f64 = 1.5;

/// K₁ and K₂ of SSIM.
const K: (f64, f64) = (0.01, 0.03);

/// The largest value of a byte.
const PEAK: f64 = 255.0;

/// Peak signal-to-noise ratio of each image, in dB: `10 log₁₀(255²/MSE)`, the mean squared error being over pixels and channels. Images that
/// are the same have ∞.
///
/// `images` and `others` are u8 of one shape `[N, C, H, W]`; the result has N numbers.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let black = Tensor::zeros((1, 3, 2, 2), candle_core::DType::U8, &Device::Cpu)?;
/// let white = Tensor::full(255u8, (1, 3, 2, 2), &Device::Cpu)?;
/// assert_eq!(fadam_models::quality::psnr(&black, &white)?, [0.0]);
/// assert_eq!(fadam_models::quality::psnr(&white, &white)?, [f64::INFINITY]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If they are not u8, not of one shape `[N, C, H, W]`, or of no pixels.
pub fn psnr(images: &Tensor, others: &Tensor) -> Result<Vec<f64>> {
    let pairs = Pairs::new("psnr", images, others)?;
    let one = |(a, b): (&[u8], &[u8])| {
        let squares = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum::<u64>();
        10.0 * (PEAK * PEAK * a.len() as f64 / squares as f64).log10()
    };
    Ok(pairs.each(pairs.channels * pairs.height * pairs.width, one))
}

/// Structural similarity of each image: Wang, Bovik, Sheikh and Simoncelli, 2004.
///
/// With means μ, variances σ² and the covariance `σ_ab` under a Gaussian window of 11 × 11 pixels (σ 1.5, weights that add up to 1),
/// `C₁ = (0.01 · 255)²` and `C₂ = (0.03 · 255)²`,
///
/// ```text
/// SSIM = (2 μ_a μ_b + C₁)(2 σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂))
/// ```
///
/// averaged over all windows that lie within the image, of each channel by itself, and over channels (not of luma). It is 1 for images
/// that are the same.
///
/// `images` and `others` are u8 of one shape `[N, C, H, W]`; the result has N numbers.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let flat = |value: u8| Tensor::full(value, (1, 1, 11, 11), &Device::Cpu);
/// let ssim = fadam_models::quality::ssim(&flat(100)?, &flat(200)?)?[0];
/// let c1 = 2.55f64.powi(2);
/// assert!((ssim - (2.0 * 100.0 * 200.0 + c1) / (100f64.powi(2) + 200f64.powi(2) + c1)).abs() < 1e-9);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If they are not u8, not of one shape `[N, C, H, W]`, or smaller than 11 pixels.
pub fn ssim(images: &Tensor, others: &Tensor) -> Result<Vec<f64>> {
    let pairs = Pairs::new("ssim", images, others)?;
    let Pairs { channels, height, width, .. } = pairs;
    if height < WINDOW || width < WINDOW {
        bail!("ssim: images of {height} × {width}, where the window is {WINDOW} × {WINDOW}");
    }
    let window = gaussian();
    let of_planes = pairs.each(height * width, |(a, b)| plane_ssim(a, b, width, &window));
    Ok(of_planes.chunks_exact(channels).map(|x| x.iter().sum::<f64>() / channels as f64).collect())
}

/// Two batches of bytes.
struct Pairs {
    a: Vec<u8>,
    b: Vec<u8>,
    channels: usize,
    height: usize,
    width: usize,
}

impl Pairs {
    fn new(metric: &str, a: &Tensor, b: &Tensor) -> Result<Self> {
        let [_, channels, height, width] = *a.dims() else {
            bail!("{metric}: images of shape {:?}, where [N, C, H, W] is expected", a.dims())
        };
        if a.dims() != b.dims() {
            bail!("{metric}: images of shape {:?} and {:?}", a.dims(), b.dims());
        }
        for x in [a, b] {
            if x.dtype() != DType::U8 {
                bail!("{metric}: images of {:?}, where u8 is expected", x.dtype());
            }
        }
        if a.elem_count() == 0 {
            bail!("{metric}: images of shape {:?}, which have no pixels", a.dims());
        }
        let bytes = |x: &Tensor| x.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<u8>();
        Ok(Self { a: bytes(a)?, b: bytes(b)?, channels, height, width })
    }

    /// `f` of each `count` bytes, in order.
    fn each(&self, count: usize, f: impl Fn((&[u8], &[u8])) -> f64 + Send + Sync) -> Vec<f64> {
        self.a.par_chunks_exact(count).zip(self.b.par_chunks_exact(count)).map(f).collect()
    }
}

/// Weights of the window along one dimension.
fn gaussian() -> [f64; WINDOW] {
    let at = |i: usize| (-(i as f64 - (WINDOW / 2) as f64).powi(2) / (2.0 * SIGMA * SIGMA)).exp();
    let sum: f64 = (0..WINDOW).map(at).sum();
    std::array::from_fn(|i| at(i) / sum)
}

/// Of one channel.
fn plane_ssim(a: &[u8], b: &[u8], width: usize, window: &[f64; WINDOW]) -> f64 {
    let mean = |f: &dyn Fn(f64, f64) -> f64| {
        let x: Vec<f64> = a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).collect();
        smoothed(&x, width, window)
    };
    let (mean_a, mean_b) = (mean(&|a, _| a), mean(&|_, b| b));
    let (square_a, square_b, product) =
        (mean(&|a, _| a * a), mean(&|_, b| b * b), mean(&|a, b| a * b));
    let (c1, c2) = ((K.0 * PEAK).powi(2), (K.1 * PEAK).powi(2));
    let sum: f64 = (0..mean_a.len())
        .map(|i| {
            let (a, b) = (mean_a[i], mean_b[i]);
            let (var_a, var_b) = (square_a[i] - a * a, square_b[i] - b * b);
            let covariance = product[i] - a * b;
            (2.0 * a * b + c1) * (2.0 * covariance + c2)
                / ((a * a + b * b + c1) * (var_a + var_b + c2))
        })
        .sum();
    sum / mean_a.len() as f64
}

/// Means under the window, of each place where it lies within: first along rows, then along columns.
fn smoothed(x: &[f64], width: usize, window: &[f64; WINDOW]) -> Vec<f64> {
    let out = width + 1 - WINDOW;
    let along: Vec<f64> = x
        .chunks_exact(width)
        .flat_map(|row| {
            row.windows(WINDOW).map(|x| x.iter().zip(window).map(|(x, w)| x * w).sum::<f64>())
        })
        .collect();
    let height = along.len() / out;
    let mut y = vec![0.0; (height + 1 - WINDOW) * out];
    for (i, y) in y.chunks_exact_mut(out).enumerate() {
        for (row, w) in along[i * out..].chunks_exact(out).zip(window) {
            y.iter_mut().zip(row).for_each(|(y, x)| *y += w * x);
        }
    }
    y
}
