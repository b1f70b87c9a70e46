//! One picture of a source, wherever its bytes are.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::{Conversion, decode};
use super::{Fault, Rgb};
use crate::table::ParquetRow;
use crate::{Error, Result};

/// One picture of a source.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Its name in the source, which does not depend on where the source lies: the path within a folder,
    /// the table and the number of the row.
    pub name: String,
    /// What it shows, where the source says so: the name of its folder, the label of its row. Nothing here
    /// uses it.
    pub class: Option<Arc<str>>,
    /// The picture itself.
    pub data: PictureData,
}

/// Where a picture is.
#[derive(Debug, Clone)]
pub enum PictureData {
    /// A file, which need not exist: [`ImageSet`](super::ImageSet) looks.
    File(PathBuf),
    /// A file in a row of a table.
    Row(ParquetRow),
    /// Pixels in memory: of an IDX file or of the program.
    Plain(PlainPicture),
}

/// Pictures of one size in memory.
pub(super) struct Plain {
    /// Where they came from.
    pub(super) place: String,
    /// The one name of that.
    pub(super) real: String,
    pub(super) width: usize,
    pub(super) height: usize,
    /// 1 (grey) or 3.
    pub(super) channels: usize,
    /// [N, height, width, channels].
    pub(super) pixels: Vec<u8>,
}

/// One of many pictures that are in memory.
#[derive(Clone)]
pub struct PlainPicture {
    all: Arc<Plain>,
    number: usize,
}

impl Plain {
    /// All of them.
    pub(super) fn pictures(self) -> impl Iterator<Item = PlainPicture> {
        let count = self.pixels.len() / self.bytes();
        let all = Arc::new(self);
        (0..count).map(move |number| PlainPicture { all: all.clone(), number })
    }

    /// The bytes of one.
    fn bytes(&self) -> usize {
        self.width * self.height * self.channels
    }
}

impl PlainPicture {
    fn decode(&self) -> (Rgb, Vec<Conversion>) {
        let Plain { width, height, channels, ref pixels, .. } = *self.all;
        let pixels = &pixels[self.number * self.all.bytes()..][..self.all.bytes()];
        let (pixels, converted) = match channels {
            1 => {
                let pixels = pixels.iter().flat_map(|&grey| [grey; 3]).collect();
                (pixels, vec![Conversion::Grey])
            }
            _ => (pixels.to_vec(), Vec::new()),
        };
        (Rgb::new(width, height, pixels), converted)
    }
}

impl fmt::Display for PlainPicture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.all.place, self.number)
    }
}

impl fmt::Debug for PlainPicture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainPicture({self})")
    }
}

/// What is read of a file to see its header; a JPEG with more before its size is read whole.
const HEAD: u64 = 256 << 10;

/// A file of at most as many bytes a pixel, and so many aside, can be a picture that is not too large.
const BYTES_A_PIXEL: u64 = 8;
const BYTES_ASIDE: u64 = 64 << 20;

impl PictureData {
    /// Reads and decodes it; at most `max_pixels` pixels.
    ///
    /// # Errors
    /// A file that cannot be read, or is no picture, or too large a one.
    pub fn rgb(&self, max_pixels: u64) -> Result<Rgb> {
        Ok(self.decode(max_pixels)?.0)
    }

    /// The same, and what was done to it.
    pub(super) fn decode(&self, max_pixels: u64) -> Result<(Rgb, Vec<Conversion>)> {
        let bytes = match self {
            Self::Plain(picture) => return Ok(picture.decode()),
            Self::File(path) => read(path, max_pixels)?,
            Self::Row(row) => row.read()?,
        };
        let decoded = decode(&bytes, &self.to_string(), max_pixels)?;
        Ok((decoded.rgb, decoded.converted))
    }

    /// Its sides as the header says them, before it is turned upright.
    pub(super) fn sides(&self, max_pixels: u64) -> Result<(usize, usize)> {
        let of = |bytes: &[u8]| super::decode::dimensions(bytes, max_pixels);
        let sides = match self {
            Self::Plain(picture) => return Ok((picture.all.width, picture.all.height)),
            Self::File(path) => match of(&head(path)?) {
                // Whatever was wrong may be that this is not all.
                Err(_) => of(&read(path, max_pixels)?),
                sides => sides,
            },
            Self::Row(row) => of(&row.read()?),
        };
        sides.map_err(|fault| Error::Picture { name: self.to_string(), fault })
    }

    /// Its one name, whatever path leads there.
    pub(super) fn identity(&self) -> String {
        match self {
            // What does not exist has the name that it was given.
            Self::File(path) => {
                fs::canonicalize(path).unwrap_or_else(|_| path.clone()).display().to_string()
            }
            Self::Row(row) => row.identity(),
            Self::Plain(PlainPicture { all, number }) => format!("{}:{number}", all.real),
        }
    }
}

impl fmt::Display for PictureData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Row(row) => write!(f, "{row}"),
            Self::Plain(picture) => write!(f, "{picture}"),
        }
    }
}

/// All bytes of a file.
fn read(path: &Path, max_pixels: u64) -> Result<Vec<u8>> {
    let len = fs::metadata(path).map_err(|cause| refused(path, cause))?.len();
    if len > BYTES_ASIDE.saturating_add(BYTES_A_PIXEL.saturating_mul(max_pixels)) {
        let fault = Fault::TooLarge(format!("{len} bytes for at most {max_pixels} pixels"));
        return Err(Error::Picture { name: path.display().to_string(), fault });
    }
    fs::read(path).map_err(|cause| refused(path, cause))
}

/// The first bytes of a file.
fn head(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(HEAD).read_to_end(&mut bytes))
        .map_err(|cause| refused(path, cause))?;
    Ok(bytes)
}

fn refused(path: &Path, cause: io::Error) -> Error {
    match cause.kind() {
        io::ErrorKind::NotFound => Error::MissingPath { path: path.to_path_buf() },
        _ => Error::Io { action: "read", path: path.to_path_buf(), cause },
    }
}
