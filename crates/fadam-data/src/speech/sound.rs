//! Stand-in until the decoding of sound is merged: WAV of 16 bits.

use std::path::Path;

use crate::{Error, Result};

/// The rate of all sound here, in samples a second.
pub const RATE: u32 = 16_000;

/// Mono sound at [`RATE`].
#[derive(Debug, Clone)]
pub struct Sound {
    samples: Vec<f32>,
}

impl Sound {
    /// Of samples between −1 and 1.
    pub fn from_samples(samples: Vec<f32>) -> Self {
        Self { samples }
    }

    /// The samples.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// Its length.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(RATE)
    }

    /// Whether nothing can be heard.
    pub fn is_silent(&self) -> bool {
        self.samples.iter().all(|x| x.abs() < 1e-4)
    }
}

/// A sound, and what it was before.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Mono, at [`RATE`].
    pub sound: Sound,
    /// The rate that the file has.
    pub rate: u32,
    /// The channels that the file has.
    pub channels: usize,
}

/// Decodes.
///
/// # Errors
/// What is no WAV.
pub fn decode(bytes: Vec<u8>, name: &str) -> Result<Decoded> {
    let wrong = || Error::NotSound { name: name.to_owned(), reason: "no WAV".to_owned() };
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if bytes.get(..4) != Some(b"RIFF") {
        return Err(wrong());
    }
    let channels = usize::from(u16_at(22).ok_or_else(wrong)?);
    let rate = u32_at(24).ok_or_else(wrong)?;
    let len = u32_at(40).ok_or_else(wrong)? as usize;
    let data = bytes.get(44..44 + len).ok_or_else(wrong)?;
    let values: Vec<f32> = data
        .chunks_exact(2)
        .map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0)
        .collect();
    if values.is_empty() {
        return Err(wrong());
    }
    let mono: Vec<f32> =
        values.chunks_exact(channels).map(|c| c.iter().sum::<f32>() / channels as f32).collect();
    let samples = stretch(&mono, f64::from(rate) / f64::from(RATE));
    Ok(Decoded { sound: Sound { samples }, rate, channels })
}

/// Linear interpolation: one value every `step` samples.
pub(super) fn stretch(samples: &[f32], step: f64) -> Vec<f32> {
    let len = (samples.len() as f64 / step).round() as usize;
    let at = |n: usize| {
        let place = n as f64 * step;
        let (left, part) = (place as usize, place.fract() as f32);
        let value = |i: usize| samples[i.min(samples.len() - 1)];
        value(left) * (1.0 - part) + value(left + 1) * part
    };
    (0..len).map(at).collect()
}

/// Reads a file.
///
/// # Errors
/// As [`decode`].
pub fn read(path: &Path) -> Result<Decoded> {
    let bytes = std::fs::read(path).map_err(|cause| Error::Io {
        action: "read",
        path: path.into(),
        cause,
    })?;
    decode(bytes, &path.display().to_string())
}

/// The seconds of a file.
///
/// # Errors
/// As [`decode`].
pub fn duration(path: &Path) -> Result<f64> {
    Ok(read(path)?.sound.seconds())
}
