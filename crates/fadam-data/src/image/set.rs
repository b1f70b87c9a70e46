//! The checked set: pictures that can be read, each scaled to one shorter side.

use std::sync::Arc;

use flate2::Crc;
use rayon::prelude::*;

use super::decode::{Conversion, MAX_PIXELS};
use super::picture::Picture;
use super::report::{ImageReport, Reason};
use super::resize::scaled;
use super::store::Store;
use super::{Fault, Rgb};
use crate::{Error, Result};

/// How much of a picture is looked at when a set is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Its header: that there is one, and the sides. What is damaged behind it is met by the batches,
    /// which leave it out and say so.
    Headers,
    /// All of it: it is decoded once.
    Everything,
}

/// What a picture must be to be trained on, and what it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetSpec {
    /// The shorter side of scaled pictures, in pixels, which is both sides of those in batches.
    pub size: usize,
    /// The fewest pixels of a side: 16 unless given.
    pub min_side: usize,
    /// The most pixels of a picture, as it is and scaled: [`MAX_PIXELS`] unless given. It is held in memory
    /// once for each thread.
    pub max_pixels: u64,
    /// How much is looked at: everything, unless given.
    pub check: Check,
    /// So many MiB of scaled pictures are kept in memory (65,000 squares of 74 pixels in a thousand);
    /// 1024 unless given. The rest is read and scaled each time.
    pub keep_mb: usize,
}

impl SetSpec {
    /// Pictures of a shorter side of `size`; the rest as usual.
    pub fn new(size: usize) -> Self {
        let check = Check::Everything;
        Self { size, min_side: 16, max_pixels: MAX_PIXELS, check, keep_mb: 1024 }
    }

    fn check(&self) -> Result<()> {
        let Self { size, min_side, max_pixels, .. } = *self;
        for (field, value) in [("model.image", size), ("data.min_side", min_side)] {
            if value == 0 {
                return Err(Error::Zero { field });
            }
        }
        let pixels = (size as u64).checked_mul(size as u64);
        if pixels.is_none_or(|pixels| pixels > max_pixels) {
            return Err(Error::ImageSetting {
                field: "model.image",
                value: size.to_string(),
                expected: format!("a square of at most {max_pixels} pixels"),
            });
        }
        Ok(())
    }
}

/// A picture of an [`ImageSet`].
#[derive(Debug, Clone)]
pub struct Checked {
    /// Where it comes from.
    pub picture: Picture,
    /// Its width in the file; where only headers were looked at, before it is turned upright.
    pub width: usize,
    /// Its height there.
    pub height: usize,
}

/// Pictures that were looked at: what is in the set can be trained on.
///
/// A file that changes or disappears later is met by the batches, which leave it out and say so.
#[derive(Debug)]
pub struct ImageSet {
    pictures: Vec<Checked>,
    spec: SetSpec,
    report: ImageReport,
    store: Store,
}

/// What looking at a picture gave.
enum Looked {
    Kept { checked: Checked, scaled: Option<(Arc<Rgb>, Vec<Conversion>)> },
    LeftOut { reason: Reason, what: String },
}

/// So many pictures are looked at between two calls of `progress`.
const ROUND: usize = 256;

impl ImageSet {
    /// Looks at every picture once, in parallel, and keeps what passes; the order stays. `progress` is told
    /// (how many are done, of how many).
    ///
    /// What is left out is counted with its [`Reason`] in the [report](ImageSet::report): a file that is
    /// missing, empty, no picture, damaged or cut off; sides that are too short; a picture that is too
    /// large, which is seen before memory is taken for it.
    ///
    /// ```
    /// use fadam_data::image::{ImageSet, ImageSource, SetSpec};
    /// # let folder = tempfile::tempdir()?;
    /// # let mut file = Vec::new();
    /// # let mut encoder = png::Encoder::new(&mut file, 40, 30);
    /// # encoder.set_color(png::ColorType::Grayscale);
    /// # encoder.write_header()?.write_image_data(&[7; 1200])?;
    /// # std::fs::write(folder.path().join("a.png"), &file)?;
    /// # std::fs::write(folder.path().join("b.png"), &file[..file.len() - 20])?;
    ///
    /// let (pictures, _) = ImageSource::Places(vec![folder.path().into()]).read()?;
    /// let set = ImageSet::build(pictures, &SetSpec::new(24), &|_, _| {})?;
    /// assert_eq!(set.pictures().len(), 1);
    /// assert_eq!((set.scaled(0)?.width(), set.scaled(0)?.height()), (32, 24));
    /// println!("{}", set.report()); // … 1 truncated: …/b.png: ends early: …
    /// # assert!(set.report().to_string().contains("1 truncated: "), "{}", set.report());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A setting that cannot be; when nothing is left, with the report in the message.
    pub fn build(
        pictures: Vec<Picture>,
        spec: &SetSpec,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        spec.check()?;
        let total = pictures.len();
        let mut report = ImageReport { given: total, ..ImageReport::default() };
        let mut kept = Vec::new();
        // With room for all, since how many will pass is not known yet.
        let store = Store::new(total, spec.keep_mb.saturating_mul(1 << 20));
        let mut left = pictures.into_iter();
        let mut done = 0;
        while done < total {
            let round: Vec<Picture> = left.by_ref().take(ROUND).collect();
            done += round.len();
            let looked: Vec<Looked> =
                round.into_par_iter().map(|picture| look(picture, spec)).collect();
            for looked in looked {
                match looked {
                    Looked::Kept { checked, scaled } => {
                        report.keep(checked.width.min(checked.height), spec.size);
                        if let Some((scaled, converted)) = scaled {
                            report.describe(&converted);
                            store.offer(kept.len(), &scaled);
                        }
                        kept.push(checked);
                    }
                    Looked::LeftOut { reason, what } => report.leave_out(reason, what),
                }
            }
            progress(done, total);
        }
        if kept.is_empty() {
            return Err(Error::NoImages { report: Box::new(report) });
        }
        Ok(Self { pictures: kept, spec: *spec, report, store })
    }

