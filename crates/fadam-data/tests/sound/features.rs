//! The front end, against torchaudio's and against the sums of its definition.

use std::f64::consts::TAU;

use candle_core::{Device, Tensor};
use fadam_data::speech::{BINS, Features, LogMel};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::tone;

fn golden(name: &str) -> Vec<f32> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/logmel.safetensors");
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    tensors[name].flatten_all().and_then(|tensor: Tensor| tensor.to_vec1()).unwrap()
}

fn off(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn speech_as_torchaudio_has_it() {
    let mut features = LogMel::new().compute(&golden("wav"));
    assert_eq!(features.frames, 201);
    let raw = off(&features.values, &golden("logmel"));
    assert!(raw < 1e-4, "log-mel: off by {raw:e}");
    let mut theirs = Features { frames: 201, values: golden("logmel") };
    theirs.normalise();
    let normalised = off(&theirs.values, &golden("norm"));
    assert!(normalised < 1e-5, "normalised: off by {normalised:e}");
    // Both together: differences of 1e-4 are divided by standard deviations, the smallest of which
    // is 0.23. (From the exact values, torchaudio's are 9.0e-5 and 3.9e-4 away.)
    features.normalise();
    let both = off(&features.values, &golden("norm"));
    assert!(both < 1e-4 / 0.23, "both: off by {both:e}");
}

/// The definition in f64: no fast transform, no sparse filters, reflection by walking.
fn by_definition(samples: &[f32]) -> Vec<f64> {
    let mel = |hz: f64| {
        if hz < 1000.0 {
            hz / (200.0 / 3.0)
        } else {
            15.0 + (hz / 1000.0).ln() * 27.0 / 6.4f64.ln()
        }
    };
    let hertz = |mel: f64| {
        if mel < 15.0 {
            mel * 200.0 / 3.0
        } else {
            1000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp()
        }
    };
    let edge = |b: usize| hertz(mel(8000.0) * b as f64 / 81.0);
    let weight = |b: usize, k: usize| {
        let f = k as f64 * 31.25;
        let (low, middle, high) = (edge(b), edge(b + 1), edge(b + 2));
        let rise = (f - low) / (middle - low);
        let fall = (high - f) / (high - middle);
        rise.min(fall).max(0.0) * 2.0 / (high - low)
    };
    let length = i64::try_from(samples.len()).unwrap();
    let sample = |at: i64| {
        let (mut at, mut step) = (at, 1);
        // Walk from outside to the inside, turning round at the ends.
        let last = length - 1;
        while last > 0 && !(0..=last).contains(&at) {
            at = if at < 0 { -at } else { 2 * last - at };
            step += 1;
            assert!(step < 10_000);
        }
        f64::from(samples[if last == 0 { 0 } else { at as usize }])
    };
    let mut values = Vec::new();
    for frame in 0..=length / 160 {
        let windowed: Vec<f64> = (0..400)
            .map(|n| sample(160 * frame + n - 200) * 0.5 * (1.0 - (TAU * n as f64 / 400.0).cos()))
            .collect();
        let power: Vec<f64> = (0..257)
            .map(|k| {
                let angle = |n: usize| TAU * ((k * n) % 512) as f64 / 512.0;
                let sum = |part: fn(f64) -> f64| -> f64 {
                    windowed.iter().enumerate().map(|(n, x)| x * part(angle(n))).sum()
                };
                sum(f64::cos).powi(2) + sum(f64::sin).powi(2)
            })
            .collect();
        for b in 0..BINS {
            let sum: f64 = (0..257).map(|k| weight(b, k) * power[k]).sum();
            values.push((sum + 2f64.powi(-24)).ln());
        }
    }
    values
}

#[test]
fn short_clips_as_defined() {
    let plan = LogMel::new();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for length in [1, 2, 3, 100, 159, 160, 200, 201, 256, 257, 399, 480, 1000] {
        let samples: Vec<f32> = (0..length).map(|_| rng.random_range(-1.0..1.0)).collect();
        let features = plan.compute(&samples);
        assert_eq!(features.frames, 1 + length / 160);
        let expected: Vec<f32> = by_definition(&samples).iter().map(|&y| y as f32).collect();
        let off = off(&features.values, &expected);
        assert!(off < 4e-6, "{length} samples: off by {off:e}");
    }
}

#[test]
fn frames() {
    for (samples, frames) in [(0, 0), (1, 1), (159, 1), (160, 2), (32_000, 201), (32_159, 201)] {
        assert_eq!(LogMel::frames(samples), frames);
        assert_eq!(LogMel::new().compute(&vec![0.0; samples]).frames, frames);
    }
    assert_eq!(LogMel::new().compute(&[]), Features { frames: 0, values: vec![] });
}

#[test]
fn what_is_silent_or_loud_stays_finite() {
    let plan = LogMel::new();
    let mut silent = plan.compute(&[0.0; 1600]);
    let floor = (2f32.powi(-24)).ln();
    assert!(silent.values.iter().all(|&y| y == floor), "ln 2⁻²⁴");
    silent.normalise();
    assert!(silent.values.iter().all(|&y| y == 0.0));
    let loud: Vec<f32> = tone(16_000, 440.0, 1600).iter().map(|x| x * 131_072.0).collect();
    assert!(plan.compute(&loud).values.iter().all(|y| y.is_finite()));
}

#[test]
fn twice_as_loud_is_the_same_after_normalisation() {
    // ln(4·p) = ln p + ln 4, where p is far above 2⁻²⁴, and the mean takes ln 4.
    let plan = LogMel::new();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let noise: Vec<f32> = (0..16_000).map(|_| rng.random_range(-0.5..0.5)).collect();
    let mut a = plan.compute(&noise);
    let mut b = plan.compute(&noise.iter().map(|x| x * 2.0).collect::<Vec<_>>());
    let raised = off(&b.values, &a.values.iter().map(|y| y + 4f32.ln()).collect::<Vec<_>>());
    assert!(raised < 0.01, "{raised}");
    a.normalise();
    b.normalise();
    assert!(off(&a.values, &b.values) < 0.01);
    for bin in 0..BINS {
        let column: Vec<f64> = (0..a.frames).map(|t| f64::from(a.values[t * BINS + bin])).collect();
        let mean = column.iter().sum::<f64>() / 101.0;
        let deviation = (column.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / 100.0).sqrt();
        assert!(
            mean.abs() < 1e-6 && (deviation - 1.0).abs() < 1e-3,
            "bin {bin}: {mean} {deviation}"
        );
    }
}

#[test]
fn normalising_one_frame_or_a_constant() {
    let mut one = LogMel::new().compute(&tone(16_000, 440.0, 100));
    assert_eq!(one.frames, 1);
    one.normalise();
    assert!(one.values.iter().all(|&y| y == 0.0), "a single frame is its own mean");
    let mut none = Features { frames: 0, values: vec![] };
    none.normalise();
    assert!(none.values.is_empty());
    // Bin 3 is constant, bin 4 is 1, 2, 3: mean 2, deviation 1.
    let mut values = vec![0.0; 3 * BINS];
    for frame in 0..3 {
        values[frame * BINS + 3] = -16.635_532;
        values[frame * BINS + 4] = frame as f32 + 1.0;
    }
    let mut features = Features { frames: 3, values };
    features.normalise();
    let column = |bin: usize| [0, 1, 2].map(|frame| features.values[frame * BINS + bin]);
    assert_eq!(column(3), [0.0; 3]);
    let one = (1.0 / (1.0 + 1e-5)) as f32;
    assert_eq!(column(4), [-one, 0.0, one]);
}

#[test]
fn one_plan_serves_many_threads() {
    let plan = LogMel::new();
    let clips: Vec<Vec<f32>> =
        (0..8).map(|n| tone(16_000, 200.0 + 100.0 * f64::from(n), 4000)).collect();
    let alone: Vec<Features> = clips.iter().map(|clip| LogMel::new().compute(clip)).collect();
    let together: Vec<Features> = std::thread::scope(|scope| {
        let threads: Vec<_> = clips.iter().map(|clip| scope.spawn(|| plan.compute(clip))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}
