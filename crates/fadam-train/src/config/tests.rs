//! What a user can write wrong, and what the message says.

use fadam_core::schedule::Decay;
use fadam_core::{FAdafactorConfig, FAdamConfig, Group, PartsConfig, StateFormat};

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Model {
    width: usize,
    heads: usize,
    scale: f64,
}

impl Default for Model {
    fn default() -> Self {
        Self { width: 64, heads: 4, scale: 1e-30 }
    }
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Data {
    paths: Vec<String>,
    tokenizer: Option<String>,
}

struct Toy;

impl Experiment for Toy {
    const NAME: &'static str = "train-toy";
    type Model = Model;
    type Data = Data;
    const KEYS: &'static [KeyDoc] = &[];

    fn check(config: &RunConfig<Self>) -> Result<(), FieldError> {
        let Model { width, heads, .. } = *config.model();
        FieldError::require("model.heads", heads > 0 && width.is_multiple_of(heads), {
            format!("must divide model.width = {width}, got {heads}")
        })
    }
}

fn parse(text: &str) -> Result<RunConfig<Toy>, Error> {
    RunConfig::from_toml("configs/x.toml", text)
}

/// The message for `text`, which must be refused.
fn message(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

/// The message for `arguments` of `--set`, on top of `text`.
fn set_message(text: &str, arguments: &[&str]) -> String {
    let overrides: Vec<_> = arguments.iter().map(|a| Override::parse(a).unwrap()).collect();
    let source = Source { name: "configs/x.toml".into(), text: text.into(), overrides: &overrides };
    RunConfig::<Toy>::from_source(&source).expect_err("must be refused").to_string()
}

#[test]
fn an_empty_file_gives_the_defaults_of_the_paper() {
    let config = parse("").unwrap();
    assert_eq!(*config.optimizer(), AnyConfig::FAdafactor(FAdafactorConfig::default()));
    assert_eq!(*config.schedule(), Schedule::CONSTANT);
    assert_eq!(config.train().steps, 1000);
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_keys_there_are() {
    let text = message("[train]\nsteps = 5\n\n[optimizer]\nalgorithm = \"fadam\"\nroh = 0.5\n");
    assert!(text.starts_with("configs/x.toml:6: unknown field `roh`, expected one of `"), "{text}");
    assert!(text.contains("`rho`") && text.ends_with("in [optimizer]"), "{text}");

    let text = message("[trian]\nsteps = 5\n");
    assert!(text.starts_with("configs/x.toml:1: unknown field `trian`, expected one of"), "{text}");
}

#[test]
fn a_wrong_type_is_named_with_its_line_and_key() {
    assert_eq!(
        message("[train]\n# how long\nsteps = \"long\"\n"),
        "configs/x.toml:3: train.steps: invalid type: string \"long\", expected u64"
    );
    assert_eq!(
        message("[train]\nbatch = -3\n"),
        "configs/x.toml:2: train.batch: invalid value: integer `-3`, expected usize"
    );
    assert_eq!(
        message("[optimizer]\nclip = \"of\"\n"),
        "configs/x.toml:2: optimizer.clip: invalid value: string \"of\", expected a number or \"off\""
    );
    assert_eq!(
        message("[train]\ntensorboard = \"on\"\n"),
        "configs/x.toml:2: train.tensorboard: invalid type: string \"on\", expected a boolean"
    );
    let text = message("[optimizer]\nalgorithm = \"adamw\"\n");
    assert!(
        text.starts_with("configs/x.toml:2: optimizer.algorithm: unknown variant `adamw`"),
        "{text}"
    );
}

#[test]
fn what_is_not_toml_is_named_with_its_line() {
    for text in ["[train]\nsteps = = 5\n", "[train]\nsteps\n", "[train]\nsteps = 5\nsteps = 6\n"] {
        let message = message(text);
        assert!(message.starts_with("configs/x.toml:"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn an_impossible_value_is_named_with_its_line() {
    assert_eq!(
        message("[train]\nsteps = 5\nbatch = 0\n"),
        "configs/x.toml:3: train.batch must be at least 1, got 0"
    );
    let text = message("[optimizer]\nalgorithm = \"fadam\"\nrho = 0\n");
    assert!(text.starts_with("configs/x.toml:3: optimizer.rho must be"), "{text}");
    let text = message("[optimizer]\nlr = nan\n");
    assert!(text.starts_with("configs/x.toml:2: optimizer.lr must be"), "{text}");
    assert_eq!(
        message("[model]\nheads = 5\n"),
        "configs/x.toml:2: model.heads must divide model.width = 64, got 5"
    );
    assert_eq!(
        message("[model]\nwidth = 66\n"),
        "configs/x.toml:1: model.heads must divide model.width = 66, got 4"
    );
    for (key, value) in [("steps", 0), ("eval_every", 0), ("log_every", 0)] {
        let text = message(&format!("[train]\n{key} = {value}\n"));
        assert!(text.starts_with(&format!("configs/x.toml:2: train.{key} must be")), "{text}");
    }
    for key in ["every", "keep"] {
        let text = message(&format!("checkpoint.{key} = 0\n"));
        assert!(text.starts_with(&format!("configs/x.toml:1: checkpoint.{key} must")), "{text}");
    }
}

#[test]
fn a_field_of_another_algorithm_says_which_fields_there_are() {
    assert_eq!(
        message("[optimizer]\nalgorithm = \"adam\"\nlr = 1e-3\nrho = 0.5\n"),
        "configs/x.toml:4: optimizer.rho is not a field of adam, which has algorithm, beta1, beta2, \
         clip, eps, lr, weight_decay"
    );
    let text = message("optimizer.weight_decay_times_lr = true");
    assert!(text.contains("is not a field of fadafactor"), "{text}");
}

#[test]
fn parts_are_booleans_beside_the_hyper_parameters() {
    let config =
        parse("[optimizer]\nalgorithm = \"fadam-parts\"\nrho = 0.4\nadaptive_epsilon = false\n");
    let expected = PartsConfig { rho: 0.4, adaptive_epsilon: false, ..Default::default() };
    assert_eq!(*config.unwrap().optimizer(), AnyConfig::Parts(expected));
    assert_eq!(
        message("[optimizer]\nalgorithm = \"fadam-parts\"\nno_bias_correction = 1\n"),
        "configs/x.toml:3: optimizer.no_bias_correction: invalid type: integer `1`, expected a boolean"
    );
    let text = message("[optimizer]\nalgorithm = \"fadam\"\nfisher_weight_decay = true\n");
    assert!(
        text.starts_with("configs/x.toml:3: optimizer.fisher_weight_decay is not a field of fadam"),
        "{text}"
    );
}

#[test]
fn a_field_of_another_schedule_is_refused() {
    assert_eq!(
        message("[schedule]\nkind = \"inverse-sqrt\"\nend = 0.1\n"),
        "configs/x.toml:3: schedule.end is only for linear, cosine and exponential schedules"
    );
    let text = message("[schedule]\nkind = \"noam\"\n");
    assert!(text.starts_with("configs/x.toml:1: schedule.d_model must be given"), "{text}");
    for end in ["-0.1", "1.5", "nan"] {
        let text = message(&format!("[schedule]\nkind = \"cosine\"\nend = {end}\n"));
        assert!(text.starts_with("configs/x.toml:3: schedule.end must be from 0 to 1"), "{text}");
    }
}

#[test]
fn set_overrides_the_file_and_creates_sections() {
    let config = parse("[train]\nsteps = 5\n").unwrap();
    let set = |text| Override::parse(text).unwrap();
    let config = config
        .with(&[
            set("train.batch=3"),
            set("data.tokenizer=t.json"),
            set("optimizer={algorithm=\"adam\", clip=\"off\"}"),
            set("schedule.kind=linear"),
        ])
        .unwrap();
    assert_eq!((config.train().steps, config.train().batch), (5, 3));
    assert_eq!(config.data().tokenizer.as_deref(), Some("t.json"));
    assert!(matches!(config.optimizer(), AnyConfig::Adam(adam) if adam.clip.is_none()));
    assert_eq!(config.schedule().decay, Decay::Linear { end: 0.1 });
}

#[test]
fn an_error_in_an_override_names_the_argument() {
    let text = set_message("", &["train.batch=4", "optimizer.roh=0.5"]);
    assert!(text.starts_with("--set optimizer.roh=0.5: unknown field `roh`, expected"), "{text}");
    assert_eq!(
        set_message("", &["train.batch=many"]),
        "--set train.batch=many: invalid type: string \"many\", expected usize"
    );
    assert_eq!(
        set_message("[train]\nbatch = 2\n", &["train.batch=0"]),
        "--set train.batch=0: train.batch must be at least 1, got 0"
    );
    assert_eq!(
        set_message("[train]\nbatch = 0\n", &["train.steps=3"]),
        "configs/x.toml:2: train.batch must be at least 1, got 0"
    );
    let text = set_message("train.batch = 2", &["train.batch.size=3"]);
    assert!(text.starts_with("--set train.batch.size=3: batch is a value, not a"), "{text}");
    // The field is in the file, and so the file is named, though the argument made it impossible.
    let text = set_message("[optimizer]\nrho = 0.5\n", &["optimizer.algorithm=adam"]);
    assert!(text.starts_with("configs/x.toml:2: optimizer.rho is not a field of adam"), "{text}");
}

#[test]
fn off_can_be_written_as_a_word_or_as_false() {
    for off in ["\"off\"", "false"] {
        let text = format!("[optimizer]\nalgorithm = \"fadam\"\neps2 = {off}\nclip = {off}\n");
        let config = parse(&text).unwrap();
        assert!(matches!(
            config.optimizer(),
            AnyConfig::FAdam(c) if c.eps2.is_none() && c.clip.is_none()
        ));
    }
    assert!(message("[optimizer]\nclip = true\n").contains("expected a number or \"off\""));
}

#[test]
fn a_resolved_config_parses_to_the_same_value() {
    let optimizers = [
        "algorithm = 'fadam'\neps2 = 'off'\nrho = 0.3",
        "algorithm = 'fadafactor'\nclip = 2\neps = 1e-30",
        "algorithm = 'adam'\nclip = 'off'\nlr = 0.1234567890123456",
        "algorithm = 'adafactor'\nweight_decay_times_lr = true",
        "algorithm = 'fadam-parts'\nno_bias_correction = false\neps2 = 'off'",
    ];
    let schedules = [
        "kind = 'constant'",
        "kind = 'linear'\nend = 0.2",
        "kind = 'cosine'",
        "kind = 'inverse-sqrt'",
        "kind = 'exponential'",
        "kind = 'noam'\nd_model = 128",
    ];
    for optimizer in optimizers {
        for schedule in schedules {
            let text = format!(
                "[optimizer]\n{optimizer}\n[schedule]\nwarmup = 7\n{schedule}\n\
                 [data]\npaths = ['a', 'b \"c\"']\n[train]\nseed = 9223372036854775807\n"
            );
            let config = parse(&text).unwrap();
            let again = parse(&config.to_toml()).unwrap();
            assert_eq!(again.model(), config.model());
            assert_eq!(again.data(), config.data());
            assert_eq!(again.optimizer(), config.optimizer());
            assert_eq!(again.schedule(), config.schedule());
            assert_eq!(again.train(), config.train());
            assert_eq!(again.checkpoint(), config.checkpoint());
            assert_eq!(again.to_toml(), config.to_toml());
        }
    }
}

#[test]
fn every_common_key_is_documented_and_no_other() {
    keys::check_common_keys().unwrap();
}

#[test]
fn documented_defaults_are_the_real_ones() {
    let resolved: toml::Table = parse("").unwrap().to_toml().parse().unwrap();
    for doc in COMMON_KEYS {
        let (section, key) = doc.key.split_once('.').unwrap();
        let real = resolved[section].get(key);
        match doc.default {
            "the algorithm's" => assert_eq!(section, "optimizer"),
            // Written only where it is another.
            "\"minibatch\"" => assert_eq!(
                (real, parse("").unwrap().train().fisher),
                (None, FisherEstimate::Minibatch)
            ),
            "none" => assert_eq!(real, None, "{}", doc.key),
            // Only the schedules with an end have it; its default is tested through them.
            "0.1" => assert_eq!(
                parse("schedule.kind = 'cosine'").unwrap().schedule().decay,
                Decay::Cosine { end: 0.1 }
            ),
            stated => {
                let stated: toml::Value = stated.parse().unwrap();
                assert_eq!(real, Some(&stated), "{}", doc.key);
            }
        }
    }
}

#[test]
fn the_key_table_of_an_experiment_is_compared_with_its_sections() {
    let err = check_keys::<Toy>().unwrap_err();
    assert!(err.contains("model.width") && err.contains("data.tokenizer"), "{err}");
}

#[test]
fn the_markdown_table_has_a_row_a_key() {
    let table = markdown_table(COMMON_KEYS);
    assert_eq!(table.lines().count(), 2 + COMMON_KEYS.len());
    assert!(table.lines().all(|row| row.matches('|').count() == 6), "{table}");
    assert!(table.contains("| `train.batch` | integer | 16 | ≥ 1 | "), "{table}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.toml");
    let err = RunConfig::<Toy>::load(Some(&absent), &[]).err().unwrap().to_string();
    assert!(err.contains("absent.toml: cannot be read"), "{err}");

    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, b"a = \"\xff\"").unwrap();
    let err = RunConfig::<Toy>::load(Some(&binary), &[]).err().unwrap().to_string();
    assert!(err.contains("binary.toml: is not UTF-8 (first bad byte at offset 5)"), "{err}");
}

#[test]
fn groups_are_partial_sections() {
    let text = "[optimizer]\nalgorithm = \"fadam\"\nlr = 0.5\nrho = 0.4\nstate = \"8bit\"\n\
                [[optimizer.groups]]\nmatch = \"*.bias\"\nweight_decay = 0\nlr_scale = 2\nstate = \"full\"\n\
                [[optimizer.groups]]\nmatch = \"*\"\nmin_rank = 2\nalgorithm = \"fadafactor\"\n\
                [[optimizer.groups]]\nmatch = \"old*\"\nfrozen = true\n";
    let config = RunConfig::<Toy>::from_toml("x.toml", text).unwrap();
    let base = FAdamConfig { lr: 0.5, rho: 0.4, ..Default::default() };
    let expected = [
        Group::new("*.bias")
            .lr_scale(2.0)
            .config(FAdamConfig { weight_decay: 0.0, ..base.clone() }.into()),
        Group::new("*")
            .ranks(2, usize::MAX)
            .state(StateFormat::Blocks8)
            .config(FAdafactorConfig { lr: 0.5, ..Default::default() }.into()),
        Group::new("old*").frozen(true).state(StateFormat::Blocks8).config(base.into()),
        Group::new("*").state(StateFormat::Blocks8),
    ];
    assert_eq!(config.optimizer_options().groups(), expected);
    let again = RunConfig::<Toy>::from_toml("again.toml", &config.to_toml()).unwrap();
    assert_eq!(again.optimizer_options(), config.optimizer_options());

    let group = |line: &str| message(&format!("[[optimizer.groups]]\nmatch = \"*\"\n{line}\n"));
    assert!(group("roh = 0.5").contains("unknown field `roh`"));
    let text = group("algorithm = \"adam\"\nrho = 0.5");
    assert!(text.contains("optimizer.groups[0].rho is not a field of adam"), "{text}");
    assert!(group("beta1 = 1").contains("optimizer.groups[0].beta1 must be"));
    assert!(group("lr_scale = -1").contains("optimizer.groups[0].lr_scale must be"));
    assert!(message("[[optimizer.groups]]\nlr_scale = 1\n").contains("missing field `match`"));
    assert!(
        message("[optimizer]\nmax_grad_norm = 0\n").contains("optimizer.max_grad_norm must be")
    );
    let config = RunConfig::<Toy>::from_toml("x.toml", "[optimizer]\nmax_grad_norm = 2\n").unwrap();
    assert_eq!(config.optimizer_options().max_grad_norm, Some(2.0));
}
