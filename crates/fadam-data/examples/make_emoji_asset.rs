//! Makes the embedded sheet of emoji: what scripts/make-emoji-asset.sh runs.
//!
//! ```text
//! make_emoji_asset PICTURES OUT
//! ```
//!
//! | argument | what |
//! |---|---|
//! | `PICTURES` | folder of pictures, as `scripts/fetch-data.sh emoji` leaves them: WebP of 256 × 256 with alpha |
//! | `OUT` | folder that gets `sheet.png` and `names.txt` |
//!
//! Each becomes the middle 32 × 32 pixels of what [`fadam_data::image`] makes of it, on white and with a
//! shorter side of 32; the sheet has them row by row in the order of their names, and then white.

use std::fs;
use std::path::PathBuf;

use fadam_data::image::{EMBEDDED_SIDE, ImageSource, MAX_PIXELS};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Pictures in a row of the sheet; so many, and that filter, make the smallest file.
const COLUMNS: usize = 128;

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [folder, out] = arguments.as_slice() else {
        return Err("usage: make_emoji_asset PICTURES OUT".into());
    };
    let (pictures, report) = ImageSource::Places(vec![folder.clone()]).read()?;
    println!("{report}");

    let side = EMBEDDED_SIDE;
    let (width, height) = (COLUMNS * side, pictures.len().div_ceil(COLUMNS) * side);
    let mut sheet = vec![255; 3 * width * height];
    let mut names = String::new();
    for (n, picture) in pictures.iter().enumerate() {
        let small = picture.data.rgb(MAX_PIXELS)?.scaled(side).centre(side);
        let (left, top) = (n % COLUMNS * side, n / COLUMNS * side);
        for (y, row) in small.pixels().chunks_exact(3 * side).enumerate() {
            sheet[3 * (width * (top + y) + left)..][..3 * side].copy_from_slice(row);
        }
        names += picture.name.trim_end_matches(".webp");
        names.push('\n');
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::MinEntropy);
    encoder.write_header()?.write_image_data(&sheet)?;
    fs::write(out.join("sheet.png"), &file)?;
    fs::write(out.join("names.txt"), names)?;
    println!("{} pictures, {width} x {height}, {} bytes", pictures.len(), file.len());
    Ok(())
}
