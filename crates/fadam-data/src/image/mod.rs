//! Pictures: files, tables and folders to batches of squares of one size.
//!
//! ```text
//! bytes ─decode→ Rgb (8 bits, upright, on white) ─scaled→ shorter side S ─crop, flip→ [3, S, S]
//!
//! ImageSource ─read→ Vec<Picture> ─build→ ImageSet ─┬→ ImageBatches ─→ ImageBatch ─→ [B, 3, S, S] of u8
//!                                                   └→ EvalImages   ─→ ImageBatch
//! ```
//!
//! A picture keeps its proportions: its shorter side becomes S pixels, with every pixel of the file taking
//! part ([`Rgb::scaled`]); then a square of it is seen, in training at a random place and mirrored every
//! other time, in evaluation the middle.
//!
//! ```
//! use fadam_data::image::{ImageBatches, ImageSet, ImageSource, ImageSpec, SetSpec, hold_out};
//!
//! let (emoji, report) = ImageSource::Embedded.read()?;
//! assert_eq!(report.to_string(), "1871 pictures from 1 file");
//! let (train, _held_out) = hold_out(emoji, 0.1)?;
//! let set = ImageSet::build(train, &SetSpec::new(32), &|done, of| println!("{done} of {of}"))?;
//! let mut batches = ImageBatches::new(set.into(), ImageSpec::augmented(8, 0))?;
//! assert_eq!(batches.next_batch()?.pixels.len(), 8 * 3 * 32 * 32);
//! # Ok::<(), fadam_data::Error>(())
//! ```

mod batches;
mod decode;
mod embedded;
mod eval;
mod exif;
mod fault;
mod folder;
mod from_jpeg;
mod from_png;
mod from_webp;
mod idx;
mod parquet_rows;
mod picture;
mod plan;
mod prefetch;
mod report;
mod resize;
mod rgb;
mod set;
mod source;
mod store;

pub use crate::speech::LeftOut;
pub use crate::table::ParquetRow;
pub use batches::{BatchReport, ImageBatch, ImageBatches, ImageCursor, ImageSpec};
pub use decode::{Conversion, Decoded, Format, MAX_PIXELS, decode};
pub use embedded::{EMBEDDED_SIDE, embedded};
pub use eval::{EvalImages, EvalIter};
pub use fault::Fault;
pub use picture::{Picture, PictureData, PlainPicture};
pub use report::{ImageReport, Reason};
pub use rgb::Rgb;
pub use set::{Check, Checked, ImageSet, SetSpec};
pub use source::{ImageSource, SourceReport, check_held_out, hold_out};
