//! Text from sound, by a trained transducer: of sound files, or of a whole manifest as labels to train on.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use candle_core::{Device, Tensor};
use clap::Parser;
use fadam_data::speech::{Audio, Features, LogMel, SpeechSource, Utterance};
use fadam_models::asr::{BINS, Beam};
use fadam_train::{DeviceChoice, Outcome, bad_input, write_atomically};
use rayon::prelude::*;

use crate::asr::{Heard, Recogniser, Search};
use crate::model_place::{ModelPlace, Place, argument};

/// Writes down what is said in sound files (WAV, FLAC, MP3, Ogg), with a model that `train-asr` trained: a line a file.
///
/// With --manifest, what is said in all recordings of a corpus goes to a new manifest (path, text, speaker, confidence), for
/// `train-asr` to train on: transcripts of its own making, those that it is sure of.
#[derive(Debug, Parser)]
#[command(name = "transcribe", version)]
pub struct Args {
    #[command(flatten)]
    place: ModelPlace,

    /// Sound files
    #[arg(value_name = "FILE", required_unless_present = "manifest", conflicts_with = "manifest")]
    files: Vec<PathBuf>,

    /// A manifest or a LibriSpeech folder, whose own transcripts are not looked at
    #[arg(long, value_name = "PATH", requires = "out")]
    manifest: Option<PathBuf>,

    /// The manifest to write
    #[arg(long, value_name = "FILE", requires = "manifest")]
    out: Option<PathBuf>,

    /// Leaves out recordings that the model is less sure of: 0 to 1, the geometric mean of its labels' probabilities
    #[arg(long, value_name = "P", default_value_t = 0.0, requires = "manifest")]
    min_confidence: f64,

    /// Keeps this many prefixes in a beam search; without it the search is greedy
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    beam: Option<u32>,

    /// Labels that one frame of 40 ms may emit
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    max_symbols: u32,

    /// Where to compute: cpu, cuda, cuda:I, metal or metal:I
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

/// Seconds of sound, padding included, that are recognised together.
const BATCH_SECS: f64 = 60.0;

/// Transcribes to standard output, or to the manifest.
///
/// # Errors
/// Bad input (exit code 2): a model that cannot be used, a file that is no sound, a manifest that cannot be read. Of a
/// manifest's recordings, those that cannot be read are counted and left out.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    if !(0.0..=1.0).contains(&args.min_confidence) {
        let given = format!("--min-confidence {}", args.min_confidence);
        return Err(argument(given, "must be from 0 to 1".to_owned()));
    }
    let device = args.device.open()?;
    let transcriber =
        Transcriber { recogniser: args.open(&device)?, search: args.search(), device };
    match (&args.manifest, &args.out) {
        (Some(manifest), Some(out)) => transcriber.manifest(manifest, out, args.min_confidence),
        _ => transcriber.files(&args.files),
    }
}

impl Args {
    fn search(&self) -> Search {
        let max_symbols = self.max_symbols as usize;
        match self.beam {
            None => Search::Greedy { max_symbols },
            Some(width) => Search::Beam(Beam { width: width as usize, max_symbols }),
        }
    }

    fn open(&self, device: &Device) -> anyhow::Result<Recogniser> {
        match self.place.find()? {
            Place::Run(run) => Recogniser::of_run(&run, device),
            Place::Exported(folder) => {
                let (recogniser, converted) = Recogniser::of_export(&folder, device)?;
                if !converted.is_empty() {
                    eprintln!("note: {converted}");
                }
                Ok(recogniser)
            }
        }
    }
}

struct Transcriber {
    recogniser: Recogniser,
    search: Search,
    device: Device,
}

impl Transcriber {
    fn files(&self, files: &[PathBuf]) -> anyhow::Result<Outcome> {
        for file in files {
            let features = features(&Audio::File(file.clone())).map_err(bad_input)?;
            let heard = self.recognise(std::slice::from_ref(&features))?;
            let text = &heard[0].text;
            if files.len() == 1 {
                println!("{text}");
            } else {
                println!("{}\t{text}", file.display());
            }
        }
        Ok(Outcome::Completed)
    }

    fn manifest(&self, place: &Path, out: &Path, least: f64) -> anyhow::Result<Outcome> {
        let source = SpeechSource::Places(vec![place.to_owned()]);
        let (utterances, report) = source.read().map_err(bad_input)?;
        println!("{report}");
        let shown = std::io::stderr().is_terminal();
        let mut table = "path\ttext\tspeaker\tconfidence\n".to_owned();
        let (mut written, mut left_out) = (0, Left::default());
        for group in utterances.chunks(64) {
            let (clips, features) = readable(group, &mut left_out)?;
            for (clip, heard) in clips.iter().zip(self.all(&features)?) {
                if heard.text.trim().is_empty() {
                    left_out.silent += 1;
                } else if heard.confidence < least {
                    left_out.unsure += 1;
                } else {
                    line(&mut table, clip, &heard)?;
                    written += 1;
                }
            }
            if shown {
                let done = written + left_out.count();
                eprint!("\r\x1b[K{done} of {} recordings", utterances.len());
            }
        }
        if shown {
            eprint!("\r\x1b[K");
        }
        if written == 0 {
            let why = format!("{}: nothing to write: {left_out}", place.display());
            return Err(bad_input(anyhow!(why)));
        }
        write_atomically(out, table.as_bytes())?;
        println!("wrote {} with {written} recordings; {left_out}", out.display());
        Ok(Outcome::Completed)
    }

