//! JPEG, decoded by zune-jpeg.
//!
//! It fills up with grey what is missing, even in strict mode, so that a file has its end is looked at here.
//! (One whose data stops early, and that has the end marker all the same, is taken as it is: the decoder does
//! not tell.)

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::Fault;
use super::decode::Raw;

type Decoder<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

pub(super) fn dimensions(bytes: &[u8]) -> Result<(usize, usize), Fault> {
    Ok(read_header(bytes)?.1)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Raw, Fault> {
    let (mut decoder, (width, height)) = read_header(bytes)?;
    if !has_end(bytes) {
        let reason = format!("no end-of-image marker in its {} bytes", bytes.len());
        return Err(Fault::Truncated(reason));
    }
    let colours = decoder.input_colorspace().unwrap_or(ColorSpace::Unknown);
    let pixels = decoder.decode().map_err(|error| fault(&error))?;
    if pixels.len() != 3 * width * height {
        return Err(Fault::Unsupported(format!("its colours are {colours:?}")));
    }
    Ok(Raw {
        width,
        height,
        channels: 3,
        pixels,
        grey: colours == ColorSpace::Luma,
        cmyk: matches!(colours, ColorSpace::CMYK | ColorSpace::YCCK),
        sixteen_bits: false,
        exif: decoder.exif().cloned(),
    })
}

/// A decoder that has read the header, and the sides that it says.
fn read_header(bytes: &[u8]) -> Result<(Decoder<'_>, (usize, usize)), Fault> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        // Pixels are limited by whoever asks for the sides.
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| {
        // Where the bytes end early, that is the reason for whatever the decoder says.
        if has_end(bytes) {
            fault(&error)
        } else {
            Fault::Truncated("within its header".to_owned())
        }
    })?;
    let sides = decoder.info().map(|info| (usize::from(info.width), usize::from(info.height)));
    let sides = sides.ok_or_else(|| Fault::Damaged("its header has no size".to_owned()))?;
    Ok((decoder, sides))
}

fn fault(error: &DecodeErrors) -> Fault {
    match error {
        DecodeErrors::Unsupported(what) => Fault::Unsupported(format!("{what:?}")),
        // Its `Display` is several lines for some.
        other => Fault::Damaged(format!("{other:?}").replace('\n', " ")),
    }
}

/// Whether an end-of-image marker, FF D9, comes behind the header. Coded data never has these two bytes: an
/// FF in it is followed by 00. (A small picture within the header has an end of its own.)
fn has_end(bytes: &[u8]) -> bool {
    first_scan(bytes)
        .is_some_and(|at| bytes[at..].windows(2).rev().any(|pair| pair == [0xFF, 0xD9]))
}

/// Where the first start-of-scan marker is, FF DA; none where the bytes end before it.
fn first_scan(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        match (*bytes.get(at)?, *bytes.get(at + 1)?) {
            (0xFF, 0xDA) => return Some(at),
            // Markers without a length: fill bytes, TEM, RSTn, SOI.
            (0xFF, 0xFF) => at += 1,
            (0xFF, 0x00 | 0x01 | 0xD0..=0xD8) => at += 2,
            (0xFF, _) => {
                let length = [*bytes.get(at + 2)?, *bytes.get(at + 3)?];
                at += 2 + usize::from(u16::from_be_bytes(length));
            }
            // What lies between segments is passed over.
            _ => at += 1,
        }
    }
}
