//! Estimators of the Fisher information on softmax regression, where it is known, and an auxiliary loss beside them.
//! All three are computed at every step here; a program computes the one that it uses.
//! `cargo run -p fadam-core --example fisher`

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{loss::cross_entropy, ops::softmax};
use fadam_core::{Accumulator, FAdam, FAdamConfig, Fisher, LossGradients, NamedVars};

/// Examples of a batch and of a micro-batch.
const BATCH: usize = 32;
const MICRO: usize = 4;

fn main() -> Result<()> {
    // 1024 examples, 6 features, 4 classes: labels drawn from a model like the one that is trained.
    let mut random = random();
    let x = matrix(1024, 6, &mut random)?;
    let y = draw(&x.matmul(&matrix(6, 4, &mut random)?)?, &mut random)?;
    println!("estimator      lr  auxiliary    loss  f / FIM  |log Z|");
    // Where f is larger steps are smaller, by its root; the learning rates make up for that.
    for (estimator, lr, weight) in [
        ("Minibatch", 0.007, 0.0),
        ("Microbatch", 0.02, 0.0),
        ("Sampled", 0.04, 0.0),
        ("Sampled", 0.04, 0.03),
    ] {
        let w = Var::zeros((6, 4), DType::F32, &Device::Cpu)?;
        let params = NamedVars::from_iter([("w".to_owned(), w.clone())]);
        let config = FAdamConfig { lr, beta2: 0.99, weight_decay: 0.0, ..Default::default() };
        let mut optimizer = FAdam::from_named(params.clone(), config)?;
        for at in (0..10 * 1024).step_by(BATCH).map(|at| at % 1024) {
            let (logits, y) = (x.narrow(0, at, BATCH)?.matmul(&w)?, y.narrow(0, at, BATCH)?);
            let gradients = |loss: &Tensor| Result::Ok(params.gradients(&loss.backward()?));
            let loss = gradients(&cross_entropy(&logits, &y)?)?;
            // The z-loss of language models is no log-likelihood: it is kept out of f.
            let z_loss = gradients(&logits.log_sum_exp(D::Minus1)?.sqr()?.mean_all()?)?;
            let losses = LossGradients::new(&loss).auxiliary(&z_loss, weight);
            let own = gradients(&cross_entropy(&logits, &draw(&logits, &mut random)?)?)?;
            let mut parts = Accumulator::with_squares();
            for k in (0..BATCH).step_by(MICRO) {
                let part = cross_entropy(&logits.narrow(0, k, MICRO)?, &y.narrow(0, k, MICRO)?)?;
                parts.add(&gradients(&part)?)?;
            }
            let squares = parts.finish()?.squares.expect("asked for");
            let fisher = match estimator {
                "Minibatch" => Fisher::Minibatch,
                "Microbatch" => Fisher::Microbatch(&squares),
                _ => Fisher::Sampled { gradients: &own, batch: BATCH },
            };
            optimizer.step_with(losses, fisher)?;
        }
        let logits = x.matmul(&w)?;
        let loss = cross_entropy(&logits, &y)?.to_scalar::<f32>()?;
        let log_z = logits.log_sum_exp(D::Minus1)?.abs()?.mean_all()?.to_scalar::<f32>()?;
        // The FIM of w_jk is the mean of x_j² p_k (1 − p_k).
        let p = softmax(&logits, D::Minus1)?;
        let fim = (x.sqr()?.t()?.matmul(&(&p - p.sqr()?)?)? / 1024.0)?.mean_all()?;
        let ratio = (optimizer.fim("w")?.mean_all()? / fim)?.to_scalar::<f32>()?;
        println!("{estimator:<10} {lr:.4} {weight:>10}  {loss:.4}  {ratio:>7.3}  {log_z:>7.2}");
    }
    Ok(())
}

/// A label for each row, with the probabilities that the logits say: the largest of logits plus Gumbel noise.
fn draw(logits: &Tensor, random: &mut impl FnMut() -> f32) -> Result<Tensor> {
    let noise = (0..logits.elem_count()).map(|_| -(-f32::midpoint(random(), 1.0).ln()).ln());
    (logits + Tensor::from_iter(noise, &Device::Cpu)?.reshape(logits.shape())?)?.argmax(1)
}

fn matrix(n: usize, m: usize, random: &mut impl FnMut() -> f32) -> Result<Tensor> {
    Tensor::from_iter((0..n * m).map(|_| 2.0 * random()), &Device::Cpu)?.reshape((n, m))
}

/// Numbers between −1 and 1 from a fixed seed.
fn random() -> impl FnMut() -> f32 {
    let mut state = 1u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
