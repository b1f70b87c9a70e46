//! One audio track of a file: its packets, decoded and mixed down.

use std::io::ErrorKind;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_MP1, CODEC_ID_MP2, CODEC_ID_OPUS, CODEC_ID_SPEEX,
};
use symphonia::core::codecs::audio::{AudioCodecId, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as Refusal;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::well_known::FORMAT_ID_MP3;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;

use crate::{Error, Result};

/// The rates of recordings, in samples a second. What is beyond them is a damaged header, and
/// resampling from there would take all memory.
const RATES: std::ops::RangeInclusive<u32> = 4_000..=768_000;

/// An opened file at the beginning of its sound.
pub(super) struct Stream {
    name: String,
    reader: Box<dyn FormatReader>,
    track: u32,
    decoder: Box<dyn AudioDecoder>,
    rate: u32,
    /// How many samples (of each channel) there are, where the file says so.
    told: Option<u64>,
}

/// All samples of a file, as the mean of its channels.
pub(super) struct Mono {
    pub(super) samples: Vec<f32>,
    pub(super) rate: u32,
    pub(super) channels: usize,
}

impl Stream {
    /// Reads what stands before the sound.
    pub(super) fn open(source: Box<dyn MediaSource>, name: &str) -> Result<Self> {
        let name = name.to_owned();
        let source = MediaSourceStream::new(source, MediaSourceStreamOptions::default());
        let reader = symphonia::default::get_probe()
            .probe(&Hint::new(), source, FormatOptions::default(), MetadataOptions::default())
            .map_err(|refusal| header(&name, refusal))?;
        let Some(track) = reader.default_track(TrackType::Audio) else {
            return Err(Error::NoAudioTrack { name });
        };
        let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
            return Err(Error::NoAudioTrack { name });
        };
        let codecs = symphonia::default::get_codecs();
        if codecs.get_audio_decoder(parameters.codec).is_none() {
            let reason = format!("its sound is {}", coding(parameters.codec));
            return Err(Error::UnsupportedSound { name, reason });
        }
        let decoder = codecs
            .make_audio_decoder(parameters, &AudioDecoderOptions::default().verify(true))
            .map_err(|refusal| header(&name, refusal))?;
        let rate = parameters.sample_rate.unwrap_or(0);
        if !RATES.contains(&rate) {
            return Err(Error::SoundRate { name, rate });
        }
        let (track, told) = (track.id, track.num_frames);
        Ok(Self { name, reader, track, decoder, rate, told })
    }

    /// The length: what the file says, else by going through its packets.
    pub(super) fn seconds(mut self) -> Result<f64> {
        let mut samples = self.told.unwrap_or(0);
        if self.told.is_none() {
            while let Some(packet) = self.next_packet(samples)? {
                samples += packet.dur.get();
            }
        }
        match samples {
            0 => Err(Error::EmptySound { name: self.name }),
            samples => Ok(samples as f64 / f64::from(self.rate)),
        }
    }

    /// Decodes everything.
    pub(super) fn decode(mut self) -> Result<Mono> {
        let mut mono = Mono { samples: Vec::new(), rate: self.rate, channels: 0 };
        let mut interleaved = Vec::new();
        while let Some(packet) = self.next_packet(mono.samples.len() as u64)? {
            let at = self.seconds_at(mono.samples.len() as u64);
            let damaged =
                |reason| Error::DamagedSound { name: self.name.clone(), seconds: at, reason };
            let decoded = match self.decoder.decode(&packet) {
                Ok(decoded) => decoded,
                Err(refusal) => return Err(damaged(refusal.to_string())),
            };
            let (rate, channels) = (decoded.spec().rate(), decoded.spec().channels().count());
            if mono.channels == 0 {
                mono.channels = channels;
            }
            if (rate, channels) != (mono.rate, mono.channels) || channels == 0 {
                let before = format!("{} channels of {} Hz", mono.channels, mono.rate);
                return Err(damaged(format!("{before} become {channels} of {rate} Hz")));
            }
            decoded.copy_to_vec_interleaved::<f32>(&mut interleaved);
            mix(&interleaved, channels, &mut mono.samples);
        }
        self.check(mono.samples.len() as u64)?;
        Ok(mono)
    }

    /// The next packet of the track. `samples` is what was read so far.
    fn next_packet(&mut self, samples: u64) -> Result<Option<Packet>> {
        loop {
            match self.reader.next_packet() {
                Ok(Some(packet)) if packet.track_id != self.track => {}
                Ok(packet) => return Ok(packet),
                Err(refusal) => return Err(self.broken(samples, &refusal)),
            }
        }
    }

    fn broken(&self, samples: u64, refusal: &Refusal) -> Error {
        let name = self.name.clone();
        match refusal {
            Refusal::IoError(cause) if cause.kind() == ErrorKind::UnexpectedEof => {
                self.truncated(samples)
            }
            Refusal::ResetRequired => {
                let reason = "several streams, one after the other".into();
                Error::UnsupportedSound { name, reason }
            }
            refusal => {
                let seconds = self.seconds_at(samples);
                Error::DamagedSound { name, seconds, reason: refusal.to_string() }
            }
        }
    }

    fn truncated(&self, samples: u64) -> Error {
        let of = self.told.map(|told| format!(" of {:.2} s", self.seconds_at(told)));
        let place = format!("after {:.2} s{}", self.seconds_at(samples), of.unwrap_or_default());
        Error::TruncatedSound { name: self.name.clone(), place }
    }

    /// What can be said when the end is reached.
    fn check(&mut self, samples: u64) -> Result<()> {
        // The header of an MP3 may count itself, and the encoder's delay in other ways.
        let slack = if self.reader.format_info().format == FORMAT_ID_MP3 { 2 * 1152 } else { 0 };
        if self.told.is_some_and(|told| samples + slack < told) {
            return Err(self.truncated(samples));
        }
        if samples == 0 {
            return Err(Error::EmptySound { name: self.name.clone() });
        }
        if self.decoder.finalize().verify_ok == Some(false) {
            let seconds = self.seconds_at(samples);
            let reason = "the MD5 sum in the file is that of another sound".into();
            return Err(Error::DamagedSound { name: self.name.clone(), seconds, reason });
        }
        Ok(())
    }

    fn seconds_at(&self, samples: u64) -> f64 {
        samples as f64 / f64::from(self.rate)
    }
}

