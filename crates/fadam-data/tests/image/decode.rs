//! Every format and kind of pixel, from files that Pillow wrote.

use fadam_data::Error;
use fadam_data::image::{Conversion, Fault, Format, MAX_PIXELS, Rgb, decode};

use super::{data, decoded, noise, png};

const RED: [u8; 3] = [255, 0, 0];
const GREEN: [u8; 3] = [0, 255, 0];
const BLUE: [u8; 3] = [0, 0, 255];
const YELLOW: [u8; 3] = [255, 255, 0];

fn assert_near(name: &str, found: [u8; 3], expected: [u8; 3], within: u8) {
    let near = found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= within);
    assert!(near, "{name}: {found:?} is not {expected:?} within {within}");
}

/// Red and green above, blue and yellow below, each looked at in its middle and near the edges.
fn assert_quarters(name: &str, rgb: &Rgb, within: u8) {
    assert_eq!((rgb.width(), rgb.height()), (48, 32), "{name}");
    for (x, y, colour) in [(0, 0, RED), (24, 0, GREEN), (0, 16, BLUE), (24, 16, YELLOW)] {
        for (right, down) in [(12, 8), (3, 2), (20, 13)] {
            assert_near(name, rgb.pixel(x + right, y + down), colour, within);
        }
    }
}

#[test]
fn colours_are_those_that_were_written() {
    for (name, format, within) in [
        ("baseline.jpg", Format::Jpeg, 3),
        ("subsampled.jpg", Format::Jpeg, 3),
        ("progressive.jpg", Format::Jpeg, 3),
        ("lossless.webp", Format::WebP, 0),
        ("animated.webp", Format::WebP, 0),
        ("lossy.webp", Format::WebP, 6),
        ("palette.png", Format::Png, 0),
    ] {
        let decoded = decoded(name);
        assert_quarters(name, &decoded.rgb, within);
        assert_eq!((decoded.format, &decoded.converted[..]), (format, &[][..]), "{name}");
    }
}

#[test]
fn grey_becomes_all_three() {
    let decoded = decoded("grey.jpg");
    assert_eq!(decoded.converted, [Conversion::Grey]);
    // Luma of the four colours: 0.299, 0.587, 0.114 and 0.886 of 255.
    for (x, y, grey) in [(12, 8, 76), (36, 8, 150), (12, 24, 29), (36, 24, 226)] {
        assert_near("grey.jpg", decoded.rgb.pixel(x, y), [grey; 3], 3);
    }
    let one_bit = {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 16, 1);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::One);
        encoder.write_header().unwrap().write_image_data(&[0b1010_0000, 0b1111_1111]).unwrap();
        decode(&bytes, "one bit", MAX_PIXELS).unwrap()
    };
    assert_eq!(one_bit.converted, [Conversion::Grey]);
    assert_eq!(one_bit.rgb.pixels()[..12], [255, 255, 255, 0, 0, 0, 255, 255, 255, 0, 0, 0]);
}

