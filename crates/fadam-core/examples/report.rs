//! What each step did to each tensor, while a small network trains.
//!
//! `cargo run -p fadam-core --example report`

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Module, VarBuilder, VarMap};
use fadam_core::{FAdam, FAdamConfig, NamedVars, StepReport};

fn main() -> Result<()> {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let first = candle_nn::linear(2, 64, vb.pp("first"))?;
    let last = candle_nn::linear(64, 1, vb.pp("last"))?;
    let params = NamedVars::from_varmap(&varmap);
    let mut random = random();
    for (_, var) in params.iter() {
        let start = Tensor::from_iter((0..var.elem_count()).map(|_| random()), &Device::Cpu)?;
        var.set(&start.reshape(var.shape())?.affine(0.3, 0.0)?)?;
    }
    let x = Tensor::from_iter((0..512).map(|_| random()), &Device::Cpu)?.reshape((256, 2))?;
    let y = (x.narrow(1, 0, 1)?.affine(3.0, 0.0)?.sin()? * x.narrow(1, 1, 1)?)?;

    let optimizer = FAdam::from_named(params.clone(), FAdamConfig::default())?;
    let mut optimizer = optimizer.max_grad_norm(Some(1.0))?.skip_non_finite(true);
    for step in 1..=300 {
        let loss = (last.forward(&first.forward(&x)?.tanh()?)? - &y)?.sqr()?.mean_all()?;
        let mut gradients = params.gradients(&loss.backward()?);
        if step == 150 {
            // An overflow, as half precision has them: the step is dropped and counted.
            gradients.insert("last.bias".into(), Tensor::new(&[f32::INFINITY], &Device::Cpu)?);
        }
        optimizer.step_named(&gradients)?;
        if [1, 10, 100, 300].contains(&step) {
            println!("\nloss {:.5}", loss.to_scalar::<f32>()?);
            show(&optimizer.report()?);
        }
    }
    Ok(())
}

fn show(report: &StepReport) {
    let StepReport { step, skipped, grad_norm, tensors } = report;
    let norm = grad_norm.unwrap_or_default();
    let share = 100.0 * report.clipped_share();
    println!("step {step} ({skipped} skipped), gradient norm {norm:.2e}, {share:.0} % clipped");
    println!("tensor          RMS(g)      ε̂     RMS(ḡ)     RMS(ḡw)     f: 5 %   median     95 %");
    for t in tensors {
        let m = &t.measures;
        println!(
            "{:<12}  {:>8.1e} {:>8.0e} {:>8.3}{} {:>9.2e}   {:>8.1e} {:>8.1e} {:>8.1e}",
            t.name,
            m.rms_g,
            m.eps_hat,
            m.rms_natural,
            if t.clipped { '*' } else { ' ' },
            m.rms_decay,
            t.fim.p05,
            t.fim.median,
            t.fim.p95,
        );
    }
}

/// Numbers between −1 and 1 from a fixed seed.
fn random() -> impl FnMut() -> f32 {
    let mut state = 1u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
