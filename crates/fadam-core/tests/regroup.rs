//! Regrouping in mid-run: state stays where it can, starts anew where it has to, and nothing has changed after an
//! error; states with groups are saved and loaded.

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{
    AdafactorConfig, AdamConfig, Algorithm, AnyConfig, AnyOptimizer, FAdafactorConfig, FAdamConfig,
    Gradients, Group, NamedVars, Rounding, StateFormat,
};

fn tensor(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| ((i * 7 + seed * 13) as f32 * 0.7).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// bf16 where it is a bias.
fn model() -> NamedVars {
    let shapes: [(&str, &[usize]); 3] =
        [("a.weight", &[70, 3]), ("b.bias", &[9]), ("b.weight", &[4, 3])];
    let var = |(name, shape): (&str, &[usize])| {
        let dtype = if name.ends_with("bias") { DType::BF16 } else { DType::F32 };
        let theta = tensor(shape, name.len()).to_dtype(dtype).unwrap();
        (name.to_owned(), Var::from_tensor(&theta).unwrap())
    };
    shapes.into_iter().map(var).collect()
}

fn train(optimizer: &mut AnyOptimizer, steps: std::ops::Range<usize>) {
    for k in steps {
        let vars = optimizer.vars();
        let g = |(name, var): (&str, &Var)| {
            let g = tensor(var.dims(), 100 + k).to_dtype(var.dtype()).unwrap();
            (name.to_owned(), g)
        };
        let gradients: Gradients = vars.iter().map(g).collect();
        optimizer.step_named(&gradients).unwrap();
    }
}

/// Names and bytes of all parameters and of what the optimizer keeps, step counts too.
fn bytes(optimizer: &AnyOptimizer) -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    optimizer.save(&file).unwrap();
    let params = optimizer.vars().into_iter().map(|(name, var)| (name, var.as_tensor().clone()));
    let params = safetensors::serialize(params.collect::<Vec<_>>(), None).unwrap();
    let mut all = vec![("steps".to_owned(), optimizer.steps().to_le_bytes().to_vec())];
    for file in [params, std::fs::read(file).unwrap()] {
        for (name, view) in safetensors::SafeTensors::deserialize(&file).unwrap().iter() {
            all.push((name.to_owned(), view.data().to_vec()));
        }
    }
    all.sort();
    all
}

fn optimizer(config: impl Into<AnyConfig>) -> AnyOptimizer {
    AnyOptimizer::from_named(model(), config.into()).unwrap()
}

/// Of some parameters: what bytes are kept, by key.
fn of(optimizer: &AnyOptimizer, which: &str) -> Vec<(String, Vec<u8>)> {
    bytes(optimizer).into_iter().filter(|(key, _)| key.starts_with(which)).collect()
}

#[test]
fn other_hyper_parameters_keep_the_state() {
    for name in AnyConfig::NAMES {
        let config = AnyConfig::named(name).unwrap();
        let other: AnyConfig = serde_json::from_str(&format!(
            r#"{{"algorithm": "{name}", "beta1": 0.5, "beta2": 0.9, "clip": 0.2, "weight_decay": 0.3}}"#
        ))
        .unwrap();
        let [mut grouped, mut whole] = [0; 2].map(|_| optimizer(config.clone()));
        train(&mut grouped, 0..3);
        train(&mut whole, 0..3);
        let before = bytes(&grouped);
        grouped.set_groups(vec![Group::new("*").config(other.clone()).lr_scale(0.5)]).unwrap();
        assert_eq!(bytes(&grouped), before, "{name}: before the next step");
        // What it goes on as: the whole optimizer with the other config.
        let mut scaled = other.clone();
        scaled.set_lr(0.5 * config.lr());
        whole.set_config(scaled).unwrap();
        train(&mut grouped, 3..5);
        train(&mut whole, 3..5);
        assert_eq!(bytes(&grouped), bytes(&whole), "{name}");
    }
}

