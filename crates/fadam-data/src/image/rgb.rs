//! Decoded pictures: rows of red, green and blue bytes; cutting and turning them.

/// A picture of 8-bit sRGB: H rows of W times red, green, blue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Rgb {
    /// Of `height` rows of `width` times red, green, blue.
    ///
    /// # Panics
    /// When there are not 3 · width · height bytes, or none.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Self {
        assert!(width > 0 && height > 0, "a picture of {width} x {height} has no pixels");
        assert_eq!(pixels.len(), 3 * width * height, "a picture of {width} x {height}");
        Self { width, height, pixels }
    }

    /// W, in pixels; at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// H, in pixels; at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, [H, W, 3].
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// A row, [W, 3].
    pub(super) fn row(&self, y: usize) -> &[u8] {
        &self.pixels[3 * self.width * y..][..3 * self.width]
    }

    /// Red, green and blue, x from the left and y from the top.
    ///
    /// # Panics
    /// Outside of the picture.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        assert!(x < self.width, "x = {x} in a picture of {} x {}", self.width, self.height);
        let at = 3 * x;
        let row = self.row(y);
        [row[at], row[at + 1], row[at + 2]]
    }

    /// The `width` × `height` pixels whose upper left corner is (x, y).
    ///
    /// ```
    /// use fadam_data::image::Rgb;
    ///
    /// let bytes: Vec<u8> = (0..4 * 3 * 3).collect();
    /// let part = Rgb::new(4, 3, bytes).crop(1, 2, 2, 1);
    /// assert_eq!(part.pixels(), [27, 28, 29, 30, 31, 32]);
    /// ```
    ///
    /// # Panics
    /// When they are not all in the picture.
    #[must_use]
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Self {
        assert!(
            x + width <= self.width && y + height <= self.height,
            "{width} x {height} at ({x}, {y}) of {} x {}",
            self.width,
            self.height
        );
        let rows = (y..y + height).flat_map(|y| &self.row(y)[3 * x..][..3 * width]);
        Self::new(width, height, rows.copied().collect())
    }

    /// The square of side `size` in the middle; where it cannot be in the middle, half a pixel to the
    /// upper left.
    ///
    /// # Panics
    /// When the picture is smaller.
    #[must_use]
    pub fn centre(&self, size: usize) -> Self {
        self.crop((self.width - size) / 2, (self.height - size) / 2, size, size)
    }

    /// Turned as the EXIF tag "Orientation" asks for, which says where the first row and column of the
    /// file belong; whatever it does not define leaves the picture as it is.
    ///
    /// | tag | the file has it | pixel (x, y) of the result, of a file of W × H |
    /// |---|---|---|
    /// | 1 | upright | (x, y) |
    /// | 2 | mirrored | (W−1−x, y) |
    /// | 3 | upside down | (W−1−x, H−1−y) |
    /// | 4 | upside down and mirrored | (x, H−1−y) |
    /// | 5 | turned left and mirrored | (y, x) |
    /// | 6 | turned left: a quarter turn clockwise mends it | (y, H−1−x) |
    /// | 7 | turned right and mirrored | (W−1−y, H−1−x) |
    /// | 8 | turned right | (W−1−y, x) |
    #[must_use]
    pub fn upright(self, orientation: u16) -> Self {
        let (w, h) = (self.width, self.height);
        let source = |x: usize, y: usize| match orientation {
            2 => (w - 1 - x, y),
            3 => (w - 1 - x, h - 1 - y),
            4 => (x, h - 1 - y),
            5 => (y, x),
            6 => (y, h - 1 - x),
            7 => (w - 1 - y, h - 1 - x),
            _ => (w - 1 - y, x),
        };
        let (width, height) = match orientation {
            2..=4 => (w, h),
            5..=8 => (h, w),
            _ => return self,
        };
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for y in 0..height {
            for x in 0..width {
                let (x, y) = source(x, y);
                pixels.extend(self.pixel(x, y));
            }
        }
        Self { width, height, pixels }
    }

    /// The square of side `size` at (x, y), mirrored if `flip`, as a network takes it: [3, size, size],
    /// all red, then all green, then all blue.
    pub(super) fn planes(&self, x: usize, y: usize, size: usize, flip: bool, to: &mut [u8]) {
        for (plane, to) in to.chunks_exact_mut(size * size).enumerate() {
            for (row, to) in to.chunks_exact_mut(size).enumerate() {
                let from = &self.row(y + row)[3 * x..][..3 * size];
                for (column, to) in to.iter_mut().enumerate() {
                    let column = if flip { size - 1 - column } else { column };
                    *to = from[3 * column + plane];
                }
            }
        }
    }
}
