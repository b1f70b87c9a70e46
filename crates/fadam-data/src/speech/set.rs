//! The checked set: utterances whose sound can be read and whose transcript can be written.

use std::path::Path;
use std::sync::Arc;

use flate2::Crc;
use rayon::prelude::*;

use super::LogMel;
use super::cache::Cache;
use super::look::{Kept, Looked, look};
use super::report::SpeechReport;
use super::sound::RATE;
use super::store::Store;
use super::text::Normalisation;
use super::units::Units;
use super::utterance::Utterance;
use crate::{Error, Result};

/// What an utterance must be to be trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SetSpec {
    /// The shortest sound, in seconds; 0.1 unless given, at least 0.05.
    pub min_secs: f64,
    /// The longest sound, in seconds; 16.7 unless given, which is what `NeMo`'s recipes take.
    pub max_secs: f64,
    /// What is done to transcripts.
    pub normalisation: Normalisation,
    /// Frames of 10 ms that become one of the network's: 4 unless given.
    pub subsampling: usize,
    /// The most labels that the network can write in one of its frames: 10 unless given, the bound of
    /// greedy decoding. A transcript with more labels than this times its frames could never be
    /// written: it belongs to another sound.
    pub labels_per_frame: usize,
    /// So many MiB of decoded sound are kept in memory (a MiB is 33 s); 1024 unless given. The rest is
    /// decoded each time.
    pub keep_mb: usize,
}

impl Default for SetSpec {
    fn default() -> Self {
        Self {
            min_secs: 0.1,
            max_secs: 16.7,
            normalisation: Normalisation::Standard,
            subsampling: 4,
            labels_per_frame: 10,
            keep_mb: 1024,
        }
    }
}

/// Two windows of the front end: what is left of it at twice the speed is one.
const SHORTEST_SECS: f64 = 0.05;

impl SetSpec {
    fn check(&self) -> Result<()> {
        let Self { min_secs, max_secs, subsampling, labels_per_frame, .. } = *self;
        let wrong = |field, value: f64, expected: &str| Error::SpeechSetting {
            field,
            value: value.to_string(),
            expected: expected.to_owned(),
        };
        // NaN is neither.
        if !(min_secs >= SHORTEST_SECS && min_secs.is_finite()) {
            let expected = format!("at least {SHORTEST_SECS} (two windows of the front end)");
            return Err(wrong("data.min_secs", min_secs, &expected));
        }
        if !(max_secs > min_secs && max_secs.is_finite()) {
            return Err(wrong("data.max_secs", max_secs, "more than data.min_secs"));
        }
        for (field, value) in
            [("the subsampling", subsampling), ("data.labels_per_frame", labels_per_frame)]
        {
            if value == 0 {
                return Err(Error::Zero { field });
            }
        }
        Ok(())
    }
}

/// An utterance of a [`SpeechSet`].
#[derive(Debug, Clone)]
pub struct Clip {
    /// Where it came from.
    pub utterance: Utterance,
    /// The normalised transcript, with what cannot be written still in it: the reference that words are
    /// counted against.
    pub text: String,
    /// The transcript in [`Units`], at least one.
    pub targets: Vec<u32>,
    /// Samples at 16 kHz.
    pub samples: usize,
}

impl Clip {
    /// Its length.
    pub fn seconds(&self) -> f64 {
        self.samples as f64 / f64::from(RATE)
    }

    /// Frames of the front end, one each 10 ms, at the original speed.
    pub fn frames(&self) -> usize {
        LogMel::frames(self.samples)
    }
}

/// Utterances that were looked at: what is in the set can be trained on.
///
/// A sound file that changes or disappears later is met by the batches, which leave it out and say so.
#[derive(Debug)]
pub struct SpeechSet {
    clips: Vec<Clip>,
    report: SpeechReport,
    store: Store,
}

/// So many utterances are looked at between two calls of `progress`.
const ROUND: usize = 64;

impl SpeechSet {
    /// Decodes every sound once, in parallel, and keeps what passes; the order stays. `progress` is
    /// told (how many are done, of how many).
    ///
    /// What is left out is counted with its [`Reason`](super::Reason) in the
    /// [report](SpeechSet::report): a file that is missing, or no sound; a transcript of no usable
    /// symbol; sounds that are too short, too long or silent; more labels than the network can write in
    /// so many frames. A stereo sound is mixed down, another rate is resampled.
    ///
    /// ```
    /// use fadam_data::speech::{Normalisation, SetSpec, SpeechSet, SpeechSource, Units, transcripts};
    /// # let folder = tempfile::tempdir()?;
    /// # let beep: Vec<u8> = (0..16_000).flat_map(|n: i32| ((n % 40 * 500) as i16).to_le_bytes()).collect();
    /// # let mut wav = b"RIFF\x24\x7d\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\0\x7d\0\0".to_vec();
    /// # wav.extend(beep);
    /// # std::fs::write(folder.path().join("a.wav"), wav)?;
    /// # let manifest = folder.path().join("train.tsv");
    /// # std::fs::write(&manifest, "path\ttext\na.wav\tHello!\nb.wav\tNot there.\n")?;
    ///
    /// let (utterances, _) = SpeechSource::Places(vec![manifest]).read()?;
    /// let units = Units::characters(&transcripts(&utterances, Normalisation::Standard))?;
    /// let set = SpeechSet::build(utterances, &units, &SetSpec::default(), &|_, _| {})?;
    /// assert_eq!(set.clips()[0].text, "hello");
    /// assert_eq!(set.clips()[0].frames(), 101);
    /// println!("{}", set.report()); // … 1 missing: …/b.wav
    /// # assert!(set.report().to_string().contains("1 missing"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A setting that cannot be; when nothing is left, with the report in the message.
    pub fn build(
        utterances: Vec<Utterance>,
        units: &Units,
        spec: &SetSpec,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        Self::look_at(utterances, units, spec, (Cache::default(), None), progress)
    }