/// `groups` on `a.weight` in mid-run: that starts with the state of a new optimizer, the others go on.
fn starts_afresh(groups: Vec<Group<AnyConfig>>) {
    let [mut regrouped, mut plain] = [0; 2].map(|_| optimizer(FAdamConfig::default()));
    train(&mut regrouped, 0..3);
    train(&mut plain, 0..3);
    let theta = regrouped.vars().get("a.weight").unwrap().copy().unwrap();
    regrouped.set_groups(groups.clone()).unwrap();
    assert_eq!(of(&regrouped, "b"), of(&plain, "b"));

    let fresh = NamedVars::from_iter([("a.weight".to_owned(), Var::from_tensor(&theta).unwrap())]);
    let fresh = AnyOptimizer::from_named(fresh, FAdamConfig::default().into()).unwrap();
    let mut fresh = fresh.groups(groups).unwrap();
    assert_eq!(of(&regrouped, "a"), of(&fresh, "a"), "θ stays, and the state is new");
    train(&mut regrouped, 3..5);
    train(&mut plain, 3..5);
    train(&mut fresh, 3..5);
    assert_eq!(of(&regrouped, "a"), of(&fresh, "a"));
    assert_eq!(of(&regrouped, "b"), of(&plain, "b"));
    assert_ne!(of(&regrouped, "a"), of(&plain, "a"));
}

#[test]
fn another_algorithm_starts_afresh() {
    let configs: [AnyConfig; 3] = [
        FAdafactorConfig::default().into(),
        AdamConfig::default().into(),
        AdafactorConfig::default().into(),
    ];
    for config in configs {
        starts_afresh(vec![Group::new("a.*").config(config)]);
    }
}

#[test]
fn another_format_of_the_state_starts_afresh() {
    starts_afresh(vec![Group::new("a.*").state(StateFormat::Bf16)]);
}

/// The doc of `set_groups`: state and step count stay if the algorithm and the format of the state do.
#[test]
fn another_rounding_keeps_the_state() {
    for rounding in [Rounding::Stochastic, Rounding::Compensated] {
        let mut regrouped = optimizer(FAdamConfig::default());
        train(&mut regrouped, 0..3);
        let before = of(&regrouped, "b.bias");
        regrouped.set_groups(vec![Group::new("*").rounding(rounding)]).unwrap();
        let mut after = of(&regrouped, "b.bias");
        after.retain(|(key, _)| !key.ends_with(".theta.low"));
        assert_eq!(after, before, "{rounding:?}");
    }
}

#[test]
fn nothing_has_changed_after_an_error() {
    let lr = FAdamConfig { lr: 0.5, ..Default::default() };
    let impossible = FAdamConfig { beta1: 1.0, ..Default::default() };
    let with = |group: Group<AnyConfig>| vec![Group::new("b.*").lr_scale(2.0), group];
    let groups = [
        (with(Group::new("c.*")), "parameter group \"c.*\": no parameter belongs to it"),
        (with(Group::new("b.bias")), "parameter group \"b.bias\": no parameter belongs to it"),
        (with(Group::new("*").ranks(3, 9)), "parameter group \"*\": no parameter belongs to it"),
        (
            with(Group::new("*").config(lr.into())),
            "\"*\": its config has lr = 0.5, the optimizer 0.001",
        ),
        (with(Group::new("*").config(impossible.into())), "beta1 = 1"),
        (with(Group::new("*").lr_scale(f64::NAN)), "lr_scale = NaN"),
        (with(Group::new("*").lr_scale(-1.0)), "lr_scale = -1"),
        (with(Group::new("*").lr_scale(f64::INFINITY)), "lr_scale = inf"),
    ];
    let var = |theta: &Tensor| Var::from_tensor(theta).unwrap();
    let whole = Tensor::new(&[1u32], &Device::Cpu).unwrap();
    for name in AnyConfig::NAMES {
        // Also what is grouped already stays as it is.
        let before = || {
            let group = Group::new("a.*").lr_scale(0.1);
            let frozen = Group::new("b.weight").frozen(true);
            let mut optimizer = optimizer(AnyConfig::named(name).unwrap());
            optimizer.set_groups(vec![group, frozen]).unwrap();
            train(&mut optimizer, 0..2);
            optimizer
        };
        let (mut plain, mut tried) = (before(), before());
        let state = bytes(&tried);
        let check = |tried: &AnyOptimizer, err: String, expected: &str| {
            assert!(err.contains(expected), "{expected:?} is not in: {err}");
            assert_eq!(bytes(tried), state, "{name}: {err}");
        };
        for (groups, expected) in &groups {
            // The config of another algorithm, but for what is wrong with it.
            let err = tried.set_groups(groups.clone()).unwrap_err().to_string();
            check(&tried, err, expected);
        }
        for taken in ["a.weight", "b.weight"] {
            let two = [("zulu".to_owned(), var(&whole)), (taken.to_owned(), var(&tensor(&[2], 1)))];
            let err = tried.add(NamedVars::from_iter(two)).unwrap_err().to_string();
            check(&tried, err, &format!("two parameters are named {taken:?}"));
        }
        let integers = NamedVars::from_iter([("zulu".to_owned(), var(&whole))]);
        let err = tried.add(integers).unwrap_err().to_string();
        check(&tried, err, "\"zulu\" is U32");
        let tied = tried.vars().get("b.weight").unwrap().clone();
        let err = tried.add(NamedVars::from_iter([("zulu".to_owned(), tied)])).unwrap_err();
        check(&tried, err.to_string(), "\"b.weight\" and \"zulu\" share their storage");
        train(&mut plain, 2..4);
        train(&mut tried, 2..4);
        assert_eq!(bytes(&tried), bytes(&plain), "{name}: it goes on as if nothing had been tried");
    }
}

