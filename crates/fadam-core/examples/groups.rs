//! Parameter groups: FAdafactor for matrices, FAdam for vectors, no decay on biases, and an embedding that is frozen
//! for the first half of the run.
//!
//! `cargo run -p fadam-core --example groups`

use candle_core::{Device, Result, Tensor, Var};
use candle_nn::loss::cross_entropy;
use fadam_core::{
    AnyConfig, AnyOptimizer, FAdafactorConfig, FAdamConfig, Group, NamedVars, StateFormat,
};

const TOKENS: u32 = 32;

fn main() -> Result<()> {
    let params = model()?;
    let base = FAdamConfig { lr: 3e-3, weight_decay: 0.01, ..Default::default() };
    let (lr, weight_decay) = (base.lr, base.weight_decay);
    let factored = FAdafactorConfig { lr, weight_decay, ..Default::default() };
    let groups: Vec<Group<AnyConfig>> = vec![
        // The first group that matches counts.
        Group::new("*.bias").config(FAdamConfig { weight_decay: 0.0, ..base.clone() }.into()),
        Group::new("head.*").config(factored.clone().into()).lr_scale(0.5),
        Group::new("*").ranks(2, usize::MAX).config(factored.into()).state(StateFormat::Bf16),
    ];
    let mut frozen = groups.clone();
    frozen.insert(0, Group::new("embed.*").frozen(true));
    let mut optimizer = AnyOptimizer::from_named(params.clone(), base.into())?.groups(frozen)?;

    let x = Tensor::from_iter(0..TOKENS, &Device::Cpu)?;
    let y = Tensor::from_iter((0..TOKENS).map(|x| (7 * x + 3) % TOKENS), &Device::Cpu)?;
    for step in 0..=400 {
        if step == 200 {
            optimizer.set_groups(groups.clone())?; // the others keep their state
        }
        let loss = cross_entropy(&logits(&params, &x)?, &y)?;
        if step % 50 == 0 {
            println!("step {step:>3}  loss {:.4}", loss.to_scalar::<f32>()?);
        }
        if step % 200 == 0 {
            println!("          trains {}", optimizer.names().collect::<Vec<_>>().join(", "));
        }
        // The frozen embedding has a gradient too, which is not looked at.
        optimizer.step_named(&params.gradients(&loss.backward()?))?;
    }
    for tensor in optimizer.report()?.tensors {
        println!("{:<13}  t {:>3}  lr {:.4}", tensor.name, tensor.t, tensor.lr);
    }
    Ok(())
}

fn model() -> Result<NamedVars> {
    let shapes: [(&str, &[usize]); 6] = [
        ("embed.weight", &[TOKENS as usize, 16]),
        ("hidden.weight", &[16, 32]),
        ("hidden.bias", &[32]),
        ("scale", &[32]),
        ("head.weight", &[32, TOKENS as usize]),
        ("head.bias", &[TOKENS as usize]),
    ];
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0 // between −1 and 1
    };
    let mut params = NamedVars::new();
    for (name, shape) in shapes {
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| 0.5 * random()).collect();
        params.insert(name, Var::from_vec(numbers, shape, &Device::Cpu)?)?;
    }
    Ok(params)
}

fn logits(params: &NamedVars, x: &Tensor) -> Result<Tensor> {
    let get = |name: &str| params.get(name).expect("a parameter of the model").as_tensor();
    let hidden = get("embed.weight").embedding(x)?.matmul(get("hidden.weight"))?;
    let hidden = hidden.broadcast_add(get("hidden.bias"))?.tanh()?.broadcast_mul(get("scale"))?;
    hidden.matmul(get("head.weight"))?.broadcast_add(get("head.bias"))
}
