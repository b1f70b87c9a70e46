//! Sound files to samples: one channel, 16 kHz.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::path::Path;

use symphonia::core::io::{MediaSource, ReadOnlySource};

use super::resample::resample;
use super::stream::Stream;
use crate::{Error, Result};

/// The sampling rate of everything after decoding, in samples a second.
pub const RATE: u32 = 16_000;

/// A peak of two steps of a 16-bit recording, −84 dB: what is no louder is silence.
const SILENCE: f32 = 1.0 / 16_384.0;

/// One channel of sound at [`RATE`], amplitudes about −1 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    samples: Vec<f32>,
}

impl Sound {
    /// Samples that are at [`RATE`] already.
    ///
    /// ```
    /// use fadam_data::speech::Sound;
    ///
    /// let sound = Sound::from_samples(vec![0.0; 24_000]);
    /// assert_eq!(sound.seconds(), 1.5);
    /// assert!(sound.is_silent());
    /// ```
    pub fn from_samples(samples: Vec<f32>) -> Self {
        Self { samples }
    }

    /// The samples, [`RATE`] a second.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// The samples, without a copy.
    pub fn into_samples(self) -> Vec<f32> {
        self.samples
    }

    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(RATE)
    }

    /// Whether nothing in it is louder than two steps of a 16-bit recording.
    ///
    /// Silence decodes and has (constant) features like any other sound; whether a clip of it is
    /// of use is for the reader of its transcript to say.
    pub fn is_silent(&self) -> bool {
        self.samples.iter().all(|x| x.abs() <= SILENCE)
    }
}

/// A sound, and what it was in its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The sound, at [`RATE`] and mixed down.
    pub sound: Sound,
    /// The sampling rate in the file; where it is not [`RATE`], the sound was resampled.
    pub rate: u32,
    /// The channels in the file; where there are several, the sound is their mean.
    pub channels: usize,
}

/// Decodes the bytes of a WAV (PCM of 8 to 64 bits, ADPCM, A-law, µ-law), FLAC, MP3 or Ogg (Vorbis,
/// FLAC) file, takes the mean of its channels and resamples it to [`RATE`].
///
/// The format is that of the bytes, whatever `name` ends in; `name` (a path, or a row of a parquet
/// file) is for errors, and lets through an MP3 that begins with something else. FLAC is checked
/// against its MD5 sum. What an MP3 that does not say its length (Xing, VBRI) lost at its end cannot
/// be noticed.
///
/// ```
/// use fadam_data::speech::{decode, embedded};
///
/// let clip = &embedded()?[0];
/// let decoded = decode(clip.bytes.to_vec(), clip.name)?;
/// assert_eq!((decoded.rate, decoded.channels), (8_000, 1));
/// assert_eq!(decoded.sound.samples().len(), 23_306);
/// # Ok::<(), fadam_data::Error>(())
/// ```
///
/// # Errors
/// Bytes that are no sound, of a coding that is not read, truncated, damaged, without an audio
/// track or one sample in it; samples that are NaN, infinite or beyond 65,536; a rate that is not
/// between 4,000 and 768,000 samples a second; a stream that changes its rate or channels.
pub fn decode(bytes: Vec<u8>, name: &str) -> Result<Decoded> {
    let begins = Begins::of(&bytes, name)?;
    let mono = Stream::open(begins.source(Cursor::new(bytes)), name)?.decode()?;
    let is_amplitude = |x: &f32| (-LARGEST..=LARGEST).contains(x);
    if let Some(at) = mono.samples.iter().position(|x| !is_amplitude(x)) {
        let (seconds, value) = (at as f64 / f64::from(mono.rate), mono.samples[at]);
        return Err(Error::SoundSample { name: name.to_owned(), seconds, value });
    }
    let samples = resample(mono.samples, mono.rate, RATE);
    Ok(Decoded { sound: Sound { samples }, rate: mono.rate, channels: mono.channels })
}

/// No recording is louder, not even one in floats at the scale of 16-bit integers.
const LARGEST: f32 = 65_536.0;

/// Reads and decodes a sound file: [`decode`] with the path as its name.
///
/// # Errors
/// A file that is missing or cannot be read, and those of [`decode`].
pub fn read(path: &Path) -> Result<Decoded> {
    let bytes = std::fs::read(path).map_err(|cause| unreadable(path, cause))?;
    decode(bytes, &path.display().to_string())
}

