//! Training batches: what is in them, that they are a function of seed and index, and files that vanish.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use candle_core::{DType, Device};
use fadam_data::Error;
use fadam_data::image::{ImageBatch, ImageBatches, ImageCursor, ImageSet, ImageSpec, Rgb};
use proptest::prelude::*;

use super::{corpus, name, noisy, set_of};

fn batches(set: &Arc<ImageSet>, spec: ImageSpec) -> ImageBatches {
    ImageBatches::new(set.clone(), spec).unwrap()
}

fn take(batches: &mut ImageBatches, count: usize) -> Vec<ImageBatch> {
    (0..count).map(|_| batches.next_batch().unwrap()).collect()
}

fn pictures(batches: &[ImageBatch]) -> Vec<usize> {
    batches.iter().flat_map(|batch| batch.pictures.clone()).collect()
}

/// A square as the batch has it, [3, S, S], from the definition.
fn planes(rgb: &Rgb, x: usize, y: usize, size: usize, flip: bool) -> Vec<u8> {
    let mut planes = Vec::new();
    for plane in 0..3 {
        for row in 0..size {
            for column in 0..size {
                let column = if flip { size - 1 - column } else { column };
                planes.push(rgb.pixel(x + column, y + row)[plane]);
            }
        }
    }
    planes
}

/// Where in the scaled picture the pixels of a batch are: the corner, and whether it is mirrored.
fn found(rgb: &Rgb, pixels: &[u8], size: usize) -> (usize, usize, bool) {
    let mut at = Vec::new();
    for y in 0..=rgb.height() - size {
        for x in 0..=rgb.width() - size {
            for flip in [false, true] {
                if planes(rgb, x, y, size, flip) == pixels {
                    at.push((x, y, flip));
                }
            }
        }
    }
    assert_eq!(at.len(), 1, "one view of noise has these pixels");
    at[0]
}

#[test]
fn a_plain_batch_is_the_middles_of_its_pictures() {
    let folder = corpus(11);
    let set = set_of(&folder, 1024);
    let batch = batches(&set, ImageSpec::plain(4, 7)).next_batch().unwrap();
    assert_eq!((batch.batch(), batch.size, batch.pixels.len()), (4, 16, 4 * 3 * 16 * 16));
    let tensor = batch.tensor(&Device::Cpu).unwrap();
    assert_eq!((tensor.dims(), tensor.dtype()), (&[4, 3, 16, 16][..], DType::U8));
    assert_eq!(tensor.flatten_all().unwrap().to_vec1::<u8>().unwrap(), batch.pixels);
    for (pixels, &picture) in batch.pixels.chunks(3 * 16 * 16).zip(&batch.pictures) {
        let rgb = set.scaled(picture).unwrap().centre(16);
        assert_eq!(pixels, planes(&rgb, 0, 0, 16, false));
    }
}

#[test]
fn crops_and_mirrors_are_views_of_the_picture_and_change() {
    let folder = corpus(8);
    let set = set_of(&folder, 1024);
    let mut views: BTreeMap<usize, BTreeSet<(usize, usize, bool)>> = BTreeMap::new();
    let mut mirrored = 0;
    let seen = take(&mut batches(&set, ImageSpec::augmented(4, 7)), 60);
    for batch in &seen {
        for (pixels, &picture) in batch.pixels.chunks(3 * 16 * 16).zip(&batch.pictures) {
            let view = found(&set.scaled(picture).unwrap(), pixels, 16);
            mirrored += usize::from(view.2);
            views.entry(picture).or_default().insert(view);
        }
    }
    // 240 views: 120 expected, five standard deviations of 7.7.
    assert!((81..=159).contains(&mirrored), "{mirrored}");
    for (picture, views) in views {
        let rgb = set.scaled(picture).unwrap();
        let places = (rgb.width() - 15) * (rgb.height() - 15);
        // Of 30 views: both of a picture with one place, and several of others.
        assert!(views.len() > places.min(4), "{picture}: {} of {places}", views.len());
    }
    // Mirrors without crops are middles, one way or the other; the same ones, since draws do not depend on
    // what is used.
    let flips = ImageSpec { random_crop: false, ..ImageSpec::augmented(4, 7) };
    let crops = ImageSpec { flip: false, ..ImageSpec::augmented(4, 7) };
    let (flips, crops) = (take(&mut batches(&set, flips), 60), take(&mut batches(&set, crops), 60));
    for ((both, flips), crops) in seen.iter().zip(&flips).zip(&crops) {
        for (n, &picture) in both.pictures.iter().enumerate() {
            let rgb = set.scaled(picture).unwrap();
            let at = |batch: &ImageBatch| found(&rgb, &batch.pixels[768 * n..][..768], 16);
            let (x, y, flip) = at(both);
            assert_eq!(at(flips), ((rgb.width() - 16) / 2, (rgb.height() - 16) / 2, flip));
            assert_eq!(at(crops), (x, y, false));
        }
    }
}

