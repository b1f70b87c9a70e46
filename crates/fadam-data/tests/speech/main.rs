//! Speech from places to batches: manifests, LibriSpeech folders, tables, checks, and batches.
#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "tables of a few lines, written as they read"
)]

#[allow(dead_code)] // all of it is used by the tests of the hub
#[path = "../hub/server.rs"]
mod server;

mod batches;
mod cache;
mod embedded;
mod eval;
mod places;
mod set;
mod table;
mod tables;
mod units;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fadam_data::speech::{
    Normalisation, SetSpec, SpeechSet, SpeechSource, Units, Utterance, transcripts,
};
use tempfile::TempDir;

/// A WAV file of 16-bit samples, the channels in turn.
fn wav(rate: u32, channels: u16, samples: &[i16]) -> Vec<u8> {
    let data = 2 * samples.len() as u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * 2 * u32::from(channels)).to_le_bytes());
    bytes.extend((2 * channels).to_le_bytes());
    bytes.extend(16u16.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(data.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    bytes
}

/// A FLAC file of one channel.
fn flac(rate: u32, samples: &[i16]) -> Vec<u8> {
    use flacenc::component::BitRepr;
    use flacenc::error::Verify;
    let samples: Vec<i32> = samples.iter().map(|&x| i32::from(x)).collect();
    let config = flacenc::config::Encoder::default().into_verified().unwrap();
    let source = flacenc::source::MemSource::from_samples(&samples, 1, 16, rate as usize);
    let mut stream = flacenc::encode_with_fixed_block_size(&config, source, 4096).unwrap();
    stream.stream_info_mut().set_block_sizes(4096, 4096).unwrap();
    let mut sink = flacenc::bitsink::ByteSink::new();
    stream.write(&mut sink).unwrap();
    sink.into_inner()
}

/// Noise that no other `seed` has.
fn noise(samples: usize, seed: u32) -> Vec<i16> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 18) as i16 - 8192
    };
    (0..samples).map(|_| next()).collect()
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn read(place: &Path) -> fadam_data::Result<Vec<Utterance>> {
    Ok(SpeechSource::Places(vec![place.into()]).read()?.0)
}

fn characters(utterances: &[Utterance]) -> Units {
    Units::characters(&transcripts(utterances, Normalisation::Standard)).unwrap()
}

/// A folder with `count` clips of different lengths and words, and its manifest.
fn corpus(count: usize) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let words = ["One", "two,", "three", "four;", "five", "six."];
    let mut manifest = "path\ttext\tspeaker\n".to_owned();
    for n in 0..count {
        let samples = 8_000 + n * 997 % 24_000;
        write(folder.path(), &format!("clips/{n}.wav"), wav(16_000, 1, &noise(samples, n as u32)));
        let text: Vec<&str> = (0..=n % 4).map(|w| words[(w * w + n) % 6]).collect();
        manifest += &format!("clips/{n}.wav\t{}\tspeaker-{}\n", text.join(" "), n % 3);
    }
    let manifest = write(folder.path(), "train.tsv", manifest);
    (folder, manifest)
}

/// The checked set of a manifest, with so many MiB of sound kept.
fn set_of(manifest: &Path, keep_mb: usize) -> Arc<SpeechSet> {
    let utterances = read(manifest).unwrap();
    let units = characters(&utterances);
    let spec = SetSpec { keep_mb, ..SetSpec::default() };
    Arc::new(SpeechSet::build(utterances, &units, &spec, &|_, _| {}).unwrap())
}
