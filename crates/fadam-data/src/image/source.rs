//! Where pictures come from, and a report of what was found there.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use flate2::Crc;
use rayon::prelude::*;

use super::embedded::embedded;
use super::picture::{Picture, PictureData};
use super::{folder, idx, parquet_rows};
use crate::hub::{Hub, HubFile, RepoKind};
use crate::{Error, Result, name_range};

/// What is read, for messages.
const EXPECTED: &str = "a file ending in .jpg, .jpeg, .png or .webp, a folder of them, a table ending in \
                        .parquet, or an IDX file of pictures ending in idx3-ubyte or idx3-ubyte.gz";

/// Where the pictures are.
///
/// | place | pictures |
/// |---|---|
/// | `.jpg`, `.jpeg`, `.png`, `.webp` | the file |
/// | a folder | all such files below it, in the order of the paths; the class of each is the name of its folder |
/// | `.parquet` | a row each: `image {bytes, path}` and perhaps `label`, as `ILSVRC/imagenet-1k` has them; pages plain or compressed by SNAPPY or GZIP |
/// | `hub:OWNER/NAME[@REVISION]/FILE.parquet` | the same, of a dataset on the hub ([`Hub::from_env`]) |
/// | `…idx3-ubyte`, `…idx3-ubyte.gz` | as Fashion-MNIST has them, with the labels of the `…idx1-ubyte` beside it |
///
/// `{00000..00293}` in a name stands for all these numbers.
///
/// ```
/// use fadam_data::image::ImageSource;
///
/// let folder = tempfile::tempdir()?;
/// for name in ["tench/1.JPEG", "tench/2.JPEG", "goldfish/1.png", "goldfish/readme.txt"] {
///     std::fs::create_dir_all(folder.path().join(name).parent().unwrap())?;
///     std::fs::write(folder.path().join(name), "looked at later")?;
/// }
/// let (pictures, report) = ImageSource::Places(vec![folder.path().into()]).read()?;
/// assert_eq!(pictures[1].name, "tench/1.JPEG");
/// assert_eq!(pictures[1].class.as_deref(), Some("tench"));
/// assert!(report.to_string().starts_with("3 pictures of 2 classes from 3 files; 1 other file ignored"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// The pictures that come with the crate: [`embedded`].
    Embedded,
    /// Files and folders, read in this order.
    Places(Vec<PathBuf>),
}

/// What was found. Its `Display` is one line to print.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceReport {
    /// Files: pictures, tables and IDX files; the embedded sheet counts as one.
    pub files: usize,
    /// Pictures that they hold. Whether they can be read is not looked at here.
    pub pictures: usize,
    /// Different classes that they are of.
    pub classes: usize,
    /// Other files in folders, and links to folders: not read.
    pub ignored_files: Vec<PathBuf>,
}

impl fmt::Display for SourceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, pictures, classes, ignored_files } = self;
        let s = |count: usize| if count == 1 { "" } else { "s" };
        write!(f, "{pictures} picture{}", s(*pictures))?;
        if *classes > 0 {
            write!(f, " of {classes} class{}", if *classes == 1 { "" } else { "es" })?;
        }
        write!(f, " from {files} file{}", s(*files))?;
        if let Some(first) = ignored_files.first() {
            let count = ignored_files.len();
            write!(f, "; {count} other file{} ignored, first {}", s(count), first.display())?;
        }
        Ok(())
    }
}

impl ImageSource {
    /// Lists all pictures, in an order that depends on nothing but the places. Pictures in files and
    /// tables are not read yet; tables of the hub are downloaded.
    ///
    /// # Errors
    /// A place that is missing, unreadable, given twice or of another kind; a table or an IDX file that is
    /// not as it must be; a picture that is given twice; not one picture.
    pub fn read(&self) -> Result<(Vec<Picture>, SourceReport)> {
        self.read_with(&Hub::from_env())
    }

