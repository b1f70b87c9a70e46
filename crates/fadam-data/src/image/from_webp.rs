//! WebP, decoded by image-webp.
//!
//! A lossy picture that ends early is filled up by its decoder, as the format says; here the length in the
//! header must be there.

use std::io::{Cursor, ErrorKind};

use image_webp::{DecodingError, WebPDecoder};

use super::Fault;
use super::decode::Raw;

/// So many bytes may the decoder take at once for what is not a pixel.
const ASIDE: usize = 64 << 20;

pub(super) fn dimensions(bytes: &[u8]) -> Result<(usize, usize), Fault> {
    // Where the bytes end early, that is the reason for whatever the decoder says.
    let decoder = WebPDecoder::new(Cursor::new(bytes))
        .map_err(|error| cut_short(bytes).unwrap_or_else(|| fault(&error)))?;
    let (width, height) = decoder.dimensions();
    Ok((width as usize, height as usize))
}

pub(super) fn decode(bytes: &[u8]) -> Result<Raw, Fault> {
    if let Some(fault) = cut_short(bytes) {
        return Err(fault);
    }
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| fault(&error))?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    if let Some((w, h)) = frames(bytes).find(|sides| *sides != (width, height)) {
        return Err(Fault::Damaged(format!(
            "a frame of {w} x {h} in a picture of {width} x {height}"
        )));
    }
    decoder.set_memory_limit(ASIDE + 4 * width * height);
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut pixels = vec![0; channels * width * height];
    decoder.read_image(&mut pixels).map_err(|error| fault(&error))?;
    let exif = decoder.exif_metadata().map_err(|error| fault(&error))?;
    let (grey, cmyk, sixteen_bits) = (false, false, false);
    Ok(Raw { width, height, channels, pixels, grey, cmyk, sixteen_bits, exif })
}

/// The sides that the lossy frames state of themselves. The decoder takes memory for them before it compares them with
/// those of the picture.
fn frames(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut rest = bytes.get(12..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (head, data) = rest.split_at_checked(8)?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        rest = data.get(length.saturating_add(length % 2)..).unwrap_or_default();
        Some((head.starts_with(b"VP8 "), data))
    })
    // A tag of three bytes, a start code of three, two sides of 14 bits with 2 bits of scale above.
    .filter_map(|(is_lossy, data)| data.get(6..10).filter(|_| is_lossy))
    .map(|sides| {
        let side = |at: usize| usize::from(u16::from_le_bytes([sides[at], sides[at + 1]]) & 0x3fff);
        (side(0), side(2))
    })
}

/// That there are fewer bytes than the header says.
fn cut_short(bytes: &[u8]) -> Option<Fault> {
    let stated = bytes.get(4..8)?.try_into().ok().map(u32::from_le_bytes)?;
    let stated = 8 + u64::from(stated);
    (stated > bytes.len() as u64)
        .then(|| Fault::Truncated(format!("{} of {stated} bytes", bytes.len())))
}

fn fault(error: &DecodingError) -> Fault {
    match error {
        DecodingError::IoError(cause) if cause.kind() == ErrorKind::UnexpectedEof => {
            Fault::Truncated("the data stops within the picture".to_owned())
        }
        DecodingError::ImageTooLarge | DecodingError::MemoryLimitExceeded => {
            Fault::TooLarge(error.to_string())
        }
        other => Fault::Damaged(other.to_string()),
    }
}
