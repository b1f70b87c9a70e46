//! The front end: log-mel spectra, normalised by utterance.

use std::f64::consts::PI;
use std::fmt;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::RATE;

/// Features of a frame: the mel bins.
pub const BINS: usize = 80;
/// Samples from a frame to the next: 10 ms.
const HOP: usize = 160;
/// Samples that a frame sees: 25 ms.
const WINDOW: usize = 400;
/// Samples of the Fourier transform, the window's and zeros.
const FFT: usize = 512;
/// What is added to the power before the logarithm, so that silence is −16.6 and not −∞.
const FLOOR: f64 = 1.0 / 16_777_216.0;
/// What is added to the standard deviation, so that a constant bin is divided by something.
const DEVIATION_FLOOR: f64 = 1e-5;

/// The front end, as a plan of Fourier transform, window and filters: made once, it serves any number
/// of threads.
///
/// Every 10 ms the power spectrum of 25 ms of sound, summed up in 80 triangles that are evenly spaced
/// on the mel scale, as a logarithm:
///
/// ```text
/// X[t, k] = Σ_n w[n] · x[160 t + n − 200] · exp(−2πi k n / 512),    n = 0 … 399, k = 0 … 256
/// y[t, b] = ln(Σ_k H[b, k] · |X[t, k]|² + 2⁻²⁴),                     b = 0 … 79
/// ```
///
/// w is the periodic Hann window; x is reflected at both ends (without repeating the sample at the
/// end), so that frame t is centred at sample 160 t. H are Slaney's triangles of area 1 from 0 to
/// 8,000 Hz: mel is linear in Hz up to 1,000 Hz and logarithmic above. This is `MelSpectrogram`
/// of torchaudio with `n_fft=512, win_length=400, hop_length=160, n_mels=80, norm="slaney",
/// mel_scale="slaney"` (`torch.stft` centres the window in the 512 samples, which turns phases and
/// leaves power as it is); a golden case compares them. Everything is summed in f64: in f32, rounding
/// of a frame's loud bins is seen in its weakest ones (1e-3 of their power in torchaudio).
///
/// ```
/// use fadam_data::speech::{BINS, LogMel};
///
/// let tone: Vec<f32> = (0..16_000).map(|n| (n as f32 * 0.3).sin()).collect();
/// let features = LogMel::new().compute(&tone);
/// assert_eq!(features.frames, 101);
/// assert_eq!(features.values.len(), 101 * BINS);
/// ```
#[derive(Clone)]
pub struct LogMel {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    filters: Vec<Filter>,
}

/// One triangle of H: its weights from the frequency `first` on.
#[derive(Debug, Clone)]
struct Filter {
    first: usize,
    weights: Vec<f64>,
}

impl LogMel {
    /// Makes the plan.
    pub fn new() -> Self {
        let hann = |n| 0.5 - 0.5 * (2.0 * PI * f64::from(n) / WINDOW as f64).cos();
        Self {
            fft: RealFftPlanner::new().plan_fft_forward(FFT),
            window: (0..WINDOW as u32).map(hann).collect(),
            filters: filters(),
        }
    }

    /// How many frames so many samples give: 1 + ⌊n / 160⌋, and none without a sample.
    pub fn frames(samples: usize) -> usize {
        if samples == 0 { 0 } else { 1 + samples / HOP }
    }

    /// y of the equation above, \[frames, 80\], not normalised. `samples` are at 16 kHz and
    /// finite.
    ///
    /// A clip that is shorter than its reflection (200 samples; `torch.stft` refuses less than
    /// 257) is reflected again and again.
    pub fn compute(&self, samples: &[f32]) -> Features {
        let frames = Self::frames(samples.len());
        let mut values = Vec::with_capacity(frames * BINS);
        let mut buffers = Buffers::of(&*self.fft);
        for frame in 0..frames {
            self.cut(samples, frame, &mut buffers.input);
            let power = buffers.transform(&*self.fft);
            let log = |filter: &Filter| (filter.sum(power) + FLOOR).ln() as f32;
            values.extend(self.filters.iter().map(log));
        }
        Features { frames, values }
    }

    /// The windowed samples of a frame, and zeros.
    fn cut(&self, samples: &[f32], frame: usize, input: &mut [f64]) {
        let (windowed, zeros) = input.split_at_mut(WINDOW);
        zeros.fill(0.0);
        let inside = (frame * HOP)
            .checked_sub(WINDOW / 2)
            .and_then(|begin| samples.get(begin..begin + WINDOW));
        if let Some(samples) = inside {
            for (x, &sample) in windowed.iter_mut().zip(samples) {
                *x = f64::from(sample);
            }
        } else {
            for (n, x) in windowed.iter_mut().enumerate() {
                *x = f64::from(samples[reflect(frame * HOP + n, WINDOW / 2, samples.len())]);
            }
        }
        for (x, w) in windowed.iter_mut().zip(&self.window) {
            *x *= w;
        }
    }
}

