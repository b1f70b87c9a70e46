//! Resizing, with a triangle as wide as the pixels of the result.
//!
//! Along one side, of n pixels that become m, with s = n/m pixels of the source for each of the result:
//!
//! ```text
//! c_j = (j + ½) s                      the middle of pixel j in the source, whose pixel i has its middle at i + ½
//! r   = max(s, 1)                      no narrower than a pixel, where the picture grows
//! w_ij = max(0, 1 − |i + ½ − c_j| / r) y_j = Σ_i w_ij x_i / Σ_i w_ij
//! ```
//!
//! Where the picture shrinks, each pixel of the source counts, so that nothing is aliased; where it grows,
//! this is linear interpolation. Pillow's and torchvision's antialiased "bilinear" is the same filter.
//! Pillow rounds to 8 bits between its passes; here the sums stay in f32 until the end, in one fixed
//! order, so that the result is the same on every machine.

use super::Rgb;

/// The pixels of the source that make one of the result: `weights` from `first` on, of sum 1.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// The taps of each of the `to` pixels that `from` pixels become.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let radius = scale.max(1.0);
    (0..to)
        .map(|j| {
            let centre = (j as f64 + 0.5) * scale;
            let first = (centre - radius).floor().max(0.0) as usize;
            let end = ((centre + radius).ceil() as usize).min(from);
            let weight = |i: usize| (1.0 - (i as f64 + 0.5 - centre).abs() / radius).max(0.0);
            let sum: f64 = (first..end).map(weight).sum();
            Taps { first, weights: (first..end).map(|i| (weight(i) / sum) as f32).collect() }
        })
        .collect()
}

impl Rgb {
    /// The same picture of `width` × `height` pixels; each side by itself.
    ///
    /// ```
    /// use fadam_data::image::Rgb;
    ///
    /// let black_and_white = Rgb::new(2, 1, vec![0, 0, 0, 255, 255, 255]);
    /// assert_eq!(black_and_white.resize(1, 1).pixels(), [128, 128, 128]);
    /// ```
    ///
    /// # Panics
    /// When `width` or `height` is 0.
    #[must_use]
    pub fn resize(&self, width: usize, height: usize) -> Self {
        if (width, height) == (self.width(), self.height()) {
            return self.clone();
        }
        let columns = taps(self.width(), width);
        let mut pixels = Vec::with_capacity(3 * width * height);
        // Rows first: that pass runs along memory, and leaves fewer rows where the picture shrinks.
        let mut row = vec![0.0f32; 3 * self.width()];
        for Taps { first, weights } in taps(self.height(), height) {
            row.fill(0.0);
            for (y, weight) in (first..).zip(weights) {
                for (sum, &value) in row.iter_mut().zip(self.row(y)) {
                    *sum += weight * f32::from(value);
                }
            }
            for Taps { first, weights } in &columns {
                let mut sums = [0.0f32; 3];
                for (rgb, weight) in row[3 * first..].chunks_exact(3).zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(rgb) {
                        *sum += weight * value;
                    }
                }
                pixels.extend(sums.map(|sum| (sum + 0.5) as u8));
            }
        }
        Self::new(width, height, pixels)
    }

    /// The same picture with its shorter side of `size` pixels and the longer one in proportion, to the
    /// nearest pixel.
    ///
    /// ```
    /// use fadam_data::image::Rgb;
    ///
    /// let wide = Rgb::new(500, 375, vec![9; 3 * 500 * 375]).scaled(256);
    /// assert_eq!((wide.width(), wide.height()), (341, 256));
    /// ```
    ///
    /// # Panics
    /// When `size` is 0.
    #[must_use]
    pub fn scaled(&self, size: usize) -> Self {
        let (width, height) = scaled(self.width(), self.height(), size);
        self.resize(width, height)
    }
}

/// The sides of a picture of `width` × `height` when the shorter one is `size`.
pub(super) fn scaled(width: usize, height: usize, size: usize) -> (usize, usize) {
    let shorter = width.min(height);
    // (side · size / shorter) to the nearest, in numbers that do not overflow for any picture.
    let side = |side: usize| (2 * side * size + shorter) / (2 * shorter);
    (side(width), side(height))
}
