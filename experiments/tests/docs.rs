//! What is written about the programs is what they do.

use std::path::Path;

use experiments::asr::TrainAsr;
use experiments::llm::TrainLlm;
use experiments::vqvae::TrainVqVae;
use fadam_core::{AnyConfig, PartsConfig};
use fadam_train::config::{COMMON_KEYS, Experiment, Override, RunConfig, markdown_table};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// docs/config.md is made from the key lists: `FADAM_UPDATE_DOCS=1` rewrites it.
#[test]
fn the_config_page_is_current() {
    let page = format!(
        "# Configuration\n\n\
         Every key of every section. `--set key=value` on the command line overrides one; `--print-config` shows them all\n\
         with the values of a run. A misspelt key, a wrong type or an impossible value is an error that names file and line.\n\n\
         This page is made from the code: `FADAM_UPDATE_DOCS=1 cargo test -p experiments --test docs`.\n\n\
         ## `[optimizer]`, `[schedule]`, `[train]`, `[checkpoint]`, `[parallel]`: the same for every experiment\n\n{}\n\
         \"The algorithm's\" default is the paper's constant for it: β1 0.9, β2 0.999, ε 1e-8 (Adafactor 1e-30), ε2 0.01, clip 1,\n\
         weight decay 0.001, ρ 0.5, and a learning rate of 1e-3, which the paper does not give. A field that the algorithm does\n\
         not have is an error.\n\n\
         ## `[model]` and `[data]` of `{}`\n\n{}\n\
         ## `[model]` and `[data]` of `{}`\n\n{}\n\
         ## `[model]` and `[data]` of `{}`\n\n{}",
        markdown_table(COMMON_KEYS),
        TrainLlm::NAME,
        markdown_table(TrainLlm::KEYS),
        TrainAsr::NAME,
        markdown_table(TrainAsr::KEYS),
        TrainVqVae::NAME,
        markdown_table(TrainVqVae::KEYS),
    );
    let file = root().join("docs/config.md");
    if std::env::var_os("FADAM_UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "docs/config.md is stale; run with FADAM_UPDATE_DOCS=1");
}

#[test]
fn every_config_in_the_tree_is_valid() {
    fn check<E: Experiment>(folder: &str) {
        let mut seen = 0;
        for entry in std::fs::read_dir(root().join("configs").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if let Err(error) = RunConfig::<E>::load(Some(&path), &[]) {
                panic!("{error}");
            }
            seen += 1;
        }
        assert!(seen >= 2, "{folder}");
    }
    check::<TrainLlm>("llm");
    check::<TrainAsr>("asr");
    check::<TrainVqVae>("vqvae");
}

/// Of the cells of `ablate-parts`, FAdam and Adam are the paper's, and every other differs from its own by one part, each
/// part once, or by having no clipping at all.
#[test]
fn the_cells_of_parts_are_one_part_away() {
    for file in ["parts.toml", "parts-paper.toml"] {
        let text = std::fs::read_to_string(root().join("configs/ablate").join(file)).unwrap();
        let sweep: toml::Table = text.parse().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for cell in sweep["cells"].as_array().unwrap() {
            let mut config = cell.as_table().unwrap().clone();
            let name = config.remove("name").unwrap().as_str().unwrap().to_owned();
            let optimizer = config["optimizer"].as_table_mut().unwrap();
            optimizer.insert("algorithm".to_owned(), "fadam-parts".into());
            let config = RunConfig::<TrainLlm>::from_toml(file, &config.to_string()).unwrap();
            let AnyConfig::Parts(parts) = config.optimizer() else { panic!("{name}") };
            let of = match name.split('-').next().unwrap() {
                "FAdam" => PartsConfig::default(),
                "Adam" => PartsConfig::none(),
                other => panic!("{other}"),
            };
            let [cell, of] = [parts, &of].map(|parts| serde_json::to_value(parts).unwrap());
            let fields = cell.as_object().unwrap().iter();
            let other: Vec<&String> =
                fields.filter(|(key, value)| of[*key] != **value).map(|(key, _)| key).collect();
            assert_eq!(other.len(), usize::from(name.contains('-')), "{file}: {name}: {other:?}");
            assert!(
                seen.insert((name.starts_with('F'), other.first().copied().cloned())),
                "{name}"
            );
        }
        assert_eq!(seen.len(), 2 * 7, "{file}");
    }
}

/// What the paper gives of section 4.1, and the sizes that the presets are named for.
#[test]
fn the_presets_are_the_papers() {
    let load = |name: &str| {
        let path = root().join("configs/llm").join(name);
        RunConfig::<TrainLlm>::load(Some(&path), &[]).unwrap()
    };
    for (name, millions) in [("47m.toml", 46), ("155m.toml", 154), ("paper-1b.toml", 1022)] {
        let config = load(name);
        assert_eq!(config.model().num_params(32_128) / 1_000_000, millions, "{name}");
        let optimizer = serde_json::to_value(config.optimizer()).unwrap();
        for (key, value) in [("beta1", 0.9), ("beta2", 0.99), ("eps", 1e-8), ("weight_decay", 1e-3)]
        {
            assert_eq!(optimizer[key], value, "{name}: {key}");
        }
        assert_eq!(optimizer["algorithm"], "fadafactor", "{name}");
    }
    let paper = load("paper-1b.toml");
    let (train, model) = (paper.train(), paper.model());
    assert_eq!((train.batch * train.accumulate, model.seq_len), (256, 2048));
}

/// What the paper gives of section 4.2, and the sizes that the presets are named for, with 1,024 units.
#[test]
fn the_speech_presets_are_the_papers() {
    for (name, millions) in [("s", 14), ("m", 32), ("l", 120), ("xl", 619)] {
        let path = root().join(format!("configs/asr/{name}.toml"));
        let config = RunConfig::<TrainAsr>::load(Some(&path), &[]).unwrap();
        assert_eq!(config.data().vocab_size, 1024, "{name}");
        assert_eq!(config.model().num_params(1024) / 1_000_000, millions, "{name}");
        let optimizer = serde_json::to_value(config.optimizer()).unwrap();
        for (key, value) in [("beta1", 0.9), ("beta2", 0.98), ("eps", 1e-8), ("weight_decay", 1e-3)]
        {
            assert_eq!(optimizer[key], value, "{name}: {key}");
        }
        assert_eq!(optimizer["algorithm"], "fadam", "{name}");
        let train = config.train();
        let paper = if matches!(name, "l" | "xl") { 512 } else { 256 };
        assert_eq!(train.batch * train.accumulate, paper, "{name}");
    }
}

/// What the paper gives of section 4.3, and the size that the preset is named for: 100 M and, with 256 classes a channel, the last layer's 38 M more.
#[test]
fn the_picture_preset_is_the_papers() {
    let path = root().join("configs/vqvae/paper-100m.toml");
    let config = RunConfig::<TrainVqVae>::load(Some(&path), &[]).unwrap();
    assert_eq!(config.model().image, 256);
    assert_eq!(config.model().num_params() / 1_000_000, 148);
    let l2 = config.with(&[Override::parse("model.loss=l2+logit-laplace").unwrap()]).unwrap();
    assert_eq!(l2.model().num_params() / 1_000_000, 110);
    let optimizer = serde_json::to_value(config.optimizer()).unwrap();
    for (key, value) in [("beta1", 0.9), ("beta2", 0.99), ("eps", 1e-8), ("weight_decay", 1e-4)] {
        assert_eq!(optimizer[key], value, "{key}");
    }
    let train = config.train();
    assert_eq!((train.batch * train.accumulate, train.steps), (256, 50_000));
}

#[test]
fn the_readme_names_files_and_programs_that_exist() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for command in [
        "cargo run --release --bin train-llm -- --config configs/llm/tiny.toml",
        "cargo test --workspace",
        "cargo run --release --bin generate -- --run runs/train-llm-tiny",
        "cargo run --release --bin train-llm -- --eval-only --out runs/train-llm-tiny",
        "cargo run --release --bin train-llm -- --export tiny-model --out runs/train-llm-tiny",
        "cargo run --release --bin train-asr -- --config configs/asr/tiny.toml",
        "cargo run --release --bin transcribe -- --run runs/train-asr-tiny",
        "cargo run --release --bin train-vqvae -- --config configs/vqvae/tiny.toml",
        "cargo run --release --bin reconstruct -- --run runs/train-vqvae-tiny",
        "cargo run --release --bin ablate-rho",
    ] {
        assert!(readme.contains(command), "the README lost its command: {command}");
    }
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.contains("cargo test --workspace"), "CI runs another test command");
    for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !link.contains("://") {
            assert!(root().join(link).exists(), "README.md links to {link}, which is not there");
        }
    }
}