impl Default for LogMel {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LogMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMel").finish_non_exhaustive()
    }
}

impl Filter {
    fn sum(&self, power: &[f64]) -> f64 {
        self.weights.iter().zip(&power[self.first..]).map(|(w, p)| w * p).sum()
    }
}

/// What a transform works in.
struct Buffers {
    input: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    power: Vec<f64>,
}

impl Buffers {
    fn of(fft: &dyn RealToComplex<f64>) -> Self {
        let (input, spectrum) = (fft.make_input_vec(), fft.make_output_vec());
        let power = vec![0.0; spectrum.len()];
        Self { input, spectrum, scratch: fft.make_scratch_vec(), power }
    }

    /// |X|² of the input, which is used up.
    fn transform(&mut self, fft: &dyn RealToComplex<f64>) -> &[f64] {
        fft.process_with_scratch(&mut self.input, &mut self.spectrum, &mut self.scratch)
            .expect("the buffers are those that the plan made");
        for (power, x) in self.power.iter_mut().zip(&self.spectrum) {
            *power = x.re * x.re + x.im * x.im;
        }
        &self.power
    }
}

/// The index of the sample that stands at `at` − `before` when 0 … n − 1 is reflected at both its
/// ends, again and again: … 2 1 0 1 2 … n−2 n−1 n−2 …
fn reflect(at: usize, before: usize, n: usize) -> usize {
    // Here and there again; a single sample is everywhere.
    let period = (2 * (n - 1)).max(1);
    let at = (at + before.next_multiple_of(period) - before) % period;
    at.min(period - at)
}

/// H: a triangle over each three of 82 edges that are evenly spaced in mel, of height 2 over the
/// distance in Hz from the first to the third: of area 1.
fn filters() -> Vec<Filter> {
    let nyquist = f64::from(RATE) / 2.0;
    let step = mel(nyquist) / (BINS + 1) as f64;
    let edges: Vec<f64> = (0..BINS + 2).map(|edge| hertz(edge as f64 * step)).collect();
    let frequencies = FFT / 2 + 1;
    let frequency = |k: usize| k as f64 * nyquist / (frequencies - 1) as f64;
    let triangle = |edge: &[f64]| {
        let &[low, middle, high] = edge else { unreachable!("windows of three edges") };
        let weight = |k: usize| {
            let (up, down) = (frequency(k) - low, high - frequency(k));
            let height = (up / (middle - low)).min(down / (high - middle)).max(0.0);
            height * 2.0 / (high - low)
        };
        let inside: Vec<usize> = (0..frequencies).filter(|&k| weight(k) > 0.0).collect();
        let first = inside.first().copied().unwrap_or(0);
        Filter { first, weights: inside.into_iter().map(weight).collect() }
    };
    edges.windows(3).map(triangle).collect()
}

/// Slaney's mel scale: 200/3 Hz a mel up to 1,000 Hz, then 27 mels for each factor of 6.4.
fn mel(hertz: f64) -> f64 {
    if hertz < 1000.0 {
        hertz * 3.0 / 200.0
    } else {
        15.0 + 27.0 * (hertz / 1000.0).ln() / 6.4f64.ln()
    }
}

/// The inverse of [`mel`].
fn hertz(mel: f64) -> f64 {
    if mel < 15.0 { mel * 200.0 / 3.0 } else { 1000.0 * 6.4f64.powf((mel - 15.0) / 27.0) }
}

/// Features of one utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// The frames, 10 ms apart.
    pub frames: usize,
    /// \[frames, [`BINS`]\], row-major.
    pub values: Vec<f32>,
}

impl Features {
    /// Gives every bin mean 0 and (nearly) standard deviation 1 over the utterance:
    ///
    /// ```text
    /// y' = (y − m)/(s + 10⁻⁵),    m = Σ y/n,    s² = Σ (y − m)²/(n − 1)
    /// ```
    ///
    /// s is 0 where there is one frame. A bin that is constant, of silence or above what the
    /// recording has, becomes 0 everywhere.
    pub fn normalise(&mut self) {
        if self.frames == 0 {
            return;
        }
        let n = self.frames as f64;
        for bin in 0..BINS {
            let column = || self.values[bin..].iter().step_by(BINS).map(|&y| f64::from(y));
            let mean = column().sum::<f64>() / n;
            let squares: f64 = column().map(|y| (y - mean) * (y - mean)).sum();
            let deviation = (squares / (n - 1.0).max(1.0)).sqrt();
            for y in self.values[bin..].iter_mut().step_by(BINS) {
                *y = ((f64::from(*y) - mean) / (deviation + DEVIATION_FLOOR)) as f32;
            }
        }
    }
}
