//! Parameter groups: each is what an optimizer of its own would be, bit for bit; what is frozen, unfrozen or added in
//! mid-run does not touch the others.

use candle_core::{Device, Tensor, Var};
use candle_nn::Optimizer;
use fadam_core::{
    AdafactorConfig, AdamConfig, Algorithm, AnyConfig, AnyOptimizer, Error, FAdafactorConfig,
    FAdamConfig, Gradients, Group, NamedVars,
};

const LR: f64 = 0.01;

fn tensor(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| ((i * 7 + seed * 13) as f32 * 0.7).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn model() -> NamedVars {
    let shapes: [(&str, &[usize]); 5] = [
        ("block.0.bias", &[6]),
        ("block.0.weight", &[4, 6]),
        ("block.1.weight", &[3, 2, 2]),
        ("head.bias", &[5]),
        ("scale", &[]),
    ];
    let var = |(i, (name, shape)): (usize, &(&str, &[usize]))| {
        ((*name).to_owned(), Var::from_tensor(&tensor(shape, i)).unwrap())
    };
    shapes.iter().enumerate().map(var).collect()
}

fn only(vars: &NamedVars, which: impl Fn(&str) -> bool) -> NamedVars {
    vars.clone().into_iter().filter(|(name, _)| which(name)).collect()
}

/// Steps `steps` on the same gradients for all, under a schedule.
fn train(optimizer: &mut AnyOptimizer, steps: std::ops::Range<usize>) {
    for k in steps {
        optimizer.set_learning_rate(LR / (1.0 + k as f64));
        let vars = optimizer.vars();
        let names: Vec<String> = optimizer.names().map(str::to_owned).collect();
        let gradients: Gradients = names
            .into_iter()
            .map(|name| {
                let seed = 100 + k + 10 * name.len();
                let g = tensor(vars.get(&name).unwrap().dims(), seed);
                (name, g)
            })
            .collect();
        optimizer.step_named(&gradients).unwrap();
    }
}

/// Names and bytes of all parameters and of what the optimizer keeps of those that it trains, their t too.
fn bytes(optimizer: &AnyOptimizer) -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    optimizer.save(&file).unwrap();
    let params = optimizer.vars().into_iter().map(|(name, var)| (name, var.as_tensor().clone()));
    let params = safetensors::serialize(params.collect::<Vec<_>>(), None).unwrap();
    let mut all = Vec::new();
    for file in [params, std::fs::read(file).unwrap()] {
        for (name, view) in safetensors::SafeTensors::deserialize(&file).unwrap().iter() {
            all.push((name.to_owned(), view.data().to_vec()));
        }
    }
    all.sort();
    all
}

fn of(all: &[(String, Vec<u8>)], which: impl Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
    all.iter().filter(|(key, _)| which(key)).cloned().collect()
}

fn base() -> AnyConfig {
    FAdamConfig { lr: LR, ..Default::default() }.into()
}

fn optimizer(vars: NamedVars, config: &AnyConfig) -> AnyOptimizer {
    AnyOptimizer::from_named(vars, config.clone()).unwrap()
}

/// Whether each part of the model, of what a group is for, has the bits that it has under an optimizer of its own.
fn same_as_apart(groups: Vec<Group<AnyConfig>>, parts: &[(&[&str], AnyConfig, f64)]) {
    let mut together = optimizer(model(), &base()).groups(groups).unwrap();
    let mut ungrouped = optimizer(model(), &base());
    train(&mut together, 0..4);
    train(&mut ungrouped, 0..4);
    let (together, ungrouped) = (bytes(&together), bytes(&ungrouped));
    for (names, config, scale) in parts {
        let mut config = config.clone();
        config.set_lr(LR * scale);
        let mut apart = optimizer(only(&model(), |name| names.contains(&name)), &config);
        for k in 0..4 {
            // The group's learning rate, in the same order of operations.
            let lr = LR / (1.0 + k as f64) * scale;
            let vars = apart.vars();
            let g = vars.iter().map(|(name, var)| {
                (name.to_owned(), tensor(var.dims(), 100 + k + 10 * name.len()))
            });
            apart.set_learning_rate(lr);
            apart.step_named(&g.collect()).unwrap();
        }
        let belongs = |key: &str| names.iter().any(|name| key.starts_with(name));
        assert_eq!(of(&together, belongs), bytes(&apart), "{names:?}");
        let differs = of(&ungrouped, belongs) != bytes(&apart);
        assert!(
            differs || (config == base() && *scale == 1.0),
            "{names:?}: the group does nothing"
        );
    }
}

#[test]
fn lr_scale_is_another_learning_rate_under_a_schedule() {
    same_as_apart(
        vec![Group::new("*.bias").lr_scale(3.0), Group::new("scale").lr_scale(0.0)],
        &[
            (&["block.0.bias", "head.bias"], base(), 3.0),
            (&["scale"], base(), 0.0),
            (&["block.0.weight", "block.1.weight"], base(), 1.0),
        ],
    );
}

#[test]
fn a_groups_config_is_an_optimizer_of_its_own() {
    let fadam = FAdamConfig { lr: LR, ..Default::default() };
    let no_decay = AnyConfig::from(FAdamConfig { weight_decay: 0.0, ..fadam.clone() });
    let other = AnyConfig::from(FAdamConfig {
        beta1: 0.5,
        beta2: 0.9,
        eps: 0.1,
        eps2: None,
        clip: Some(0.3),
        rho: 0.7,
        ..fadam
    });
    same_as_apart(
        vec![
            Group::new("*.bias").config(no_decay.clone()),
            Group::new("block.*").config(other.clone()).lr_scale(0.5),
        ],
        &[
            (&["block.0.bias", "head.bias"], no_decay, 1.0),
            (&["block.0.weight", "block.1.weight"], other, 0.5),
            (&["scale"], base(), 1.0),
        ],
    );
}

