//! The paper's tables as sweeps: one program a table, one sweep file a task, all of them run by
//! [`fadam_train::sweep`].
//!
//! | program | paper | sweeps in `configs/ablate` |
//! |---|---|---|
//! | `ablate-rho` | Table 2, Figure 1d | `rho`, `rho-asr` |
//! | `ablate-epsilon` | Table 3 | `epsilon`, `epsilon-asr`, `epsilon-vqvae` |
//! | `ablate-epsilon2` | Table 4 | `epsilon2`, `epsilon2-asr`, `epsilon2-vqvae` |
//! | `ablate-weight-decay` | Tables 5 and 6 | `weight-decay`, `weight-decay-asr` |
//! | `ablate-parts` | beyond the paper: each of FAdam's five parts | `parts` |
//! | `compare` | Table 1, Figures 1a to 1c | `compare`, `compare-asr`, `compare-vqvae` |
//!
//! Those are sized for two cores and are part of the programs, so that these run anywhere; each has a `-paper` beside it
//! with the paper's models and data, for `--config`.
//!
//! A run of a sweep is this program again, which then does what `train-llm`, `train-asr` or `train-vqvae` does ([`tasks`]).

mod tasks;

use clap::{CommandFactory, FromArgMatches, Parser};
use fadam_train::Outcome;
use fadam_train::sweep::{SweepArgs, SweepFile, run_sweep};

pub use tasks::tasks;

/// One of the programs.
#[derive(Debug, Clone, Copy)]
pub struct Ablation {
    /// The name of the program.
    pub name: &'static str,
    /// What it varies, as a sentence.
    pub about: &'static str,
    /// What `--task` calls each of its sweeps; the first is the default.
    pub sweeps: &'static [(&'static str, SweepFile)],
}

#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Which of the program's own sweeps
    #[arg(long, value_name = "TASK", conflicts_with = "config")]
    task: Option<String>,

    #[command(flatten)]
    sweep: SweepArgs,
}

impl Ablation {
    /// Runs what the command line asks for: [`run_sweep`].
    ///
    /// # Errors
    ///
    /// As [`run_sweep`].
    pub fn run(&self) -> anyhow::Result<Outcome> {
        let names: Vec<&str> = self.sweeps.iter().map(|(task, _)| *task).collect();
        let (first, default) = &self.sweeps[0];
        let command = Args::command().name(self.name).about(self.about).mut_arg("task", |arg| {
            let values = clap::builder::PossibleValuesParser::new(names.iter().copied());
            let words = names.join(", ");
            arg.value_parser(values)
                .help(format!("Which of the program's own sweeps: {words} [default: {first}]"))
        });
        let args = Args::from_arg_matches(&command.get_matches())?;
        let task = args.task.as_deref().unwrap_or(first);
        // clap has refused other names.
        let file = self.sweeps.iter().find(|(name, _)| *name == task).map_or(default, |(_, f)| f);
        run_sweep(&args.sweep, file, &tasks())
    }
}

/// A sweep file of `configs/ablate`, as part of the program.
macro_rules! sweep {
    ($name:literal) => {
        SweepFile {
            name: concat!("configs/ablate/", $name, ".toml"),
            text: include_str!(concat!("../../../configs/ablate/", $name, ".toml")),
        }
    };
}

/// `ablate-rho`.
pub const RHO: Ablation = Ablation {
    name: "ablate-rho",
    about: "The power ρ of the Fisher information in the denominator: Table 2 and Figure 1d of the paper",
    sweeps: &[("llm", sweep!("rho")), ("asr", sweep!("rho-asr"))],
};

/// `ablate-epsilon`.
pub const EPSILON: Ablation = Ablation {
    name: "ablate-epsilon",
    about: "The adaptive ε against fixed ones: Table 3 of the paper",
    sweeps: &[
        ("llm", sweep!("epsilon")),
        ("asr", sweep!("epsilon-asr")),
        ("vqvae", sweep!("epsilon-vqvae")),
    ],
};

/// `ablate-epsilon2`.
pub const EPSILON2: Ablation = Ablation {
    name: "ablate-epsilon2",
    about: "ε2 of the adaptive ε = min(1e-8, ε2 RMS(g)): Table 4 of the paper",
    sweeps: &[
        ("llm", sweep!("epsilon2")),
        ("asr", sweep!("epsilon2-asr")),
        ("vqvae", sweep!("epsilon2-vqvae")),
    ],
};

/// `ablate-weight-decay`.
pub const WEIGHT_DECAY: Ablation = Ablation {
    name: "ablate-weight-decay",
    about: "The weight decay λ: Table 6 of the paper (llm) and Table 5 (asr)",
    sweeps: &[("llm", sweep!("weight-decay")), ("asr", sweep!("weight-decay-asr"))],
};

/// `ablate-parts`.
pub const PARTS: Ablation = Ablation {
    name: "ablate-parts",
    about: "Each of the five parts of FAdam, taken from it and added to Adam",
    sweeps: &[("llm", sweep!("parts"))],
};

/// `compare`.
pub const COMPARE: Ablation = Ablation {
    name: "compare",
    about: "The paper's optimizers against those that they are made from: Figures 1a to 1c and Table 1",
    sweeps: &[
        ("llm", sweep!("compare")),
        ("asr", sweep!("compare-asr")),
        ("vqvae", sweep!("compare-vqvae")),
    ],
};

/// All of them.
pub const ALL: [Ablation; 6] = [RHO, EPSILON, EPSILON2, WEIGHT_DECAY, PARTS, COMPARE];