#[test]
fn alpha_lies_on_white() {
    for (name, within) in [("alpha.png", 0), ("alpha.webp", 0), ("alpha-lossy.webp", 6)] {
        let decoded = decoded(name);
        assert_eq!(decoded.converted, [Conversion::Alpha], "{name}");
        assert_near(name, decoded.rgb.pixel(8, 8), RED, within);
        // 255 · (1 − 102/255) = 153.
        assert_near(name, decoded.rgb.pixel(24, 8), [255, 153, 153], within);
    }
    // A transparent colour, and both ends of alpha exactly.
    let mut keyed = Vec::new();
    let mut encoder = png::Encoder::new(&mut keyed, 2, 1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_trns(vec![0, 9, 0, 8, 0, 7]);
    encoder.write_header().unwrap().write_image_data(&[9, 8, 7, 9, 8, 6]).unwrap();
    let keyed = decode(&keyed, "keyed", MAX_PIXELS).unwrap();
    assert_eq!(keyed.rgb.pixels(), [255, 255, 255, 9, 8, 6]);
    let ends = png(2, 1, png::ColorType::Rgba, &[1, 2, 3, 0, 1, 2, 3, 255]);
    let ends = decode(&ends, "ends", MAX_PIXELS).unwrap();
    assert_eq!(ends.rgb.pixels(), [255, 255, 255, 1, 2, 3]);
    // Everything between, against the definition.
    let all: Vec<u8> = (0..=255u8).flat_map(|a| (0..=255u8).flat_map(move |c| [c, a])).collect();
    let all = png(256, 256, png::ColorType::GrayscaleAlpha, &all);
    let all = decode(&all, "all", MAX_PIXELS).unwrap();
    for alpha in 0..256 {
        for c in 0..256 {
            let share = alpha as f64 / 255.0;
            let expected = (c as f64 * share + 255.0 * (1.0 - share)).round() as u8;
            assert_eq!(all.rgb.pixel(c, alpha), [expected; 3], "{c} of {alpha}");
        }
    }
}

#[test]
fn inks_become_colours() {
    let decoded = decoded("cmyk.jpg");
    assert_eq!(decoded.converted, [Conversion::Cmyk]);
    assert_near("above", decoded.rgb.pixel(12, 8), RED, 4);
    assert_near("above", decoded.rgb.pixel(36, 8), GREEN, 4);
    // Half black ink, and no other: (255 − 128)/255 of white.
    assert_near("below", decoded.rgb.pixel(12, 24), [127; 3], 4);
}

#[test]
fn of_sixteen_bits_the_upper_eight_stay() {
    let decoded = decoded("grey-16.png");
    assert_eq!(decoded.converted, [Conversion::Grey, Conversion::SixteenBits]);
    for y in 0..16 {
        for x in 0..32 {
            assert_eq!(decoded.rgb.pixel(x, y), [8 * x as u8; 3], "{x}, {y}");
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 2);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Sixteen);
    let samples = [0x12FF, 0x3400, 0x5680, 0xFFFF, 0, 0, 0, 0x00FFu16];
    let samples: Vec<u8> = samples.into_iter().flat_map(u16::to_be_bytes).collect();
    encoder.write_header().unwrap().write_image_data(&samples).unwrap();
    let deep = decode(&bytes, "deep", MAX_PIXELS).unwrap();
    assert_eq!(deep.converted, [Conversion::Alpha, Conversion::SixteenBits]);
    assert_eq!(deep.rgb.pixels(), [0x12, 0x34, 0x56, 255, 255, 255]);
}

#[test]
fn pictures_are_turned_upright() {
    for (name, within) in [("turned.jpg", 3), ("turned.png", 0), ("turned.webp", 0)] {
        let decoded = decoded(name);
        assert_eq!(decoded.converted, [Conversion::Turned], "{name}");
        assert_quarters(name, &decoded.rgb, within);
    }
    // 1 2 3      The file of each orientation whose upright picture this is.
    // 4 5 6
    let upright = [1, 2, 3, 4, 5, 6];
    for (orientation, width, file) in [
        (0, 3, [1, 2, 3, 4, 5, 6]),
        (1, 3, [1, 2, 3, 4, 5, 6]),
        (2, 3, [3, 2, 1, 6, 5, 4]),
        (3, 3, [6, 5, 4, 3, 2, 1]),
        (4, 3, [4, 5, 6, 1, 2, 3]),
        (5, 2, [1, 4, 2, 5, 3, 6]),
        (6, 2, [3, 6, 2, 5, 1, 4]),
        (7, 2, [6, 3, 5, 2, 4, 1]),
        (8, 2, [4, 1, 5, 2, 6, 3]),
        (9, 3, [1, 2, 3, 4, 5, 6]),
    ] {
        let pixels = file.iter().flat_map(|&n| [n; 3]).collect();
        let turned = Rgb::new(width, 6 / width, pixels).upright(orientation);
        let found: Vec<u8> = turned.pixels().chunks(3).map(|pixel| pixel[0]).collect();
        assert_eq!((turned.width(), &found[..]), (3, &upright[..]), "{orientation}");
    }
}

#[test]
fn what_webp_and_png_write_comes_back() {
    let pixels = noise(3 * 21 * 13, 4);
    let mut webp = Vec::new();
    image_webp::WebPEncoder::new(&mut webp)
        .encode(&pixels, 21, 13, image_webp::ColorType::Rgb8)
        .unwrap();
    let png = png(21, 13, png::ColorType::Rgb, &pixels);
    for bytes in [webp, png] {
        let decoded = decode(&bytes, "noise", MAX_PIXELS).unwrap();
        assert_eq!(decoded.rgb, Rgb::new(21, 13, pixels.clone()));
    }
}

#[test]
fn what_is_no_picture_says_how_it_begins() {
    let message = |bytes: &[u8]| decode(bytes, "x", MAX_PIXELS).unwrap_err().to_string();
    assert_eq!(message(b""), "x: has no bytes; download or copy the file again");
    let expected = "expected JPEG, PNG or WebP";
    assert_eq!(
        message(b"GIF89a and more of it"),
        format!("x: not a picture: it begins with \"GIF89a and m\"; {expected}")
    );
    assert_eq!(
        message(b"\x00\n"),
        format!("x: not a picture: it begins with \"\\x00\\n\"; {expected}")
    );
    // The three signatures with nothing behind them.
    for bytes in [&data("noise.jpg")[..3], &data("noise.png")[..8], &data("lossy.webp")[..12]] {
        let error = decode(bytes, "x", MAX_PIXELS).unwrap_err();
        assert!(matches!(error, Error::Picture { fault: Fault::Truncated(_), .. }), "{error}");
    }
}