    /// [`ImageSource::read`] with another way to the hub.
    ///
    /// # Errors
    /// As there.
    pub fn read_with(&self, hub: &Hub) -> Result<(Vec<Picture>, SourceReport)> {
        let (mut pictures, mut report) = (Vec::new(), SourceReport::default());
        match self {
            Self::Embedded => {
                report.files = 1;
                pictures = embedded()?;
            }
            Self::Places(places) => {
                for place in places {
                    for place in name_range::expand(place)? {
                        read_place(&place, hub, &mut pictures, &mut report)?;
                    }
                }
            }
        }
        report.pictures = pictures.len();
        report.classes =
            pictures.iter().filter_map(|p| p.class.as_deref()).collect::<HashSet<_>>().len();
        if pictures.is_empty() {
            return Err(Error::NoPictures { place: self.to_string(), report: Box::new(report) });
        }
        reject_duplicates(&pictures)?;
        Ok((pictures, report))
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded pictures"),
            Self::Places(places) if places.is_empty() => f.write_str("(no place given)"),
            Self::Places(places) => {
                let names: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

/// Refuses held-out pictures that are also trained on.
///
/// # Errors
/// The first picture that is in both.
pub fn check_held_out(train: &[Picture], held_out: &[Picture]) -> Result<()> {
    let trained: HashSet<String> = identities(train).into_iter().collect();
    match identities(held_out).iter().position(|held_out| trained.contains(held_out)) {
        Some(both) => Err(Error::HeldOutPicture { picture: held_out[both].data.to_string() }),
        None => Ok(()),
    }
}

/// Divides pictures into those to train on and about a share of `fraction` to hold out. On which side one
/// is depends on its name alone (CRC-32 of it, below `fraction` of 2³²), so that further pictures move none.
///
/// ```
/// use fadam_data::image::{ImageSource, hold_out};
///
/// let (emoji, _) = ImageSource::Embedded.read()?;
/// let (train, held_out) = hold_out(emoji, 0.1)?;
/// assert_eq!(train.len() + held_out.len(), 1871);
/// assert!((150..230).contains(&held_out.len()));
/// # Ok::<(), fadam_data::Error>(())
/// ```
///
/// # Errors
/// A fraction that is not above 0 and below 1, or that leaves no picture on one side.
pub fn hold_out(pictures: Vec<Picture>, fraction: f64) -> Result<(Vec<Picture>, Vec<Picture>)> {
    // NaN is neither.
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::EvalFraction { value: fraction });
    }
    let count = pictures.len();
    let held = |picture: &Picture| {
        let mut crc = Crc::new();
        crc.update(picture.name.as_bytes());
        f64::from(crc.sum()) < fraction * 2f64.powi(32)
    };
    let (held_out, train): (Vec<_>, Vec<_>) = pictures.into_iter().partition(held);
    if held_out.is_empty() || train.is_empty() {
        return Err(Error::ImageSetting {
            field: "data.eval_fraction",
            value: fraction.to_string(),
            expected: format!("a fraction that leaves some of {count} pictures on both sides"),
        });
    }
    Ok((train, held_out))
}

fn read_place(
    place: &Path,
    hub: &Hub,
    pictures: &mut Vec<Picture>,
    report: &mut SourceReport,
) -> Result<()> {
    let unsupported = || Error::NoImagePlace { path: place.to_path_buf(), expected: EXPECTED };
    let is_table = place.to_string_lossy().to_lowercase().ends_with(".parquet");
    if HubFile::is_meant(place) {
        let file = HubFile::parse(&place.to_string_lossy(), RepoKind::Dataset, None)?;
        if !is_table {
            return Err(unsupported());
        }
        report.files += 1;
        pictures.extend(parquet_rows::read(&hub.fetch(&file)?, &file.to_string())?);
        return Ok(());
    }
    let about = fs::metadata(place).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => Error::MissingPath { path: place.to_path_buf() },
        _ => Error::Io { action: "read", path: place.to_path_buf(), cause },
    })?;
    if about.is_dir() {
        return folder::read(place, pictures, report);
    }
    report.files += 1;
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    if is_table {
        pictures.extend(parquet_rows::read(place, &place.display().to_string())?);
    } else if idx::is_meant(&name) {
        pictures.extend(idx::read(place)?);
    } else if folder::is_picture(place) {
        let data = PictureData::File(place.to_path_buf());
        pictures.push(Picture { name: name.into_owned(), class: None, data });
    } else {
        return Err(unsupported());
    }
    Ok(())
}

/// A picture given twice would count twice, or be trained on and held out.
fn reject_duplicates(pictures: &[Picture]) -> Result<()> {
    let mut seen = HashSet::new();
    match identities(pictures).into_iter().position(|identity| !seen.insert(identity)) {
        Some(twice) => Err(Error::DuplicatePicture { picture: pictures[twice].data.to_string() }),
        None => Ok(()),
    }
}

/// The names of files are asked of the system, which takes a while for a million of them.
fn identities(pictures: &[Picture]) -> Vec<String> {
    pictures.par_iter().map(|picture| picture.data.identity()).collect()
}
