//! Everything that is not a whole sound file: one clear error, and never a panic.

use std::fs;
use std::path::Path;

use fadam_data::Error;
use fadam_data::speech::{decode, duration, read};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{file, flac, tone, wav, wav_f32};

fn refusal(bytes: &[u8]) -> Error {
    decode(bytes.to_vec(), "row 7").unwrap_err()
}

/// The length alone is refused with the same words.
fn both(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip");
    fs::write(&path, bytes).unwrap();
    let (whole, length) = (read(&path).unwrap_err(), duration(&path).unwrap_err());
    assert_eq!(whole.to_string(), length.to_string());
    let name = format!("{}: ", path.display());
    whole.to_string().strip_prefix(&name).expect("it names the file").to_owned()
}

#[test]
fn what_is_no_sound() {
    let expected = "; expected WAV, FLAC, MP3 or Ogg Vorbis";
    assert_eq!(both(b""), format!("not a sound file: the file is empty{expected}"));
    let text = both(b"Four score and seven years ago");
    assert_eq!(text, format!("not a sound file: it begins with \"Four score a\"{expected}"));
    let png = both(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    assert!(png.contains(r#"it begins with "\x89PNG\r\n\x1a\n"#), "{png}");
    let avi = both(b"RIFF\x00\x10\x00\x00AVI LIST");
    assert!(avi.contains("it begins with \"RIFF"), "{avi}");
    // A tag without an end, and what calls itself an MP3.
    assert!(matches!(
        refusal(b"ID3\x04\x00\x00\x00\x00\x00\x00 and no more"),
        Error::NotSound { .. }
    ));
    let error = decode(b"no frame of MPEG in here".to_vec(), "a.mp3").unwrap_err();
    assert!(matches!(error, Error::NotSound { .. }), "{error:?}");
}

#[test]
fn a_file_that_is_not_there() {
    for error in [
        read(Path::new("no/such.wav")).unwrap_err(),
        duration(Path::new("no/such.wav")).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "no/such.wav: no such file or folder");
    }
}

#[test]
fn truncated_flac() {
    let bytes = flac(16_000, &tone(16_000, 440.0, 40_000));
    for cut in [60, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        let error = refusal(&bytes[..cut]);
        assert!(matches!(error, Error::TruncatedSound { .. }), "{cut} bytes: {error:?}");
    }
    let text = refusal(&bytes[..bytes.len() / 2]).to_string();
    assert!(text.starts_with("row 7: ends early, after 1."), "{text}");
    assert!(text.ends_with(" s of 2.50 s; download or copy the file again"), "{text}");
    let text = refusal(&bytes[..20]).to_string();
    assert_eq!(text, "row 7: ends early, within its header; download or copy the file again");
}

#[test]
fn other_truncated_files() {
    let samples = tone(16_000, 440.0, 16_000);
    let bytes = wav_f32(16_000, 1, &samples);
    let text = refusal(&bytes[..44 + 4 * 8000]).to_string();
    assert!(text.contains("of 1.00 s"), "{text}");
    let ogg = fs::read(file("tone-22050.ogg")).unwrap();
    for cut in [100, 3700, ogg.len() - 300] {
        let error = refusal(&ogg[..cut]);
        assert!(matches!(error, Error::TruncatedSound { .. }), "{cut} bytes: {error:?}");
    }
    // This MP3 says how many frames it has.
    let mp3 = fs::read(file("tone-44100-stereo.mp3")).unwrap();
    let error = refusal(&mp3[..mp3.len() / 2]);
    assert!(matches!(error, Error::TruncatedSound { .. }), "{error:?}");
}

#[test]
fn a_changed_bit_of_flac_is_noticed() {
    let bytes = flac(16_000, &tone(16_000, 440.0, 40_000));
    for at in (100..bytes.len()).step_by(bytes.len() / 20) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        let error = refusal(&changed);
        let known = matches!(error, Error::DamagedSound { .. } | Error::TruncatedSound { .. });
        assert!(known, "byte {at}: {error:?}");
    }
    // The sum in the header is that of another sound.
    let mut changed = bytes.clone();
    changed[8 + 18] ^= 1;
    let text = refusal(&changed).to_string();
    let reason = "the MD5 sum in the file is that of another sound";
    assert_eq!(
        text,
        format!("row 7: damaged, at 2.50 s: {reason}; download or copy the file again")
    );
}

#[test]
fn codings_without_a_decoder() {
    let expected = "; expected PCM, ADPCM, FLAC, MP3 or Vorbis, as one stream";
    let opus = both(&fs::read(file("tone-16000-opus.ogg")).unwrap());
    assert_eq!(opus, format!("cannot be decoded: its sound is Opus{expected}"));
    // Format 0x161 is Windows Media Audio.
    let wma = both(&wav(0x161, 16_000, 1, 16, &[0; 200]));
    assert!(wma.starts_with("cannot be decoded: ") && wma.ends_with(expected), "{wma}");
}

#[test]
fn a_container_without_sound() {
    // One page of Ogg whose stream is a text (Kate), and the page that ends it.
    let mut bytes = page(2, b"\x80kate\0\0\0\0");
    bytes.extend(page(0, b"\0some words"));
    bytes.extend(page(4, b"\0more words"));
    let text = both(&bytes);
    assert_eq!(text, "has no audio track; expected a file with one track of speech");
}

/// A page of Ogg with one packet.
fn page(flags: u8, packet: &[u8]) -> Vec<u8> {
    let mut page = Vec::from(*b"OggS\0");
    page.push(flags);
    page.extend(0u64.to_le_bytes());
    page.extend(1u32.to_le_bytes());
    page.extend([flags / 2, 0, 0, 0]);
    page.extend([0; 4]);
    page.extend([1, packet.len() as u8]);
    page.extend(packet);
    let sum = page.iter().fold(0u32, |sum, byte| {
        (0..8).fold(sum ^ (u32::from(*byte) << 24), |sum, _| {
            (sum << 1) ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 }
        })
    });
    page[22..26].copy_from_slice(&sum.to_le_bytes());
    page
}