    /// [`SpeechSet::build`], with what was found kept in `speech-checks.jsonl` in the folder `cache` (made
    /// if missing): a sound file that has not changed since is not decoded again to be checked.
    ///
    /// The set is the same, but for the samples in memory, which come there when they are first used.
    ///
    /// # Errors
    /// As there; a folder or file that cannot be read or written. A file that is damaged is made anew,
    /// which the report says.
    pub fn build_cached(
        utterances: Vec<Utterance>,
        units: &Units,
        spec: &SetSpec,
        cache: &Path,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        spec.check()?;
        Self::look_at(utterances, units, spec, Cache::open(cache)?, progress)
    }

    fn look_at(
        utterances: Vec<Utterance>,
        units: &Units,
        spec: &SetSpec,
        (mut cache, cache_note): (Cache, Option<String>),
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        spec.check()?;
        let total = utterances.len();
        let mut report = SpeechReport { given: total, cache_note, ..SpeechReport::default() };
        let mut clips = Vec::new();
        // With room for all, since how many will pass is not known yet.
        let store = Store::new(total, spec.keep_mb.saturating_mul(1 << 20));
        let mut left = utterances.into_iter();
        let mut done = 0;
        while done < total {
            let round: Vec<Utterance> = left.by_ref().take(ROUND).collect();
            done += round.len();
            let looked: Vec<Looked> = round
                .into_par_iter()
                .map(|utterance| look(utterance, units, spec, &cache))
                .collect::<Result<_>>()?;
            for looked in looked {
                let heard = match looked {
                    Looked::Kept(kept) => {
                        report.keep(&kept);
                        let Kept { clip, samples, heard, stamp, .. } = *kept;
                        if let Some(samples) = samples {
                            store.offer(clips.len(), &samples);
                        }
                        clips.push(clip);
                        stamp.map(|stamp| (stamp, heard))
                    }
                    Looked::LeftOut { reason, what, heard } => {
                        report.leave_out(reason, what);
                        heard
                    }
                };
                if let Some((stamp, heard)) = heard {
                    cache.insert(stamp, heard);
                }
            }
            cache.save_now_and_then()?;
            progress(done, total);
        }
        cache.save()?;
        if clips.is_empty() {
            return Err(Error::NoSpeech { report: Box::new(report) });
        }
        Ok(Self { clips, report, store })
    }

    /// The utterances in the set, in the order in which they were given; at least one.
    pub fn clips(&self) -> &[Clip] {
        &self.clips
    }

    /// What is in the set, and what is not.
    pub fn report(&self) -> &SpeechReport {
        &self.report
    }

    /// Clips whose decoded samples are in memory.
    pub fn kept_in_memory(&self) -> usize {
        self.store.kept()
    }

    /// The samples of a clip, at 16 kHz: from memory, or decoded again.
    ///
    /// # Errors
    /// A file that is gone, unreadable, or of another length than it was.
    ///
    /// # Panics
    /// When there is no such clip.
    pub fn samples(&self, clip: usize) -> Result<Arc<[i16]>> {
        let Clip { utterance, samples, .. } = &self.clips[clip];
        self.store.get(clip, &utterance.audio, *samples)
    }

    /// CRC-32 of what batches depend on: names, lengths and targets, in order.
    pub(super) fn checksum(&self) -> u32 {
        let mut crc = Crc::new();
        for Clip { utterance, samples, targets, .. } in &self.clips {
            crc.update(utterance.id.as_bytes());
            crc.update(&[0]);
            crc.update(&(*samples as u64).to_le_bytes());
            crc.update(&(targets.len() as u64).to_le_bytes());
            for target in targets {
                crc.update(&target.to_le_bytes());
            }
        }
        crc.sum()
    }
}

/// The normalised transcripts, of which [`Units`] are made.
pub fn transcripts(utterances: &[Utterance], normalisation: Normalisation) -> Vec<String> {
    utterances.iter().map(|utterance| normalisation.apply(&utterance.text)).collect()
}
