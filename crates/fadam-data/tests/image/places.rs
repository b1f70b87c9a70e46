//! Places: files, folders, what is refused, and what is held out.

use std::collections::BTreeSet;
use std::fs;

use fadam_data::Error;
use fadam_data::image::{ImageSource, Picture, SourceReport, check_held_out, hold_out};
use proptest::prelude::*;

use super::{corpus, noisy, read, write};

fn names(pictures: &[Picture]) -> Vec<&str> {
    pictures.iter().map(|picture| &*picture.name).collect()
}

#[test]
fn folders_are_read_in_order_with_their_classes() {
    let folder = tempfile::tempdir().unwrap();
    for name in
        ["b/2.JPEG", "b/10.jpg", "a/deep/x.webp", "a/y.Png", "top.jpeg", "b/notes.txt", "a/z.gif"]
    {
        write(folder.path(), name, "");
    }
    let source = ImageSource::Places(vec![folder.path().into()]);
    let (pictures, report) = source.read().unwrap();
    assert_eq!(names(&pictures), ["a/deep/x.webp", "a/y.Png", "b/10.jpg", "b/2.JPEG", "top.jpeg"]);
    let classes: Vec<_> = pictures.iter().map(|picture| picture.class.as_deref()).collect();
    assert_eq!(classes, [Some("deep"), Some("a"), Some("b"), Some("b"), None]);
    let ignored = ["a/z.gif", "b/notes.txt"].map(|name| folder.path().join(name));
    let expected =
        SourceReport { files: 5, pictures: 5, classes: 3, ignored_files: ignored.to_vec() };
    assert_eq!(report, expected);
    assert_eq!(
        report.to_string(),
        format!(
            "5 pictures of 3 classes from 5 files; 2 other files ignored, first {}",
            ignored[0].display()
        )
    );
}

#[cfg(unix)]
#[test]
fn links_to_files_are_read_and_links_to_folders_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = write(elsewhere.path(), "x.png", noisy(16, 16, 1));
    std::os::unix::fs::symlink(&file, folder.path().join("link.png")).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop.png")).unwrap();
    let (pictures, report) = ImageSource::Places(vec![folder.path().into()]).read().unwrap();
    assert_eq!(names(&pictures), ["link.png"]);
    assert_eq!(report.ignored_files.len(), 2);
    let both = vec![folder.path().into(), file];
    assert!(matches!(ImageSource::Places(both).read(), Err(Error::DuplicatePicture { .. })));
}

#[test]
fn ranges_and_single_files_are_places() {
    let folder = corpus(9);
    let place = folder.path().join("class-{0..2}/00{0..3}.png");
    // 0, 1, 2 and 3 are in the classes 0, 1, 2 and 0; the others are not there.
    let error = read(&place).unwrap_err();
    assert!(matches!(error, Error::MissingPath { .. }), "{error}");
    let pictures = read(&folder.path().join("class-{0..2}")).unwrap();
    assert_eq!(pictures.len(), 9);
    let one = read(&folder.path().join("class-1/004.png")).unwrap();
    assert_eq!((names(&one), one[0].class.as_deref()), (vec!["004.png"], None));
}

#[test]
fn places_that_are_refused() {
    let folder = corpus(3);
    let path = |name: &str| folder.path().join(name);
    let message = |places: &[&str]| {
        let places = places.iter().map(|name| path(name)).collect();
        ImageSource::Places(places).read().unwrap_err().to_string()
    };
    assert_eq!(message(&["none"]), format!("{}: no such file or folder", path("none").display()));
    fs::write(path("x.gif"), "GIF89a").unwrap();
    let gif = message(&["x.gif"]);
    assert!(gif.contains("x.gif: no pictures there; expected a file ending in .jpg, "), "{gif}");
    let twice = message(&["class-1", "class-1/001.png"]);
    let name = path("class-1/001.png").display().to_string();
    assert!(twice.starts_with(&format!("{name}: given twice; ")), "{twice}");
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("empty/readme.txt"), "").unwrap();
    let empty = message(&["empty"]);
    assert!(
        empty.contains("empty: no pictures to train on: 0 pictures from 0 files; 1 other file")
    );
    assert!(message(&[]).starts_with("(no place given): no pictures to train on"));
    let hub = ImageSource::Places(vec!["hub:a/b/c.jpg".into()]).read().unwrap_err();
    assert!(matches!(hub, Error::NoImagePlace { .. }), "{hub}");
}

#[test]
fn held_out_pictures_are_not_trained_on() {
    let folder = corpus(6);
    let all = read(folder.path()).unwrap();
    let one = read(&folder.path().join("class-0/003.png")).unwrap();
    let error = check_held_out(&all, &one).unwrap_err().to_string();
    assert!(error.contains("class-0/003.png: both in the training and in the held-out"), "{error}");
    let others = read(&folder.path().join("class-1")).unwrap();
    check_held_out(&others, &one).unwrap();
    let (train, held_out) = hold_out(all, 0.5).unwrap();
    check_held_out(&train, &held_out).unwrap();

    let (emoji, report) = ImageSource::Embedded.read().unwrap();
    assert_eq!((report.pictures, report.files, report.classes), (1871, 1, 0));
    let error = check_held_out(&emoji, &emoji[7..8]).unwrap_err().to_string();
    assert!(error.starts_with("embedded:emoji:7: both in"), "{error}");
}

#[test]
fn a_fraction_that_leaves_nothing_is_an_error() {
    let folder = corpus(3);
    let all = || read(folder.path()).unwrap();
    for fraction in [0.0, 1.0, -0.5, f64::NAN] {
        let error = hold_out(all(), fraction).unwrap_err();
        assert!(matches!(error, Error::EvalFraction { .. }), "{error}");
    }
    let error = hold_out(all(), 1e-9).unwrap_err().to_string();
    assert_eq!(
        error,
        "data.eval_fraction = 0.000000001: expected a fraction that leaves some of 3 pictures on both \
         sides"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// About the fraction is held out, in order, and no picture changes sides when others come or go.
    #[test]
    fn holding_out_depends_on_the_name_alone(fraction in 0.05f64..0.95, from in 0usize..1000) {
        let (emoji, _) = ImageSource::Embedded.read().unwrap();
        let (train, held_out) = hold_out(emoji.clone(), fraction).unwrap();
        let share = held_out.len() as f64 / emoji.len() as f64;
        // Five standard deviations of a draw are at most 0.058.
        prop_assert!((share - fraction).abs() < 0.058, "{} for {}", share, fraction);
        let (fewer, _) = hold_out(emoji[from..].to_vec(), fraction).unwrap();
        let left: BTreeSet<&str> = names(&emoji[from..]).into_iter().collect();
        let expected: Vec<&str> =
            names(&train).into_iter().filter(|name| left.contains(name)).collect();
        prop_assert_eq!(names(&fewer), expected);
    }
}