#[test]
fn no_samples() {
    let text = "has no sound in it, not one sample; expected a clip of speech";
    assert_eq!(both(&wav(1, 16_000, 1, 16, &[])), text);
}

#[test]
fn samples_that_are_no_amplitudes() {
    for (value, said) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf"), (7e4, "70000")] {
        let mut samples = vec![0.1; 1600];
        samples[800] = value;
        let text = refusal(&wav_f32(8000, 1, &samples)).to_string();
        assert_eq!(
            text,
            format!("row 7: the sample at 0.100 s is {said}; expected numbers from -1 to 1")
        );
    }
    // Floats at the scale of 16-bit integers are loud, and no error.
    decode(wav_f32(8000, 1, &[32_767.0; 1600]), "loud").unwrap();
}

#[test]
fn rates_that_no_speech_has() {
    for rate in [0, 100, 800_000, u32::MAX] {
        let error = refusal(&wav_f32_of_any_rate(rate));
        let known = matches!(
            error,
            Error::SoundRate { .. } | Error::DamagedSound { .. } | Error::UnsupportedSound { .. }
        );
        assert!(known, "{rate}: {error:?}");
    }
    let text = refusal(&wav_f32_of_any_rate(100)).to_string();
    assert_eq!(text, "row 7: has 100 samples a second; expected 4,000 to 768,000");
}

fn wav_f32_of_any_rate(rate: u32) -> Vec<u8> {
    let mut bytes = wav_f32(16_000, 1, &[0.0; 100]);
    bytes[24..28].copy_from_slice(&rate.to_le_bytes());
    bytes
}

#[test]
fn no_bytes_make_it_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(20_240_521);
    let mut files = vec![flac(16_000, &tone(16_000, 440.0, 5000)), wav_f32(8000, 2, &[0.1; 600])];
    for name in ["tone-22050.ogg", "tone-16000.mp3", "tone-8000-adpcm.wav", "tone-16000-opus.ogg"] {
        files.push(fs::read(file(name)).unwrap());
    }
    for bytes in files {
        for _ in 0..300 {
            let mut changed = bytes.clone();
            changed.truncate(rng.random_range(0..=bytes.len()));
            for _ in 0..rng.random_range(0..4) {
                if let Some(last) = changed.len().checked_sub(1) {
                    changed[rng.random_range(0..=last)] = rng.random();
                }
            }
            // A sound or an error: both are fine.
            if let Ok(decoded) = decode(changed, "changed") {
                assert!(decoded.sound.samples().iter().all(|x| x.is_finite()));
            }
        }
    }
}
