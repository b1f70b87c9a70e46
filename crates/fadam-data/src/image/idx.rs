//! IDX files, as MNIST and Fashion-MNIST come: `train-images-idx3-ubyte`, plain or gzipped.
//!
//! ```text
//! 00 00 08 03, N, H, W, then N · H · W bytes of grey      numbers of 32 bits, big-endian
//! 00 00 08 01, N, then N bytes of labels                  train-labels-idx1-ubyte, beside it
//! ```

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use super::picture::{Picture, PictureData, Plain};
use crate::{Error, Result};

/// The dimensions of unsigned bytes that begin files of pictures and of labels.
const PICTURES: u32 = 0x0803;
const LABELS: u32 = 0x0801;

/// The most bytes of pictures in a file: all are held in memory.
const MOST: u64 = 4 << 30;

/// Whether a file is called as IDX files of pictures are.
pub(super) fn is_meant(name: &str) -> bool {
    let name = name.to_lowercase();
    name.trim_end_matches(".gz").ends_with("idx3-ubyte")
}

/// The pictures of a file, with the labels of the one beside it, if it is there.
pub(super) fn read(path: &Path) -> Result<Vec<Picture>> {
    let ([count, height, width], pixels) = content(path, PICTURES)?;
    if width == 0 || height == 0 {
        return Err(wrong(path, format!("its pictures have {width} x {height} pixels")));
    }
    let classes = match labels(path) {
        None => vec![None; count],
        Some(labels) => classes(&labels, count)?,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let real = std::fs::canonicalize(path).map_err(|cause| Error::Io {
        action: "read",
        path: path.to_path_buf(),
        cause,
    })?;
    let (place, real) = (path.display().to_string(), real.display().to_string());
    let plain = Plain { place, real, width, height, channels: 1, pixels };
    let picture = |(number, (data, class))| Picture {
        name: format!("{name}:{number}"),
        class,
        data: PictureData::Plain(data),
    };
    Ok(plain.pictures().zip(classes).enumerate().map(picture).collect())
}

/// The file of labels that goes with `path`, if there is one.
fn labels(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let plain = plain.replace("images", "labels").replace("idx3", "idx1");
    let both = [plain.clone(), format!("{plain}.gz")].map(|name| path.with_file_name(name));
    both.into_iter().find(|labels| labels != path && labels.exists())
}

/// The labels, by the picture.
fn classes(path: &Path, count: usize) -> Result<Vec<Option<Arc<str>>>> {
    let ([labels], bytes) = content(path, LABELS)?;
    if labels != count {
        return Err(wrong(path, format!("it has {labels} labels for {count} pictures")));
    }
    let names: Vec<Arc<str>> = (0..=u8::MAX).map(|label| label.to_string().into()).collect();
    Ok(bytes.into_iter().map(|label| Some(names[usize::from(label)].clone())).collect())
}

/// The dimensions of a file that begins with `magic`, and the bytes behind them.
fn content<const D: usize>(path: &Path, magic: u32) -> Result<([usize; D], Vec<u8>)> {
    let refused = |cause| Error::Io { action: "read", path: path.to_path_buf(), cause };
    let file = BufReader::new(File::open(path).map_err(refused)?);
    let (mut file, gzipped) = peek_gzip(file).map_err(refused)?;
    let mut number = |what: &str| {
        let mut bytes = [0; 4];
        file.read_exact(&mut bytes)
            .map(|()| u32::from_be_bytes(bytes))
            .map_err(|cause| wrong(path, format!("it ends in its {what}: {cause}")))
    };
    let found = number("header")?;
    if found != magic {
        let reason = format!("it begins with {found:08x}, expected {magic:08x}");
        return Err(wrong(path, reason));
    }
    let mut dimensions = [0; D];
    for dimension in &mut dimensions {
        *dimension = number("header")? as usize;
    }
    let product = |all: u64, &d: &usize| all.checked_mul(d as u64);
    let expected = dimensions.iter().try_fold(1, product).filter(|&bytes| bytes <= MOST);
    let expected = expected.ok_or_else(|| {
        wrong(path, format!("it says that it has {dimensions:?} bytes, above {MOST}"))
    })?;
    let mut bytes = Vec::new();
    // One more, to see that this is all.
    match file.take(expected + 1).read_to_end(&mut bytes) {
        Err(cause) if gzipped => Err(wrong(path, format!("not valid gzip data: {cause}"))),
        Err(cause) => Err(refused(cause)),
        Ok(read) if read as u64 != expected => {
            let read = if read as u64 > expected { "more".to_owned() } else { read.to_string() };
            let reason = format!("{dimensions:?} are {expected} bytes, and it has {read}");
            Err(wrong(path, reason))
        }
        Ok(_) => Ok((dimensions, bytes)),
    }
}

/// The bytes of a file, decompressed if it begins as gzip does, and whether it does.
fn peek_gzip(mut file: BufReader<File>) -> std::io::Result<(Box<dyn Read>, bool)> {
    use std::io::BufRead;
    let gzipped = file.fill_buf()?.starts_with(&[0x1F, 0x8B]);
    let reader: Box<dyn Read> =
        if gzipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok((reader, gzipped))
}

fn wrong(path: &Path, reason: String) -> Error {
    Error::ImageIdx { path: path.to_path_buf(), reason }
}