/// Appends the mean of the channels.
fn mix(interleaved: &[f32], channels: usize, mono: &mut Vec<f32>) {
    if channels == 1 {
        mono.extend_from_slice(interleaved);
    } else {
        let mean = |frame: &[f32]| frame.iter().sum::<f32>() / channels as f32;
        mono.extend(interleaved.chunks_exact(channels).map(mean));
    }
}

/// What a sound is coded in that has no decoder here.
fn coding(codec: AudioCodecId) -> String {
    match codec {
        CODEC_ID_OPUS => "Opus".into(),
        CODEC_ID_SPEEX => "Speex".into(),
        CODEC_ID_MP1 => "MPEG layer 1".into(),
        CODEC_ID_MP2 => "MPEG layer 2".into(),
        other => format!("of a kind without a decoder ({other})"),
    }
}

/// Why a file could not even be opened.
fn header(name: &str, refusal: Refusal) -> Error {
    let name = name.to_owned();
    match refusal {
        Refusal::IoError(cause) if cause.kind() == ErrorKind::UnexpectedEof => {
            Error::TruncatedSound { name, place: "within its header".into() }
        }
        Refusal::Unsupported(reason) if reason.starts_with("core (probe)") => {
            Error::NotSound { name, reason: "no header of such a file is found in it".into() }
        }
        Refusal::Unsupported(reason) => Error::UnsupportedSound { name, reason: reason.into() },
        refusal => Error::DamagedSound { name, seconds: 0.0, reason: refusal.to_string() },
    }
}
