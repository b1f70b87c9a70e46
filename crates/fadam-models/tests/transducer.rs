//! The Conformer transducer: losses, gradients and running statistics against PyTorch, padding, counts, dropout, and search.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use fadam_models::asr::{
    Beam, ConvNorm, Encoded, JointActivation, Mode, Transducer, TransducerConfig, Utterances,
    greedy,
};
use fadam_models::init::SeededVars;

fn small() -> TransducerConfig {
    TransducerConfig {
        layers: 2,
        d_model: 16,
        heads: 2,
        d_ff: 24,
        kernel: 5,
        channels: 3,
        dropout: 0.0,
        d_prediction: 6,
        d_joint: 10,
        ..TransducerConfig::default()
    }
}

fn seeded(config: &TransducerConfig, units: usize) -> (Transducer, BTreeMap<String, Var>) {
    let vars = SeededVars::new(3);
    let vb = vars.builder(DType::F64, &Device::Cpu);
    let model = Transducer::new(config, units, &vb).unwrap();
    (model, vars.into_named())
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let off = |(a, b): (f64, f64)| if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() };
    numbers(a).into_iter().zip(numbers(b)).map(off).fold(0.0, f64::max)
}

/// Pseudo-random features `[B, longest, 80]` of these lengths; what lies beyond them is `padding`.
fn features(frames: &[usize], padding: f64) -> Tensor {
    let longest = *frames.iter().max().unwrap();
    let number = |b: usize, i: usize| {
        if i / 80 >= frames[b] {
            padding
        } else {
            4.0 * (((b * 31 + 7) * (i + 11)) as f64 * 0.618_033_988_7).fract() - 2.0
        }
    };
    let values: Vec<f64> =
        (0..frames.len()).flat_map(|b| (0..longest * 80).map(move |i| number(b, i))).collect();
    Tensor::from_vec(values, (frames.len(), longest, 80), &Device::Cpu).unwrap()
}

fn batch(frames: &[usize], targets: &[&[u32]], padding: f64) -> Utterances {
    Utterances {
        features: features(frames, padding),
        frames: frames.to_vec(),
        targets: targets.iter().map(|target| target.to_vec()).collect(),
    }
}

/// `goldens/transducer.safetensors`, from PyTorch 2.11 in float64: see `goldens/make_transducer.py`.
#[test]
fn losses_and_gradients_are_pytorchs() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/transducer.safetensors");
    let golden = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let mut vars = BTreeMap::new();
    for (name, x) in &golden {
        if let Some(name) = name.strip_prefix("param.") {
            vars.insert(name.to_owned(), Var::from_tensor(x).unwrap());
        } else if let Some(name) = name.strip_prefix("running.") {
            let at_first = if name.ends_with("mean") { x.zeros_like() } else { x.ones_like() };
            vars.insert(name.to_owned(), Var::from_tensor(&at_first.unwrap()).unwrap());
        }
    }
    let tensors: HashMap<String, Tensor> =
        vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
    let model = Transducer::new(&small(), 7, &vb).unwrap();
    let ids = |name: &str| -> Vec<usize> {
        golden[name].to_vec1::<i64>().unwrap().iter().map(|n| *n as usize).collect()
    };
    let rows: Vec<Vec<i64>> = golden["targets"].to_vec2().unwrap();
    let labels = ids("labels");
    let target = |(row, n): (&Vec<i64>, &usize)| row[..*n].iter().map(|l| *l as u32).collect();
    let batch = Utterances {
        features: golden["features"].clone(),
        frames: ids("frames"),
        targets: rows.iter().zip(&labels).map(target).collect(),
    };
    let losses = model.losses(&batch, Mode::Train { seed: 0 }).unwrap();
    assert!(difference(&losses, &golden["losses"]) < 1e-10, "{losses}");
    let gradients = fadam_ops::backward(&losses.sum_all().unwrap()).unwrap();
    for (name, var) in &vars {
        if let Some(wanted) = golden.get(&format!("running.{name}")) {
            let off = difference(var.as_tensor(), wanted);
            assert!(off < 1e-12, "{name} is off by {off:e}");
            continue;
        }
        let ours = gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
        let wanted = &golden[&format!("grad.{name}")];
        let off = difference(ours, wanted);
        assert!(off < 1e-9, "the gradient of {name} is off by {off:e}");
    }
    let evaluated = model.losses(&batch, Mode::Evaluate).unwrap();
    assert!(difference(&evaluated, &golden["evaluated"]) < 1e-10, "{evaluated}");
}