    /// In batches of about the same length, in the order they came.
    fn all(&self, features: &[Features]) -> anyhow::Result<Vec<Heard>> {
        let mut order: Vec<usize> = (0..features.len()).collect();
        order.sort_by_key(|i| features[*i].frames);
        let mut heard: Vec<Option<Heard>> = vec![None; features.len()];
        let mut rest = &order[..];
        while !rest.is_empty() {
            // Sorted, so that the last of a batch is its longest.
            let fits = |n: &usize| (n * features[rest[n - 1]].frames) as f64 * 0.01 <= BATCH_SECS;
            let count = (1..=rest.len()).take_while(fits).last().unwrap_or(1);
            let (batch, later) = rest.split_at(count);
            let clips: Vec<&Features> = batch.iter().map(|i| &features[*i]).collect();
            for (i, text) in batch.iter().zip(self.recognise(&clips)?) {
                heard[*i] = Some(text);
            }
            rest = later;
        }
        Ok(heard.into_iter().flatten().collect())
    }

    fn recognise<F: std::borrow::Borrow<Features>>(
        &self,
        clips: &[F],
    ) -> anyhow::Result<Vec<Heard>> {
        let frames: Vec<usize> = clips.iter().map(|clip| clip.borrow().frames).collect();
        let longest = frames.iter().copied().max().unwrap_or(0);
        let mut values = vec![0f32; clips.len() * longest * BINS];
        for (row, clip) in values.chunks_exact_mut(longest * BINS).zip(clips) {
            row[..clip.borrow().values.len()].copy_from_slice(&clip.borrow().values);
        }
        let features = Tensor::from_vec(values, (clips.len(), longest, BINS), &self.device)?;
        let encoded = self.recogniser.model.encode(&features, &frames)?;
        self.search.run(&self.recogniser.model, &encoded, &self.recogniser.units)
    }
}

/// Why recordings are not in the new manifest.
#[derive(Debug, Default)]
struct Left {
    unreadable: Vec<String>,
    silent: usize,
    unsure: usize,
}

impl Left {
    fn count(&self) -> usize {
        self.unreadable.len() + self.silent + self.unsure
    }
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { unreadable, silent, unsure } = self;
        write!(
            f,
            "left out: {unsure} below --min-confidence, {silent} in which nothing was heard, "
        )?;
        write!(f, "{} that could not be read", unreadable.len())?;
        unreadable.first().map_or(Ok(()), |first| write!(f, " (the first: {first})"))
    }
}

/// Decodes in parallel; what cannot be decoded is counted.
fn readable<'u>(
    group: &'u [Utterance],
    left_out: &mut Left,
) -> anyhow::Result<(Vec<&'u Utterance>, Vec<Features>)> {
    if let Some(row) = group.iter().find(|u| !matches!(u.audio, Audio::File(_))) {
        return Err(bad_input(anyhow!(
            "{}: a manifest names files, and this recording is none; unpack the table first",
            row.audio
        )));
    }
    let decoded: Vec<_> = group.par_iter().map(|clip| (clip, features(&clip.audio))).collect();
    let mut both = (Vec::new(), Vec::new());
    for (clip, features) in decoded {
        match features {
            Ok(features) => {
                both.0.push(clip);
                both.1.push(features);
            }
            Err(err) => left_out.unreadable.push(err.to_string()),
        }
    }
    Ok(both)
}

/// What the encoder reads of a recording.
fn features(audio: &Audio) -> fadam_data::Result<Features> {
    let mut features = LogMel::new().compute(audio.decode()?.sound.samples());
    features.normalise();
    Ok(features)
}

/// A line of the manifest, with the absolute path, so that the manifest may lie anywhere.
fn line(table: &mut String, clip: &Utterance, heard: &Heard) -> anyhow::Result<()> {
    let Audio::File(path) = &clip.audio else { unreachable!("looked at before") };
    let path = std::path::absolute(path)?;
    let speaker = clip.speaker.as_deref().unwrap_or("");
    let Heard { text, confidence } = heard;
    Ok(writeln!(table, "{}\t{text}\t{speaker}\t{confidence:.4}", path.display())?)
}
