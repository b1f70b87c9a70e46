//! A run of `train-vqvae`, as its own program and sweeps start it.

use fadam_train::config::RunConfig;
use fadam_train::{CommonArgs, Outcome, Trainer};

use super::{GRIDS_FOLDER, Pictures, TrainVqVae, VqVaeTask};

/// Begins or continues the run that `args` ask for, of `config`.
///
/// # Errors
///
/// Bad input: a run folder, pictures or weights that cannot be used. Otherwise as
/// [`Trainer::run`].
pub fn train(args: &CommonArgs, config: &RunConfig<TrainVqVae>) -> anyhow::Result<Outcome> {
    let options = args.run_options::<TrainVqVae>()?.commit(crate::COMMIT);
    let device = args.device.open()?;
    let grids = options.folder.path().join(GRIDS_FOLDER);
    let pictures = Pictures::read(config.data(), config.model().image, options.quiet)?;
    let task = VqVaeTask::new(config, pictures, &device)?.keep_grids(grids);
    Trainer::new(task, config, options)?.run()
}
