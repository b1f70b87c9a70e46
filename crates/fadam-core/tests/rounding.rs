//! How bf16 parameters take up steps of less than half a unit in their last place: not at all, right on average, or
//! exactly but for 16 bits of mantissa.

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{Algorithm, AnyConfig, AnyOptimizer, Gradients, Group, NamedVars, Rounding};

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn noise(n: usize, seed: usize) -> Vec<f32> {
    let value = |i: usize| ((i * 7919 + seed * 104_729) as f32 * 0.618_034).fract() - 0.5;
    (0..n).map(value).collect()
}

fn named(x: &Tensor) -> Gradients {
    Gradients::from([("w".to_owned(), x.clone())])
}

/// One parameter `w`.
struct One {
    w: Var,
    optimizer: AnyOptimizer,
}

impl One {
    fn new(theta: &Tensor, config: &AnyConfig, rounding: Rounding) -> Self {
        let w = Var::from_tensor(theta).unwrap();
        let vars = NamedVars::from_iter([("w".to_owned(), w.clone())]);
        let optimizer = AnyOptimizer::from_named(vars, config.clone()).unwrap();
        let group = Group::new("*").rounding(rounding);
        Self { optimizer: optimizer.groups(vec![group]).unwrap(), w }
    }

    fn theta(&self) -> Vec<f64> {
        values(&self.w)
    }

    /// θ with what was rounded away from it.
    fn exact(&self) -> Vec<f64> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        self.optimizer.save(&file).unwrap();
        let low = &candle_core::safetensors::load(file, &Device::Cpu).unwrap()["w.theta.low"];
        self.theta().iter().zip(values(low)).map(|(high, low)| high + low).collect()
    }
}

fn config(name: &str, lr: f64) -> AnyConfig {
    let mut config: AnyConfig =
        serde_json::from_str(&format!(r#"{{"algorithm": "{name}", "weight_decay": 0}}"#)).unwrap();
    config.set_lr(lr);
    config
}

const N: usize = 4096;

/// From 1, with the same gradients of ±1 at every step, so that each θ moves by about η a step: beside f32.
fn drift(name: &str, rounding: Rounding, steps: usize) -> (One, Vec<f64>) {
    // The bf16s next to 1 are 1/128 and 1/256 away: half of that is 40 steps.
    let config = config(name, 5e-5);
    let theta = Tensor::ones(N, DType::BF16, &Device::Cpu).unwrap();
    let g: Vec<f32> = (0..N).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let g = Tensor::from_vec(g, N, &Device::Cpu).unwrap();
    let mut low = One::new(&theta, &config, rounding);
    let mut single = One::new(&theta.to_dtype(DType::F32).unwrap(), &config, Rounding::Nearest);
    for _ in 0..steps {
        low.optimizer.step_named(&named(&g.to_dtype(DType::BF16).unwrap())).unwrap();
        single.optimizer.step_named(&named(&g)).unwrap();
    }
    (low, single.theta())
}

#[test]
fn to_the_nearest_small_steps_are_lost() {
    for name in AnyConfig::NAMES {
        let (low, single) = drift(name, Rounding::Nearest, 50);
        assert_eq!(low.theta(), vec![1.0; N], "{name}");
        assert!(single.iter().all(|theta| (theta - 1.0).abs() > 5e-4), "{name} moves in f32");
    }
}

#[test]
fn stochastic_small_steps_are_right_on_average() {
    for name in AnyConfig::NAMES {
        let (low, single) = drift(name, Rounding::Stochastic, 50);
        let low = low.theta();
        for sign in 0..2 {
            let off: Vec<f64> = (sign..N).step_by(2).map(|i| low[i] - single[i]).collect();
            let n = off.len() as f64;
            let mean = off.iter().sum::<f64>() / n;
            let deviation = (off.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
            // Each is a whole number of units away, and all together are where they should be.
            let error = deviation / n.sqrt();
            assert!(error < 2e-4, "{name}: too few to tell: {error:e}");
            assert!(
                mean.abs() < 4.0 * error,
                "{name}: {mean:e}, and the error of that is {error:e}"
            );
        }
    }
}

/// After one step from the same place, θ and its rest are the f32 step to half a unit of 16 bits, over and over.
#[test]
fn compensated_is_f32_to_16_bits() {
    for name in AnyConfig::NAMES {
        let config = config(name, 1e-3);
        let theta = Tensor::from_vec(noise(N, 1), N, &Device::Cpu).unwrap();
        let theta = theta.to_dtype(DType::BF16).unwrap();
        let mut low = One::new(&theta, &config, Rounding::Compensated);
        let mut single = One::new(&theta.to_dtype(DType::F32).unwrap(), &config, Rounding::Nearest);
        let mut rested = false;
        for k in 0..20 {
            let exact: Vec<f32> = low.exact().iter().map(|theta| *theta as f32).collect();
            single.w.set(&Tensor::from_vec(exact, N, &Device::Cpu).unwrap()).unwrap();
            let g = Tensor::from_vec(noise(N, 10 + k), N, &Device::Cpu).unwrap();
            let g = g.to_dtype(DType::BF16).unwrap();
            low.optimizer.step_named(&named(&g)).unwrap();
            single.optimizer.step_named(&named(&g.to_dtype(DType::F32).unwrap())).unwrap();
            let (exact, high) = (low.exact(), low.theta());
            for ((exact, high), single) in exact.iter().zip(&high).zip(single.theta()) {
                // A bf16 of at least 2^e leaves at most 2^(e−8), whose own rest is 2^(e−17) at most.
                let off = (exact - single).abs();
                let bound = 2f64.powi(-17) * single.abs() + 1e-12;
                assert!(off <= bound, "{name} step {k}: {exact:e}, not {single:e}");
                assert!((high - single).abs() <= single.abs() / 256.0, "θ itself is rounded once");
                rested |= exact != high;
            }
        }
        assert!(rested, "{name}: nothing was ever rounded away");
    }
}

/// A whole run of steps that a bf16 alone would lose. The rest is rounded at every step, to 2⁻¹⁸ at the most here, and
/// that errs to the same side in a drift: 5 % of the way (a step is 13 · 2⁻¹⁸) and a rounding of θ.
#[test]
fn compensated_takes_up_every_small_step() {
    for name in AnyConfig::NAMES {
        for steps in [50, 400] {
            let (low, single) = drift(name, Rounding::Compensated, steps);
            for (low, single) in low.exact().iter().zip(&single) {
                let bound = 0.05 * (single - 1.0).abs() + 2f64.powi(-17);
                assert!(
                    (low - single).abs() <= bound,
                    "{name}: {low}, not {single}, after {steps}"
                );
            }
        }
    }
}

/// Parameters of other dtypes are rounded to the nearest, whatever is asked for.
#[test]
fn other_dtypes_are_rounded_to_the_nearest() {
    for dtype in [DType::F64, DType::F32, DType::F16] {
        let theta = Tensor::from_vec(noise(N, 1), N, &Device::Cpu).unwrap();
        let theta = theta.to_dtype(dtype).unwrap();
        let roundings = [Rounding::Nearest, Rounding::Stochastic, Rounding::Compensated];
        let [nearest, stochastic, compensated] = roundings.map(|rounding| {
            let mut one = One::new(&theta, &config("fadam", 1e-3), rounding);
            for k in 0..3 {
                let g = Tensor::from_vec(noise(N, 10 + k), N, &Device::Cpu).unwrap();
                one.optimizer.step_named(&named(&g.to_dtype(dtype).unwrap())).unwrap();
            }
            one.theta()
        });
        assert!(nearest == stochastic && nearest == compensated, "{dtype:?}");
    }
}