#[test]
fn every_epoch_has_every_picture_once_in_another_order() {
    let folder = corpus(22);
    let set = set_of(&folder, 1024);
    let mut stream = batches(&set, ImageSpec::augmented(4, 7));
    // 22 pictures in batches of 4 without a gap: three epochs are 16.5 batches.
    let all = pictures(&take(&mut stream, 17));
    assert_eq!(all.len(), 68);
    let epochs: Vec<&[usize]> = all.chunks(22).take(3).collect();
    for epoch in &epochs {
        assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 22);
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    let report = stream.report();
    assert_eq!((report.batches, report.pictures, report.epoch, report.skipped), (17, 68, 3, 0));
    assert!(!report.first_wait.is_zero());
}

#[test]
fn a_seed_is_an_order_and_memory_is_none() {
    let folder = corpus(18);
    let (memory, disk) = (set_of(&folder, 1024), set_of(&folder, 0));
    let with = |set, seed| take(&mut batches(set, ImageSpec::augmented(4, seed)), 8);
    assert_eq!(with(&memory, 1), with(&disk, 1));
    assert_ne!(pictures(&with(&memory, 1)), pictures(&with(&memory, 2)));
}

#[test]
fn a_batch_may_be_larger_than_the_set() {
    let folder = corpus(3);
    let set = set_of(&folder, 1024);
    let batch = batches(&set, ImageSpec::augmented(7, 0)).next_batch().unwrap();
    for epoch in batch.pictures.chunks(3).take(2) {
        assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 3);
    }
    assert_eq!(batch.batch(), 7);
    let error = ImageBatches::new(set, ImageSpec::plain(0, 0)).unwrap_err().to_string();
    assert_eq!(error, "train.batch = 0: expected at least 1");
}

#[test]
fn settings_and_data_must_be_those_of_the_cursor() {
    let folder = corpus(12);
    let set = set_of(&folder, 1024);
    let spec = ImageSpec::augmented(4, 7);
    let mut here = batches(&set, spec);
    take(&mut here, 5);
    let saved = here.cursor();
    assert_eq!(saved.batch_index, 5);
    let refuse = |mut batches: ImageBatches, named: &str| {
        let before = batches.cursor();
        let error = batches.restore(&saved).unwrap_err();
        assert!(
            matches!(&error, Error::CursorMismatch { field, .. } if *field == named),
            "{error}"
        );
        assert_eq!(batches.cursor(), before, "nothing has changed");
    };
    refuse(batches(&set, ImageSpec { batch: 5, ..spec }), "train.batch");
    refuse(batches(&set, ImageSpec { seed: 8, ..spec }), "train.seed");
    let settings = "the batches' settings";
    refuse(batches(&set, ImageSpec { flip: false, ..spec }), settings);
    refuse(batches(&set, ImageSpec { random_crop: false, ..spec }), settings);
    let other = corpus(13);
    refuse(batches(&set_of(&other, 0), spec), "the number of training pictures");
    // The same names, of which one has other sides.
    fs::write(folder.path().join(name(2)), noisy(31, 16, 1)).unwrap();
    refuse(batches(&set_of(&folder, 0), spec), "the checksum of the training pictures");

    let mut value = serde_json::to_value(&saved).unwrap();
    value["batch_index"] = u64::MAX.into();
    let never: ImageCursor = serde_json::from_value(value).unwrap();
    assert!(matches!(here.restore(&never), Err(Error::CursorOutOfRange { .. })));
    assert_eq!(here.cursor(), saved);
}