/// In evaluation, and with a norm that does not see the batch in training too, a batch gives what its utterances give alone,
/// whatever stands in the padding.
#[test]
fn padding_reaches_nothing() {
    let frames = [50, 9, 31, 1];
    let targets: [&[u32]; 4] = [&[1, 2, 3], &[], &[4, 4], &[2]];
    for conv_norm in [ConvNorm::Batch, ConvNorm::Layer, ConvNorm::Group] {
        for relative_positions in [true, false] {
            let config = TransducerConfig { conv_norm, relative_positions, ..small() };
            let (model, _) = seeded(&config, 6);
            let mode = match conv_norm {
                ConvNorm::Batch => Mode::Evaluate,
                _ => Mode::Train { seed: 1 },
            };
            let together = batch(&frames, &targets, f64::NAN);
            let together = numbers(&model.losses(&together, mode).unwrap());
            for (b, together) in together.iter().enumerate() {
                let alone = batch(&frames[b..=b], &targets[b..=b], 0.0);
                let alone = Utterances {
                    features: features(&frames, 0.0)
                        .narrow(0, b, 1)
                        .unwrap()
                        .narrow(1, 0, frames[b])
                        .unwrap(),
                    ..alone
                };
                let alone = numbers(&model.losses(&alone, mode).unwrap())[0];
                assert!((alone - together).abs() < 1e-9, "{conv_norm:?} {b}: {alone} {together}");
            }
        }
    }
}

/// NaN in the padding reaches no gradient and no running statistic either.
#[test]
fn padding_reaches_no_gradient() {
    for conv_norm in [ConvNorm::Batch, ConvNorm::Layer, ConvNorm::Group] {
        let run = |padding: f64| {
            let (model, vars) = seeded(&TransducerConfig { conv_norm, ..small() }, 6);
            let batch = batch(&[40, 9, 21], &[&[1, 2, 3], &[5], &[4, 4]], padding);
            let losses = model.losses(&batch, Mode::Train { seed: 1 }).unwrap();
            let gradients = fadam_ops::backward(&losses.sum_all().unwrap()).unwrap();
            let of = |(name, var): (&String, &Var)| match gradients.get(var) {
                Some(gradient) => (name.clone(), gradient.clone()),
                None => (name.clone(), var.as_detached_tensor().copy().unwrap()),
            };
            vars.iter().map(of).collect::<Vec<_>>()
        };
        for ((name, a), (_, b)) in run(f64::NAN).iter().zip(&run(0.0)) {
            assert_eq!(difference(a, b), 0.0, "{conv_norm:?}: {name}");
        }
    }
}

#[test]
fn counts_are_those_of_the_formula() {
    for config in [
        small(),
        TransducerConfig { prediction_layers: 3, relative_positions: false, ..small() },
        TransducerConfig { conv_norm: ConvNorm::Layer, joint: JointActivation::Relu, ..small() },
    ] {
        let (_, vars) = seeded(&config, 11);
        let is_statistic =
            |name: &str| name.ends_with("running_mean") || name.ends_with("running_var");
        let params: usize = vars
            .iter()
            .filter(|(name, _)| !is_statistic(name))
            .map(|(_, var)| var.elem_count())
            .sum();
        assert_eq!(params, config.num_params(11));
    }
}

#[test]
fn dropout_is_a_function_of_the_seed() {
    let (model, _) = seeded(&TransducerConfig { dropout: 0.3, ..small() }, 6);
    let batch = batch(&[40, 20], &[&[1, 2, 3], &[5]], 0.0);
    let losses = |mode| numbers(&model.losses(&batch, mode).unwrap());
    assert_eq!(losses(Mode::Train { seed: 1 }), losses(Mode::Train { seed: 1 }));
    assert_ne!(losses(Mode::Train { seed: 1 }), losses(Mode::Train { seed: 2 }));
    assert_eq!(losses(Mode::Evaluate), losses(Mode::Evaluate));
}

