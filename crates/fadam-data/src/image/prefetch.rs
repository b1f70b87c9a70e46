//! Pictures to batches: what the thread of the [feed](crate::feed) does for images.

use std::sync::Arc;

use super::Rgb;
use super::batches::ImageBatch;
use super::plan::{Planned, View};
use super::set::ImageSet;
use crate::{Error, Result, feed};

/// Batches of pictures that are made ahead.
pub(super) type Feed = feed::Feed<ImageBatch>;

/// A batch of pictures to make.
pub(super) type Job = feed::Job<Planned>;

/// What the thread works with.
pub(super) struct Maker {
    pub(super) set: Arc<ImageSet>,
    pub(super) seed: u64,
    /// Otherwise the middle is seen.
    pub(super) random_crop: bool,
    pub(super) flip: bool,
}

/// A picture, and what is seen of it.
pub(super) struct Viewed {
    picture: usize,
    rgb: Arc<Rgb>,
    view: View,
}

impl feed::Make for Maker {
    type Planned = Planned;
    type Example = Viewed;
    type Batch = ImageBatch;

    fn number(planned: &Planned) -> usize {
        planned.picture
    }

    fn name(&self, picture: usize) -> String {
        format!("picture {}", self.set.pictures()[picture].picture.name)
    }

    fn example(&self, _: u64, planned: &Planned) -> Result<Viewed> {
        let rgb = self.set.scaled(planned.picture)?;
        let (width, height, size) = (rgb.width(), rgb.height(), self.set.size());
        let drawn = View::draw(self.seed, *planned, width, height, size);
        let centre = View::centre(width, height, size);
        let View { x, y, .. } = if self.random_crop { drawn } else { centre };
        let view = View { x, y, flip: self.flip && drawn.flip };
        Ok(Viewed { picture: planned.picture, rgb, view })
    }

    fn gather(&self, viewed: Vec<Viewed>) -> ImageBatch {
        let size = self.set.size();
        let mut pixels = vec![0; viewed.len() * 3 * size * size];
        for (to, Viewed { rgb, view, .. }) in pixels.chunks_exact_mut(3 * size * size).zip(&viewed)
        {
            rgb.planes(view.x, view.y, size, view.flip, to);
        }
        let pictures = viewed.iter().map(|viewed| viewed.picture).collect();
        ImageBatch { pixels, size, pictures }
    }

    fn gone(&self, pictures: usize, reason: String) -> Error {
        Error::ImagesGone { pictures, reason }
    }
}