#[test]
fn each_group_has_its_algorithm_and_the_first_that_matches_counts() {
    let fadafactor = AnyConfig::from(FAdafactorConfig { lr: LR, ..Default::default() });
    let adafactor = AnyConfig::from(AdafactorConfig { lr: LR, ..Default::default() });
    let adam = AnyConfig::from(AdamConfig { lr: LR, ..Default::default() });
    same_as_apart(
        vec![
            Group::new("scale").config(adam.clone()),
            Group::new("*").ranks(2, 2).config(fadafactor.clone()),
            Group::new("*").ranks(3, usize::MAX).config(adafactor.clone()),
            Group::new("head.*").ranks(0, 1).lr_scale(2.0),
            // Belongs to what is left: vectors of the blocks.
            Group::new("*").config(adam.clone()).lr_scale(7.0),
        ],
        &[
            (&["scale"], adam.clone(), 1.0),
            (&["block.0.weight"], fadafactor, 1.0),
            (&["block.1.weight"], adafactor, 1.0),
            (&["head.bias"], base(), 2.0),
            (&["block.0.bias"], adam, 7.0),
        ],
    );
}

#[test]
fn frozen_parameters_need_no_gradient_have_no_state_and_do_not_move() {
    let vars = model();
    let frozen = |key: &str| key.starts_with("block.");
    let groups = vec![Group::new("block.*").frozen(true)];
    let mut some = optimizer(vars.clone(), &base()).groups(groups).unwrap();
    let before = of(&bytes(&some), frozen);
    assert_eq!(before.len(), 3, "parameters and no state: {before:?}");
    assert_eq!(some.names().collect::<Vec<_>>(), ["head.bias", "scale"]);
    train(&mut some, 0..2);
    // A gradient that is not looked at, whatever is in it.
    let nan = |name: &str| {
        (Tensor::full(f32::NAN, vars.get(name).unwrap().shape(), &Device::Cpu)).unwrap()
    };
    let mut gradients: Gradients = ["head.bias", "scale"]
        .map(|name| (name.to_owned(), tensor(vars.get(name).unwrap().dims(), 1)))
        .into();
    gradients.insert("block.0.bias".into(), nan("block.0.bias"));
    some.step_named(&gradients).unwrap();
    assert_eq!(of(&bytes(&some), frozen), before);
    let err = some.momentum("block.0.bias").unwrap_err();
    assert!(matches!(err, Error::UnknownParameter { name } if name == "block.0.bias"));
    assert!(some.report().unwrap().tensors.iter().all(|tensor| !frozen(&tensor.name)));
}

/// What comes late: frozen at first, or added.
fn late(key: &str) -> bool {
    key.starts_with("block.0")
}

/// Biases have a config of their own, with the learning rate that the optimizer has at the time.
fn biases(lr: f64) -> Group<AnyConfig> {
    let config = FAdamConfig { lr, weight_decay: 0.5, ..Default::default() };
    Group::new("*.bias").config(config.into()).lr_scale(3.0)
}

/// Whether what came late is as fresh after two steps as if it had been alone, and the others as if nothing had
/// happened.
fn assert_late_is_fresh(whole: &AnyOptimizer) {
    let vars = model();
    let alone = |which: &dyn Fn(&str) -> bool| {
        optimizer(only(&vars, which), &base()).groups(vec![biases(LR)]).unwrap()
    };
    let (mut others, mut fresh) = (alone(&|name| !late(name)), alone(&late));
    train(&mut others, 0..5);
    train(&mut fresh, 3..5);
    let whole_bytes = bytes(whole);
    assert_eq!(of(&whole_bytes, |key| !late(key)), bytes(&others));
    assert_eq!(of(&whole_bytes, late), bytes(&fresh));
    for tensor in whole.report().unwrap().tensors {
        assert_eq!(tensor.t, if late(&tensor.name) { 2 } else { 5 }, "{}", tensor.name);
    }
}

#[test]
fn unfrozen_in_mid_run_is_a_fresh_start_and_the_others_go_on() {
    let groups = vec![Group::new("block.0.*").frozen(true), biases(LR)];
    let mut whole = optimizer(model(), &base()).groups(groups).unwrap();
    train(&mut whole, 0..3);
    whole.set_groups(vec![biases(whole.learning_rate())]).unwrap();
    train(&mut whole, 3..5);
    assert_late_is_fresh(&whole);
}

#[test]
fn frozen_in_mid_run_loses_its_state() {
    let mut whole = optimizer(model(), &base()).groups(vec![biases(LR)]).unwrap();
    train(&mut whole, 0..2);
    let start = |name: &str| Var::from_tensor(model().get(name).unwrap()).unwrap();
    for name in ["block.0.bias", "block.0.weight"] {
        whole.vars().get(name).unwrap().set(&start(name)).unwrap();
    }
    whole
        .set_groups(vec![Group::new("block.0.*").frozen(true), biases(whole.learning_rate())])
        .unwrap();
    train(&mut whole, 2..3);
    whole.set_groups(vec![biases(whole.learning_rate())]).unwrap();
    train(&mut whole, 3..5);
    assert_late_is_fresh(&whole);
}

#[test]
fn added_in_mid_run_is_a_fresh_start_and_the_others_go_on() {
    let vars = model();
    let before = optimizer(only(&vars, |name| !late(name)), &base());
    let mut whole = before.groups(vec![biases(LR)]).unwrap();
    train(&mut whole, 0..3);
    whole.add(only(&vars, late)).unwrap();
    train(&mut whole, 3..5);
    assert_late_is_fresh(&whole);
}
