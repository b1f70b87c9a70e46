//! PNG, decoded by the crate of that name, which checks every checksum.

use std::io::{Cursor, ErrorKind};

use png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::Fault;
use super::decode::Raw;

/// So many bytes may the decoder take for what is not a pixel.
const ASIDE: usize = 64 << 20;

pub(super) fn dimensions(bytes: &[u8]) -> Result<(usize, usize), Fault> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    let info = decoder.read_header_info().map_err(|error| fault(&error))?;
    Ok((info.width as usize, info.height as usize))
}

pub(super) fn decode(bytes: &[u8]) -> Result<Raw, Fault> {
    let (width, height) = dimensions(bytes)?;
    // A row has at most four samples of two bytes a pixel, and the decoder holds two of them.
    let limits = Limits { bytes: ASIDE + 16 * width };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Palettes, transparent colours and 1, 2 and 4 bits to 8; 16 to their upper 8.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(|error| fault(&error))?;
    let (colour, _) = reader.output_color_type();
    let channels = colour.samples();
    let mut pixels = vec![0; channels * width * height];
    reader.next_frame(&mut pixels).map_err(|error| fault(&error))?;
    // Up to the last chunk, so that a file that lacks its end is not taken for whole.
    reader.finish().map_err(|error| fault(&error))?;
    let info = reader.info();
    Ok(Raw {
        width,
        height,
        channels,
        pixels,
        grey: matches!(info.color_type, ColorType::Grayscale | ColorType::GrayscaleAlpha),
        cmyk: false,
        sixteen_bits: info.bit_depth == BitDepth::Sixteen,
        exif: info.exif_metadata.as_ref().map(|exif| exif.to_vec()),
    })
}

fn fault(error: &DecodingError) -> Fault {
    match error {
        DecodingError::IoError(cause) if cause.kind() == ErrorKind::UnexpectedEof => {
            Fault::Truncated("the data stops before the last chunk".to_owned())
        }
        DecodingError::LimitsExceeded => {
            Fault::TooLarge("what it holds beside its pixels".to_owned())
        }
        other => Fault::Damaged(other.to_string()),
    }
}
