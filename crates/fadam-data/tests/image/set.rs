//! The checked set: what is left out and why, what is kept, and how it is scaled.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;

use fadam_data::Error;
use fadam_data::image::{
    Check, Conversion, ImageReport, ImageSet, ImageSource, MAX_PIXELS, Picture, PictureData,
    Reason, SetSpec, decode,
};
use tempfile::TempDir;

use super::{corpus, data, name, noisy, read, set_of, write};

/// A folder with every kind of bad picture, and five good ones.
fn mixed() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let jpeg = data("noise.jpg");
    let mut bomb = jpeg.clone();
    let at = bomb.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    bomb[at + 5..at + 9].fill(0xFF);
    // Damaged within its data, where the checksum sees it.
    let mut damaged = data("noise.png");
    damaged[200] ^= 1;
    for (name, bytes) in [
        ("bomb.jpg", bomb),
        ("cmyk.jpg", data("cmyk.jpg")),
        ("cut.jpg", jpeg[..jpeg.len() - 300].to_vec()),
        ("damaged.png", damaged),
        ("deep.png", data("grey-16.png")),
        ("empty.png", Vec::new()),
        ("one.png", noisy(1, 1, 1)),
        ("narrow.png", noisy(15, 90, 1)),
        ("text.jpg", b"<html>404</html>".to_vec()),
        ("turned.webp", data("turned.webp")),
        ("webp-in-name.png", data("alpha.webp")),
        ("xlong.png", noisy(16, 40, 1)),
    ] {
        write(folder.path(), name, bytes);
    }
    folder
}

#[test]
fn everything_bad_is_counted_with_its_reason() {
    let folder = mixed();
    let mut pictures = read(folder.path()).unwrap();
    let gone = PictureData::File(folder.path().join("gone.png"));
    pictures.push(Picture { name: "gone.png".into(), class: None, data: gone });
    let calls = RefCell::new(Vec::new());
    let progress = |done, of| calls.borrow_mut().push((done, of));
    let set = ImageSet::build(pictures, &SetSpec::new(24), &progress).unwrap();
    assert_eq!(calls.into_inner(), [(13, 13)]);
    let names: Vec<&str> = set.pictures().iter().map(|checked| &*checked.picture.name).collect();
    let good = ["cmyk.jpg", "deep.png", "turned.webp", "webp-in-name.png", "xlong.png"];
    assert_eq!(names, good);
    let report = set.report();
    assert_eq!((report.given, report.kept, report.decoded, report.enlarged), (13, 5, 5, 3));
    for (reason, count, says) in [
        (Reason::Missing, 1, "gone.png: no such file or folder"),
        (Reason::Empty, 1, "empty.png: has no bytes"),
        (Reason::Unreadable, 2, "damaged.png: damaged: "),
        (Reason::Truncated, 1, "cut.jpg: ends early: no end-of-image marker"),
        (Reason::TooSmall, 2, "narrow.png: 15 x 90, data.min_side is 16"),
        (Reason::TooLarge, 1, "bomb.jpg: too large: 65535 x 65535, above 67108864 pixels"),
    ] {
        assert_eq!(report.count(reason), count, "{report}");
        assert!(report.left_out[&reason].first[0].contains(says), "{says}: {report}");
        assert!(report.to_string().contains(&format!("\n  {count} {reason}: ")), "{report}");
    }
    for what in [
        Conversion::Cmyk,
        Conversion::Grey,
        Conversion::SixteenBits,
        Conversion::Turned,
        Conversion::Alpha,
    ] {
        assert_eq!(report.converted[&what], 1, "{report}");
    }
    let first = report.to_string();
    assert!(
        first.starts_with(
            "5 of 13 pictures, shorter sides of 16 to 32 pixels\n  3 enlarged, 1 grey, 1 put on white, \
             1 of four inks, 1 of 16 bits, 1 turned upright\n"
        ),
        "{first}"
    );
}

#[test]
fn headers_alone_show_what_a_header_shows() {
    let folder = mixed();
    let spec = SetSpec { check: Check::Headers, ..SetSpec::new(24) };
    let set = ImageSet::build(read(folder.path()).unwrap(), &spec, &|_, _| {}).unwrap();
    let report = set.report();
    // cut.jpg and damaged.png pass.
    assert_eq!((report.kept, report.decoded), (7, 0));
    let counts = [Reason::Empty, Reason::Unreadable, Reason::TooSmall, Reason::TooLarge]
        .map(|reason| report.count(reason));
    assert_eq!(counts, [1, 1, 2, 1], "{report}");
    assert!(report.to_string().contains(", of 7 the header was looked at"), "{report}");
    assert_eq!(set.kept_in_memory(), 0);
    for (n, checked) in set.pictures().iter().enumerate() {
        match &*checked.picture.name {
            "cut.jpg" | "damaged.png" => assert!(set.scaled(n).is_err()),
            // Its header has the sides of a picture that lies.
            "turned.webp" => {
                assert_eq!((checked.width, checked.height), (32, 48));
                let scaled = set.scaled(n).unwrap();
                assert_eq!((scaled.width(), scaled.height()), (36, 24));
            }
            _ => assert!(set.scaled(n).is_ok()),
        }
    }
}

