//! Formats, channels and lengths.

use std::fs;

use fadam_data::speech::{Decoded, RATE, Sound, decode, duration, embedded, read};

use crate::{file, flac, tone, wav, wav_f32};

/// Whether this is the tone of make.py, but for `slack` (root of the mean square).
fn gives_the_tone(name: &str, rate: u32, channels: usize, slack: f32) {
    let Decoded { sound, rate: of_file, channels: in_file } = read(&file(name)).unwrap();
    assert_eq!((of_file, in_file), (rate, channels), "{name}");
    assert!((sound.seconds() - 1.0).abs() < 0.04, "{name}: {} s", sound.seconds());
    // The mean with a silent channel is half as loud.
    let expected: Vec<_> = tone(RATE, 1000.0, 16_000).iter().map(|x| x / channels as f32).collect();
    let pairs = sound.samples()[1500..14_500].iter().zip(&expected[1500..14_500]);
    let off = (pairs.map(|(a, b)| (a - b).powi(2)).sum::<f32>() / 13_000.0).sqrt();
    assert!(off < slack, "{name}: off by {off}");
}

#[test]
fn every_format_gives_the_same_tone() {
    gives_the_tone("tone-48000-stereo-24.flac", 48_000, 2, 1e-4);
    // Codings that lose something: what libsndfile's decoder gives is off by 0.0072, 0.028, 0.013,
    // 0.014, 0.0038 (in one of two channels).
    gives_the_tone("tone-8000-ulaw.wav", 8000, 1, 0.008);
    gives_the_tone("tone-8000-adpcm.wav", 8000, 1, 0.03);
    gives_the_tone("tone-22050.ogg", 22_050, 1, 0.015);
    gives_the_tone("tone-16000.mp3", 16_000, 1, 0.016);
    gives_the_tone("tone-44100-stereo.mp3", 44_100, 2, 0.004);
}

#[test]
fn integers_and_floats_are_scaled_to_one() {
    // FLAC has at least 16 samples.
    let expected = [0.0, 0.5, -0.5, -1.0, 0.25, 0.75, 0.125, -0.75].repeat(2);
    let as_integers = |bits: u32, bytes: usize| -> Vec<u8> {
        let scale = f64::from(2u32.pow(bits - 1));
        let stored = expected.iter().map(|x| (f64::from(*x) * scale) as i32);
        stored.flat_map(|x| x.to_le_bytes()[..bytes].to_vec()).collect()
    };
    let eight: Vec<u8> = expected.iter().map(|x| (x * 128.0 + 128.0) as u8).collect();
    let double: Vec<u8> = expected.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
    let files = [
        wav(1, RATE, 1, 8, &eight),
        wav(1, RATE, 1, 16, &as_integers(16, 2)),
        wav(1, RATE, 1, 24, &as_integers(24, 3)),
        wav(1, RATE, 1, 32, &as_integers(32, 4)),
        wav_f32(RATE, 1, &expected),
        wav(3, RATE, 1, 64, &double),
        flac(RATE, &expected),
    ];
    for (n, bytes) in files.into_iter().enumerate() {
        let decoded = decode(bytes, "sixteen samples").unwrap();
        assert_eq!(decoded.sound.samples(), expected, "file {n}");
        assert_eq!((decoded.rate, decoded.channels), (RATE, 1));
    }
}

#[test]
fn channels_are_mixed_to_their_mean() {
    let decoded = decode(wav_f32(RATE, 2, &[0.5, 0.25, -1.0, 1.0, 0.0, 0.5]), "stereo").unwrap();
    assert_eq!(decoded.sound.samples(), [0.375, 0.0, 0.25]);
    assert_eq!(decoded.channels, 2);
    let decoded = decode(wav_f32(RATE, 3, &[0.5, 0.25, 0.75]), "three").unwrap();
    assert_eq!((decoded.sound.samples(), decoded.channels), (&[0.5][..], 3));
}

