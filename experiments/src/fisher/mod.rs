//! `ablate-fisher`: how well the Fisher information is estimated, for discrete and for continuous distributions.
//!
//! Section 3.3 of the paper (and B.2, for labels given inputs) walks from the diagonal Fisher information to what Adam
//! averages in three steps:
//!
//! ```text
//! f = E_x E_{y ~ P(y|x)}[(∇ log P(y|x))²]      Eq. 56   labels of the model
//!   ≈ E_{x,y ~ data}[(∇ log P(y|x))²]          Eq. 57   labels of the data: the conditional empirical FIM
//!   ≈ (E_{x,y ~ data}[∇ log P(y|x)])²          Eq. 58   the square outside: g² of a mini-batch
//! ```
//!
//! and supposes (3.3.1) that these do more harm in continuous distributions than in discrete ones, which would be why
//! cross-entropy serves Adam better than L2 does. Here f is computed exactly, over all labels and all examples, beside
//! every estimate of it: of batches of several sizes, at several points of training, for real images with both losses
//! ([`problem`]). An L2 loss is a likelihood only with a σ, `−log P = (y − μ)²/2σ² + const`, which scales its f by 1/σ² and
//! its estimates by Eqs. 57 and 58 by 1/σ⁴; all numbers say which σ they are for, and what is compared between losses
//! ([`agreement::Agreement::shape_error`], [`agreement::Agreement::log_spread`]) does not depend on it.
//!
//! [`likelihood`] is what the two kinds of loss are, [`network`] the gradients of single examples, [`diagonal`] f and its
//! estimators, [`study`] the loop, [`verdict`] the rule. Claims, rule and what came out are in `docs/results/fisher.md`.

pub mod agreement;
pub mod config;
pub mod diagonal;
pub mod likelihood;
pub mod network;
mod plot;
pub mod problem;
pub mod report;
pub mod study;
pub mod verdict;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use fadam_train::{Outcome, bad_input, write_atomically};

use crate::bench::console::Progress;
use config::Config;
use plot::Measure;

/// Compares estimators of the diagonal Fisher information (Eqs. 56, 57 and 58) with the exact one, for cross-entropy and
/// for L2. Without arguments: what configs/fisher/digits.toml says.
#[derive(Debug, Parser)]
#[command(name = "ablate-fisher", version)]
pub struct Args {
    /// TOML configuration; without one every key has its default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where tables and figures go; those of an earlier run are replaced
    #[arg(long, value_name = "DIR", default_value = "runs/ablate-fisher")]
    pub out: PathBuf,

    /// Prints the verdicts only
    #[arg(long)]
    pub quiet: bool,

    /// Prints the configuration as TOML and ends
    #[arg(long)]
    pub print_config: bool,
}

/// The figures, by their files.
const FIGURES: [(&str, Measure); 2] = [
    (
        "shape.svg",
        Measure {
            name: "shape error",
            drawn: |s| s.drawn[4],
            expected: |s| s.expected[4],
            range: (0.005, 1.1),
        },
    ),
    (
        "ratio.svg",
        Measure {
            name: "ratio of sums",
            drawn: |s| s.drawn[0],
            expected: |s| s.expected[0],
            range: (1e-4, 3.0),
        },
    ),
];

/// Measures, prints tables and verdicts, and writes `seeds.csv` (everything), `fisher.csv` (means and standard errors),
/// `tables.txt`, `shape.svg`, `ratio.svg` and `config.toml`.
///
/// # Errors
/// Bad input (exit code 2) for a configuration that cannot be used or a folder that cannot be made.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let config = Config::load(args.config.as_deref())?;
    let toml = toml::to_string(&config)?;
    if args.print_config {
        print!("{toml}");
        return Ok(Outcome::Completed);
    }
    let place = || format!("{}: cannot be made", args.out.display());
    std::fs::create_dir_all(&args.out).with_context(place).map_err(bad_input)?;

    let started = Instant::now();
    let progress = Progress::new();
    let rows = study::run(&config, |done, all| {
        let secs = started.elapsed().as_secs_f64();
        let left = secs / done.max(1) as f64 * (all - done) as f64;
        let left = if done > 0 { format!(", about {left:.0} s left") } else { String::new() };
        progress.show(&format!("{done} of {all} repetitions, {secs:.0} s{left}"));
    })?;
    drop(progress);

    let summaries = report::summaries(&rows);
    let (tables, verdicts) =
        (report::terminal(&summaries), report::verdict_lines(&verdict::verdicts(&rows)));
    if !args.quiet {
        println!("{tables}");
    }
    print!("{verdicts}");
    let write = |file: &str, bytes: &[u8]| write_atomically(&args.out.join(file), bytes);
    write("config.toml", toml.as_bytes())?;
    write("seeds.csv", &report::rows_csv(&rows)?)?;
    write("fisher.csv", &report::summaries_csv(&summaries)?)?;
    write("tables.txt", format!("{tables}\n{verdicts}").as_bytes())?;
    for (file, measure) in &FIGURES {
        write(file, plot::figure(&summaries, measure)?.as_bytes())?;
    }
    println!(
        "{:.0} s; tables and figures are in {}",
        started.elapsed().as_secs_f64(),
        args.out.display()
    );
    Ok(Outcome::Completed)
}
