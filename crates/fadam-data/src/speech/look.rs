//! Looking at an utterance: whether it can be trained on, and why not.

use std::fs;
use std::io;
use std::path::Path;

use super::cache::{Cache, Heard, stamp};
use super::parquet_rows;
use super::report::Reason;
use super::set::{Clip, SetSpec};
use super::sound::{self, Decoded};
use super::store::{Samples, round};
use super::units::Units;
use super::utterance::{Audio, Utterance};
use crate::Result;

/// What looking at an utterance gave.
pub(super) enum Looked {
    Kept(Box<Kept>),
    LeftOut {
        reason: Reason,
        what: String,
        /// What was heard, where the sound could be decoded.
        heard: Option<(String, Heard)>,
    },
}

/// An utterance that can be trained on.
pub(super) struct Kept {
    pub(super) clip: Clip,
    /// The decoded sound, unless it was known without.
    pub(super) samples: Option<Samples>,
    pub(super) heard: Heard,
    /// What the cache knows it by.
    pub(super) stamp: Option<String>,
    /// Characters that the network cannot write.
    pub(super) unknown: Vec<char>,
}

impl Heard {
    fn of(Decoded { sound, rate, channels }: &Decoded) -> Self {
        let (samples, silent) = (sound.samples().len(), sound.is_silent());
        Self { samples, rate: *rate, channels: *channels, silent }
    }
}

/// Whether an utterance is for the set. An error is one of the tokenizer.
pub(super) fn look(
    utterance: Utterance,
    units: &Units,
    spec: &SetSpec,
    cache: &Cache,
) -> Result<Looked> {
    let text = spec.normalisation.apply(&utterance.text);
    let targets = units.encode(&text)?;
    let name = utterance.audio.to_string();
    let left_out = |reason, what: String, heard| Ok(Looked::LeftOut { reason, what, heard });
    if targets.is_empty() || text.trim().is_empty() {
        return left_out(Reason::NoSymbol, format!("{name}: {:?}", utterance.text), None);
    }
    let stamp = match look_at_file(&utterance.audio, spec) {
        Ok(stamp) => stamp,
        Err((reason, what)) => return left_out(reason, what, None),
    };
    let known = stamp.as_ref().and_then(|stamp| cache.get(stamp));
    let (heard, samples) = match known.map_or_else(|| decode(&utterance.audio), |h| Ok((h, None))) {
        Ok(heard) => heard,
        Err(error) => return left_out(Reason::Unreadable, error.to_string(), None),
    };
    let clip = Clip { utterance, text, targets, samples: heard.samples };
    if let Some((reason, what)) = look_at_length(&clip, spec) {
        return left_out(reason, format!("{name}: {what}"), stamp.map(|stamp| (stamp, heard)));
    }
    if heard.silent {
        return left_out(Reason::Silent, name, stamp.map(|stamp| (stamp, heard)));
    }
    let unknown = units.unknown(&clip.text);
    Ok(Looked::Kept(Box::new(Kept { clip, samples, heard, stamp, unknown })))
}

fn decode(audio: &Audio) -> Result<(Heard, Option<Samples>)> {
    let decoded = audio.decode()?;
    Ok((Heard::of(&decoded), Some(round(&decoded))))
}

/// What the cache knows the sound by; or what is seen without decoding: that there is no file, or that
/// it is much too long to be decoded.
fn look_at_file(
    audio: &Audio,
    spec: &SetSpec,
) -> std::result::Result<Option<String>, (Reason, String)> {
    let path = match audio {
        Audio::File(path) => path,
        Audio::Row(row) => return Ok(Some(parquet_rows::stamp(row))),
        Audio::Embedded { .. } => return Ok(None),
    };
    let name = path.display();
    let about = fs::metadata(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => (Reason::Missing, name.to_string()),
        _ => (Reason::Unreadable, format!("{name}: cannot read it: {cause}")),
    })?;
    match long_seconds(path, about.len(), spec.max_secs) {
        Some(seconds) => Err((Reason::TooLong, format!("{name}: {}", too_long(seconds, spec)))),
        None => Ok(Some(stamp(&audio.identity(), &about))),
    }
}

/// The seconds of a file that is larger than two channels of 32 bits at 48 kHz would be, if they are
/// above `max_secs`. Hours of sound would otherwise be decoded only to be left out.
fn long_seconds(path: &Path, bytes: u64, max_secs: f64) -> Option<f64> {
    if bytes as f64 <= max_secs * f64::from(48_000 * 2 * 4) {
        return None;
    }
    // What has no length is decoded, which says why.
    sound::duration(path).ok().filter(|&seconds| seconds > max_secs)
}

fn too_long(seconds: f64, spec: &SetSpec) -> String {
    format!("{seconds:.1} s, data.max_secs is {}", spec.max_secs)
}

/// What is wrong with the length of a decoded clip.
fn look_at_length(clip: &Clip, spec: &SetSpec) -> Option<(Reason, String)> {
    let seconds = clip.seconds();
    if seconds < spec.min_secs {
        let what = format!("{seconds:.3} s, data.min_secs is {}", spec.min_secs);
        return Some((Reason::TooShort, what));
    }
    if seconds > spec.max_secs {
        return Some((Reason::TooLong, too_long(seconds, spec)));
    }
    let (labels, frames) = (clip.targets.len(), clip.frames().div_ceil(spec.subsampling));
    let most = frames.saturating_mul(spec.labels_per_frame);
    (labels > most).then(|| {
        let what = format!(
            "{labels} labels in {seconds:.1} s, at most {} in each of {frames} frames",
            spec.labels_per_frame
        );
        (Reason::TooManyLabels, what)
    })
}
