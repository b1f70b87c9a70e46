//! IDX files: MNIST's layout, plain and gzipped, and files that are none.

use std::io::Write;
use std::path::Path;

use fadam_data::image::{Conversion, ImageSet, MAX_PIXELS, SetSpec};

use super::{noise, read, write};

/// `count` pictures of `width` × `height`.
fn pictures(count: u32, height: u32, width: u32) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 3];
    bytes.extend([count, height, width].into_iter().flat_map(u32::to_be_bytes));
    bytes.extend(noise((count * height * width) as usize, count));
    bytes
}

fn labels(labels: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 1];
    bytes.extend((labels.len() as u32).to_be_bytes());
    bytes.extend(labels);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn plain_and_gzipped_files_are_the_same_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = pictures(5, 20, 17);
    for (name, file) in [
        ("train-images-idx3-ubyte", bytes.clone()),
        ("train-images-idx3-ubyte.gz", gzip(&bytes)),
        // Whatever it is called.
        ("other.idx3-ubyte", gzip(&bytes)),
    ] {
        let read = read(&write(folder.path(), name, file)).unwrap();
        assert_eq!(read.len(), 5);
        for (n, picture) in read.iter().enumerate() {
            let rgb = picture.data.rgb(MAX_PIXELS).unwrap();
            assert_eq!((rgb.width(), rgb.height()), (17, 20));
            let grey: Vec<u8> = rgb.pixels().chunks(3).map(|pixel| pixel[0]).collect();
            assert_eq!(grey, bytes[16 + 340 * n..][..340]);
            assert!(rgb.pixels().chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]));
            assert_eq!((&*picture.name, picture.class.as_deref()), (&*format!("{name}:{n}"), None));
        }
        let set = ImageSet::build(read, &SetSpec::new(32), &|_, _| {}).unwrap();
        let report = set.report();
        assert_eq!((report.converted[&Conversion::Grey], report.enlarged), (5, 5));
        assert_eq!((set.scaled(0).unwrap().width(), set.scaled(0).unwrap().height()), (32, 38));
    }
}

#[test]
fn labels_lie_beside() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "t10k-images-idx3-ubyte.gz", gzip(&pictures(3, 16, 16)));
    write(folder.path(), "t10k-labels-idx1-ubyte.gz", gzip(&labels(&[7, 0, 255])));
    let classes = |path: &Path| -> Vec<String> {
        read(path).unwrap().into_iter().map(|p| p.class.unwrap().to_string()).collect()
    };
    assert_eq!(classes(&path), ["7", "0", "255"]);
    // A plain file comes first.
    write(folder.path(), "t10k-labels-idx1-ubyte", labels(&[1, 2, 3]));
    assert_eq!(classes(&path), ["1", "2", "3"]);
    write(folder.path(), "t10k-labels-idx1-ubyte", labels(&[1, 2]));
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("t10k-labels-idx1-ubyte: not an IDX file"), "{error}");
    assert!(error.contains("it has 2 labels for 3 pictures"), "{error}");
}

#[test]
fn files_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let message = |bytes: Vec<u8>| {
        let path = write(folder.path(), "images-idx3-ubyte", bytes);
        let error = read(&path).unwrap_err().to_string();
        let place = format!("{}: not an IDX file of that kind: ", path.display());
        error.strip_prefix(&place).unwrap_or_else(|| panic!("{error}")).to_owned()
    };
    let good = pictures(3, 4, 5);
    assert!(message(Vec::new()).starts_with("it ends in its header"));
    assert!(message(good[..10].to_vec()).starts_with("it ends in its header"));
    assert!(message(labels(&[1, 2])).starts_with("it begins with 00000801, expected 00000803"));
    assert!(
        message(good[..good.len() - 1].to_vec())
            .starts_with("[3, 4, 5] are 60 bytes, and it has 59")
    );
    let mut long = good.clone();
    long.push(0);
    assert!(message(long).starts_with("[3, 4, 5] are 60 bytes, and it has more"));
    let mut bomb = good.clone();
    bomb[4..16].fill(0xFF);
    assert!(message(bomb).starts_with("it says that it has [4294967295, 4294967295, 4294967295]"));
    let mut flat = good.clone();
    flat[8..12].fill(0);
    assert!(message(flat[..16].to_vec()).starts_with("its pictures have 5 x 0 pixels"));
    let packed = gzip(&good);
    assert!(message(packed[..packed.len() - 9].to_vec()).starts_with("not valid gzip data: "));
}
