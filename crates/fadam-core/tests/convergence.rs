//! Every algorithm in every dtype goes down a quadratic and into the valley of Rosenbrock's function,
//! and its schedules have the shapes that their names say.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use fadam_core::schedule::{Decay, Schedule};
use fadam_core::{Algorithm, AnyConfig, AnyOptimizer};

const DTYPES: [DType; 4] = [DType::F64, DType::F32, DType::BF16, DType::F16];

fn value(x: &Tensor) -> f64 {
    x.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

fn optimizer(name: &str, w: &Var, lr: f64) -> AnyOptimizer {
    let mut config = AnyConfig::named(name).unwrap();
    config.set_lr(lr);
    AnyOptimizer::new(vec![w.clone()], config).unwrap()
}

#[test]
fn quadratic() {
    for name in AnyConfig::NAMES {
        for dtype in DTYPES {
            let start =
                Tensor::new(&[[1.5f64, -0.8, 0.3], [0.9, -1.2, 2.0]], &Device::Cpu).unwrap();
            let scale = Tensor::new(&[[1f64, 10.0, 0.1], [3.0, 0.5, 1.0]], &Device::Cpu).unwrap();
            let w = Var::from_tensor(&start.to_dtype(dtype).unwrap()).unwrap();
            let scale = scale.to_dtype(dtype).unwrap();
            let loss = || (w.sqr().unwrap() * &scale).unwrap().sum_all().unwrap();
            let first = value(&loss());
            let schedule = Schedule { warmup: 0, decay: Decay::Linear { end: 0.0 } };
            let mut optimizer = optimizer(name, &w, 0.05);
            for t in 1..=300 {
                optimizer.set_learning_rate(0.05 * schedule.factor(t, 300));
                optimizer.backward_step(&loss()).unwrap();
            }
            let last = value(&loss());
            assert!(last < 1e-2 * first, "{name} {dtype:?}: {first} -> {last}");
        }
    }
}

#[test]
fn rosenbrock() {
    for name in AnyConfig::NAMES {
        for dtype in [DType::F64, DType::F32] {
            let xy = Tensor::new(&[-1.2f64, 1.0], &Device::Cpu).unwrap();
            let w = Var::from_tensor(&xy.to_dtype(dtype).unwrap()).unwrap();
            // (1 − x)² + 100 (y − x²)²
            let loss = || {
                let (x, y) = (w.get(0).unwrap(), w.get(1).unwrap());
                let valley = (y - x.sqr().unwrap()).unwrap().sqr().unwrap();
                ((1.0 - x).unwrap().sqr().unwrap() + (valley * 100.0).unwrap()).unwrap()
            };
            let mut optimizer = optimizer(name, &w, 0.01);
            let first = value(&loss());
            for _ in 0..3000 {
                optimizer.backward_step(&loss()).unwrap();
            }
            let last = value(&loss());
            assert!(last < 1e-2 * first, "{name} {dtype:?}: {first} -> {last}");
        }
    }
}

#[test]
fn schedules() {
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    let with = |decay| Schedule { warmup: 100, decay };
    for decay in [
        Decay::Constant,
        Decay::Linear { end: 0.1 },
        Decay::Cosine { end: 0.1 },
        Decay::Exponential { end: 0.1 },
        Decay::InverseSqrt,
    ] {
        close(with(decay).factor(1, 1100), 0.01);
        close(with(decay).factor(50, 1100), 0.5);
        close(with(decay).factor(100, 1100), 1.0);
    }
    close(with(Decay::Constant).factor(900, 1100), 1.0);
    close(with(Decay::Linear { end: 0.1 }).factor(600, 1100), 0.55);
    close(with(Decay::Cosine { end: 0.1 }).factor(600, 1100), 0.55);
    close(with(Decay::Exponential { end: 0.1 }).factor(600, 1100), 0.1f64.sqrt());
    close(with(Decay::InverseSqrt).factor(400, 1100), 0.5);
    for decay in
        [Decay::Linear { end: 0.1 }, Decay::Cosine { end: 0.1 }, Decay::Exponential { end: 0.1 }]
    {
        close(with(decay).factor(1100, 1100), 0.1);
        close(with(decay).factor(5000, 1100), 0.1);
    }
    // Vaswani et al.: the peak, at t = w, is (d w)^-1/2.
    let noam = with(Decay::Noam { d_model: 512 });
    close(noam.factor(100, 1100), (512f64 * 100.0).powf(-0.5));
    close(noam.factor(50, 1100), 0.5 * noam.factor(100, 1100));
    close(noam.factor(400, 1100), 0.5 * noam.factor(100, 1100));
    close(Schedule::CONSTANT.factor(1, 10), 1.0);
}