    /// The pictures in the set, in the order in which they were given; at least one.
    pub fn pictures(&self) -> &[Checked] {
        &self.pictures
    }

    /// The shorter side of scaled pictures, in pixels.
    pub fn size(&self) -> usize {
        self.spec.size
    }

    /// What is in the set, and what is not.
    pub fn report(&self) -> &ImageReport {
        &self.report
    }

    /// Pictures that are in memory, scaled.
    pub fn kept_in_memory(&self) -> usize {
        self.store.kept()
    }

    /// A picture with its shorter side of [`ImageSet::size`] pixels ([`Rgb::scaled`]): from memory, or read
    /// and scaled again.
    ///
    /// # Errors
    /// A file that is gone, unreadable, or of another size than it was.
    ///
    /// # Panics
    /// When there is no such picture.
    pub fn scaled(&self, number: usize) -> Result<Arc<Rgb>> {
        if let Some(kept) = self.store.get(number) {
            return Ok(kept);
        }
        let Checked { picture, width, height } = &self.pictures[number];
        let rgb = picture.data.rgb(self.spec.max_pixels)?;
        // Upright, the sides may have changed places.
        let (before, here) = ((*width, *height), (rgb.width(), rgb.height()));
        if here != before && (here.1, here.0) != before {
            return Err(Error::ImageChanged { name: picture.data.to_string(), before, here });
        }
        let scaled = Arc::new(rgb.scaled(self.spec.size));
        self.store.offer(number, &scaled);
        Ok(scaled)
    }

    /// CRC-32 of what batches depend on: names and sides, in order; the shorter side first, since one that
    /// is turned upright has them the other way round.
    pub(super) fn checksum(&self) -> u32 {
        let mut crc = Crc::new();
        for Checked { picture, width, height } in &self.pictures {
            crc.update(picture.name.as_bytes());
            crc.update(&[0]);
            for side in [width.min(height), width.max(height)] {
                crc.update(&(*side as u64).to_le_bytes());
            }
        }
        crc.sum()
    }
}

/// Whether a picture is for the set.
fn look(picture: Picture, spec: &SetSpec) -> Looked {
    looked(picture, spec).unwrap_or_else(|(reason, what)| Looked::LeftOut { reason, what })
}

fn looked(picture: Picture, spec: &SetSpec) -> std::result::Result<Looked, (Reason, String)> {
    let data = &picture.data;
    let failed = |error: Error| (reason(&error), error.to_string());
    let decoded = match spec.check {
        Check::Headers => None,
        Check::Everything => Some(data.decode(spec.max_pixels).map_err(failed)?),
    };
    let (width, height) = match &decoded {
        Some((rgb, _)) => (rgb.width(), rgb.height()),
        None => data.sides(spec.max_pixels).map_err(failed)?,
    };
    check_sides(width, height, spec)
        .map_err(|(reason, what)| (reason, format!("{data}: {what}")))?;
    let scaled = decoded.map(|(rgb, converted)| (Arc::new(rgb.scaled(spec.size)), converted));
    Ok(Looked::Kept { checked: Checked { picture, width, height }, scaled })
}

/// What is wrong with the sides of a picture.
fn check_sides(
    width: usize,
    height: usize,
    spec: &SetSpec,
) -> std::result::Result<(), (Reason, String)> {
    let SetSpec { size, min_side, max_pixels, .. } = *spec;
    if width.min(height) < min_side {
        let what = format!("{width} x {height}, data.min_side is {min_side}");
        return Err((Reason::TooSmall, what));
    }
    let (w, h) = scaled(width, height, size);
    if (w as u64).saturating_mul(h as u64) > max_pixels {
        let what = format!("{w} x {h} when scaled, above {max_pixels} pixels");
        return Err((Reason::TooLarge, what));
    }
    Ok(())
}

fn reason(error: &Error) -> Reason {
    match error {
        Error::MissingPath { .. } => Reason::Missing,
        Error::Picture { fault, .. } => Fault::reason(fault),
        _ => Reason::Unreadable,
    }
}
