//! The bytes of a JPEG, PNG or WebP file to 8-bit red, green and blue.
//!
//! A picture is whole or an error: what a decoder would fill up with grey is refused.

use std::fmt;

use super::{Fault, Rgb, exif, from_jpeg, from_png, from_webp};
use crate::unpanicked::unpanicked;
use crate::{Error, Result};

/// The most pixels of a picture, unless something else is asked for: 8192², 192 MiB of red, green and blue.
/// The largest picture of `ImageNet` has 61 million.
pub const MAX_PIXELS: u64 = 1 << 26;

/// What the first bytes say that a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Baseline and progressive, of 8 bits: grey, YCbCr, RGB, CMYK and YCCK.
    Jpeg,
    /// Of any colour type and depth; of an animation the picture that stands for it.
    Png,
    /// Lossy and lossless; of an animation the first frame.
    WebP,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
        })
    }
}

/// A picture, and how it became red, green and blue of 8 bits.
///
/// | in the file | what is done |
/// |---|---|
/// | grey | it becomes all three |
/// | alpha α, or a transparent colour | c·α + white·(1 − α), to the nearest whole number |
/// | a palette | looked up |
/// | CMYK, YCCK (JPEG) | R = C'·K'/255 of the inverted inks C', K' that Adobe's programs store; other programs follow them |
/// | 16 bits (PNG) | the upper 8, as libpng's `strip_16` has it |
/// | 1, 2, 4 bits (PNG) | spread over 0 to 255 |
/// | EXIF orientation | followed: the picture is upright ([`Rgb::upright`]) |
/// | colour profile, gamma | not looked at: numbers are taken as sRGB |
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decoded {
    /// The picture, upright.
    pub rgb: Rgb,
    /// What the file is.
    pub format: Format,
    /// What was done to it, in the order of the table.
    pub converted: Vec<Conversion>,
}

/// What was done to a picture to make it red, green and blue of 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Conversion {
    /// It has no colour.
    Grey,
    /// It has an alpha channel, or a transparent colour.
    Alpha,
    /// It is made of four inks.
    Cmyk,
    /// It has 16 bits a sample.
    SixteenBits,
    /// EXIF says that it is not upright.
    Turned,
}

impl fmt::Display for Conversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grey => "grey",
            Self::Alpha => "put on white",
            Self::Cmyk => "of four inks",
            Self::SixteenBits => "of 16 bits",
            Self::Turned => "turned upright",
        })
    }
}

/// What a decoder gives: 1 (grey), 2 (grey, alpha), 3 (colour) or 4 (colour, alpha) channels.
pub(super) struct Raw {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) channels: usize,
    pub(super) pixels: Vec<u8>,
    pub(super) grey: bool,
    pub(super) cmyk: bool,
    pub(super) sixteen_bits: bool,
    /// The EXIF block, where there is one.
    pub(super) exif: Option<Vec<u8>>,
}

/// Decodes a picture of at most `max_pixels` pixels, which is looked at before memory is taken for them;
/// `name` is what it is called in messages.
///
/// ```
/// use fadam_data::image::{Conversion, MAX_PIXELS, decode};
///
/// let mut file = Vec::new();
/// let mut encoder = png::Encoder::new(&mut file, 2, 1);
/// encoder.set_color(png::ColorType::GrayscaleAlpha);
/// encoder.write_header()?.write_image_data(&[0, 255, 0, 51])?;
///
/// // A black pixel, and one that is a fifth black: 255 · (1 − 51/255) = 204.
/// let decoded = decode(&file, "two.png", MAX_PIXELS)?;
/// assert_eq!(decoded.rgb.pixels(), [0, 0, 0, 204, 204, 204]);
/// assert_eq!(decoded.converted, [Conversion::Grey, Conversion::Alpha]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Picture`] with the [`Fault`]: no bytes, another format, bytes that end early or are damaged, a
/// picture that is too large.
pub fn decode(bytes: &[u8], name: &str, max_pixels: u64) -> Result<Decoded> {
    unpanicked(gave_up, || whole(bytes, max_pixels))
        .map_err(|fault| Error::Picture { name: name.to_owned(), fault })
}

