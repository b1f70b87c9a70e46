//! Stand-in until the front end is merged: energies of 80 stretches of each frame.

/// Features of a frame.
pub const BINS: usize = 80;

/// Turns sound into features.
#[derive(Debug, Clone, Default)]
pub struct LogMel;

/// [frames, 80], row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// T.
    pub frames: usize,
    /// [T, 80].
    pub values: Vec<f32>,
}

impl LogMel {
    /// Prepares.
    pub fn new() -> Self {
        Self
    }

    /// Of so many samples.
    pub fn frames(samples: usize) -> usize {
        1 + samples / 160
    }

    /// [T, 80].
    pub fn compute(&self, samples: &[f32]) -> Features {
        let frames = Self::frames(samples.len());
        let value = |n: usize| {
            let (frame, bin) = (n / 80, n % 80);
            let x = |i: usize| samples[(frame * 160 + 2 * bin + i).min(samples.len() - 1)];
            (x(0) * x(0) + x(1) * x(1) + 6e-8).ln()
        };
        Features { frames, values: (0..frames * 80).map(value).collect() }
    }
}

impl Features {
    /// Mean 0 and deviation 1 in each bin.
    pub fn normalise(&mut self) {
        for bin in 0..80 {
            let column = || self.values.iter().skip(bin).step_by(80);
            let mean = column().sum::<f32>() / self.frames as f32;
            let spread = column().map(|x| (x - mean).powi(2)).sum::<f32>();
            let std = (spread / (self.frames.max(2) - 1) as f32).sqrt() + 1e-5;
            self.values.iter_mut().skip(bin).step_by(80).for_each(|x| *x = (*x - mean) / std);
        }
    }
}
