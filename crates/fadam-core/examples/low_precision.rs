//! State in 8 bits, and bf16 parameters that take up steps smaller than their last place.
//!
//! `cargo run -p fadam-core --example low_precision`

use candle_core::{DType, Device, Result, Tensor, Var};
use fadam_core::{FAdam, FAdamConfig, Group, NamedVars, Rounding, StateFormat};

const WIDTH: usize = 64;

fn main() -> Result<()> {
    println!("parameter  rounding      state    bytes of state   loss at 0, 100, 200, 300 and 400");
    let (f32, bf16) = (DType::F32, DType::BF16);
    for (dtype, rounding, format) in [
        (f32, Rounding::Nearest, StateFormat::Full),
        (f32, Rounding::Nearest, StateFormat::Bf16),
        (f32, Rounding::Nearest, StateFormat::Blocks8),
        (bf16, Rounding::Nearest, StateFormat::Blocks8),
        (bf16, Rounding::Stochastic, StateFormat::Blocks8),
        (bf16, Rounding::Compensated, StateFormat::Blocks8),
    ] {
        let (losses, bytes) = train(dtype, rounding, format)?;
        let losses: Vec<String> = losses.iter().map(|loss| format!("{loss:.5}")).collect();
        let (dtype, rounding, format) =
            (dtype.as_str(), format!("{rounding:?}"), format!("{format:?}"));
        println!("{dtype:<9}  {rounding:<12}  {format:<7}  {bytes:>14.2}   {}", losses.join("  "));
    }
    Ok(())
}

/// Fits W of y = x W; losses, and bytes of state for each parameter.
fn train(dtype: DType, rounding: Rounding, format: StateFormat) -> Result<(Vec<f32>, f64)> {
    let mut random = random();
    let mut matrix = |n: usize| {
        let numbers: Vec<f32> = (0..n * WIDTH).map(|_| random()).collect();
        Tensor::from_vec(numbers, (n, WIDTH), &Device::Cpu)
    };
    let (target, x) = (matrix(WIDTH)?, matrix(2 * WIDTH)?);
    let y = x.matmul(&target)?;
    let w = Var::zeros((WIDTH, WIDTH), dtype, &Device::Cpu)?;
    let params = NamedVars::from_iter([("w".to_owned(), w.clone())]);
    let config = FAdamConfig { lr: 5e-3, weight_decay: 0.0, ..Default::default() };
    let mut optimizer = FAdam::from_named(params.clone(), config.clone())?
        .groups(vec![Group::new("*").state(format).rounding(rounding)])?;
    let mut losses = Vec::new();
    for step in 0..=400 {
        let loss = (x.matmul(&w.to_dtype(DType::F32)?)? - &y)?.sqr()?.mean_all()?;
        if step % 100 == 0 {
            losses.push(loss.to_scalar()?);
        }
        optimizer.step_named(&params.gradients(&loss.backward()?))?;
    }
    Ok((losses, state_bytes(&optimizer)?))
}

/// Bytes a parameter of what [`FAdam::save`] writes, but for the step count: m, f, and θ's low part.
fn state_bytes(optimizer: &FAdam) -> Result<f64> {
    let path = std::env::temp_dir().join(format!("low_precision-{}", std::process::id()));
    optimizer.save(&path)?;
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu)?;
    std::fs::remove_file(&path)?;
    let size = |x: &Tensor| x.elem_count() * x.dtype().size_in_bytes();
    let bytes: usize =
        tensors.iter().filter(|(name, _)| *name != "w.t").map(|(_, x)| size(x)).sum();
    Ok(bytes as f64 / (WIDTH * WIDTH) as f64)
}

/// Numbers between −1 and 1 from a fixed seed.
fn random() -> impl FnMut() -> f32 {
    let mut state = 1u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