/// The rest may be nothing: such a group is an answer to a model that may change, and no misspelt name.
#[test]
fn a_group_for_all_the_rest_may_be_empty() {
    let all = [Group::new("a.*"), Group::new("b.*").lr_scale(0.1)];
    let rest = Group::new("*").config(AdamConfig::default().into());
    let with = optimizer(FAdamConfig::default()).groups([&all[..], &[rest]].concat());
    let (mut with, mut without) =
        (with.unwrap(), optimizer(FAdamConfig::default()).groups(all.to_vec()).unwrap());
    train(&mut with, 0..2);
    train(&mut without, 0..2);
    assert_eq!(bytes(&with), bytes(&without));
}

fn mixed() -> Vec<Group<AnyConfig>> {
    let fadafactor = FAdafactorConfig::default();
    vec![
        Group::new("a.*").config(fadafactor.into()).state(StateFormat::Bf16),
        Group::new("b.bias").config(AdamConfig::default().into()).lr_scale(2.0),
    ]
}

#[test]
fn a_state_with_groups_is_saved_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    let mut whole = optimizer(FAdamConfig::default()).groups(mixed()).unwrap();
    train(&mut whole, 0..5);
    let mut first = optimizer(FAdamConfig::default()).groups(mixed()).unwrap();
    train(&mut first, 0..3);
    first.save(&file).unwrap();
    let second = AnyOptimizer::from_named(first.vars(), FAdamConfig::default().into()).unwrap();
    let mut second = second.groups(mixed()).unwrap();
    second.load(&file).unwrap();
    assert_eq!(bytes(&second), bytes(&first));
    train(&mut second, 3..5);
    assert_eq!(bytes(&second), bytes(&whole));
}

#[test]
fn the_algorithms_of_a_state_are_checked_parameter_by_parameter() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    let mut grouped = optimizer(FAdamConfig::default()).groups(mixed()).unwrap();
    train(&mut grouped, 0..1);
    grouped.save(&file).unwrap();
    let refuses = |groups: Vec<Group<AnyConfig>>, base: AnyConfig, expected: &str| {
        let mut other = optimizer(base).groups(groups).unwrap();
        let before = bytes(&other);
        let err = other.load(&file).unwrap_err().to_string();
        assert!(err.contains(expected), "{expected:?} is not in: {err}");
        assert_eq!(bytes(&other), before);
    };
    let [a, bias] = <[_; 2]>::try_from(mixed()).unwrap();
    let fadam = || AnyConfig::from(FAdamConfig::default());
    refuses(
        vec![],
        fadam(),
        "it is a state of fadafactor for \"a.weight\", this optimizer has fadam",
    );
    refuses(
        vec![a.clone()],
        fadam(),
        "it is a state of adam for \"b.bias\", this optimizer has fadam",
    );
    refuses(
        vec![a.clone(), bias.clone()],
        AnyConfig::from(AdafactorConfig::default()),
        "it is a state of fadam for \"b.weight\", this optimizer has adafactor",
    );
    // The base algorithm may differ if it is no parameter's.
    let rest = Group::new("*").config(fadam());
    let mut same = optimizer(AdafactorConfig::default()).groups(vec![a, bias, rest]).unwrap();
    same.load(&file).unwrap();
    let state = |all: &AnyOptimizer| -> Vec<_> {
        bytes(all)
            .into_iter()
            .filter(|(key, _)| !model().iter().any(|(name, _)| name == key))
            .collect()
    };
    assert_eq!(state(&same), state(&grouped));
}