#[test]
fn a_picture_that_vanishes_is_left_out_and_told_once() {
    let folder = corpus(8);
    let set = set_of(&folder, 0);
    let spec = ImageSpec::augmented(4, 7);
    let expected = take(&mut batches(&set, spec), 4);
    let gone = set.pictures()[3].picture.name.clone();
    fs::remove_file(folder.path().join(&gone)).unwrap();
    let mut stream = batches(&set, spec);
    for (all, left) in expected.iter().zip(take(&mut stream, 4)) {
        let kept: Vec<usize> = (0..4).filter(|&n| all.pictures[n] != 3).collect();
        let others: Vec<usize> = kept.iter().map(|&n| all.pictures[n]).collect();
        assert_eq!(left.pictures, others);
        let pixels: Vec<u8> =
            kept.iter().flat_map(|&n| all.pixels[768 * n..][..768].to_vec()).collect();
        assert_eq!(left.pixels, pixels, "the others are what they were");
    }
    let (notes, report) = (stream.take_notes(), stream.report());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with(&format!("picture {gone} is left out: ")), "{notes:?}");
    // Once in each of the two epochs; the thread may be in the third or fourth.
    assert!((2..=4).contains(&report.skipped), "{report:?}");
    assert!(stream.take_notes().is_empty());
}

#[test]
fn an_empty_batch_goes_to_the_next_and_none_at_all_is_an_error() {
    let folder = corpus(5);
    let set = set_of(&folder, 0);
    let spec = ImageSpec::augmented(1, 7);
    let order = pictures(&take(&mut batches(&set, spec), 10));
    let gone = |n: usize| {
        fs::remove_file(folder.path().join(&set.pictures()[n].picture.name)).unwrap();
    };
    // The first and the third batch.
    gone(order[0]);
    gone(order[2]);
    let mut stream = batches(&set, spec);
    let left: Vec<usize> =
        order.iter().copied().filter(|&n| n != order[0] && n != order[2]).collect();
    assert_eq!(take(&mut stream, 1)[0].pictures, [order[1]]);
    assert_eq!(stream.cursor().batch_index, 2, "two batches are behind");
    let saved = stream.cursor();
    assert_eq!(pictures(&take(&mut stream, 3)), left[1..4]);
    let mut resumed = batches(&set, spec);
    resumed.restore(&saved).unwrap();
    assert_eq!(pictures(&take(&mut resumed, 3)), left[1..4]);

    for n in [1, 3, 4] {
        gone(order[n]);
    }
    let mut stream = batches(&set, spec);
    let error = stream.next_batch().unwrap_err();
    assert!(matches!(error, Error::ImagesGone { pictures: 5, .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("not one batch can be made any more, 5 pictures cannot"), "{text}");
    assert!(text.ends_with(".png: no such file or folder"), "{text}");
    assert_eq!((stream.take_notes().len(), stream.cursor().batch_index), (5, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn resuming_is_exact(
        batch in 1usize..6,
        random_crop: bool,
        flip: bool,
        seed: u64,
        before in 0usize..20,
        keep_mb in 0usize..2,
    ) {
        let folder = corpus(14);
        let set = set_of(&folder, keep_mb);
        let spec = ImageSpec { batch, seed, random_crop, flip };
        let mut straight = batches(&set, spec);
        take(&mut straight, before);
        let saved = serde_json::to_string(&straight.cursor()).unwrap();
        let following = take(&mut straight, 8);

        let mut resumed = batches(&set_of(&folder, 1), spec);
        resumed.start();
        take(&mut resumed, 1);
        resumed.restore(&serde_json::from_str(&saved).unwrap()).unwrap();
        prop_assert_eq!(following, take(&mut resumed, 8));
        prop_assert_eq!(straight.cursor(), resumed.cursor());
    }
}
