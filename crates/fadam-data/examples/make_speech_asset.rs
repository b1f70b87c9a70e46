//! Chooses and encodes the embedded clips: what scripts/make-speech-asset.sh runs.
//!
//! ```text
//! make_speech_asset SOUNDS TRANSCRIPTS POCKETSPHINX OUT
//! ```
//!
//! | argument | what |
//! |---|---|
//! | `SOUNDS` | folder of the Asterisk prompts, WAV of 8 kHz |
//! | `TRANSCRIPTS` | `core-sounds-en.txt`: `name: text` a line |
//! | `POCKETSPHINX` | folder `test/data` of `PocketSphinx`, with `cards` and `librivox` |
//! | `OUT` | folder that gets `clips.tsv`, `asterisk/…flac` and `pocketsphinx/…flac` |
//!
//! Of the Asterisk prompts those are taken whose transcript is two words or more and punctuation
//! (no digits, whose words it does not show, and no notes such as "\[tone\]") and that last 1 to 2.4
//! seconds: with longer ones the folder would be above 3 MB. The sound is not changed: FLAC of the
//! same samples at the same rate.

use std::fmt::Write;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use flacenc::component::BitRepr;
use flacenc::error::Verify;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long an Asterisk prompt may be.
const SECONDS: RangeInclusive<f64> = 1.0..=2.4;

struct Clip {
    name: String,
    text: String,
    speaker: &'static str,
    wav: Wav,
}

/// Samples of one channel.
struct Wav {
    rate: u32,
    samples: Vec<i32>,
}

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [sounds, transcripts, pocketsphinx, out] = arguments.as_slice() else {
        return Err("usage: make_speech_asset SOUNDS TRANSCRIPTS POCKETSPHINX OUT".into());
    };
    let mut clips = asterisk(sounds, transcripts)?;
    clips.extend(cards_and_librivox(pocketsphinx)?);
    clips.sort_by(|a, b| a.name.cmp(&b.name));

    let mut manifest = String::from("path\ttext\tspeaker\n");
    let (mut bytes, mut seconds) = (0, 0.0);
    for Clip { name, text, speaker, wav } in &clips {
        let path = out.join(name);
        fs::create_dir_all(path.parent().unwrap_or(out))?;
        let flac = encode(wav)?;
        bytes += flac.len();
        seconds += wav.seconds();
        fs::write(&path, flac)?;
        writeln!(manifest, "{name}\t{text}\t{speaker}")?;
    }
    fs::write(out.join("clips.tsv"), manifest)?;
    println!("{} clips, {:.1} minutes, {bytes} bytes of FLAC", clips.len(), seconds / 60.0);
    Ok(())
}

fn asterisk(sounds: &Path, transcripts: &Path) -> Result<Vec<Clip>> {
    let mut clips = Vec::new();
    let (mut missing, mut other, mut length) = (0, 0, 0);
    for line in fs::read_to_string(transcripts)?.lines() {
        let Some((name, text)) = line.split_once(": ").filter(|_| !line.starts_with(';')) else {
            continue;
        };
        let path = sounds.join(format!("{name}.wav"));
        if !path.exists() {
            missing += 1;
        } else if !is_words(text) {
            other += 1;
        } else {
            let wav = Wav::read(&path)?;
            if SECONDS.contains(&wav.seconds()) {
                let (name, text) = (format!("asterisk/{name}.flac"), text.trim().to_owned());
                clips.push(Clip { name, text, speaker: "allison", wav });
            } else {
                length += 1;
            }
        }
    }
    println!("Asterisk: {} prompts taken; left out: {missing} without sound,", clips.len());
    println!(
        "{other} whose transcript is not words, or only one, {length} shorter than 1 or longer than 2.4 s"
    );
    Ok(clips)
}

/// Whether this is two words or more: letters, and what stands between words or after them.
fn is_words(text: &str) -> bool {
    let has_letter = |word: &&str| word.contains(|c: char| c.is_ascii_alphabetic());
    text.chars().all(|c| c.is_ascii_alphabetic() || " '.,!?;:-".contains(c))
        && text.split_whitespace().filter(has_letter).count() > 1
}

fn cards_and_librivox(data: &Path) -> Result<Vec<Clip>> {
    let mut clips = Vec::new();
    let sets =
        [("cards", "cards.transcription", "cards"), ("librivox", "transcription", "librivox")];
    for (folder, transcription, speaker) in sets {
        for line in fs::read_to_string(data.join(folder).join(transcription))?.lines() {
            // <s> text </s> (name)
            let parts = line.strip_prefix("<s>").and_then(|line| line.split_once("</s>"));
            let (text, name) = parts.ok_or_else(|| format!("{transcription}: {line:?}"))?;
            let name = name.trim().trim_matches(['(', ')']);
            let wav = Wav::read(&data.join(folder).join(format!("{name}.wav")))?;
            let name = format!("pocketsphinx/{folder}-{name}.flac");
            clips.push(Clip { name, text: text.trim().to_owned(), speaker, wav });
        }
    }
    println!("PocketSphinx: {} clips taken", clips.len());
    Ok(clips)
}

impl Wav {
    /// Reads 16-bit PCM of one channel, sample by sample: nothing is resampled.
    fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path)?;
        let wrong = || format!("{}: not a WAV of one channel in 16 bits", path.display());
        let (mut at, mut rate) = (12, None);
        while let Some(head) = bytes.get(at..at + 8) {
            let length = u32::from_le_bytes(head[4..].try_into()?) as usize;
            let body = bytes.get(at + 8..at + 8 + length).ok_or_else(wrong)?;
            match &head[..4] {
                b"fmt " if body[..4] == [1, 0, 1, 0] && body[14..16] == [16, 0] => {
                    rate = Some(u32::from_le_bytes(body[4..8].try_into()?));
                }
                b"data" => {
                    let sample = |pair: &[u8]| i32::from(i16::from_le_bytes([pair[0], pair[1]]));
                    let samples = body.chunks_exact(2).map(sample).collect();
                    return Ok(Self { rate: rate.ok_or_else(wrong)?, samples });
                }
                _ => {}
            }
            at += 8 + length + length % 2;
        }
        Err(wrong().into())
    }

    fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate)
    }
}

/// FLAC with one thread and fixed settings, the same bytes on every machine.
fn encode(wav: &Wav) -> Result<Vec<u8>> {
    let mut config = flacenc::config::Encoder::default();
    config.multithread = false;
    let config = config.into_verified().map_err(|(_, refusal)| format!("{refusal:?}"))?;
    let source = flacenc::source::MemSource::from_samples(&wav.samples, 1, 16, wav.rate as usize);
    let mut stream = flacenc::encode_with_fixed_block_size(&config, source, config.block_size)
        .map_err(|refusal| format!("{refusal:?}"))?;
    // The last block is shorter, and the header is not to count it (RFC 9639, 8.2).
    stream
        .stream_info_mut()
        .set_block_sizes(config.block_size, config.block_size)
        .map_err(|refusal| format!("{refusal:?}"))?;
    let mut sink = flacenc::bitsink::ByteSink::new();
    stream.write(&mut sink).map_err(|refusal| format!("{refusal:?}"))?;
    Ok(sink.into_inner())
}
