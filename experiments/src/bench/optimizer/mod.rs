//! `bench optimizer`: one step of every optimizer on the tensor set of a 29.4 M decoder, the set on
//! which PyTorch's optimizers are timed too.
//!
//! # GB/s
//!
//! A step is bound by memory, so its time is held against the bytes that it must at least move, beside
//! a measured copy. Each number of a tensor is read or written so often a step:
//!
//! | algorithm | g, θ | m, f | together | passes |
//! |---|---|---|---|---|
//! | fadam | 5 | 5 | 10 | reads g, θ, f; reads g, θ, f, m and writes f, m, θ |
//! | fadafactor | 6 | 2 | 8 | reads g; reads g, θ; reads g, θ, m and writes m, θ |
//! | adam | 4 | 6 | 10 | reads g, m, f; reads g, θ, f, m and writes f, m, θ |
//! | adafactor | 5 | 2 | 7 | reads g; reads g; reads g, θ, m and writes m, θ |
//! | candle-adamw | | | - | some fifteen temporaries an update: its traffic is of its own making |
//!
//! A pass ends where a number of the whole tensor is needed. FAdam clips by RMS(ḡ) and RMS(ḡw), Adam and
//! Adafactor by RMS(ḡ), and no θ may move before every gradient is known to be finite, so that the first
//! pass writes nothing: for Adam, storing m and f there (9 accesses) would break that promise. The
//! factored algorithms need R and C of the whole g before any RMS, one read of g more; R and C themselves
//! are less than a hundredth of a matrix and are not counted. A tensor of fewer than two dimensions keeps
//! a full f: FAdafactor then counts as FAdam, Adafactor as two passes over g, f and g, θ, f, m (9). g and θ
//! have the parameter's dtype, m and f the state's. What a cache holds from one pass to the next is not
//! subtracted, so that a small set can show more than the copy.

mod case;
mod check;
mod plain;
mod row;
mod subject;
mod tensors;

use std::time::Instant;

use anyhow::Context;
use candle_core::Device;
use candle_core::utils::get_num_threads;
use fadam_train::DeviceChoice;

use self::case::{Case, Constants, Name, StateKind};
use self::check::{check_moved, check_step};
use self::row::Row;
use self::subject::{Subject, build};
use self::tensors::{ParamSet, Tensors};
use super::console::{PROFILE, Progress, print_line, warn_of_slow_build};
use super::copy::CopyMeter;
use super::times::Times;

/// A timed step takes as long whatever these are, but for 0.
const TIMED: Constants = Constants { lr: 1e-3, weight_decay: 1e-3, clip: 1.0 };

/// The arguments of `bench optimizer`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,

    /// Timed steps a row
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,

    /// Steps before those
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: u32,

    /// Times this optimizer only; can be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<Name>,

    /// The tensors to step
    #[arg(long, value_name = "SET", default_value = "full")]
    params: ParamSet,

    /// Where to step: cpu, cuda, cuda:I, metal or metal:I
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceChoice,
}

/// Checks and times each row, and prints it at once.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    warn_of_slow_build();
    let progress = Progress::new();
    progress.show("drawing parameters and gradients");
    let threads = get_num_threads();
    let device = args.device.open()?;
    let mut bench = Bench {
        args,
        tensors: Tensors::draw(args.params)?,
        copy: CopyMeter::new(args.params.copy_bytes(), threads, &device)?,
        device,
        threads,
        progress,
    };
    bench.print_head()?;
    let mut cases = Case::all();
    cases.retain(|case| args.only.is_empty() || args.only.contains(&case.name));
    if args.device != DeviceChoice::Cpu {
        cases.retain(|case| matches!(case.state, StateKind::F32 | StateKind::F64)); // others are for the CPU
    }
    for (i, case) in cases.iter().enumerate() {
        let place = format!("{} of {}: {}", i + 1, cases.len(), case.describe());
        let row = bench.row(case, &place).with_context(|| case.describe())?;
        bench.progress.show("");
        print_line(&if args.json { serde_json::to_string(&row)? } else { row.table_line() })?;
    }
    Ok(())
}

/// What the rows share.
struct Bench<'a> {
    args: &'a Args,
    tensors: Tensors,
    device: Device,
    copy: CopyMeter,
    threads: usize,
    progress: Progress,
}

impl Bench<'_> {
    /// On what is timed, and the column heads; nothing for a program that reads JSON.
    fn print_head(&self) -> anyhow::Result<()> {
        if self.args.json {
            return Ok(());
        }
        self.progress.show("");
        print_line(&format!(
            "optimizer step: {}, {} threads, {} parameters in {} tensors, {} steps after {} of warm-up, \
             {PROFILE} build",
            self.args.device,
            self.threads,
            self.num_params(),
            self.tensors.theta.len(),
            self.args.steps,
            self.args.warmup
        ))?;
        print_line("GB/s: the least that a step must read and write; copy: a measured copy, GB/s")?;
        print_line("")?;
        Ok(print_line(&Row::table_head())?)
    }

    fn num_params(&self) -> usize {
        self.tensors.theta.values().map(candle_core::Tensor::elem_count).sum()
    }

    /// Checks and measures one case.
    fn row(&mut self, case: &Case, place: &str) -> anyhow::Result<Row> {
        self.progress.show(&format!("{place}: checking"));
        check_step(case, &self.device)?;
        let vars = self.tensors.vars(case.dtype, &self.device)?;
        let mut subject = build(case, case.config(&TIMED), &vars)?;
        subject.set_gradients(&self.tensors.gradients(case.dtype, &self.device)?)?;
        self.progress.show(&format!("{place}: measuring a copy"));
        let copy_gb_per_s = self.copy.gb_per_s()?;
        let times = self.time(subject.as_mut(), place)?;
        check_moved(&self.tensors, &vars)?;
        self.progress.show(&format!("{place}: saving the state, for its size"));
        let state_bytes = subject.state_bytes()?;
        let params = self.num_params();
        Ok(Row {
            bench: "optimizer",
            name: case.name.as_str(),
            dtype: case.dtype.as_str(),
            state: case.state.as_str(),
            rho: case.rho,
            params,
            device: self.args.device.to_string(),
            threads: self.threads,
            profile: PROFILE,
            steps: self.args.steps as usize,
            median_ms: times.median(),
            p10_ms: times.quantile(0.1),
            p90_ms: times.quantile(0.9),
            gb_per_s: self.step_bytes(case).map(|bytes| bytes / (times.median() * 1e6)),
            copy_gb_per_s,
            state_bytes_per_param: state_bytes as f64 / params as f64,
        })
    }

    fn time(&self, subject: &mut dyn Subject, place: &str) -> anyhow::Result<Times> {
        let (warmup, steps) = (self.args.warmup, self.args.steps);
        let mut ms = Vec::new();
        for step in 0..warmup.saturating_add(steps) {
            self.progress.show(&match step.checked_sub(warmup) {
                Some(timed) => format!("{place}: step {} of {steps}", timed + 1),
                None => format!("{place}: warming up"),
            });
            self.device.synchronize()?;
            let start = Instant::now();
            subject.step()?;
            self.device.synchronize()?;
            let took = start.elapsed();
            if step >= warmup {
                ms.push(took.as_secs_f64() * 1e3);
            }
        }
        Times::new(ms).context("no step was timed")
    }

    /// The bytes that a step must at least read or write.
    fn step_bytes(&self, case: &Case) -> Option<f64> {
        self.tensors.theta.values().map(|theta| case.step_bytes(theta.dims())).sum()
    }
}