#[test]
fn a_header_behind_much_else_is_found() {
    // 300 kB of application data before the size.
    let jpeg = data("noise.jpg");
    let mut far = jpeg[..2].to_vec();
    for _ in 0..5 {
        far.extend([0xFF, 0xEF, 0xEA, 0x62]);
        far.extend(vec![7; 60_000]);
    }
    far.extend(&jpeg[2..]);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "far.jpg", far);
    let spec = SetSpec { check: Check::Headers, ..SetSpec::new(16) };
    let set = ImageSet::build(read(folder.path()).unwrap(), &spec, &|_, _| {}).unwrap();
    assert_eq!((set.pictures()[0].width, set.pictures()[0].height), (37, 23));
    let plain = decode(&jpeg, "noise.jpg", MAX_PIXELS).unwrap().rgb;
    assert_eq!(*set.scaled(0).unwrap(), plain.scaled(16));
}

#[test]
fn pictures_are_scaled_whether_they_are_kept_or_not() {
    let folder = corpus(7);
    let kept = set_of(&folder, 1024);
    let fresh = set_of(&folder, 0);
    assert_eq!((kept.kept_in_memory(), fresh.kept_in_memory()), (7, 0));
    for (n, checked) in kept.pictures().iter().enumerate() {
        let whole = checked.picture.data.rgb(MAX_PIXELS).unwrap();
        assert_eq!((whole.width(), whole.height()), (checked.width, checked.height));
        assert_eq!(*kept.scaled(n).unwrap(), whole.scaled(16));
        assert_eq!(kept.scaled(n).unwrap(), fresh.scaled(n).unwrap());
    }
    assert_eq!((kept.size(), fresh.kept_in_memory()), (16, 0));
}

#[test]
fn a_picture_that_changes_its_sides_is_an_error() {
    let folder = corpus(3);
    let set = set_of(&folder, 0);
    fs::write(folder.path().join(name(0)), noisy(17, 90, 1)).unwrap();
    let error = set.scaled(0).unwrap_err();
    assert!(
        matches!(error, Error::ImageChanged { before: (16, 16), here: (17, 90), .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .ends_with("it had 16 x 16 pixels when it was checked, and has 17 x 90 now")
    );
}

#[test]
fn a_long_picture_is_too_large_when_it_is_scaled() {
    let folder = corpus(2);
    write(folder.path(), "long.png", noisy(16, 4000, 1));
    // 64 x 16,000 = 1,024,000 when the shorter side is 64.
    let build = |max_pixels| {
        let spec = SetSpec { max_pixels, ..SetSpec::new(64) };
        ImageSet::build(read(folder.path()).unwrap(), &spec, &|_, _| {}).unwrap()
    };
    assert_eq!(build(1_024_000).report().count(Reason::TooLarge), 0);
    let set = build(1_023_999);
    let what = &set.report().left_out[&Reason::TooLarge].first[0];
    assert!(what.ends_with("long.png: 64 x 16000 when scaled, above 1023999 pixels"), "{what}");
}

#[test]
fn nothing_left_and_settings_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.jpg", "");
    write(folder.path(), "b.png", noisy(1, 1, 1));
    let build = |spec: SetSpec| ImageSet::build(read(folder.path()).unwrap(), &spec, &|_, _| {});
    let error = build(SetSpec::new(32)).unwrap_err();
    assert!(matches!(error, Error::NoImages { .. }));
    let text = error.to_string();
    assert!(text.starts_with("no picture can be used: 0 of 2 pictures\n  1 empty: "), "{text}");
    assert!(text.contains("b.png: 1 x 1, data.min_side is 16"), "{text}");
    // A picture of one pixel is one where that is asked for.
    let set = build(SetSpec { min_side: 1, ..SetSpec::new(4) }).unwrap();
    assert_eq!(set.scaled(0).unwrap().pixels().len(), 48);

    let message = |spec| build(spec).unwrap_err().to_string();
    assert_eq!(message(SetSpec::new(0)), "model.image = 0: expected at least 1");
    let flat = SetSpec { min_side: 0, ..SetSpec::new(8) };
    assert_eq!(message(flat), "data.min_side = 0: expected at least 1");
    assert_eq!(
        message(SetSpec::new(8193)),
        "model.image = 8193: expected a square of at most 67108864 pixels"
    );
}

#[test]
fn all_embedded_pictures_are_in_the_set() {
    let (emoji, _) = ImageSource::Embedded.read().unwrap();
    let set = ImageSet::build(emoji, &SetSpec::new(32), &|_, _| {}).unwrap();
    let expected = ImageReport {
        given: 1871,
        kept: 1871,
        sides: Some((32, 32)),
        decoded: 1871,
        ..ImageReport::default()
    };
    assert_eq!(*set.report(), expected);
    // Each is something, and no two are the same but these, which are one file in the package.
    let mut seen = BTreeMap::new();
    for (n, checked) in set.pictures().iter().enumerate() {
        let pixels = set.scaled(n).unwrap().pixels().to_vec();
        let name = &checked.picture.name;
        assert!(pixels.iter().any(|&byte| byte < 250), "{name} is white");
        let other = seen.insert(pixels, name.clone());
        let expected = (name == "emoji/1f63a").then(|| "emoji/1f431".to_owned());
        assert_eq!(other, expected, "{name}");
    }
}
