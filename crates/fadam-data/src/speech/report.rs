//! What became of the utterances: which are in the set, and why the others are not.

use std::collections::BTreeMap;
use std::fmt;

use super::look::Kept;
use super::sound::RATE;

/// Why an utterance is not in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// There is no such file.
    Missing,
    /// The sound cannot be read or decoded.
    Unreadable,
    /// The transcript has no symbol that the network can write.
    NoSymbol,
    /// Shorter than [`SetSpec::min_secs`](super::SetSpec::min_secs).
    TooShort,
    /// Longer than [`SetSpec::max_secs`](super::SetSpec::max_secs).
    TooLong,
    /// Nothing can be heard.
    Silent,
    /// More labels than [`SetSpec::labels_per_frame`](super::SetSpec::labels_per_frame) times the
    /// network's frames.
    TooManyLabels,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::NoSymbol => "with a transcript of no usable symbol",
            Self::TooShort => "too short",
            Self::TooLong => "too long",
            Self::Silent => "silent",
            Self::TooManyLabels => "with more labels than the network can write",
        })
    }
}

/// What was left out for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many.
    pub count: usize,
    /// What exactly was wrong with the first three.
    pub first: Vec<String>,
}

/// So many examples are told of each reason.
const EXAMPLES: usize = 3;

/// What is in a set and what is not. Its `Display` has a line for the set, one for what was done to
/// sounds, and one for each reason to leave some out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpeechReport {
    /// Utterances that there were.
    pub given: usize,
    /// Utterances in the set.
    pub kept: usize,
    /// The seconds of all of them.
    pub seconds: f64,
    /// The shortest and the longest of them, in seconds.
    pub range: Option<(f64, f64)>,
    /// Labels of all of them.
    pub labels: u64,
    /// Sounds in the set that had another rate than 16 kHz, and were resampled.
    pub resampled: usize,
    /// Sounds in the set that had several channels, and were mixed down to one.
    pub mixed_down: usize,
    /// Sounds in the set that were not decoded, since a cache knows them.
    pub from_cache: usize,
    /// Why the cache was made anew, if it was.
    pub cache_note: Option<String>,
    /// How often a character that the network cannot write was left out of a transcript in the set.
    pub unknown_characters: BTreeMap<char, usize>,
    /// The others.
    pub left_out: BTreeMap<Reason, LeftOut>,
}

impl SpeechReport {
    /// Counts an utterance that is not in the set.
    pub(super) fn leave_out(&mut self, reason: Reason, what: String) {
        let left_out = self.left_out.entry(reason).or_default();
        left_out.count += 1;
        if left_out.first.len() < EXAMPLES {
            left_out.first.push(what);
        }
    }

    /// Counts one that is.
    pub(super) fn keep(&mut self, kept: &Kept) {
        let (seconds, heard) = (kept.clip.seconds(), &kept.heard);
        self.kept += 1;
        self.seconds += seconds;
        self.labels += kept.clip.targets.len() as u64;
        self.resampled += usize::from(heard.rate != RATE);
        self.mixed_down += usize::from(heard.channels > 1);
        self.from_cache += usize::from(kept.samples.is_none());
        for &c in &kept.unknown {
            *self.unknown_characters.entry(c).or_default() += 1;
        }
        let (shortest, longest) = self.range.unwrap_or((seconds, seconds));
        self.range = Some((shortest.min(seconds), longest.max(seconds)));
    }

    /// How many were left out for a reason.
    pub fn count(&self, reason: Reason) -> usize {
        self.left_out.get(&reason).map_or(0, |left_out| left_out.count)
    }
}

impl fmt::Display for SpeechReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, kept, seconds, range, .. } = self;
        write!(f, "{kept} of {given} utterances, {:.1} min", seconds / 60.0)?;
        if let Some((shortest, longest)) = range {
            write!(f, ", {shortest:.1} to {longest:.1} s each")?;
        }
        if self.resampled + self.mixed_down > 0 {
            write!(f, "\n  {} resampled, {} mixed down", self.resampled, self.mixed_down)?;
        }
        if self.from_cache > 0 {
            write!(f, "\n  {} known from the cache of checks", self.from_cache)?;
        }
        if let Some(note) = &self.cache_note {
            write!(f, "\n  {note}")?;
        }
        if !self.unknown_characters.is_empty() {
            let all: usize = self.unknown_characters.values().sum();
            let each = self.unknown_characters.iter();
            let mut often: Vec<_> = each.map(|(c, count)| (*count, *c)).collect();
            often.sort_by_key(|&(count, c)| (std::cmp::Reverse(count), c));
            let named: Vec<_> =
                often.iter().take(8).map(|(count, c)| format!("{c:?} {count}")).collect();
            let more = if often.len() > 8 { ", …" } else { "" };
            write!(f, "\n  {all} unknown characters left out: {}{more}", named.join(", "))?;
        }
        for (reason, LeftOut { count, first }) in &self.left_out {
            write!(f, "\n  {count} {reason}: {}", first.join("; "))?;
            if *count > first.len() {
                f.write_str("; …")?;
            }
        }
        Ok(())
    }
}
