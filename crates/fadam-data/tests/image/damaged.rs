//! Damaged pictures: cut off anywhere, changed anywhere, and too large to be decoded.

use fadam_data::Error;
use fadam_data::image::{Fault, MAX_PIXELS, decode};
use proptest::prelude::*;

use super::{data, noisy};

fn fault(bytes: &[u8], max_pixels: u64) -> Option<Fault> {
    match decode(bytes, "x", max_pixels) {
        Ok(_) => None,
        Err(Error::Picture { fault, .. }) => Some(fault),
        Err(other) => panic!("{other}"),
    }
}

/// A picture of each kind of coding.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let names = [
        "noise.jpg",
        "noise-progressive.jpg",
        "grey.jpg",
        "cmyk.jpg",
        "noise.png",
        "noise-lossy.webp",
        "lossless.webp",
        "alpha-lossy.webp",
    ];
    names.map(|name| (name, data(name))).into()
}

#[test]
fn a_picture_that_is_cut_anywhere_is_an_error() {
    for (name, bytes) in files() {
        assert_eq!(fault(&bytes, MAX_PIXELS), None, "{name}");
        for cut in 0..bytes.len() {
            let fault = fault(&bytes[..cut], MAX_PIXELS);
            let fault = fault.unwrap_or_else(|| panic!("{name}, {cut} of {}", bytes.len()));
            match cut {
                0 => assert_eq!(fault, Fault::Empty),
                1..12 => {}
                // Behind the signature, that it ends early is what is said of it.
                _ => assert!(matches!(fault, Fault::Truncated(_)), "{name}, {cut}: {fault:?}"),
            }
        }
    }
}

#[test]
fn a_changed_png_is_an_error() {
    let good = data("noise.png");
    for at in 8..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        assert!(fault(&bytes, MAX_PIXELS).is_some(), "byte {at}");
    }
}

/// A PNG header of `width` × `height` pixels and nothing behind it.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut crc = flate2::Crc::new();
    crc.update(&header);
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    bytes.extend(&header);
    bytes.extend(crc.sum().to_be_bytes());
    bytes
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    // 65,535² pixels would be 12 GiB.
    let png = png_header(65_535, 65_535);
    let mut jpeg = data("noise.jpg");
    let at = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[at + 5..at + 9].fill(0xFF);
    // 16,383² in the 14 bits each, less one, of a lossless WebP.
    let mut webp = data("lossless.webp");
    let at = webp.windows(4).position(|four| four == b"VP8L").unwrap();
    webp[at + 9..at + 13].copy_from_slice(&[0xFE, 0xBF, 0xFF, 0x0F]);
    for (bytes, sides) in [(png, "65535 x 65535"), (jpeg, "65535 x 65535"), (webp, "16383 x 16383")]
    {
        let fault = fault(&bytes, MAX_PIXELS).unwrap();
        assert_eq!(fault, Fault::TooLarge(format!("{sides}, above {MAX_PIXELS} pixels")));
    }
    // The bound itself is allowed.
    let picture = noisy(40, 30, 1);
    assert_eq!(fault(&picture, 1200), None);
    let expected = Fault::TooLarge("40 x 30, above 1199 pixels".to_owned());
    assert_eq!(fault(&picture, 1199), Some(expected));
}

#[test]
fn a_profile_that_unpacks_to_much_is_not_unpacked() {
    // 256 MiB of zeros in 260 kB of a compressed colour profile before the pixels.
    let mut packed = b"Profile\0\0".to_vec();
    let mut encoder = flate2::write::ZlibEncoder::new(&mut packed, flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..256 {
        std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    }
    encoder.finish().unwrap();
    let mut chunk = b"iCCP".to_vec();
    chunk.extend(&packed);
    let mut crc = flate2::Crc::new();
    crc.update(&chunk);
    let good = noisy(20, 20, 1);
    let mut bytes = good[..33].to_vec();
    bytes.extend((packed.len() as u32).to_be_bytes());
    bytes.extend(&chunk);
    bytes.extend(crc.sum().to_be_bytes());
    bytes.extend(&good[33..]);
    assert_eq!(
        decode(&bytes, "profile", MAX_PIXELS).unwrap().rgb,
        decode(&good, "plain", MAX_PIXELS).unwrap().rgb
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is changed, the answer is a picture or an error, and no panic.
    #[test]
    fn changed_bytes_are_a_picture_or_an_error(
        file in 0usize..8,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (_, mut bytes) = files().swap_remove(file);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // Up to a megapixel, so that no case takes long.
        fault(&bytes, 1 << 20);
    }
}
