//! The pictures that come with the crate, so that a first run needs no download.

use super::Rgb;
use super::decode::{MAX_PIXELS, decode};
use super::picture::{Picture, PictureData, Plain};
use crate::Result;

/// The sheet: [`EMBEDDED_SIDE`]² pixels for each name, row by row from the upper left, then white.
const SHEET: &[u8] = include_bytes!("../../assets/emoji/sheet.png");

/// The code points of each, a line each.
const NAMES: &str = include_str!("../../assets/emoji/names.txt");

/// The side of an embedded picture, in pixels.
pub const EMBEDDED_SIDE: usize = 32;

/// The 1,871 embedded pictures: Microsoft's Fluent emoji in 3-D, 32 × 32 pixels, on white.
///
/// Their names are code points, such as `emoji/1f600`. From the npm package
/// `@lobehub/fluent-emoji-3d@1.1.0` (MIT; see `assets/emoji/NOTICE`), without the variants that differ in
/// the colour of skin. `scripts/make-emoji-asset.sh` makes them again; `scripts/fetch-data.sh emoji` fetches
/// them at 256 × 256.
///
/// ```
/// let emoji = fadam_data::image::embedded()?;
/// assert_eq!(emoji.len(), 1871);
/// let grinning = emoji.iter().find(|picture| picture.name == "emoji/1f600").unwrap();
/// let face = grinning.data.rgb(fadam_data::image::MAX_PIXELS)?;
/// assert_eq!((face.width(), face.height(), face.pixel(0, 0)), (32, 32, [255; 3]));
/// let [red, _, blue] = face.pixel(16, 4);
/// assert!(red > 200 && blue < 150, "it is yellow");
/// # Ok::<(), fadam_data::Error>(())
/// ```
///
/// # Errors
/// None, unless the program itself is damaged.
pub fn embedded() -> Result<Vec<Picture>> {
    let place = "embedded:emoji".to_owned();
    let sheet = decode(SHEET, &place, MAX_PIXELS)?.rgb;
    let (names, side) = (NAMES.lines(), EMBEDDED_SIDE);
    let columns = sheet.width() / side;
    let tile = |n: usize| sheet.crop(n % columns * side, n / columns * side, side, side);
    let tiles = (0..names.clone().count()).map(tile);
    let pixels = tiles.flat_map(|tile: Rgb| tile.pixels().to_vec()).collect();
    let real = place.clone();
    let plain = Plain { place, real, width: side, height: side, channels: 3, pixels };
    let picture = |(name, data)| Picture {
        name: format!("emoji/{name}"),
        class: None,
        data: PictureData::Plain(data),
    };
    Ok(names.zip(plain.pictures()).map(picture).collect())
}
