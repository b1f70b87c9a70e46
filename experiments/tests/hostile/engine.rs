//! Configurations, checkpoints, weights, results.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Var};
use experiments::ablate::tasks;
use experiments::asr::{Recogniser, TrainAsr};
use experiments::fisher::config::Config as FisherConfig;
use experiments::llm::{LanguageModel, TrainLlm};
use experiments::report::sweep::Sweep;
use experiments::vqvae::{Autoencoder, TrainVqVae};
use fadam_core::{AnyConfig, AnyOptimizer, NamedVars, WeightEma};
use fadam_train::config::{Experiment, RunConfig};
use fadam_train::sweep::check_sweep;
use fadam_train::{SavedRun, load_weights};

use super::common::Bench;
use super::watch::survives;
use super::{in_file, said};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn file(path: &str) -> Vec<u8> {
    fs::read(repository(path)).unwrap()
}

/// The text of TOML, JSON and CSV files is read as UTF-8 before it gets to a parser.
fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(said)
}

fn configs<E: Experiment>(name: &str, files: &[&str]) {
    let seeds: Vec<_> = files.iter().map(|path| file(path)).collect();
    let read =
        |bytes: &[u8]| RunConfig::<E>::from_toml("a.toml", text(bytes)?).map(drop).map_err(said);
    survives(name, &seeds, 64, &read);
}

#[test]
fn configurations() {
    configs::<TrainLlm>("config-llm", &["configs/llm/tiny.toml", "configs/llm/paper-1b.toml"]);
    configs::<TrainAsr>("config-asr", &["configs/asr/tiny.toml", "configs/asr/xl.toml"]);
    configs::<TrainVqVae>("config-vqvae", &["configs/vqvae/tiny.toml"]);
    let read = |bytes: &[u8]| FisherConfig::parse("a.toml", text(bytes)?).map(drop).map_err(said);
    survives("config-fisher", &[file("configs/fisher/digits.toml")], 64, &read);
}

/// Variables of the names and shapes of a file of weights.
fn vars(file: &Path) -> NamedVars {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    tensors.into_iter().map(|(name, tensor)| (name, Var::from_tensor(&tensor).unwrap())).collect()
}

/// A run of some steps, with a checkpoint that has no checksums: those would refuse all damage.
fn run() -> (Bench, PathBuf) {
    let bench = Bench::new();
    bench.train(&["--out", "run", "--steps", "10", "--quiet"]);
    let checkpoint = bench.path("run/checkpoints/step-00000010");
    fs::remove_file(checkpoint.join("SHA256SUMS")).unwrap();
    (bench, checkpoint)
}

#[test]
fn checkpoints() {
    let (bench, checkpoint) = run();
    let model = vars(&checkpoint.join("model.safetensors"));
    let config = AnyConfig::named("fadafactor").unwrap();
    for name in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let place = checkpoint.join(name);
        let whole = fs::read(&place).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(&place, bytes).unwrap();
            let run = SavedRun::open(bench.path("run"), None).map_err(said)?;
            run.standing::<TrainLlm>().map_err(said)?;
            run.load_model(&model).map_err(said)?;
            let mut optimizer = AnyOptimizer::from_named(model.clone(), config.clone()).unwrap();
            optimizer.load(checkpoint.join("optimizer.safetensors")).map_err(said)
        };
        survives(name, std::slice::from_ref(&whole), 64, &read);
        fs::write(&place, whole).unwrap();
    }
}

#[test]
fn run_folders() {
    let (bench, _) = run();
    let place = bench.path("run/config.toml");
    let read = |bytes: &[u8]| {
        fs::write(&place, bytes).unwrap();
        let run = SavedRun::open(bench.path("run"), None).map_err(said)?;
        run.config::<TrainLlm>().map(drop).map_err(said)
    };
    survives("config-of-a-run", &[fs::read(&place).unwrap()], 64, &read);
}

#[test]
fn weights() {
    let (_bench, checkpoint) = run();
    let place = checkpoint.join("model.safetensors");
    let model = vars(&place);
    let whole = fs::read(&place).unwrap();
    survives("weights", &[whole], 64, &|bytes| {
        in_file("a.safetensors", bytes, |path| load_weights(path, &model).map(drop).map_err(said))
    });
    let mut ema = WeightEma::new(&model, 0.9).unwrap();
    ema.update().unwrap();
    ema.save(&place).unwrap();
    survives("ema", &[fs::read(&place).unwrap()], 64, &|bytes| {
        in_file("a.safetensors", bytes, |path| {
            WeightEma::new(&model, 0.9).unwrap().load(path).map_err(said)
        })
    });
}

/// What `generate`, `transcribe` and `reconstruct` read, with the weights whole and the rest not.
fn exported<M>(
    program: &str,
    train: &[&str],
    files: &[&str],
    open: impl Fn(&Path, &Device) -> anyhow::Result<M>,
) {
    let bench = Bench::new();
    let done = |args: &[&str]| {
        let ended = Command::new(program).args(args).current_dir(bench.path("")).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    };
    done(&[train, &["--out", "new", "--steps", "1", "--quiet"]].concat());
    done(&["--out", "new", "--export", "exported"]);
    let folder = bench.path("exported");
    for name in files {
        let place = folder.join(name);
        let whole = fs::read(&place).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(&place, bytes).unwrap();
            open(&folder, &Device::Cpu).map(drop).map_err(said)
        };
        survives(&format!("exported-{name}"), std::slice::from_ref(&whole), 64, &read);
        fs::write(&place, whole).unwrap();
    }
}

#[test]
fn exported_models() {
    let small = ["--config", "small.toml"];
    let files = ["config.json", "tokenizer.json", "model.safetensors"];
    exported(env!("CARGO_BIN_EXE_train-llm"), &small, &files, LanguageModel::of_export);
    let files = ["config.json", "units.json"];
    exported(env!("CARGO_BIN_EXE_train-asr"), &[], &files, Recogniser::of_export);
    exported(env!("CARGO_BIN_EXE_train-vqvae"), &[], &files[..1], Autoencoder::of_export);
}

#[test]
fn sweeps() {
    let names = ["rho", "compare", "weight-decay-asr", "epsilon-vqvae"];
    let seeds = names.map(|name| file(&format!("configs/ablate/{name}.toml")));
    let tasks = tasks();
    survives("sweep", &seeds, 64, &|bytes| {
        in_file("a.toml", bytes, |path| check_sweep(path, &tasks).map(drop).map_err(said))
    });
}

#[test]
fn results_of_sweeps() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["results.csv", "curves.csv", "provenance.csv", "sweep.toml"];
    for name in names {
        fs::write(folder.path().join(name), file(&format!("docs/results/ablate-rho/{name}")))
            .unwrap();
    }
    for name in names {
        let place = folder.path().join(name);
        let whole = fs::read(&place).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(&place, bytes).unwrap();
            Sweep::read(folder.path()).map(drop).map_err(said)
        };
        survives(name, std::slice::from_ref(&whole), 64, &read);
        fs::write(&place, whole).unwrap();
    }
}
