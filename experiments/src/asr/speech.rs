//! Recordings to train and to evaluate on, and the units of their transcripts.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use fadam_data::speech::{
    SetSpec, SpeechSet, SpeechSource, Units, Utterance, check_held_out, transcripts,
};
use fadam_models::asr::SUBSAMPLING;
use fadam_train::bad_input;

use super::config::{AsrData, UnitKind};

/// What `[data]` describes.
#[derive(Debug)]
pub struct Speech {
    /// To train on.
    pub train: Arc<SpeechSet>,
    /// To evaluate on; none to evaluate on what was trained on.
    pub held_out: Option<Arc<SpeechSet>>,
    /// What the network emits.
    pub units: Units,
}

impl Speech {
    /// Reads and checks all recordings, and says what became of them unless `quiet`. Units are those of `stored`, of
    /// `data.units_file`, or those of the training transcripts.
    ///
    /// # Errors
    /// Bad input: places without recordings, a recording on both sides, nothing that can be trained on.
    pub fn read(data: &AsrData, stored: Option<&Path>, quiet: bool) -> anyhow::Result<Self> {
        let train = utterances(&data.source(), quiet)?;
        let held_out = data.eval_source().map(|source| utterances(&source, quiet)).transpose()?;
        if let Some(held_out) = &held_out {
            check_held_out(&train, held_out).map_err(bad_input)?;
        }
        let given = (!data.units_file.as_os_str().is_empty()).then_some(&*data.units_file);
        let units = if let Some(file) = stored.or(given) {
            Units::load(file)
        } else {
            let texts = transcripts(&train, data.normalise);
            match data.units {
                UnitKind::Characters => Units::characters(&texts),
                UnitKind::Pieces => Units::pieces(&texts, data.vocab_size),
            }
        };
        let units = units.map_err(bad_input)?;
        let train = set("training", train, &units, data, quiet)?;
        let held_out =
            held_out.map(|held_out| set("held out", held_out, &units, data, quiet)).transpose()?;
        if !quiet {
            println!("units: {}, the blank among them", units.size());
        }
        Ok(Self { train, held_out, units })
    }
}

fn utterances(source: &SpeechSource, quiet: bool) -> anyhow::Result<Vec<Utterance>> {
    let (utterances, report) = source.read().map_err(bad_input)?;
    if !quiet {
        println!("{report}");
    }
    Ok(utterances)
}

fn set(
    what: &str,
    utterances: Vec<Utterance>,
    units: &Units,
    data: &AsrData,
    quiet: bool,
) -> anyhow::Result<Arc<SpeechSet>> {
    let spec = SetSpec {
        min_secs: data.min_secs,
        max_secs: data.max_secs,
        normalisation: data.normalise,
        subsampling: SUBSAMPLING,
        labels_per_frame: data.max_symbols,
        keep_mb: data.keep_mb,
    };
    let shown = !quiet && std::io::stderr().is_terminal();
    let progress = |done: usize, total: usize| {
        if shown {
            eprint!("\r\x1b[Kdecoding {what} recordings: {done} of {total}");
        }
    };
    // The embedded clips are decoded sooner than looked up.
    let cached = !data.paths.is_empty() && !data.cache.as_os_str().is_empty();
    let set = if cached {
        SpeechSet::build_cached(utterances, units, &spec, &data.cache, &progress)
    } else {
        SpeechSet::build(utterances, units, &spec, &progress)
    };
    if shown {
        eprint!("\r\x1b[K");
    }
    let set = set.map_err(bad_input)?;
    if !quiet {
        println!("{what}: {}", set.report());
    }
    Ok(Arc::new(set))
}
