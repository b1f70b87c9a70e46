//! Evaluation: every picture once, in order, its middle.

use std::fs;

use fadam_data::Error;
use fadam_data::image::{EvalImages, ImageBatch, ImageBatches, ImageSpec};

use super::{corpus, set_of};

#[test]
fn every_picture_comes_once_in_order_at_every_call() {
    let folder = corpus(11);
    let set = set_of(&folder, 0);
    let held_out = EvalImages::new(set.clone(), 4).unwrap();
    assert_eq!((held_out.count(), held_out.set().size()), (11, 16));
    let all: Vec<_> = held_out.batches().map(Result::unwrap).collect();
    let sizes: Vec<usize> = all.iter().map(ImageBatch::batch).collect();
    assert_eq!(sizes, [4, 4, 3]);
    let pictures: Vec<usize> = all.iter().flat_map(|batch| batch.pictures.clone()).collect();
    assert_eq!(pictures, (0..11).collect::<Vec<_>>());
    let again: Vec<_> = held_out.batches().map(Result::unwrap).collect();
    assert_eq!(all, again);
    // The middles, as plain training batches have them.
    let mut plain = ImageBatches::new(set, ImageSpec::plain(11, 0)).unwrap();
    let plain = plain.next_batch().unwrap();
    let pixels: Vec<u8> = all.iter().flat_map(|batch| batch.pixels.clone()).collect();
    for (n, &picture) in plain.pictures.iter().enumerate() {
        assert_eq!(plain.pixels[768 * n..][..768], pixels[768 * picture..][..768]);
    }
    let first = EvalImages::new(set_of(&folder, 1), 4).unwrap().first(5);
    let sizes: Vec<usize> = first.batches().map(|batch| batch.unwrap().batch()).collect();
    assert_eq!((first.count(), sizes), (5, vec![4, 1]));
    assert_eq!(first.first(99).count(), 5);
}

#[test]
fn what_cannot_be_read_is_counted_and_named() {
    let folder = corpus(6);
    let set = set_of(&folder, 0);
    let path = |n: usize| folder.path().join(&set.pictures()[n].picture.name);
    fs::write(path(1), "").unwrap();
    let held_out = EvalImages::new(set.clone(), 4).unwrap();
    let mut batches = held_out.batches();
    let pictures: Vec<Vec<usize>> = batches.by_ref().map(|b| b.unwrap().pictures).collect();
    assert_eq!(pictures, [vec![0, 2, 3], vec![4, 5]]);
    assert_eq!((batches.report().pictures, batches.report().skipped), (5, 1));
    let notes = batches.take_notes();
    assert!(notes.len() == 1 && notes[0].contains("has no bytes"), "{notes:?}");

    (0..6).for_each(|n| fs::remove_file(path(n)).unwrap());
    let mut batches = held_out.batches();
    // Each batch is empty, and then there are none: an end, with notes.
    assert!(batches.next().is_none_or(|batch| matches!(batch, Err(Error::ImagesGone { .. }))));
    assert_eq!((batches.report().skipped, batches.take_notes().len()), (6, 6));
    assert!(batches.next().is_none());
    assert!(EvalImages::new(set, 0).is_err());
}
