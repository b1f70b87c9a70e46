//! Resizing and cutting against Pillow, and by what they must be.

use fadam_data::image::Rgb;
use proptest::prelude::*;

use super::{decoded, noise};

#[test]
fn resizing_is_pillows_within_a_level() {
    let source = decoded("noise.png").rgb;
    for (width, height) in [(16, 10), (37, 10), (90, 23), (111, 69), (20, 60)] {
        let expected = decoded(&format!("noise-{width}x{height}.png")).rgb;
        let found = source.resize(width, height);
        let pairs = || found.pixels().iter().zip(expected.pixels());
        // Pillow rounds between its passes, which moves some by one.
        assert!(pairs().all(|(a, b)| a.abs_diff(*b) <= 1), "{width} x {height}");
        let moved = pairs().filter(|(a, b)| a != b).count();
        assert!(moved * 4 < expected.pixels().len(), "{width} x {height}: {moved}");
    }
}

#[test]
fn halves_are_means() {
    // n → n/2: with s = r = 2, the weights of the four pixels around a middle are 1/8, 3/8, 3/8, 1/8.
    let row: Vec<u8> = [0, 80, 160, 240, 200, 40].iter().flat_map(|&v| [v; 3]).collect();
    let half = Rgb::new(6, 1, row).resize(3, 1);
    let found: Vec<u8> = half.pixels().chunks(3).map(|pixel| pixel[0]).collect();
    // At the ends, three pixels of weights 3, 3, 1 over 7.
    let expected = [
        (3.0 * 0.0 + 3.0 * 80.0 + 160.0) / 7.0,
        (80.0 + 3.0 * 160.0 + 3.0 * 240.0 + 200.0) / 8.0,
        (240.0 + 3.0 * 200.0 + 3.0 * 40.0) / 7.0,
    ];
    assert_eq!(found, expected.map(|v: f64| v.round() as u8));
}

proptest! {
    #[test]
    fn one_colour_stays_and_nothing_leaves_its_range(
        (width, height) in (1usize..40, 1usize..40),
        (to_width, to_height) in (1usize..60, 1usize..60),
        colour: [u8; 3],
        seed: u32,
    ) {
        let plain = Rgb::new(width, height, colour.repeat(width * height)).resize(to_width, to_height);
        prop_assert!(plain.pixels().chunks(3).all(|pixel| pixel == colour));
        let picture = Rgb::new(width, height, noise(3 * width * height, seed));
        let found = picture.resize(to_width, to_height);
        prop_assert_eq!((found.width(), found.height()), (to_width, to_height));
        let range = |picture: &Rgb| {
            let all = picture.pixels().iter().copied();
            (all.clone().min().unwrap(), all.max().unwrap())
        };
        let ((low, high), (from, to)) = (range(&picture), range(&found));
        prop_assert!(low <= from && to <= high);
        prop_assert_eq!(picture.resize(width, height), picture);
    }

    #[test]
    fn mirrors_commute_with_resizing(width in 1usize..40, to in 1usize..50, seed: u32) {
        let picture = Rgb::new(width, 3, noise(9 * width, seed));
        let one = picture.clone().upright(2).resize(to, 3);
        let other = picture.resize(to, 3).upright(2);
        // The sums go in the other order.
        prop_assert!(one.pixels().iter().zip(other.pixels()).all(|(a, b)| a.abs_diff(*b) <= 1));
    }

    #[test]
    fn the_shorter_side_is_the_size_and_proportions_stay(
        width in 1usize..700,
        height in 1usize..700,
        size in 1usize..64,
    ) {
        prop_assume!(width.max(height) * size < 3000 * width.min(height));
        let scaled = Rgb::new(width, height, vec![0; 3 * width * height]).scaled(size);
        prop_assert_eq!(scaled.width().min(scaled.height()), size);
        let exact = size as f64 / width.min(height) as f64;
        for (side, before) in [(scaled.width(), width), (scaled.height(), height)] {
            prop_assert!((side as f64 - before as f64 * exact).abs() <= 0.5 + 1e-9);
        }
    }
}

#[test]
fn crops_are_the_pixels_that_they_name() {
    let picture = Rgb::new(9, 7, noise(3 * 63, 2));
    let part = picture.crop(2, 3, 5, 4);
    for y in 0..4 {
        for x in 0..5 {
            assert_eq!(part.pixel(x, y), picture.pixel(x + 2, y + 3));
        }
    }
    assert_eq!(picture.centre(5), picture.crop(2, 1, 5, 5));
    assert_eq!(picture.centre(4), picture.crop(2, 1, 4, 4));
}
