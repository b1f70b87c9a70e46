//! Elastic weight consolidation: by hand, as a gradient, where the answer is known, and on two tasks.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, SGD};
use fadam_core::{Ewc, FAdam, FAdamConfig, Gradients, NamedVars};
use proptest::prelude::*;

fn vector(values: &[f64]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn named(w: Tensor) -> Gradients {
    Gradients::from([("w".to_owned(), w)])
}

fn variable(values: &[f64]) -> (Var, NamedVars) {
    let w = Var::new(values, &Device::Cpu).unwrap();
    (w.clone(), NamedVars::from_iter([("w".to_owned(), w)]))
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn ewc(anchor: &[f64], fisher: &[f64], strength: f64) -> Ewc {
    Ewc::from_parts(&named(vector(anchor)), &named(vector(fisher)), strength).unwrap()
}

#[test]
fn by_hand() {
    let (_, params) = variable(&[3.0, -1.0, 0.5]);
    let mut one = ewc(&[1.0, 1.0, 0.5], &[0.5, 2.0, 9.0], 10.0);
    // ½ · 10 · (0.5 · 2² + 2 · 2² + 0)
    assert_eq!(values(&one.penalty(&params).unwrap())[0], 50.0);
    assert_eq!(values(&one.gradients(&params).unwrap()["w"]), [10.0, -40.0, 0.0]);

    // ½ · 2 · (1 · 3² + 0 + 4 · 1.5²) = 18
    one.add(ewc(&[0.0, 9.0, 2.0], &[1.0, 0.0, 4.0], 2.0)).unwrap();
    assert_eq!(one.tasks(), 2);
    assert_eq!(values(&one.penalty(&params).unwrap())[0], 68.0);
    assert_eq!(values(&one.gradients(&params).unwrap()["w"]), [16.0, -40.0, -12.0]);
}

/// A shape of 0 to 3 dimensions, some of them 0, and numbers for it.
fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    proptest::collection::vec(0usize..4, 0..=3).prop_flat_map(|shape| {
        let n: usize = shape.iter().product();
        proptest::collection::vec(-2.0f64..2.0, 5 * n).prop_map(move |all| {
            let part = |k: usize| all[k * n..(k + 1) * n].to_vec();
            (0..5).map(|k| Tensor::from_vec(part(k), &*shape, &Device::Cpu).unwrap()).collect()
        })
    })
}

proptest! {
    /// `gradients` is the gradient of `penalty` in every dtype; the penalty is 0 at θ* and nowhere negative.
    #[test]
    fn gradients_are_those_of_the_penalty(x in tensors(), strengths in proptest::array::uniform2(0.0f64..9.0)) {
        for (dtype, unit) in [(DType::F64, 1e-13), (DType::F32, 1e-5), (DType::BF16, 1e-2)] {
            let [theta, a, b, f, h] = [0, 1, 2, 3, 4].map(|k| x[k].to_dtype(dtype).unwrap());
            let (f, h) = (f.sqr().unwrap(), h.sqr().unwrap());
            let mut ewc = Ewc::from_parts(&named(a.clone()), &named(f), strengths[0]).unwrap();
            let w = Var::from_tensor(&a).unwrap();
            let free = Var::from_tensor(&b).unwrap();
            let params = NamedVars::from_iter([("w".to_owned(), w.clone()), ("head".to_owned(), free)]);
            prop_assert_eq!(values(&ewc.penalty(&params).unwrap())[0], 0.0);

            ewc.add(Ewc::from_parts(&named(b), &named(h), strengths[1]).unwrap()).unwrap();
            w.set(&theta).unwrap();
            let penalty = ewc.penalty(&params).unwrap();
            prop_assert_eq!(penalty.dtype(), if dtype == DType::F64 { DType::F64 } else { DType::F32 });
            prop_assert!(penalty.dims().is_empty() && values(&penalty)[0] >= 0.0);
            let direct = ewc.gradients(&params).unwrap();
            prop_assert!(direct.keys().eq(["w"]));
            prop_assert_eq!((direct["w"].dtype(), direct["w"].dims()), (dtype, theta.dims()));
            let by_graph = params.gradients(&penalty.backward().unwrap());
            prop_assert!(by_graph.keys().eq(["w"]), "the graph does not lead to w");
            for (direct, by_graph) in values(&direct["w"]).iter().zip(values(&by_graph["w"])) {
                prop_assert!((direct - by_graph).abs() <= unit * 40.0 * strengths[0].max(strengths[1]));
            }
        }
    }
}

/// ½ Σ a (θ − α)², a loss whose FIM is a.
fn quadratic(w: &Var, a: &[f64], alpha: &[f64]) -> Tensor {
    let distance = (w.as_tensor() - vector(alpha)).unwrap().sqr().unwrap();
    ((distance * vector(a)).unwrap().sum_all().unwrap() * 0.5).unwrap()
}

#[test]
fn with_the_exact_fim_tasks_in_turn_are_tasks_together() {
    // Each task's loss is its quadratic: its minimum and FIM say all. The minimum of all three is
    // Σ a α / Σ a, and EWC must get there without seeing the earlier losses again.
    let tasks = [
        ([1.0, 0.2, 0.0], [1.0, -2.0, 5.0]),
        ([0.5, 1.0, 0.1], [-1.0, 3.0, 1.0]),
        ([0.3, 0.6, 0.9], [4.0, 0.0, -1.0]),
    ];
    let (w, params) = variable(&[0.0; 3]);
    let mut held: Option<Ewc> = None;
    for (a, alpha) in tasks {
        let mut sgd = SGD::new(vec![w.clone()], 0.5).unwrap();
        for _ in 0..400 {
            let mut loss = quadratic(&w, &a, &alpha);
            if let Some(held) = &held {
                loss = (loss + held.penalty(&params).unwrap()).unwrap();
            }
            sgd.backward_step(&loss).unwrap();
        }
        let task = ewc(&alpha, &a, 1.0); // α is where this task alone would end
        match &mut held {
            Some(held) => held.add(task).unwrap(),
            None => held = Some(task),
        }
    }
    for (i, theta) in values(&w).iter().enumerate() {
        let weighted: f64 = tasks.iter().map(|(a, alpha)| a[i] * alpha[i]).sum();
        let exact = weighted / tasks.iter().map(|(a, _)| a[i]).sum::<f64>();
        assert!((theta - exact).abs() < 1e-9, "{theta} {exact}");
    }
}

/// Two Gaussian blobs, at ± `centre`, as inputs and labels ±1. (Noise: splitmix64.)
struct Blobs {
    x: Tensor,
    y: Tensor,
}

const SAMPLES: usize = 256;
const BATCH: usize = 32;

impl Blobs {
    fn new(centre: [f64; 4], spread: [f64; 4], seed: u64) -> Self {
        let uniform = |k: u64| {
            let z = (seed << 32 | k).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
        };
        // 12 uniform numbers together: mean 6, variance 1
        let normal = |k: u64| (0..12).map(|i| uniform(12 * k + i)).sum::<f64>() - 6.0;
        let label = |row: usize| [1.0, -1.0][row % 2];
        let x = |k: usize| label(k / 4) * centre[k % 4] + spread[k % 4] * normal(k as u64);
        let x: Vec<f64> = (0..SAMPLES * 4).map(x).collect();
        let x = vector(&x).reshape((SAMPLES, 4)).unwrap();
        Self { x, y: vector(&(0..SAMPLES).map(label).collect::<Vec<_>>()) }
    }

    /// The mean negative log-likelihood of logistic regression, log(1 + e^(−yz)).
    fn loss(&self, params: &NamedVars, rows: std::ops::Range<usize>) -> Tensor {
        let x = self.x.narrow(0, rows.start, rows.len()).unwrap();
        let y = self.y.narrow(0, rows.start, rows.len()).unwrap();
        let (w, b) = (params.get("w").unwrap(), params.get("b").unwrap());
        let z = x.matmul(w).unwrap().squeeze(1).unwrap().broadcast_add(b).unwrap();
        let odds = (z * y).unwrap().neg().unwrap().exp().unwrap();
        (odds + 1.0).unwrap().log().unwrap().mean_all().unwrap()
    }

    /// Trains by FAdam in minibatches, with the penalty if there is one.
    fn train(&self, params: &NamedVars, ewc: Option<&Ewc>) -> FAdam {
        let config = FAdamConfig { lr: 0.02, weight_decay: 0.0, ..Default::default() };
        let mut optimizer = FAdam::from_named(params.clone(), config).unwrap();
        for epoch in 0..100 {
            optimizer.set_learning_rate(0.02 * (1.0 - f64::from(epoch) / 100.0));
            for start in (0..SAMPLES).step_by(BATCH) {
                let mut loss = self.loss(params, start..start + BATCH);
                if let Some(ewc) = ewc {
                    loss = (loss + ewc.penalty(params).unwrap()).unwrap();
                }
                optimizer.backward_step(&loss).unwrap();
            }
        }
        optimizer
    }
}

#[test]
fn a_second_task_does_not_wipe_out_the_first() {
    // A is told by inputs 0 and 1. In B input 0 points the other way, a little, and 2 and 3 tell it well.
    let a = Blobs::new([1.0, 0.7, 0.0, 0.0], [1.0, 1.0, 0.1, 0.1], 1);
    let b = Blobs::new([-0.7, 0.0, 1.0, 0.8], [1.0; 4], 2);
    let params = NamedVars::from_iter([
        ("w".to_owned(), Var::zeros((4, 1), DType::F64, &Device::Cpu).unwrap()),
        ("b".to_owned(), Var::zeros((), DType::F64, &Device::Cpu).unwrap()),
    ]);
    let losses = || [&a, &b].map(|task| values(&task.loss(&params, 0..SAMPLES))[0]);
    let optimizer = a.train(&params, None);
    let [learnt, before] = losses();
    let start: Vec<(Var, Tensor)> = params
        .iter()
        .map(|(_, var)| (var.clone(), var.as_detached_tensor().copy().unwrap()))
        .collect();

    // λ = B N / M, as the documentation of Ewc has it, with as many samples of either task.
    let ewc = Ewc::consolidate(&optimizer, &params, BATCH as f64).unwrap();
    let second_task = |ewc: Option<&Ewc>| {
        for (var, value) in &start {
            var.set(value).unwrap();
        }
        b.train(&params, ewc);
        losses()
    };
    let [forgotten, alone] = second_task(None);
    let [kept, both] = second_task(Some(&ewc));
    let off = Ewc::consolidate(&optimizer, &params, 0.0).unwrap();
    assert_eq!(second_task(Some(&off)), [forgotten, alone], "a strength of 0 does something");

    let text = format!("A: {learnt}, {forgotten}, {kept}; B: {before}, {alone}, {both}");
    assert!(forgotten > 2.0 * learnt, "nothing to protect from. {text}");
    assert!(kept < learnt + 0.25 * (forgotten - learnt), "{text}");
    // B must be learnt too: a penalty that nails every weight down would pass the line above.
    assert!(both < alone + 0.25 * (before - alone), "{text}");
}

#[test]
fn consolidated_is_a_copy_of_the_optimizers_fim() {
    let (w, params) = variable(&[1.0, 2.0]);
    let mut optimizer = FAdam::from_named(params.clone(), FAdamConfig::default()).unwrap();
    let plain = Ewc::consolidate(&optimizer, &params, 1.0).unwrap(); // f₀ = 1
    optimizer.step_named(&named(vector(&[0.5, 2.0]))).unwrap();
    let anchor = values(&w);
    let ewc = Ewc::consolidate(&optimizer, &params, 1.0).unwrap(); // f = g²
    // Neither the steps nor the movements that follow change θ* and F.
    optimizer.step_named(&named(vector(&[9.0, 9.0]))).unwrap();
    w.set(&vector(&[anchor[0] + 1.0, anchor[1] - 1.0])).unwrap();
    let gradient = values(&ewc.gradients(&params).unwrap()["w"]);
    for (g, exact) in gradient.iter().zip([0.25, -4.0]) {
        assert!((g - exact).abs() < 1e-12, "{g} {exact}");
    }
    w.set(&vector(&[4.0, 2.0])).unwrap();
    assert_eq!(values(&plain.gradients(&params).unwrap()["w"]), [3.0, 0.0]);
}

#[test]
fn views_are_taken_as_they_are_seen() {
    let matrix = vector(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).reshape((2, 3)).unwrap();
    let fisher = vector(&[2.0]).broadcast_as((3, 2)).unwrap();
    let ewc = Ewc::from_parts(&named(matrix.t().unwrap()), &named(fisher), 1.0).unwrap();
    let w = Var::zeros((3, 2), DType::F64, &Device::Cpu).unwrap();
    let g = ewc.gradients(&NamedVars::from_iter([("w".to_owned(), w)])).unwrap();
    assert_eq!(values(&g["w"]), [-2.0, -8.0, -4.0, -10.0, -6.0, -12.0]);

    let nothing = Ewc::from_parts(&Gradients::new(), &Gradients::new(), 1.0).unwrap();
    assert_eq!(values(&nothing.penalty(&NamedVars::new()).unwrap())[0], 0.0);
}

#[test]
fn parts_that_do_not_fit() {
    let (a, b) = (|| named(vector(&[1.0, 2.0])), || named(vector(&[1.0])));
    let refuse = |anchor: &Gradients, fisher: &Gradients, strength: f64, expected: &str| {
        let err = Ewc::from_parts(anchor, fisher, strength).unwrap_err().to_string();
        assert!(err.contains(expected), "{expected:?} is not in: {err}");
    };
    for strength in [-1.0, f64::NAN, f64::INFINITY] {
        refuse(&a(), &a(), strength, "strength = ");
    }
    refuse(&a(), &b(), 1.0, "\"w\" has shape [2], its FIM [1]");
    refuse(&a(), &Gradients::new(), 1.0, "\"w\" has an anchor and no FIM");
    refuse(&Gradients::new(), &a(), 1.0, "\"w\" has a FIM and no anchor");
    for bad in [f64::NAN, f64::INFINITY] {
        refuse(&named(vector(&[1.0, bad])), &a(), 1.0, "the anchor of \"w\" is not finite");
    }
    for bad in [f64::NAN, f64::INFINITY, -1.0, -1e-300] {
        let fisher = named(vector(&[1.0, bad]));
        refuse(&a(), &fisher, 1.0, "the FIM of \"w\" is negative or not finite");
    }
    let ids = named(vector(&[1.0, 2.0]).to_dtype(DType::U32).unwrap());
    refuse(&ids, &a(), 1.0, "\"w\" is U32");

    let mut one = ewc(&[1.0], &[1.0], 1.0);
    let err = one.add(ewc(&[1.0, 2.0], &[1.0, 1.0], 1.0)).unwrap_err().to_string();
    assert!(err.contains("\"w\" has shape [2] in the added task, [1] before"), "{err}");
    assert_eq!(one.tasks(), 1);
}

#[test]
fn parameters_that_do_not_fit() {
    let one = ewc(&[1.0], &[1.0], 1.0);
    let (_, longer) = variable(&[1.0, 2.0]);
    for (params, expected) in [
        (longer.clone(), "\"w\" has shape [2], its anchor [1]"),
        (NamedVars::new(), "\"w\" has an anchor and is not among params"),
    ] {
        for err in [one.penalty(&params).unwrap_err(), one.gradients(&params).unwrap_err()] {
            assert!(err.to_string().contains(expected), "{err}");
        }
    }

    let (_, params) = variable(&[1.0]);
    let optimizer = FAdam::from_named(params.clone(), FAdamConfig::default()).unwrap();
    let err = Ewc::consolidate(&optimizer, &NamedVars::new(), 1.0).unwrap_err().to_string();
    assert!(err.contains("\"w\", which the optimizer trains, is not among params"), "{err}");
    let err = Ewc::consolidate(&optimizer, &longer, 1.0).unwrap_err().to_string();
    assert!(err.contains("\"w\" has shape [2], its FIM [1]"), "{err}");
    let mut more = params; // a buffer, say
    more.insert("more", Var::new(&[1.0], &Device::Cpu).unwrap()).unwrap();
    let ewc = Ewc::consolidate(&optimizer, &more, 1.0).unwrap();
    assert!(ewc.gradients(&more).unwrap().keys().eq(["w"]));
}
