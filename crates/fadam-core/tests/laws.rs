//! Laws that follow from the paper's equations, on random shapes, gradients and hyper-parameters.

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{
    AdafactorConfig, AdamConfig, AnyConfig, AnyOptimizer, FAdafactorConfig, FAdamConfig, Gradients,
    NamedVars,
};
use proptest::prelude::*;

/// One parameter `w` under an optimizer.
struct One {
    w: Var,
    optimizer: AnyOptimizer,
}

impl One {
    fn new(theta: &Tensor, config: impl Into<AnyConfig>) -> Self {
        let w = Var::from_tensor(theta).unwrap();
        let vars = NamedVars::from_iter([("w".to_owned(), w.clone())]);
        Self { optimizer: AnyOptimizer::from_named(vars, config.into()).unwrap(), w }
    }

    fn step(&mut self, g: &Tensor) -> &mut Self {
        self.optimizer.step_named(&Gradients::from([("w".to_owned(), g.clone())])).unwrap();
        self
    }

    fn theta(&self) -> Vec<f64> {
        values(&self.w)
    }
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64).sqrt()
}

fn all_algorithms() -> [AnyConfig; 4] {
    AnyConfig::NAMES.map(|name| AnyConfig::named(name).unwrap())
}

/// A shape of 0 to 4 dimensions with values for θ and two gradients.
fn tensors() -> impl Strategy<Value = [Tensor; 3]> {
    proptest::collection::vec(1usize..6, 0..=4).prop_flat_map(|shape| {
        let n: usize = shape.iter().product();
        proptest::collection::vec(-2.0f64..2.0, 3 * n).prop_map(move |all| {
            let part = |k: usize| {
                let part = all[k * n..(k + 1) * n].to_vec();
                Tensor::from_vec(part, shape.clone(), &Device::Cpu).unwrap()
            };
            [part(0), part(1), part(2)]
        })
    })
}

