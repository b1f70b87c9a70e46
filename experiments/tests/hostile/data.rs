//! Pictures, sounds, texts, tables, tokenizers.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use fadam_data::image::ImageSource;
use fadam_data::speech::{self, SpeechSource, Units};
use fadam_data::text::{Document, TextSource, Tokenizer};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::basic::Compression as PageCompression;

use super::watch::survives;
use super::{in_file, said};

#[allow(dead_code, reason = "all of it is used by the tests it belongs to")]
#[path = "../../../crates/fadam-data/tests/image/table.rs"]
mod picture_table;
#[allow(dead_code, reason = "all of it is used by the tests it belongs to")]
#[path = "../../../crates/fadam-data/tests/speech/table.rs"]
mod speech_table;

/// The pixels that a picture of these tests may have.
const PIXELS: u64 = 1 << 16;

/// A page of a table states its size in 31 bits, and the parquet crate takes so much memory before it looks.
const PAGE: usize = 2048 + 64;

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/fadam-data").join(name)).unwrap()
}

fn picture(name: &str) -> Vec<u8> {
    file(&format!("tests/data/image/{name}"))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Decodes a picture.
fn decoded(bytes: &[u8]) -> Result<(), String> {
    fadam_data::image::decode(bytes, "a picture", PIXELS).map(drop).map_err(said)
}

/// Reads the pictures of a place, all of them.
fn pictures(path: &Path) -> Result<(), String> {
    let (pictures, _) = ImageSource::Places(vec![path.into()]).read().map_err(said)?;
    pictures.iter().try_for_each(|picture| picture.data.rgb(PIXELS).map(drop).map_err(said))
}

/// Reads the utterances of a place, and decodes them.
fn utterances(path: &Path) -> Result<(), String> {
    let (utterances, _) = SpeechSource::Places(vec![path.into()]).read().map_err(said)?;
    utterances.iter().try_for_each(|utterance| utterance.audio.decode().map(drop).map_err(said))
}

fn documents(path: &Path) -> Result<(), String> {
    TextSource::Paths(vec![path.into()]).read().map(drop).map_err(said)
}

#[test]
fn jpeg() {
    let names = ["baseline.jpg", "cmyk.jpg", "progressive.jpg", "turned.jpg"];
    survives("jpeg", &names.map(picture), 16, &decoded);
}

#[test]
fn png() {
    let names = ["alpha.png", "grey-16.png", "palette.png", "turned.png"];
    survives("png", &names.map(picture), 16, &decoded);
}

#[test]
fn webp() {
    let names = ["alpha.webp", "animated.webp", "lossless.webp", "alpha-lossy.webp", "turned.webp"];
    // An animation is refused whole.
    let read = |bytes: &[u8]| match decoded(bytes) {
        Err(why) if bytes == picture("animated.webp") => {
            assert!(why.contains("animat"), "{why}");
            Ok(())
        }
        answer => answer,
    };
    survives("webp", &names.map(picture), 72, &read);
}

#[test]
fn idx() {
    let mut bytes = vec![0, 0, 8, 3];
    bytes.extend([3u32, 5, 4].into_iter().flat_map(u32::to_be_bytes));
    bytes.extend(0..60);
    let seeds = [bytes.clone(), gzip(&bytes)];
    survives("idx", &seeds, 16, &|bytes| in_file("images-idx3-ubyte", bytes, pictures));
}

#[test]
fn table_of_pictures() {
    let row = |n: i64| picture_table::Row {
        bytes: Some(picture("noise-16x10.png")),
        path: Some(format!("{n}.png")),
        label: n,
    };
    let tables = [PageCompression::UNCOMPRESSED, PageCompression::SNAPPY];
    let seeds =
        tables.map(|how| picture_table::imagenet(&[vec![row(0), row(1)], vec![row(2)]], how));
    survives("table-of-pictures", &seeds, PAGE, &|bytes| in_file("0.parquet", bytes, pictures));
}

#[test]
fn table_of_speech() {
    let row = |n: i64| speech_table::Row {
        sound: Some(file("tests/data/sound/tone-8000-ulaw.wav")),
        name: Some(format!("{n}.wav")),
        text: Some("four score".into()),
        speaker: n,
        id: n.to_string(),
    };
    let seed = speech_table::librispeech(&[vec![row(0), row(1)]], PageCompression::SNAPPY);
    survives("table-of-speech", &[seed], PAGE, &|bytes| in_file("0.parquet", bytes, utterances));
}

#[test]
fn sound() {
    let names = [
        "tone-16000.mp3",
        "tone-22050.ogg",
        "tone-48000-stereo-24.flac",
        "tone-8000-adpcm.wav",
        "tone-8000-ulaw.wav",
    ];
    let seeds = names.map(|name| file(&format!("tests/data/sound/{name}")));
    let decode = |bytes: &[u8]| speech::decode(bytes.to_vec(), "clip").map(drop).map_err(said);
    survives("sound", &seeds, 64, &decode);
}

#[test]
fn manifest_of_speech() {
    let folder = tempfile::tempdir().unwrap();
    let sound = file("tests/data/sound/tone-8000-ulaw.wav");
    let [one, two] = ["one.wav", "two.wav"].map(|name| {
        let place = folder.path().join(name);
        fs::write(&place, &sound).unwrap();
        place.display().to_string()
    });
    let table = format!("path\ttext\tspeaker\n{one}\tfour score\ta\n{two}\tand seven\tb\n");
    survives("manifest-tsv", &[table.into()], 16, &|bytes| in_file("clips.tsv", bytes, utterances));
}

#[test]
fn text() {
    let lines = "{\"text\": \"Four score and seven years ago\", \"url\": 1}\n{\"text\": \"our \\u00e9 fathers\"}\n";
    let plain = [lines.into(), lines.repeat(20).into_bytes()];
    survives("jsonl", &plain, 16, &|bytes| in_file("a.jsonl", bytes, documents));
    survives("jsonl-gz", &plain.map(|bytes| gzip(&bytes)), 16, &|bytes| {
        in_file("a.json.gz", bytes, documents)
    });
    // Any text is a document; what is not UTF-8 is refused.
    let prose = "Four score and seven years ago".repeat(3).into();
    survives("txt", &[prose], 16, &|bytes| in_file("a.txt", bytes, documents));
}

#[test]
fn tokenizer() {
    let document = Document {
        text: "four score and seven years ago our fathers brought forth".into(),
        ..TextSource::Embedded.read().unwrap().0.remove(0)
    };
    let folder = tempfile::tempdir().unwrap();
    let place: PathBuf = folder.path().join("tokenizer.json");
    Tokenizer::train_byte_level_bpe(&[document], 280).unwrap().save(&place).unwrap();
    let read = |path: &Path| {
        let tokenizer = Tokenizer::load(path, None).map_err(said)?;
        let tokens = tokenizer.encode("four years").map_err(said)?;
        tokenizer.decode(&tokens).map(drop).map_err(said)
    };
    survives("tokenizer", &[fs::read(&place).unwrap()], 64, &|bytes| {
        in_file("tokenizer.json", bytes, read)
    });
}

#[test]
fn units() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["four score".to_owned(), "and seven years".to_owned()];
    let seeds =
        [Units::characters(&texts).unwrap(), Units::pieces(&texts, 20).unwrap()].map(|units| {
            let place = folder.path().join("units.json");
            units.save(&place).unwrap();
            fs::read(place).unwrap()
        });
    survives("units", &seeds, 64, &|bytes| {
        in_file("units.json", bytes, |path| {
            let units = Units::load(path).map_err(said)?;
            units.decode(&[1, 2, 3]).map(drop).map_err(said)
        })
    });
}