#[test]
fn the_format_is_that_of_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("speech.wav");
    let mp3 = fs::read(file("tone-16000.mp3")).unwrap();
    fs::write(&path, &mp3).unwrap();
    let decoded = read(&path).unwrap();
    assert_eq!(decoded, decode(mp3.clone(), "in memory").unwrap());
    // What an MP3 has before its sound: a tag of ID3v2 of 300 bytes.
    let mut tagged = Vec::from(*b"ID3\x04\x00\x00\x00\x00\x02\x2c");
    tagged.extend([0; 300]);
    tagged.extend(&mp3);
    assert_eq!(decode(tagged, "tagged").unwrap(), decoded);
    // Bytes before the first frame are skipped for a file that calls itself an MP3.
    let mut cut = vec![0; 7];
    cut.extend(&mp3);
    assert_eq!(decode(cut, "cut.MP3").unwrap(), decoded);
}

#[test]
fn the_length_is_known_without_decoding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip");
    let whole = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let decoded = decode(bytes.to_vec(), "clip").unwrap();
        // Resampling rounds up to a whole sample.
        let more = decoded.sound.seconds() - duration(&path).unwrap();
        assert!((0.0..1.0 / 16_000.0).contains(&more), "{more}");
    };
    for name in ["tone-48000-stereo-24.flac", "tone-8000-ulaw.wav", "tone-8000-adpcm.wav"] {
        whole(&fs::read(file(name)).unwrap());
    }
    for name in ["tone-22050.ogg", "tone-16000.mp3", "tone-44100-stereo.mp3"] {
        whole(&fs::read(file(name)).unwrap());
    }
    // An MP3 of which nothing says the length: without its first frame, which is no sound but says
    // it.
    let mp3 = fs::read(file("tone-16000.mp3")).unwrap();
    let second = 4 + mp3[4..].windows(2).position(|pair| pair == [0xff, 0xf3]).unwrap();
    whole(&mp3[second..]);
    whole(&wav_f32(11_025, 2, &tone(11_025, 440.0, 5000)));
}

#[test]
fn a_variable_mp3_is_not_cut_to_a_guess() {
    // Frames of silence are small: from them alone, a decoder that guesses takes the loud rest for
    // longer than it is, or the other way round, and cuts.
    let mp3 = fs::read(file("tone-16000.mp3")).unwrap();
    let second = 4 + mp3[4..].windows(2).position(|pair| pair == [0xff, 0xf3]).unwrap();
    let frames = |bytes: &[u8]| decode(bytes.to_vec(), "mp3").unwrap().sound.samples().len() / 576;
    let once = frames(&mp3[second..]);
    let mut twice = mp3[second..].to_vec();
    twice.extend(&mp3[second..]);
    assert_eq!(frames(&twice), 2 * once);
}

#[test]
fn all_embedded_clips_decode() {
    let clips = embedded().unwrap();
    let mut seconds = 0.0;
    for clip in &clips {
        let decoded = decode(clip.bytes.to_vec(), clip.name).unwrap();
        let rate = if clip.name.starts_with("asterisk/") { 8000 } else { RATE };
        assert_eq!((decoded.rate, decoded.channels), (rate, 1), "{}", clip.name);
        assert!(!decoded.sound.is_silent(), "{}", clip.name);
        // Speech is said at a speed that a mouth has.
        let speed = clip.text.len() as f64 / decoded.sound.seconds();
        assert!((3.0..30.0).contains(&speed), "{}: {speed} characters a second", clip.name);
        seconds += decoded.sound.seconds();
    }
    assert_eq!(clips.len(), 136);
    assert!((seconds / 60.0 - 4.2).abs() < 0.1, "{seconds}");
    assert!(clips.is_sorted_by(|a, b| a.name < b.name), "each name once, in order");
    assert!(clips.iter().map(|clip| clip.bytes.len()).sum::<usize>() < 3_000_000);
}

#[test]
fn silence_is_a_sound() {
    let decoded = decode(wav_f32(RATE, 1, &[0.0; 4000]), "silence").unwrap();
    assert!(decoded.sound.is_silent());
    let mut samples = vec![1.0 / 16_384.0; 4000];
    assert!(Sound::from_samples(samples.clone()).is_silent());
    samples[3000] = -1.0 / 16_000.0;
    assert!(!Sound::from_samples(samples).is_silent());
}
