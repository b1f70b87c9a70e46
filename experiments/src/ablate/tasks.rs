//! The programs whose runs a sweep can start.

use fadam_train::sweep::SweepTask;

use crate::asr::{self, TrainAsr};
use crate::llm::{self, TrainLlm};
use crate::vqvae::{self, TrainVqVae};

/// One line a program.
pub fn tasks() -> Vec<SweepTask> {
    vec![
        SweepTask::of::<TrainLlm>(llm::train),
        SweepTask::of::<TrainAsr>(asr::train),
        SweepTask::of::<TrainVqVae>(vqvae::train),
    ]
}