#[test]
fn impossible_dimensions_are_named() {
    let refused = [
        ("heads", TransducerConfig { heads: 3, ..small() }),
        ("kernel", TransducerConfig { kernel: 4, ..small() }),
        ("dropout", TransducerConfig { dropout: 1.0, ..small() }),
        ("dropout", TransducerConfig { dropout: f64::NAN, ..small() }),
        ("groups", TransducerConfig { conv_norm: ConvNorm::Group, groups: 3, ..small() }),
        ("layers", TransducerConfig { layers: 0, ..small() }),
        ("clamp", TransducerConfig { clamp: -1.0, ..small() }),
    ];
    for (field, config) in refused {
        assert_eq!(config.check().unwrap_err().field, field);
    }
    small().check().unwrap();
}

/// An encoder's output of no encoder, so that search sees sharp decisions.
fn encoded(model: &Transducer, frames: &[usize]) -> Encoded {
    let mut encoded = model.encode(&features(frames, 0.0), frames).unwrap();
    encoded.frames = (encoded.frames * 6.0).unwrap();
    encoded
}

/// With a beam that loses nothing, a transcript has the probability that the loss says.
#[test]
fn a_wide_beam_is_exact() {
    let (model, _) = seeded(&small(), 4);
    let lengths = [9, 5];
    let beam = Beam { width: 4000, max_symbols: 4 };
    let features = features(&lengths, 0.0);
    let found = beam.search(&model, &model.encode(&features, &lengths).unwrap()).unwrap();
    for (b, found) in found.iter().enumerate() {
        // Up to max_symbols labels, no way is left out.
        for hypothesis in found.iter().filter(|h| h.labels.len() <= 2).take(12) {
            let targets: Vec<Vec<u32>> = vec![hypothesis.labels.clone(); 2];
            let batch =
                Utterances { features: features.clone(), frames: lengths.to_vec(), targets };
            let loss = numbers(&model.losses(&batch, Mode::Evaluate).unwrap())[b];
            assert!((loss + hypothesis.log_prob).abs() < 1e-9, "{hypothesis:?}: {loss}");
        }
        let total: f64 = found.iter().map(|h| h.log_prob.exp()).sum();
        assert!(total <= 1.0 + 1e-9 && total > 0.5, "{total}");
        assert!(found.is_sorted_by(|a, b| a.log_prob >= b.log_prob));
    }
}

/// A beam finds nothing worse than the greedy search does, and several labels a frame are bounded.
#[test]
fn greedy_and_beam() {
    let (model, _) = seeded(&small(), 5);
    let lengths = [60, 33];
    let encoded = encoded(&model, &lengths);
    let one = greedy(&model, &encoded, 3).unwrap();
    let wide = Beam { width: 8, max_symbols: 3 }.search(&model, &encoded).unwrap();
    for (b, (one, wide)) in one.iter().zip(&wide).enumerate() {
        assert!(one.frames.is_sorted() && one.frames.iter().all(|t| *t < encoded.lengths[b]));
        let most = encoded.lengths[b] * 3;
        assert!(one.labels.len() <= most && wide[0].labels.len() <= most);
        assert!(!one.labels.contains(&0));
        assert!(one.labels.is_empty() == (one.confidence == 0.0) && one.confidence <= 1.0);
        let same = wide.iter().find(|h| h.labels == one.labels);
        assert!(same.is_none_or(|same| same.log_prob <= wide[0].log_prob));
    }
    // One label a frame at most: a frame that would say more goes on to the next.
    for found in greedy(&model, &encoded, 1).unwrap() {
        assert!(found.frames.windows(2).all(|pair| pair[0] < pair[1]));
    }
    // In the padding of a batch nothing is heard.
    let alone = Encoded {
        frames: encoded.frames.narrow(0, 1, 1).unwrap(),
        lengths: vec![encoded.lengths[1]],
    };
    assert_eq!(greedy(&model, &alone, 3).unwrap()[0], one[1]);
}