/// (width, height) as the header says, before it is turned upright. The bytes may end behind the header.
///
/// # Errors
/// As [`decode`], as far as they are seen there.
pub(super) fn dimensions(
    bytes: &[u8],
    max_pixels: u64,
) -> std::result::Result<(usize, usize), Fault> {
    unpanicked(gave_up, || header(format(bytes)?, bytes, max_pixels))
}

fn gave_up() -> Fault {
    Fault::Damaged("the decoder gave up on it".to_owned())
}

fn whole(bytes: &[u8], max_pixels: u64) -> std::result::Result<Decoded, Fault> {
    let format = format(bytes)?;
    header(format, bytes, max_pixels)?;
    let raw = match format {
        Format::Jpeg => from_jpeg::decode(bytes),
        Format::Png => from_png::decode(bytes),
        Format::WebP => from_webp::decode(bytes),
    }?;
    let orientation = raw.exif.as_deref().and_then(exif::orientation).unwrap_or(1);
    let done = [
        (Conversion::Grey, raw.grey),
        (Conversion::Alpha, raw.channels % 2 == 0),
        (Conversion::Cmyk, raw.cmyk),
        (Conversion::SixteenBits, raw.sixteen_bits),
        (Conversion::Turned, orientation != 1),
    ];
    let converted = done.into_iter().filter(|&(_, done)| done).map(|(what, _)| what).collect();
    let pixels = on_white(raw.pixels, raw.channels);
    let rgb = Rgb::new(raw.width, raw.height, pixels).upright(orientation);
    Ok(Decoded { rgb, format, converted })
}

/// The sides, if they are allowed.
fn header(
    format: Format,
    bytes: &[u8],
    max_pixels: u64,
) -> std::result::Result<(usize, usize), Fault> {
    let (width, height) = match format {
        Format::Jpeg => from_jpeg::dimensions(bytes),
        Format::Png => from_png::dimensions(bytes),
        Format::WebP => from_webp::dimensions(bytes),
    }?;
    if width == 0 || height == 0 {
        return Err(Fault::Damaged(format!("it has {width} x {height} pixels")));
    }
    if (width as u64).saturating_mul(height as u64) > max_pixels {
        return Err(Fault::TooLarge(format!("{width} x {height}, above {max_pixels} pixels")));
    }
    Ok((width, height))
}

fn format(bytes: &[u8]) -> std::result::Result<Format, Fault> {
    match bytes {
        [] => Err(Fault::Empty),
        [0xFF, 0xD8, 0xFF, ..] => Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Ok(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Format::WebP),
        _ => {
            let first = bytes.iter().take(12).flat_map(|&byte| byte.escape_ascii());
            let first: String = first.map(char::from).collect();
            Err(Fault::NotAPicture(format!("\"{first}\"")))
        }
    }
}

/// Three channels of one to four.
fn on_white(pixels: Vec<u8>, channels: usize) -> Vec<u8> {
    // c·α + 255·(255 − α), over 255 and to the nearest.
    let mix = |c: u8, alpha: u8| {
        let (c, alpha) = (u32::from(c), u32::from(alpha));
        ((c * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    match channels {
        1 => pixels.into_iter().flat_map(|grey| [grey; 3]).collect(),
        2 => pixels.chunks_exact(2).flat_map(|p| [mix(p[0], p[1]); 3]).collect(),
        4 => {
            let rgb = |p: &[u8]| [mix(p[0], p[3]), mix(p[1], p[3]), mix(p[2], p[3])];
            pixels.chunks_exact(4).flat_map(rgb).collect()
        }
        _ => pixels,
    }
}
