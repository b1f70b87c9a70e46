//! Originals and what became of them, side by side in one picture.

use anyhow::ensure;
use candle_core::{DType, Tensor};

/// White pixels between two pictures of a cell, and between cells.
const GAP: usize = 2;
const BETWEEN: usize = 10;

/// The side that a picture has at least, so that a person sees what it is: smaller ones are enlarged, each pixel to a square.
const LEAST: usize = 96;

/// A grid of cells, each with a picture of every one of `columns` (u8 `[N, 3, S, S]`) from left to right: as a PNG file. Cells follow each
/// other row by row, and are about as many across as makes the whole a square.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let originals = Tensor::zeros((6, 3, 32, 32), DType::U8, &Device::Cpu)?;
/// let png = experiments::vqvae::grid(&[&originals, &originals])?;
/// assert_eq!(&png[1..4], b"PNG");
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
/// If the pictures are not u8 of one shape, or none.
pub fn grid(columns: &[&Tensor]) -> anyhow::Result<Vec<u8>> {
    let shape = columns.first().map_or(&[][..], |first| first.dims());
    let &[count, 3, side, width] = shape else { anyhow::bail!("a grid of shape {shape:?}") };
    ensure!(count > 0 && side > 0 && side == width, "a grid of shape {shape:?}");
    let mut of = Vec::new();
    for column in columns {
        ensure!(column.dims() == shape && column.dtype() == DType::U8, "a grid of unlike pictures");
        of.push(column.flatten_all()?.to_vec1::<u8>()?);
    }
    let scale = LEAST.div_ceil(side);
    let drawn = side * scale;
    let cell = columns.len() * (drawn + GAP) - GAP + BETWEEN;
    let tall = drawn + BETWEEN;
    let longer = |n: &usize| (n * cell).max(count.div_ceil(*n) * tall);
    let across = (1..=count).min_by_key(longer).unwrap_or(count);
    let (width, height) = (across * cell + BETWEEN, count.div_ceil(across) * tall + BETWEEN);
    let mut canvas = vec![255u8; width * height * 3];
    for picture in 0..count {
        let top = BETWEEN + picture / across * tall;
        for (column, pixels) in of.iter().enumerate() {
            let left = BETWEEN + picture % across * cell + column * (drawn + GAP);
            let planes = &pixels[picture * 3 * side * side..][..3 * side * side];
            for y in 0..drawn {
                for x in 0..drawn {
                    let from = y / scale * side + x / scale;
                    let to = ((top + y) * width + left + x) * 3;
                    for channel in 0..3 {
                        canvas[to + channel] = planes[channel * side * side + from];
                    }
                }
            }
        }
    }
    encode_png(width, height, &canvas)
}

/// Interleaved RGB as a PNG file.
///
/// # Errors
/// If there are not `width · height · 3` bytes.
pub fn encode_png(width: usize, height: usize, rgb: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(rgb)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn decoded(png: &[u8]) -> (usize, usize, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width as usize, info.height as usize, pixels)
    }

    #[test]
    fn pictures_are_where_they_should_be() {
        // Picture n of column c has red 10 n + c in its upper left corner, green 7 to the right of that.
        let column = |c: u8| {
            let mut pixels = vec![0u8; 4 * 3 * 4];
            for n in 0..4 {
                pixels[n * 12] = 10 * n as u8 + c;
                pixels[n * 12 + 4 + 1] = 7;
            }
            Tensor::from_vec(pixels, (4, 3, 2, 2), &Device::Cpu).unwrap()
        };
        let png = grid(&[&column(1), &column(2)]).unwrap();
        let (width, height, pixels) = decoded(&png);
        // Two pictures of 96 pixels a cell: one cell across would be narrower than four are tall.
        assert_eq!((width, height), (2 * 204 + 10, 2 * 106 + 10));
        let at = |x: usize, y: usize| &pixels[(y * width + x) * 3..][..3];
        for (n, (left, top)) in [(10, 10), (214, 10), (10, 116), (214, 116)].into_iter().enumerate()
        {
            for (c, left) in [(1, left), (2, left + 98)] {
                assert_eq!(at(left, top), [10 * n as u8 + c, 0, 0]);
                assert_eq!(at(left + 47, top + 47), [10 * n as u8 + c, 0, 0]);
                assert_eq!(at(left + 48, top), [0, 7, 0]);
                assert_eq!(at(left - 1, top), [255; 3]);
                assert_eq!(at(left + 96, top), [255; 3]);
            }
        }
    }

    #[test]
    fn unlike_pictures_are_refused() {
        let zeros = |shape: (usize, usize, usize, usize), dtype| {
            Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
        };
        let good = zeros((1, 3, 2, 2), DType::U8);
        for bad in [zeros((2, 3, 2, 2), DType::U8), zeros((1, 3, 2, 2), DType::F32)] {
            assert!(grid(&[&good, &bad]).is_err());
        }
        for bad in [zeros((0, 3, 2, 2), DType::U8), zeros((1, 1, 2, 2), DType::U8)] {
            assert!(grid(&[&bad]).is_err());
        }
        assert!(grid(&[]).is_err());
    }
}
