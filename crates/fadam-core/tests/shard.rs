//! Shards of an optimizer step, save and load what the whole one does, to the last bit.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer as _;
use fadam_core::{
    AnyConfig, AnyOptimizer, Error, FAdafactorConfig, FAdamConfig, Fisher, Gradients, Group,
    NamedVars, StateFormat,
};

const SHARDS: usize = 3;

/// Parameters of several shapes, one of bf16, one frozen, one large enough for 8-bit blocks.
fn vars() -> NamedVars {
    let var = |name: &str, shape: &[usize], dtype: DType| {
        let n = shape.iter().product::<usize>();
        let numbers: Vec<f32> =
            (0..n).map(|i| ((i * 37 + name.len()) % 101) as f32 / 50.0 - 1.0).collect();
        let tensor = Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap();
        (name.to_owned(), Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap())
    };
    [
        var("a", &[7], DType::F32),
        var("a.b", &[3, 5], DType::F32),
        var("blocks.large", &[64, 80], DType::F32),
        var("half", &[4, 4], DType::BF16),
        var("still", &[6], DType::F32),
        var("z", &[9, 2], DType::F32),
    ]
    .into_iter()
    .collect()
}

fn gradients(vars: &NamedVars, step: usize) -> Gradients {
    let of = |(name, var): (&str, &Var)| {
        let n = var.elem_count();
        let numbers: Vec<f32> = (0..n)
            .map(|i| (((i * 53 + step * 29 + name.len() * 7) % 97) as f32 - 48.0) * 0.01)
            .collect();
        let tensor = Tensor::from_vec(numbers, var.shape(), &Device::Cpu).unwrap();
        (name.to_owned(), tensor.to_dtype(var.dtype()).unwrap())
    };
    vars.iter().filter(|(name, _)| *name != "still").map(of).collect()
}

/// Every kind of group: another algorithm, low precision, frozen.
fn groups() -> Vec<Group<AnyConfig>> {
    vec![
        Group::new("still").frozen(true),
        Group::new("blocks.*").state(StateFormat::Blocks8),
        Group::new("z").config(AnyConfig::FAdafactor(FAdafactorConfig {
            lr: 0.01,
            ..FAdafactorConfig::default()
        })),
    ]
}

fn config() -> AnyConfig {
    AnyConfig::FAdam(FAdamConfig { lr: 0.01, ..FAdamConfig::default() })
}

fn owner(name: &str) -> usize {
    ["a", "a.b", "blocks.large", "half", "still", "z"].iter().position(|n| *n == name).unwrap()
        % SHARDS
}

fn whole(vars: &NamedVars) -> AnyOptimizer {
    let optimizer = AnyOptimizer::from_named(vars.clone(), config()).unwrap();
    optimizer.groups(groups()).unwrap().max_grad_norm(Some(0.7)).unwrap()
}

fn shard(vars: &NamedVars, rank: usize) -> AnyOptimizer {
    let shard = AnyOptimizer::from_named_shard(vars.clone(), config(), |name| owner(name) == rank);
    shard.unwrap().groups(groups()).unwrap().max_grad_norm(Some(0.7)).unwrap()
}

/// The numbers of each parameter, as its owner has them.
fn numbers(of: impl Fn(&str) -> NamedVars) -> BTreeMap<String, Vec<f32>> {
    let names: Vec<String> = vars().iter().map(|(name, _)| name.to_owned()).collect();
    let read = |name: &String| {
        let var = of(name).get(name).unwrap().as_tensor().to_dtype(DType::F32).unwrap();
        var.flatten_all().unwrap().to_vec1().unwrap()
    };
    names.iter().map(|name| (name.clone(), read(name))).collect()
}

