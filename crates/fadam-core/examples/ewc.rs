//! Two tasks one after the other, with and without elastic weight consolidation of the first.
//!
//! `cargo run -p fadam-core --example ewc`

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::loss::cross_entropy;
use fadam_core::{Ewc, FAdam, FAdamConfig, Fisher, Gradients, LossGradients, NamedVars};

const EXAMPLES: usize = 512;
const BATCH: usize = 32;

/// x `[examples, 24]` and labels.
type Task = (Tensor, Tensor);

fn main() -> Result<()> {
    let mut random = random();
    // The tasks have a third of the features in common.
    let first = task(0..16, &mut random)?;
    let second = task(8..24, &mut random)?;
    println!("{:<24}  {:>10}  {:>11}", "loss", "first task", "second task");
    // Both tasks have as many examples, so λ is the size of a batch: see `Ewc`.
    for strength in [0.0, 1.0, BATCH as f64, 1024.0] {
        let w = Var::zeros((24, 4), DType::F32, &Device::Cpu)?;
        let params = NamedVars::from_iter([("w".to_owned(), w)]);
        let optimizer = train(&params, &first, None)?;
        if strength == 0.0 {
            show("after the first", &params, [&first, &second])?;
        }
        let ewc = Ewc::consolidate(&optimizer, &params, strength)?;
        train(&params, &second, Some(&ewc).filter(|_| strength > 0.0))?;
        show(&format!("the second with λ = {strength}"), &params, [&first, &second])?;
    }
    Ok(())
}

/// Trains a softmax regression. The penalty is no log-likelihood, and so an auxiliary loss.
fn train(params: &NamedVars, (x, y): &Task, ewc: Option<&Ewc>) -> Result<FAdam> {
    let config = FAdamConfig { lr: 3e-3, beta2: 0.99, weight_decay: 0.0, ..Default::default() };
    let mut optimizer = FAdam::from_named(params.clone(), config)?;
    for at in (0..40 * EXAMPLES).step_by(BATCH).map(|at| at % EXAMPLES) {
        let batch = (x.narrow(0, at, BATCH)?, y.narrow(0, at, BATCH)?);
        let gradients = params.gradients(&loss(params, &batch)?.backward()?);
        let penalty = ewc.map_or(Ok(Gradients::new()), |ewc| ewc.gradients(params))?;
        let losses = LossGradients::new(&gradients).auxiliary(&penalty, 1.0);
        optimizer.step_with(losses, Fisher::Minibatch)?;
    }
    Ok(optimizer)
}

fn loss(params: &NamedVars, (x, y): &Task) -> Result<Tensor> {
    let w = params.get("w").expect("the model's weights");
    cross_entropy(&x.matmul(w)?, y)
}

fn show(label: &str, params: &NamedVars, tasks: [&Task; 2]) -> Result<()> {
    let [first, second] = tasks.map(|task| loss(params, task)?.to_scalar::<f32>());
    println!("{label:<24}  {:>10.4}  {:>11.4}", first?, second?);
    Ok(())
}

/// Examples with some of the features, and the labels that a matrix of its own and some noise give them.
fn task(features: std::ops::Range<usize>, random: &mut impl FnMut() -> f32) -> Result<Task> {
    let mut matrix = |n: usize, m: usize| {
        Tensor::from_iter((0..n * m).map(|_| random()), &Device::Cpu)?.reshape((n, m))
    };
    let active = (0..24).map(|k| if features.contains(&k) { 1f32 } else { 0.0 });
    let active = Tensor::from_iter(active, &Device::Cpu)?;
    let x = matrix(EXAMPLES, 24)?.broadcast_mul(&active)?;
    let logits = (x.matmul(&matrix(24, 4)?)? + matrix(EXAMPLES, 4)?)?;
    Ok((x, logits.argmax(1)?))
}

/// Numbers between −1 and 1 from a fixed seed.
fn random() -> impl FnMut() -> f32 {
    let mut state = 1u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