proptest! {
    /// Lines 9 to 14: |Δθ| is at most η (1 + λ) c in RMS, whatever the gradient's scale.
    #[test]
    fn a_clipped_step_is_bounded([theta, g, _] in tensors(), scale in -12i32..12, clip in 0.01f64..3.0) {
        let g = (g * 10f64.powi(scale)).unwrap();
        let (lr, weight_decay) = (0.1, 0.5);
        let fadam = FAdamConfig { lr, weight_decay, clip: Some(clip), ..Default::default() };
        let before = values(&theta);
        let after = One::new(&theta, fadam).step(&g).theta();
        let moved: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        // m_1 = (1 − β1) ḡ with RMS(ḡ) ≤ c, and RMS(ḡw) ≤ c.
        prop_assert!(rms(&moved) <= lr * (0.1 + weight_decay) * clip * (1.0 + 1e-9));
    }

    /// g → k·g scales ḡ by k^(1−2ρ) when there is no ε, no clipping and no decay.
    #[test]
    fn gradient_scale_law([theta, g1, g2] in tensors(), k in 0.01f64..100.0, rho in 0.2f64..1.2) {
        let config = FAdamConfig { eps: 0.0, eps2: None, clip: None, weight_decay: 0.0, rho, ..Default::default() };
        let mut plain = One::new(&theta, config.clone());
        let mut scaled = One::new(&theta, config);
        let mut before: Vec<f64> = vec![0.0; theta.elem_count()];
        for g in [&g1, &g2] {
            plain.step(g);
            scaled.step(&(g * k).unwrap());
            let m = values(&plain.optimizer.momentum("w").unwrap());
            let km = values(&scaled.optimizer.momentum("w").unwrap());
            for ((m, km), before) in m.iter().zip(&km).zip(&before) {
                // The two steps' parts of m can cancel: rounding is relative to them, not to their sum.
                let size = km.abs() + before.abs();
                prop_assert!((km - m * k.powf(1.0 - 2.0 * rho)).abs() <= 1e-9 * size);
            }
            before = km;
        }
    }

    /// Line 6: β̂2 = 0 at t = 1, so f_1 = g² and f_0 is ignored.
    #[test]
    fn the_first_step_ignores_f0([theta, g, _] in tensors()) {
        let mut one = One::new(&theta, FAdamConfig::default());
        one.step(&g);
        prop_assert_eq!(values(&one.optimizer.fim("w").unwrap()), values(&g.sqr().unwrap()));
    }

    /// On tensors of fewer than two dimensions there is nothing to factor.
    #[test]
    fn fadafactor_is_fadam_on_vectors(values in proptest::collection::vec(-2.0f64..2.0, 2..40)) {
        let (theta, g) = values.split_at(values.len() / 2);
        let theta = Tensor::new(theta, &Device::Cpu).unwrap();
        let g = Tensor::new(&g[..theta.elem_count()], &Device::Cpu).unwrap();
        let a = One::new(&theta, FAdamConfig::default()).step(&g).theta();
        let b = One::new(&theta, FAdafactorConfig::default()).step(&g).theta();
        prop_assert_eq!(a, b);
    }

    /// A rank-one g² is reconstructed exactly, and the factored step is then the full one.
    #[test]
    fn fadafactor_is_fadam_on_rank_one(rows in proptest::collection::vec(0.1f64..2.0, 1..8), columns in proptest::collection::vec(0.1f64..2.0, 1..8)) {
        let r = Tensor::new(rows.as_slice(), &Device::Cpu).unwrap().unsqueeze(1).unwrap();
        let c = Tensor::new(columns.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let g = r.broadcast_mul(&c).unwrap();
        let a = One::new(&g, FAdamConfig::default()).step(&g).theta();
        let b = One::new(&g, FAdafactorConfig::default()).step(&g).theta();
        for (a, b) in a.iter().zip(&b) {
            prop_assert!((a - b).abs() < 1e-12);
        }
    }

    /// A tensor of more than two dimensions is factored independently for each leading index:
    /// R, C and f are those of its matrices.
    #[test]
    fn leading_dimensions_are_independent([_, g, _] in tensors()) {
        if g.rank() != 3 { return Ok(()); }
        let mut whole = One::new(&g, FAdafactorConfig::default());
        whole.step(&g);
        let fim = whole.optimizer.fim("w").unwrap();
        for k in 0..g.dims()[0] {
            let matrix = g.get(k).unwrap();
            let mut alone = One::new(&matrix, FAdafactorConfig::default());
            alone.step(&matrix);
            prop_assert_eq!(values(&fim.get(k).unwrap()), values(&alone.optimizer.fim("w").unwrap()));
        }
    }

    /// bf16 and f16 parameters have f32 state and follow the f32 trajectory to a rounding of θ.
    #[test]
    fn half_precision_follows_f32([theta, g1, g2] in tensors()) {
        for config in all_algorithms() {
            for (dtype, unit) in [(DType::BF16, 2f64.powi(-8)), (DType::F16, 2f64.powi(-11))] {
                let half = theta.to_dtype(dtype).unwrap();
                let (g1, g2) = (g1.to_dtype(dtype).unwrap(), g2.to_dtype(dtype).unwrap());
                let mut low = One::new(&half, config.clone());
                let mut high = One::new(&half.to_dtype(DType::F32).unwrap(), config.clone());
                low.step(&g1).step(&g2);
                high.step(&g1.to_dtype(DType::F32).unwrap()).step(&g2.to_dtype(DType::F32).unwrap());
                prop_assert_eq!(low.optimizer.momentum("w").unwrap().dtype(), DType::F32);
                for (a, b) in low.theta().iter().zip(high.theta()) {
                    // two roundings, and what the first one moves the second step's weight decay by
                    prop_assert!((a - b).abs() <= 2.5 * unit * b.abs().max(0.05));
                }
            }
        }
    }

    /// A gradient that is a strided view gives the same step as its contiguous copy.
    #[test]
    fn strided_gradients_are_honoured(values in proptest::collection::vec(-2.0f64..2.0, 24)) {
        let g = Tensor::from_vec(values, (4, 6), &Device::Cpu).unwrap().t().unwrap();
        for config in all_algorithms() {
            let theta = g.contiguous().unwrap();
            let a = One::new(&theta, config.clone()).step(&g).theta();
            let b = One::new(&theta, config).step(&g.contiguous().unwrap()).theta();
            prop_assert_eq!(a, b);
        }
    }
}

#[test]
fn adam_without_clipping_is_candles_adamw() {
    use candle_nn::{AdamW, Optimizer, ParamsAdamW};
    let theta = Tensor::new(&[0.5f64, -1.0, 2.0], &Device::Cpu).unwrap();
    let (ours, theirs) = (Var::from_tensor(&theta).unwrap(), Var::from_tensor(&theta).unwrap());
    let config = AdamConfig { clip: None, weight_decay: 0.01, ..Default::default() };
    let mut a = fadam_core::Adam::new(vec![ours.clone()], config).unwrap();
    let params = ParamsAdamW { lr: 1e-3, weight_decay: 0.01, ..Default::default() };
    let mut b = AdamW::new(vec![theirs.clone()], params).unwrap();
    for k in 1..=20 {
        let target = f64::from(k);
        let loss = |w: &Var| (w.as_tensor() - target).unwrap().sqr().unwrap().sum_all().unwrap();
        a.backward_step(&loss(&ours)).unwrap();
        b.backward_step(&loss(&theirs)).unwrap();
    }
    for (a, b) in values(&ours).iter().zip(values(&theirs)) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
}

#[test]
fn no_gradient_no_movement() {
    // 0/0 := 0: an all-zero gradient from the first step on is no NaN, and the paper's weight decay,
    // which divides by f, does not act either.
    let theta = Tensor::new(&[[0.5f32, -1.0], [2.0, 3.0]], &Device::Cpu).unwrap();
    let zeros = theta.zeros_like().unwrap();
    for config in [AnyConfig::from(FAdamConfig::default()), FAdafactorConfig::default().into()] {
        let mut one = One::new(&theta, config);
        assert_eq!(one.step(&zeros).step(&zeros).theta(), values(&theta));
    }
}

#[test]
fn extreme_gradients_stay_finite() {
    // g² underflows f32 below 1e-23 and overflows above 1.8e19; the first must not become NaN.
    let theta = Tensor::new(&[0.5f32, -1.0, 2.0], &Device::Cpu).unwrap();
    for scale in [1e-38f64, 1e-30, 1e-20, 1e15] {
        let g = Tensor::new(&[1f32, -0.3, 0.2], &Device::Cpu).unwrap().affine(scale, 0.0).unwrap();
        for config in all_algorithms() {
            let name = format!("{config:?} at {scale:e}");
            let after = One::new(&theta, config).step(&g).step(&g).theta();
            assert!(after.iter().all(|v| v.is_finite()), "{name}: {after:?}");
        }
    }
}

#[test]
fn adafactors_decay_is_independent_of_the_learning_rate_unless_asked() {
    let theta = Tensor::new(&[[1f64, 2.0]], &Device::Cpu).unwrap();
    let zeros = theta.zeros_like().unwrap();
    let config = AdafactorConfig { lr: 0.5, weight_decay: 0.1, ..Default::default() };
    let after = One::new(&theta, config.clone()).step(&zeros).theta();
    assert!((after[0] - 0.9).abs() < 1e-12);
    let times_lr = AdafactorConfig { weight_decay_times_lr: true, ..config };
    let after = One::new(&theta, times_lr).step(&zeros).theta();
    assert!((after[0] - 0.95).abs() < 1e-12);
}
