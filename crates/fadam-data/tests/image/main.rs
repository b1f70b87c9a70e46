//! Pictures from places to batches: decoding, resizing, folders, tables, IDX files, checks, and batches.

#[allow(dead_code)] // all of it is used by the tests of the hub
#[path = "../hub/server.rs"]
mod server;

mod batches;
mod damaged;
mod decode;
mod eval;
mod idx;
mod places;
mod resize;
mod set;
mod table;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fadam_data::image::{Decoded, ImageSet, ImageSource, MAX_PIXELS, Picture, SetSpec, decode};
use tempfile::TempDir;

/// A file of tests/data/image.
fn data(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/image").join(name)).unwrap()
}

fn decoded(name: &str) -> Decoded {
    decode(&data(name), name, MAX_PIXELS).unwrap()
}

/// A PNG of 8 bits a sample.
fn png(width: usize, height: usize, colour: png::ColorType, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(colour);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    bytes
}

/// Bytes that no other `seed` has.
fn noise(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// A PNG of coloured noise.
fn noisy(width: usize, height: usize, seed: u32) -> Vec<u8> {
    png(width, height, png::ColorType::Rgb, &noise(3 * width * height, seed))
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn read(place: &Path) -> fadam_data::Result<Vec<Picture>> {
    Ok(ImageSource::Places(vec![place.into()]).read()?.0)
}

/// A folder of `count` pictures of different sides, in three classes.
fn corpus(count: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..count {
        let (width, height) = (16 + n * 7 % 20, 16 + n * 11 % 15);
        write(folder.path(), &name(n), noisy(width, height, n as u32));
    }
    folder
}

/// The name of its picture `n`.
fn name(n: usize) -> String {
    format!("class-{}/{n:03}.png", n % 3)
}

/// The checked set of a folder, of 16 × 16 pixels, with so many MiB kept.
fn set_of(folder: &TempDir, keep_mb: usize) -> Arc<ImageSet> {
    let spec = SetSpec { keep_mb, ..SetSpec::new(16) };
    Arc::new(ImageSet::build(read(folder.path()).unwrap(), &spec, &|_, _| {}).unwrap())
}
