//! Scaled pictures: kept in memory as far as that goes, made again beyond it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::Rgb;

/// Scaled pictures of a set by number.
#[derive(Debug)]
pub(super) struct Store {
    slots: Vec<OnceLock<Arc<Rgb>>>,
    /// Bytes that may still be kept.
    free: AtomicUsize,
}

impl Store {
    /// For so many pictures, at most `bytes` of pixels.
    pub(super) fn new(pictures: usize, bytes: usize) -> Self {
        let slots = (0..pictures).map(|_| OnceLock::new()).collect();
        Self { slots, free: AtomicUsize::new(bytes) }
    }

    /// Keeps a picture if there is room for it.
    pub(super) fn offer(&self, number: usize, picture: &Arc<Rgb>) {
        let bytes = picture.pixels().len();
        let take = |free: usize| free.checked_sub(bytes);
        let order = Ordering::Relaxed;
        if self.free.fetch_update(order, order, take).is_ok()
            && self.slots[number].set(picture.clone()).is_err()
        {
            // Another thread was first.
            self.free.fetch_add(bytes, order);
        }
    }

    /// A picture, if it is kept.
    pub(super) fn get(&self, number: usize) -> Option<Arc<Rgb>> {
        self.slots[number].get().cloned()
    }

    /// Pictures that are kept.
    pub(super) fn kept(&self) -> usize {
        self.slots.iter().filter(|slot| slot.get().is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let store = Store::new(4, 29);
        let picture = Arc::new(Rgb::new(2, 2, vec![1; 12]));
        (0..4).for_each(|n| store.offer(n, &picture));
        assert_eq!(store.kept(), 2);
        store.offer(0, &picture);
        assert_eq!(store.free.load(Ordering::Relaxed), 5, "a picture that is kept takes room once");
        assert_eq!(store.get(1), Some(picture));
        assert_eq!(store.get(2), None);
    }
}
