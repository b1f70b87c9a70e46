//! The benchmarks: one subcommand each.
//!
//! A benchmark checks that what it is about to time is right, says on what it was timed, and prints a
//! table for people or, with `--json`, one object a line for programs.

mod asr;
mod console;
mod copy;
mod fid;
mod llm;
mod memory;
mod optimizer;
mod rnnt;
mod steps;
mod times;
mod vqvae;

use clap::{Parser, Subcommand};
use fadam_train::Outcome;

/// Times the parts of this project on this machine; what it times, it checks first.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Args {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// One optimizer step on a fixed set of tensors: every algorithm, dtype and ρ, and candle-nn's AdamW
    Optimizer(optimizer::Args),
    /// Training steps of the decoder: tokens/s and peak memory
    Llm(llm::Args),
    /// Training steps of the Conformer transducer: seconds of audio a second and peak memory
    Asr(asr::Args),
    /// The RNN-T loss, forward and backward: time and peak memory
    Rnnt(rnnt::Args),
    /// Training steps of the ViT VQ-VAE with each loss: images/s and peak memory
    Vqvae(vqvae::Args),
    /// Features of images by FID's Inception-v3 or EfficientNet-Lite0, and a Fréchet distance: images/s
    Fid(fid::Args),
}

/// Runs the benchmark that the command line asks for. A reader that closes the pipe (`| head`) stops
/// it; that is no failure.
///
/// # Errors
/// A step that is wrong, or what candle or the file system report.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let done = match &args.benchmark {
        Benchmark::Optimizer(args) => optimizer::run(args),
        Benchmark::Llm(args) => llm::run(args),
        Benchmark::Asr(args) => asr::run(args),
        Benchmark::Rnnt(args) => rnnt::run(args),
        Benchmark::Vqvae(args) => vqvae::run(args),
        Benchmark::Fid(args) => fid::run(args),
    };
    match done {
        Err(err) if console::is_closed_pipe(&err) => Ok(Outcome::Stopped),
        done => done.map(|()| Outcome::Completed),
    }
}
