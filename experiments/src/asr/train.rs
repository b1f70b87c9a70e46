//! A run of `train-asr`, as its own program and sweeps start it.

use fadam_train::config::RunConfig;
use fadam_train::{CommonArgs, Outcome, Trainer, bad_input};

use super::{AsrTask, Speech, TRANSCRIPTS_FILE, TrainAsr, UNITS_FILE, check_weights};

/// Begins or continues the run that `args` ask for, of `config`.
///
/// # Errors
///
/// Bad input: a run folder, recordings, units or weights that cannot be used. Otherwise as
/// [`Trainer::run`].
pub fn train(args: &CommonArgs, config: &RunConfig<TrainAsr>) -> anyhow::Result<Outcome> {
    let options = args.run_options::<TrainAsr>()?.commit(crate::COMMIT);
    let (leads, quiet) = (options.leads(), options.quiet);
    let device = args.device.open()?;
    let folder = options.folder.path().to_owned();
    let units_file = folder.join(UNITS_FILE);
    let stored = options.folder.is_resumed().then_some(units_file.as_path());
    let speech = Speech::read(config.data(), stored, quiet)?;
    let note = match config.train().init() {
        Some(file) if stored.is_none() => check_weights(file, &speech.units)?,
        _ => None,
    };
    let units = speech.units.clone();
    let task =
        AsrTask::new(config, speech, &device)?.keep_transcripts(folder.join(TRANSCRIPTS_FILE));
    let trainer = Trainer::new(task, config, options)?;
    if let Some(note) = note.filter(|_| leads) {
        eprintln!("note: {note}");
    }
    if leads {
        units.save(&units_file).map_err(bad_input)?;
    }
    trainer.run()
}
