//! Which pictures make up which batch: a pure function of their number, the seed and the batch index.
//!
//! The epochs' orders, each a shuffle of all N pictures, follow each other without a gap, and batch i of B
//! pictures is what stands at iB … iB + B − 1. So every batch is full, and every epoch has each picture
//! once. Where a picture is cut, and whether it is mirrored, is drawn from seed, epoch and picture.

use rand::Rng;
use rand::seq::SliceRandom;

use crate::draw::stream;

/// A picture in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    /// Its number in the set.
    pub(super) picture: usize,
    pub(super) epoch: u64,
}

/// What random numbers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Order = 0,
    View = 1,
}

/// What is seen of a picture: the square with this corner, and whether it is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) flip: bool,
}

impl View {
    /// A square of side `size` in `width` × `height`: each place that it can have is as likely. One draw
    /// decides of each of x, y and the mirror, whether it is used or not.
    pub(super) fn draw(
        seed: u64,
        planned: Planned,
        width: usize,
        height: usize,
        size: usize,
    ) -> Self {
        let mut rng = stream(seed, Use::View as u64, planned.epoch, planned.picture);
        let flip = rng.random_bool(0.5);
        let mut place = |side: usize| rng.random_range(0..=side - size);
        Self { x: place(width), y: place(height), flip }
    }

    /// The middle, not mirrored; half a pixel to the upper left where it cannot be in the middle.
    pub(super) fn centre(width: usize, height: usize, size: usize) -> Self {
        Self { x: (width - size) / 2, y: (height - size) / 2, flip: false }
    }
}

/// The order of an epoch over `pictures`.
fn order(pictures: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..pictures).collect();
    order.shuffle(&mut stream(seed, Use::Order as u64, epoch, 0));
    order
}

/// Batches by their index: the orders of the epochs that the last one touched.
#[derive(Debug)]
pub(super) struct Planner {
    pictures: usize,
    batch: usize,
    seed: u64,
    epoch: u64,
    order: Vec<usize>,
}

impl Planner {
    /// Of at least one picture.
    pub(super) fn new(pictures: usize, batch: usize, seed: u64) -> Self {
        Self { pictures, batch, seed, epoch: 0, order: order(pictures, seed, 0) }
    }

    /// The pictures of batch `index`.
    pub(super) fn at(&mut self, index: u64) -> Vec<Planned> {
        let first = u128::from(index) * self.batch as u128;
        (first..first + self.batch as u128).map(|place| self.place(place)).collect()
    }

    fn place(&mut self, place: u128) -> Planned {
        let (epoch, within) = (place / self.pictures as u128, place % self.pictures as u128);
        let epoch = epoch as u64;
        if epoch != self.epoch {
            (self.epoch, self.order) = (epoch, order(self.pictures, self.seed, epoch));
        }
        Planned { picture: self.order[within as usize], epoch }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_and_mirrors_are_drawn_evenly_and_anew_each_epoch() {
        let view = |picture, epoch| View::draw(5, Planned { picture, epoch }, 12, 8, 8);
        let views: Vec<View> = (0..5000).map(|picture| view(picture, 0)).collect();
        for x in 0..5 {
            // 1000 expected; four standard deviations of 28 around it.
            let count = views.iter().filter(|view| view.x == x).count();
            assert!((887..=1113).contains(&count), "{x}: {count}");
        }
        let flipped = views.iter().filter(|view| view.flip).count();
        // 2500 expected, a standard deviation of 35.
        assert!((2359..=2641).contains(&flipped), "{flipped}");
        assert!(views.iter().all(|view| view.y == 0));
        let same = (0..5000).filter(|&n| view(n, 1) == views[n]).count();
        // One in ten of them.
        assert!((415..=585).contains(&same), "{same}");
    }

    proptest! {
        #[test]
        fn every_epoch_has_every_picture_once_and_every_batch_is_full(
            pictures in 1usize..60,
            batch in 1usize..25,
            seed: u64,
            from in 0u64..50,
        ) {
            let mut planner = Planner::new(pictures, batch, seed);
            let count = (3 * pictures).div_ceil(batch) as u64;
            let batches: Vec<Vec<Planned>> = (0..count).map(|index| planner.at(index)).collect();
            prop_assert!(batches.iter().all(|planned| planned.len() == batch));
            let all: Vec<Planned> = batches.concat();
            for epoch in 0..3 {
                let mut here: Vec<usize> =
                    all.iter().filter(|p| p.epoch == epoch).map(|p| p.picture).collect();
                here.sort_unstable();
                prop_assert_eq!(here, (0..pictures).collect::<Vec<_>>());
            }
            prop_assert!(all.is_sorted_by_key(|planned| planned.epoch));
            // From anywhere, forwards and backwards.
            let fresh = Planner::new(pictures, batch, seed).at(from);
            planner.at(from + 7);
            prop_assert_eq!(planner.at(from), fresh);
        }
    }
}
