//! Unpacks the speech of *Flight of the Amazon Queen*: what `scripts/fetch-data.sh speech` runs.
//!
//! ```text
//! amazon_queen QUEEN_1C OUT
//! ```
//!
//! Writes `OUT/clips/*.mp3` and the manifests `OUT/{train,dev,test}.tsv` (path, text, speaker), split
//! by character. Left out, and counted, are clips that do not decode or are silent, whose transcript
//! has digits or a noise in angle brackets (it does not show what is said), and those of less than 4
//! or more than 30 characters a second (the transcript is of another line, or cut).

mod archive;
mod split;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use archive::{Archive, Spoken};
use split::Part;

/// Characters of the transcript for a second of sound.
const SPEED: std::ops::RangeInclusive<f64> = 4.0..=30.0;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [queen, out] = arguments.as_slice() else {
        return Err("usage: amazon_queen QUEEN_1C OUT".into());
    };
    let bytes = fs::read(queen).map_err(|cause| format!("{}: {cause}", queen.display()))?;
    let unreadable = |what: &str| format!("{}: {what}", queen.display());
    let archive = Archive::open(&bytes)
        .ok_or_else(|| unreadable("not the archive of the game with its speech as MP3"))?;
    let spoken = archive
        .spoken()
        .map_err(|dialogue| unreadable(&format!("the dialogue {dialogue} ends early")))?;
    let clips = usable(&spoken);
    write(&clips, out)
}

/// A clip that is kept, and its length.
struct Clip<'a> {
    spoken: &'a Spoken<'a>,
    seconds: f64,
}

/// Decodes every clip and says what is left out.
fn usable<'a>(spoken: &'a [Spoken<'a>]) -> Vec<Clip<'a>> {
    let begun = Instant::now();
    let (mut kept, mut left_out) = (Vec::new(), BTreeMap::<&str, Vec<String>>::new());
    let (mut all, mut longest) = (0.0, 0.0f64);
    for one in spoken {
        let judged = judge(one);
        all += judged.as_ref().map_or_else(|(_, _, seconds)| *seconds, |clip| clip.seconds);
        match judged {
            Ok(clip) => {
                longest = longest.max(clip.seconds);
                kept.push(clip);
            }
            Err((why, detail, _)) => left_out.entry(why).or_default().push(detail),
        }
    }
    let speed = all / begun.elapsed().as_secs_f64();
    println!(
        "{} clips, {:.1} minutes, decoded {speed:.0} times as fast as they play",
        spoken.len(),
        all / 60.0
    );
    for (why, details) in &left_out {
        println!("left out: {} {why}, such as {}", details.len(), details[0]);
    }
    println!("kept: {} clips, the longest {longest:.1} s", kept.len());
    kept
}

/// The clip, or why it is left out (with a detail, and its length).
fn judge<'a>(spoken: &'a Spoken<'a>) -> std::result::Result<Clip<'a>, (&'static str, String, f64)> {
    let Spoken { name, text, sound, .. } = spoken;
    let decoded = fadam_data::speech::decode(sound.to_vec(), &format!("{name}.mp3"))
        .map_err(|error| ("that do not decode", error.to_string(), 0.0))?;
    let seconds = decoded.sound.seconds();
    let speed = text.chars().count() as f64 / seconds;
    if decoded.sound.is_silent() {
        Err(("that are silent", name.clone(), seconds))
    } else if text.contains(|c: char| c.is_ascii_digit() || "<>".contains(c)) {
        Err(("with digits or noises in the transcript", format!("{name}: {text:?}"), seconds))
    } else if SPEED.contains(&speed) {
        Ok(Clip { spoken, seconds })
    } else {
        let detail = format!("{name}: {text:?} in {seconds:.2} s");
        Err(("with less than 4 or more than 30 characters a second", detail, seconds))
    }
}

fn write(clips: &[Clip<'_>], out: &Path) -> Result<()> {
    let mut seconds = BTreeMap::new();
    for clip in clips {
        *seconds.entry(clip.spoken.character.clone()).or_insert(0.0) += clip.seconds;
    }
    let parts = split::split(&seconds);
    fs::create_dir_all(out.join("clips"))?;
    for part in Part::ALL {
        let mut manifest = String::from("path\ttext\tspeaker\n");
        let (mut count, mut length) = (0, 0.0);
        for Clip { spoken, seconds } in clips {
            let Spoken { name, character, text, sound } = spoken;
            if parts[character] == part {
                fs::write(out.join("clips").join(format!("{name}.mp3")), sound)?;
                writeln!(manifest, "clips/{name}.mp3\t{text}\t{character}")?;
                count += 1;
                length += seconds;
            }
        }
        let name = part.name();
        fs::write(out.join(format!("{name}.tsv")), manifest)?;
        let who: Vec<&str> =
            parts.iter().filter(|(_, of)| **of == part).map(|(who, _)| who.as_str()).collect();
        let share = 100.0 * length / seconds.values().sum::<f64>();
        println!(
            "{name}: {:.1} minutes ({share:.1} %), {count} clips, {}",
            length / 60.0,
            who.join(" ")
        );
    }
    Ok(())
}