/// The length of a sound file in seconds, without decoding it.
///
/// WAV, FLAC, Ogg and most MP3 files say how long they are; an MP3 that does not is read frame by
/// frame. A file that is truncated or damaged behind its header is found by [`read`] only.
///
/// # Errors
/// A file that is missing, cannot be read, is no sound, has a coding that is not read, no audio
/// track or not one sample.
pub fn duration(path: &Path) -> Result<f64> {
    let name = path.display().to_string();
    let mut file = File::open(path).map_err(|cause| unreadable(path, cause))?;
    let mut head = [0; HEAD];
    let read = fill(&mut file, &mut head).and_then(|read| file.rewind().map(|()| read));
    let read = read.map_err(|cause| unreadable(path, cause))?;
    let begins = Begins::of(&head[..read], &name)?;
    Stream::open(begins.source(file), &name)?.seconds()
}

fn unreadable(path: &Path, cause: io::Error) -> Error {
    let path = path.to_path_buf();
    match cause.kind() {
        io::ErrorKind::NotFound => Error::MissingPath { path },
        _ => Error::Io { action: "read", path, cause },
    }
}

/// Fills `head` as far as the file goes.
fn fill(file: &mut File, head: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < head.len() {
        match file.read(&mut head[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// So many bytes tell the format, and whether there is sound in an Ogg file.
const HEAD: usize = 4096;

/// How a sound file begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    /// As an Ogg file, whose last page says how long it is.
    Ogg,
    /// As a format that is read from the front.
    Other,
}

impl Begins {
    /// By the first bytes. The decoder would search any file for something that looks like MP3, and
    /// find it in pictures.
    fn of(head: &[u8], name: &str) -> Result<Self> {
        let not_sound = |reason| Error::NotSound { name: name.to_owned(), reason };
        let head = &head[..head.len().min(HEAD)];
        match head {
            [] => Err(not_sound("the file is empty".into())),
            [b'O', b'g', b'g', b'S', ..] if ogg_without_sound(head) => {
                Err(Error::NoAudioTrack { name: name.to_owned() })
            }
            [b'O', b'g', b'g', b'S', ..] => Ok(Self::Ogg),
            _ if is_known(head) || name.to_ascii_lowercase().ends_with(".mp3") => Ok(Self::Other),
            _ => Err(not_sound(format!(
                "it begins with \"{}\"",
                head[..head.len().min(12)].escape_ascii()
            ))),
        }
    }

    /// What the decoder reads from. It may go back and forth in Ogg only: where it can, it guesses
    /// the length of an MP3 from its first frames, and cuts off what is longer than the guess.
    fn source<S: MediaSource + 'static>(self, source: S) -> Box<dyn MediaSource> {
        match self {
            Self::Ogg => Box::new(source),
            Self::Other => Box::new(ReadOnlySource::new(source)),
        }
    }
}

/// Whether this begins as WAV, FLAC, a tag of ID3 or a frame of MPEG audio (eleven bits of
/// synchronisation).
fn is_known(head: &[u8]) -> bool {
    let is_wav = head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WAVE");
    let is_mpeg = head[0] == 0xff && head.get(1).is_some_and(|second| second >> 5 == 7);
    is_wav || head.starts_with(b"fLaC") || head.starts_with(b"ID3") || is_mpeg
}

/// Whether an Ogg file has streams and none of them is sound. Each stream introduces itself on a page
/// of its own, and these pages come first.
fn ogg_without_sound(mut head: &[u8]) -> bool {
    const SOUND: [&[u8]; 4] = [b"\x01vorbis", b"\x7fFLAC", b"OpusHead", b"Speex   "];
    // A page: 26 bytes, the number of segments, their lengths, the segments.
    while let Some(&flags) = head.get(5) {
        let is_first = flags & 2 != 0;
        if !is_first || !head.starts_with(b"OggS") {
            return !is_first && head.starts_with(b"OggS");
        }
        let segments = usize::from(head.get(26).copied().unwrap_or(0));
        let lengths = head.get(27..27 + segments).unwrap_or_default();
        let body = head.get(27 + segments..).unwrap_or_default();
        if SOUND.iter().any(|sound| body.starts_with(sound)) {
            return false;
        }
        let length = lengths.iter().map(|&length| usize::from(length)).sum::<usize>();
        head = body.get(length..).unwrap_or_default();
    }
    false
}