fn tensors(path: &std::path::Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(key, view)| (key, (view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

#[test]
fn shards_are_the_whole_to_the_last_bit_in_steps_files_and_after_loading() {
    let folder = tempfile::tempdir().unwrap();
    let (file, joined) = (folder.path().join("whole"), folder.path().join("joined"));
    let one = vars();
    let mut optimizer = whole(&one);
    let replicas: Vec<NamedVars> = (0..SHARDS).map(|_| vars()).collect();
    let mut shards: Vec<AnyOptimizer> = (0..SHARDS).map(|r| shard(&replicas[r], r)).collect();
    let of_owner = |name: &str| replicas[owner(name)].clone();
    for step in 0..4 {
        optimizer.step_named(&gradients(&one, step)).unwrap();
        for (shard, vars) in shards.iter_mut().zip(&replicas) {
            shard.step_named(&gradients(vars, step)).unwrap();
        }
        assert_eq!(numbers(|_| one.clone()), numbers(of_owner), "step {step}");
        assert_eq!(optimizer.report().unwrap().grad_norm, shards[1].report().unwrap().grad_norm);
    }
    // What another process steps stays here as it was.
    let before = vars();
    let untouched = |name: &str| -> Vec<f32> {
        before.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    assert_eq!(
        replicas[0].get("a.b").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        untouched("a.b")
    );

    optimizer.save(&file).unwrap();
    let others: Vec<Vec<u8>> = shards[1..].iter().map(|shard| shard.to_bytes().unwrap()).collect();
    shards[0].save_joined(&joined, &others).unwrap();
    assert_eq!(tensors(&file), tensors(&joined));

    // Any shard goes on from the file of the whole, and the whole from that of the shards.
    let mut loaded = whole(&one);
    loaded.load(&joined).unwrap();
    loaded.step_named(&gradients(&one, 4)).unwrap();
    for (rank, vars) in replicas.iter().enumerate() {
        let mut shard = shard(vars, rank);
        shard.load(&file).unwrap();
        assert_eq!(shard.steps(), 4);
        shard.step_named(&gradients(vars, 4)).unwrap();
    }
    assert_eq!(numbers(|_| one.clone()), numbers(of_owner));
}

#[test]
fn a_step_is_taken_by_all_or_by_none() {
    let vars = vars();
    let mut mine = shard(&vars, owner("a"));
    let before = numbers(|_| vars.clone());
    let fine = gradients(&vars, 0);
    // Another's gradient is not finite: it is not looked at here, but asked about.
    let mut bad = fine.clone();
    bad.insert("a.b".to_owned(), Tensor::full(f32::NAN, (3, 5), &Device::Cpu).unwrap());
    let error = mine
        .step_agreed(&bad, Fisher::Minibatch, |here| {
            assert!(here);
            false
        })
        .unwrap_err();
    assert!(matches!(error, Error::RefusedElsewhere), "{error}");
    let own_bad: Gradients =
        [("a".to_owned(), Tensor::full(f32::INFINITY, 7, &Device::Cpu).unwrap())]
            .into_iter()
            .collect();
    let own_bad: Gradients = fine.clone().into_iter().chain(own_bad).collect();
    let error = mine.step_agreed(&own_bad, Fisher::Minibatch, |here| here).unwrap_err();
    assert!(matches!(&error, Error::NonFiniteGradient { name } if name == "a"), "{error}");
    assert_eq!((numbers(|_| vars.clone()), mine.steps()), (before, 0));
    mine.set_learning_rate(0.01);
    mine.step_agreed(&fine, Fisher::Minibatch, |here| here).unwrap();
    assert_eq!(mine.steps(), 1);
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    let vars = vars();
    let mut shards: Vec<AnyOptimizer> = (0..SHARDS).map(|rank| shard(&vars, rank)).collect();
    let refused = |error: fadam_core::Result<()>, part: &str| {
        let text = error.unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    };
    refused(shards[0].save(&file), "this optimizer is a shard");
    let bytes: Vec<Vec<u8>> = shards.iter().map(|shard| shard.to_bytes().unwrap()).collect();
    refused(
        shards[0].save_joined(&file, &bytes[1..2]),
        "no shard has \"half\"".replace("half", "blocks.large").as_str(),
    );
    refused(
        shards[0].save_joined(&file, &[bytes[1].clone(), bytes[1].clone(), bytes[2].clone()]),
        "two shards have",
    );
    // Every trained parameter needs a gradient, whoever steps it.
    let mut lacking = gradients(&vars, 0);
    lacking.remove("a.b");
    refused(shards[0].step_named(&lacking), "no gradient for [\"a.b\"]");
    // A shard at another step.
    shards[2].step_named(&gradients(&vars, 0)).unwrap();
    let late = shards[2].to_bytes().unwrap();
    refused(shards[0].save_joined(&file, &[bytes[1].clone(), late]), "they differ in \"step\"");
    // A file without the parameter of another.
    shards[0].save_joined(&file, &bytes[1..]).unwrap();
    let more: NamedVars = vars
        .clone()
        .into_iter()
        .chain([("y".to_owned(), Var::zeros(3, DType::F32, &Device::Cpu).unwrap())])
        .collect();
    let mut other = AnyOptimizer::from_named_shard(more, config(), |name| name != "y")
        .unwrap()
        .groups(groups())
        .unwrap();
    refused(other.load(&file), "holds nothing of \"y\"");
}
