//! Tables on a disk and on a hub.

use std::fs;
use std::time::Duration;

use fadam_data::Error;
use fadam_data::hub::Hub;
use fadam_data::image::{Check, ImageSet, ImageSource, MAX_PIXELS, Picture, Reason, SetSpec};
use parquet::basic::{Compression, GzipLevel};

use super::server::Server;
use super::table::{self, Row};
use super::{noise, noisy, read, write};

/// Seven pictures in two row groups: one without bytes, one whose bytes are no picture.
fn groups() -> Vec<Vec<Row>> {
    let row = |n: usize| Row {
        bytes: (n != 3).then(|| match n {
            5 => b"no picture at all".to_vec(),
            _ => noisy(20 + n, 18, n as u32),
        }),
        path: (n != 1).then(|| format!("n01440764_{n}.JPEG")),
        label: [0, 0, 7, 7, 7, 12, -1][n],
    };
    vec![(0..4).map(row).collect(), (4..7).map(row).collect()]
}

fn pixels(picture: &Picture) -> Vec<u8> {
    picture.data.rgb(MAX_PIXELS).unwrap().pixels().to_vec()
}

#[test]
fn each_row_has_its_own_picture_whatever_the_order() {
    let folder = tempfile::tempdir().unwrap();
    for compression in
        [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(GzipLevel::default())]
    {
        let table = write(folder.path(), "0.parquet", table::imagenet(&groups(), compression));
        let (pictures, report) = ImageSource::Places(vec![table]).read().unwrap();
        assert_eq!(report.to_string(), "7 pictures of 4 classes from 1 file");
        for n in [6, 0, 2, 1, 4] {
            let picture = &pictures[n];
            assert_eq!(pixels(picture), noise(3 * (20 + n) * 18, n as u32), "row {n}");
            let class = ["0", "0", "7", "7", "7", "12", "-1"][n];
            assert_eq!(
                (&*picture.name, picture.class.as_deref()),
                (&*format!("0.parquet:{n}"), Some(class))
            );
        }
        let place = pictures[2].data.to_string();
        assert!(place.ends_with("0.parquet:2/n01440764_2.JPEG"), "{place}");
        assert!(pictures[1].data.to_string().ends_with("0.parquet:1"));
    }
}

#[test]
fn rows_without_a_picture_are_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = table::imagenet(&groups(), Compression::SNAPPY);
    let path = write(folder.path(), "0.parquet", bytes);
    for check in [Check::Everything, Check::Headers] {
        let spec = SetSpec { check, ..SetSpec::new(16) };
        let set = ImageSet::build(read(&path).unwrap(), &spec, &|_, _| {}).unwrap();
        let report = set.report();
        assert_eq!((report.given, report.kept, report.count(Reason::Unreadable)), (7, 5, 2));
        let what = &report.left_out[&Reason::Unreadable].first;
        assert!(
            what[0].ends_with("not a table of pictures: row 3: image.bytes is null"),
            "{what:?}"
        );
        assert!(what[1].contains("0.parquet:5/n01440764_5.JPEG: not a picture: "), "{what:?}");
    }
}

#[test]
fn tables_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let message = |bytes: Vec<u8>| {
        let path = write(folder.path(), "bad.parquet", bytes);
        let error = read(&path).unwrap_err().to_string();
        let place = format!("{}: not a table of pictures: ", path.display());
        error.strip_prefix(&place).expect(&error).to_owned()
    };
    let good = table::imagenet(&groups(), Compression::SNAPPY);
    assert!(!message(Vec::new()).is_empty());
    assert!(!message(good[..good.len() - 20].to_vec()).is_empty());
    assert_eq!(
        message(table::empty("message m { REQUIRED BYTE_ARRAY png; REQUIRED INT64 label; }")),
        "no column image.bytes; expected image {bytes, path}, and perhaps label, and it has png, label"
    );
    let numbers = "message m { REQUIRED GROUP image { REQUIRED INT32 bytes; } }";
    let numbers = write(folder.path(), "numbers.parquet", table::empty(numbers));
    let error = read(&numbers).unwrap_err();
    assert!(matches!(error, Error::NoPictures { .. }), "it has no row: {error}");
}

#[test]
fn a_table_that_is_cut_later_is_a_picture_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = table::imagenet(&groups(), Compression::UNCOMPRESSED);
    let path = write(folder.path(), "0.parquet", &bytes);
    let pictures = read(&path).unwrap();
    fs::write(&path, &bytes[..2000]).unwrap();
    let error = pictures[6].data.rgb(MAX_PIXELS).unwrap_err();
    assert!(matches!(error, Error::ImageTable { .. }), "{error}");
    assert!(error.to_string().contains("0.parquet: not a table of pictures: row 6: "), "{error}");
}

#[test]
fn shards_of_a_hub_are_those_of_a_disk() {
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    for shard in 0..2 {
        let row = |n: usize| Row {
            bytes: Some(noisy(16, 16, n as u32)),
            path: Some(format!("{n}.JPEG")),
            label: i64::try_from(n).unwrap(),
        };
        let rows = (3 * shard..3 * shard + 3).map(row).collect();
        let name = format!("data/train-{shard:05}-of-00294.parquet");
        let bytes = table::imagenet(&[rows], Compression::UNCOMPRESSED);
        server.put_large("datasets/ILSVRC/imagenet-1k", &name, bytes);
    }
    // It asks who wants it, as the real one does.
    server.gate("datasets/ILSVRC/imagenet-1k", "secret");
    let hub = |token: Option<&str>| {
        let hub = Hub::from_vars(|name| match name {
            "HF_ENDPOINT" => Some(server.endpoint()),
            "HF_HOME" => Some(home.path().to_str().unwrap().to_owned()),
            "HF_TOKEN" => token.map(str::to_owned),
            _ => None,
        });
        hub.with_waits(Duration::from_millis(1), Duration::from_secs(20))
    };
    let place = "hub:ILSVRC/imagenet-1k/data/train-{00000..00001}-of-00294.parquet";
    let source = ImageSource::Places(vec![place.into()]);
    let error = source.read_with(&hub(None)).unwrap_err();
    assert!(matches!(error, Error::Hub { .. }), "{error}");
    let (pictures, report) = source.read_with(&hub(Some("secret"))).unwrap();
    assert_eq!(report.to_string(), "6 pictures of 6 classes from 2 files");
    for (n, picture) in pictures.iter().enumerate() {
        assert_eq!(pixels(picture), noise(3 * 16 * 16, n as u32));
    }
    assert_eq!(pictures[4].name, "train-00001-of-00294.parquet:1");
    assert_eq!(
        pictures[4].data.to_string(),
        "hub:ILSVRC/imagenet-1k@main/data/train-00001-of-00294.parquet:1/4.JPEG"
    );
}
