//! Sound files to features, module by module.

mod amazon_queen;
mod augment;
mod damaged;
mod decode;
mod features;
mod resample;

use std::f64::consts::TAU;
use std::path::PathBuf;

/// A sine of amplitude 0.5 from sample 0 on.
fn tone(rate: u32, hertz: f64, samples: usize) -> Vec<f32> {
    let at = |n: usize| 0.5 * (TAU * hertz * n as f64 / f64::from(rate)).sin();
    (0..samples).map(|n| at(n) as f32).collect()
}

/// The largest difference, without so many samples at both ends (filters have no neighbours there).
fn off(a: &[f32], b: &[f32], ends: usize) -> f32 {
    assert_eq!(a.len(), b.len());
    let inside = ends..a.len() - ends;
    let pairs = a[inside.clone()].iter().zip(&b[inside]);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A file of tests/data/sound, which make.py there wrote.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/sound").join(name)
}

/// A WAV file. `form` is 1 for integers, 3 for floats; `data` are the samples as they are stored.
fn wav(form: u16, rate: u32, channels: u16, bits: u16, data: &[u8]) -> Vec<u8> {
    let frame = channels * bits / 8;
    let mut bytes = Vec::from(*b"RIFF");
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend(form.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * u32::from(frame)).to_le_bytes());
    bytes.extend(frame.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

/// A WAV file of floats.
fn wav_f32(rate: u32, channels: u16, samples: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
    wav(3, rate, channels, 32, &data)
}

/// A FLAC file of 16 bits.
fn flac(rate: u32, samples: &[f32]) -> Vec<u8> {
    use flacenc::component::BitRepr;
    use flacenc::error::Verify;
    let samples: Vec<i32> = samples.iter().map(|x| (x * 32768.0).round() as i32).collect();
    let config = flacenc::config::Encoder::default().into_verified().unwrap();
    let source = flacenc::source::MemSource::from_samples(&samples, 1, 16, rate as usize);
    let mut stream = flacenc::encode_with_fixed_block_size(&config, source, 4096).unwrap();
    stream.stream_info_mut().set_block_sizes(4096, 4096).unwrap();
    let mut sink = flacenc::bitsink::ByteSink::new();
    stream.write(&mut sink).unwrap();
    sink.into_inner()
}
