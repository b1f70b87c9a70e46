//! The lines that were candle-nn's AdamW, and the losses of both on the same small regression.
//!
//! `cargo run -p fadam-core --example drop_in`

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{AdamW, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use fadam_core::{FAdam, FAdamConfig};

fn main() -> Result<()> {
    let (x, y) = data()?;
    let adamw = |vars| AdamW::new(vars, ParamsAdamW { lr: 3e-3, ..Default::default() });
    let fadam = |vars| FAdam::new(vars, FAdamConfig { lr: 3e-3, ..Default::default() });
    let (adamw, fadam) = (train(adamw, &x, &y)?, train(fadam, &x, &y)?);

    println!("{:>6}  {:>10}  {:>10}", "step", "AdamW", "FAdam");
    for ((step, a), (_, f)) in adamw.into_iter().zip(fadam) {
        println!("{step:>6}  {a:>10.6}  {f:>10.6}");
    }
    Ok(())
}

/// Trains the same network from the same start with any of candle's optimizers; losses every 100 steps.
fn train<O: Optimizer>(
    optimizer: impl FnOnce(Vec<candle_core::Var>) -> Result<O>,
    x: &Tensor,
    y: &Tensor,
) -> Result<Vec<(u32, f32)>> {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let first = candle_nn::linear(2, 32, vb.pp("first"))?;
    let last = candle_nn::linear(32, 1, vb.pp("last"))?;
    start(&varmap)?;

    let mut optimizer = optimizer(varmap.all_vars())?;
    let mut losses = Vec::new();
    for step in 0..=600 {
        let loss = (last.forward(&first.forward(x)?.tanh()?)? - y)?.sqr()?.mean_all()?;
        if step % 100 == 0 {
            losses.push((step, loss.to_scalar()?));
        }
        optimizer.backward_step(&loss)?;
    }
    Ok(losses)
}

/// y = sin(3 a) b at 256 points of the square.
fn data() -> Result<(Tensor, Tensor)> {
    let mut random = random(1);
    let points: Vec<f32> = (0..512).map(|_| random()).collect();
    let y: Vec<f32> = points.chunks(2).map(|p| (3.0 * p[0]).sin() * p[1]).collect();
    let tensor = |v: Vec<f32>| Tensor::from_vec(v, (256, ()), &Device::Cpu);
    Ok((tensor(points)?, tensor(y)?))
}

/// Weights between ±½, the same for both.
fn start(varmap: &VarMap) -> Result<()> {
    let data = varmap.data().lock().expect("no other thread");
    for (name, var) in data.iter() {
        let mut random = random(name.len() as u32); // a seed for each name
        let weights: Vec<f32> = (0..var.elem_count()).map(|_| 0.5 * random()).collect();
        var.set(&Tensor::from_vec(weights, var.shape(), &Device::Cpu)?)?;
    }
    Ok(())
}

/// Numbers between −1 and 1 from a seed (candle's own on the CPU cannot be seeded).
fn random(seed: u32) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
