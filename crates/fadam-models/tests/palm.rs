//! The decoder: loss and every gradient against PyTorch, causality, counts, and generation.

use std::collections::{BTreeMap, HashMap};

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::generation::{LogitsProcessor, Sampling};
use fadam_models::init::SeededVars;
use fadam_models::llm::{Cache, Compute, Init, Palm, PalmConfig, Tokens, generate};

fn small() -> PalmConfig {
    PalmConfig { layers: 2, d_model: 16, heads: 2, d_ff: 24, seq_len: 8, ..Default::default() }
}

fn seeded(config: &PalmConfig, vocab: usize, dtype: DType) -> (Palm, SeededVars) {
    let vars = SeededVars::new(1);
    let model = Palm::new(config, vocab, &vars.builder(dtype, &Device::Cpu)).unwrap();
    (model, vars)
}

fn ids(row: [u32; 8]) -> Tensor {
    Tensor::new(&[row], &Device::Cpu).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let off = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
    off.abs().unwrap().flatten_all().unwrap().max(D::Minus1).unwrap().to_scalar().unwrap()
}

fn scalar(x: &Tensor) -> f64 {
    x.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

/// `goldens/palm.safetensors`, from PyTorch 2.11 in float64: the decoder with tied embedding, RMS norm
/// (eps 1e-6), RoPE on split halves, one key/value head, SwiGLU with the gate first, no logit scale, mean
/// cross-entropy. `param.*` and `grad.*` by our names, `tokens [3, 9]`, `loss []`.
fn golden() -> HashMap<String, Tensor> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/palm.safetensors");
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

#[test]
fn loss_and_gradients_are_pytorchs() {
    let config = PalmConfig { logit_scale: false, z_loss: 0.0, ..small() };
    let golden = golden();
    let vars: BTreeMap<String, candle_core::Var> = golden
        .iter()
        .filter_map(|(name, x)| {
            let name = name.strip_prefix("param.")?;
            Some((name.to_owned(), candle_core::Var::from_tensor(x).unwrap()))
        })
        .collect();
    let tensors: HashMap<String, Tensor> =
        vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
    let model = Palm::new(&config, 50, &vb).unwrap();
    let tokens = golden["tokens"].to_dtype(DType::U32).unwrap();
    let tokens = Tokens {
        inputs: tokens.narrow(1, 0, 8).unwrap(),
        targets: tokens.narrow(1, 1, 8).unwrap(),
    };
    let losses = model.losses(&tokens).unwrap();
    let off = (scalar(&losses.objective) - scalar(&golden["loss"])).abs();
    assert!(off < 1e-12, "the loss is off by {off:e}");
    let grads = losses.objective.backward().unwrap();
    for (name, var) in &vars {
        let ours = grads.get(var).unwrap_or_else(|| panic!("no gradient reached {name}"));
        let theirs = &golden[&format!("grad.{name}")];
        let off = difference(ours, theirs);
        let scale = difference(theirs, &theirs.zeros_like().unwrap());
        assert!(off < 1e-10 * scale, "{name}: gradient off by {off:e} of {scale:e}");
    }
}

#[test]
fn every_parameter_gets_a_gradient_and_the_count_is_right() {
    for init in [Init::FanIn, Init::Normal002] {
        let config = PalmConfig { init, ..small() };
        let (model, vars) = seeded(&config, 50, DType::F32);
        let rows = ids([1, 2, 3, 4, 5, 6, 7, 8]);
        let tokens = Tokens { inputs: rows.clone(), targets: rows };
        let losses = model.losses(&tokens).unwrap();
        assert!(scalar(&losses.objective) > scalar(&losses.cross_entropy), "no z-loss");
        let grads = losses.objective.backward().unwrap();
        let vars = vars.into_named();
        for (name, var) in &vars {
            assert!(grads.get(var).is_some(), "no gradient reached {name}");
        }
        let count: usize = vars.values().map(|var| var.elem_count()).sum();
        assert_eq!(count, config.num_params(50));
    }
}

#[test]
fn the_papers_presets_have_their_size() {
    // 16 × 2048, heads 8 × 256, T5's vocabulary: 1.022 B parameters.
    let paper = PalmConfig { layers: 16, d_model: 2048, heads: 8, d_ff: 8192, ..small() };
    assert_eq!(paper.num_params(32128) / 1_000_000, 1022);
    let peer = PalmConfig { layers: 4, d_model: 256, heads: 4, d_ff: 1024, ..small() };
    assert_eq!(peer.num_params(4096) / 10_000, 485);
}

#[test]
fn a_later_token_does_not_change_an_earlier_logit() {
    let (model, _) = seeded(&small(), 50, DType::F32);
    let a = model.forward(&ids([1, 2, 3, 4, 5, 6, 7, 8])).unwrap();
    let b = model.forward(&ids([1, 2, 3, 4, 5, 49, 48, 47])).unwrap();
    let first = |x: &Tensor| x.narrow(1, 0, 5).unwrap();
    let rest = |x: &Tensor| x.narrow(1, 5, 3).unwrap();
    assert!(difference(&first(&a), &first(&b)) < 1e-6);
    assert!(difference(&rest(&a), &rest(&b)) > 1e-3);
    // and a shorter sequence gives the same logits
    let short = Tensor::new(&[[1u32, 2, 3]], &Device::Cpu).unwrap();
    let short = model.forward(&short).unwrap();
    assert!(difference(&short, &a.narrow(1, 0, 3).unwrap()) < 1e-5);
}

#[test]
fn order_matters() {
    let (model, _) = seeded(&small(), 50, DType::F32);
    let a = model.forward(&ids([1, 2, 3, 4, 5, 6, 7, 8])).unwrap();
    let b = model.forward(&ids([2, 1, 3, 4, 5, 6, 7, 8])).unwrap();
    let last = |x: &Tensor| x.narrow(1, 7, 1).unwrap();
    assert!(difference(&last(&a), &last(&b)) > 1e-4, "positions are not seen");
}

#[test]
fn a_fresh_model_knows_nothing() {
    // Logits of about unit variance: cross-entropy near ln V, not far above.
    let vocab = 1000;
    let config = PalmConfig { d_model: 64, d_ff: 128, ..small() };
    for init in [Init::FanIn, Init::Normal002] {
        let (model, _) = seeded(&PalmConfig { init, ..config.clone() }, vocab, DType::F32);
        let rows: Vec<u32> = (0..64).map(|i| i * 37 % 1000).collect();
        let rows = Tensor::from_vec(rows, (8, 8), &Device::Cpu).unwrap();
        let tokens = Tokens { inputs: rows.clone(), targets: rows.roll(1, 0).unwrap() };
        let loss = scalar(&model.losses(&tokens).unwrap().cross_entropy);
        let chance = (vocab as f64).ln();
        assert!(loss > chance - 0.2 && loss < chance + 0.8, "{init:?}: {loss} against {chance}");
    }
}

#[test]
fn weights_depend_on_the_seed_and_the_name_alone() {
    let config = small();
    let weights = |seed: u64, layers: usize| {
        let vars = SeededVars::new(seed);
        let config = PalmConfig { layers, ..config.clone() };
        Palm::new(&config, 50, &vars.builder(DType::F32, &Device::Cpu)).unwrap();
        vars.into_named()["blocks.1.up.weight"].to_vec2::<f32>().unwrap()
    };
    assert_eq!(weights(3, 2), weights(3, 4));
    assert_ne!(weights(3, 2), weights(4, 2));
    let all: Vec<f64> = weights(3, 2).concat().iter().map(|v| f64::from(*v)).collect();
    let n = all.len() as f64;
    let mean = all.iter().sum::<f64>() / n;
    let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    // N(0, 1/√16) in 768 draws: the standard errors are 0.009 and 0.0032.
    assert!(mean.abs() < 0.04 && (variance - 1.0 / 16.0).abs() < 0.013, "{mean} {variance}");
}

#[test]
fn asking_twice_ties_and_another_shape_is_refused() {
    let vars = SeededVars::new(0);
    let vb = vars.builder(DType::F32, &Device::Cpu);
    let first = vb.get((2, 3), "w").unwrap();
    assert_eq!(first.id(), vb.get((2, 3), "w").unwrap().id());
    let err = vb.get((3, 2), "w").unwrap_err().to_string();
    assert!(err.contains("\"w\""), "{err}");
}

#[test]
fn generation_is_seeded_and_stops() {
    let (model, _) = seeded(&small(), 50, DType::F32);
    let run = |seed: u64, eos: u32| {
        let mut sampler = LogitsProcessor::from_sampling(seed, Sampling::All { temperature: 1.0 });
        generate(&model, &[1, 2, 3], 20, eos, &mut sampler).unwrap()
    };
    let text = run(5, u32::MAX);
    assert_eq!(text.len(), 20); // longer than seq_len: the context slides
    assert_eq!(text, run(5, u32::MAX));
    assert_ne!(text, run(6, u32::MAX));
    let at = text.iter().position(|&token| token == text[4]).unwrap();
    assert_eq!(run(5, text[4]), &text[..at]);
}

#[test]
fn impossible_dimensions_name_their_field() {
    let bad = [
        ("layers", PalmConfig { layers: 0, ..small() }),
        ("heads", PalmConfig { heads: 3, ..small() }),
        ("heads", PalmConfig { d_model: 6, heads: 2, ..small() }),
        ("norm_eps", PalmConfig { norm_eps: f64::NAN, ..small() }),
        ("z_loss", PalmConfig { z_loss: -1.0, ..small() }),
    ];
    for (field, config) in bad {
        assert_eq!(config.check().unwrap_err().field, field);
    }
    small().check().unwrap();
}

/// Loss and gradients of a batch, by name.
fn trained(config: &PalmConfig) -> (Tensor, BTreeMap<String, Tensor>) {
    let (model, vars) = seeded(config, 50, DType::F32);
    let rows = ids([1, 2, 3, 4, 5, 6, 7, 8]);
    let tokens = Tokens { inputs: rows.clone(), targets: rows.roll(1, 1).unwrap() };
    let loss = model.losses(&tokens).unwrap().objective;
    let gradients = fadam_ops::backward(&loss).unwrap();
    let vars = vars.into_named().into_iter();
    (loss, vars.map(|(name, var)| (name, gradients.get(&var).unwrap().clone())).collect())
}

#[test]
fn checkpointed_blocks_give_the_same_bits() {
    let (loss, kept) = trained(&small());
    let (again, computed_again) = trained(&PalmConfig { checkpoint: true, ..small() });
    assert_eq!(difference(&loss, &again), 0.0);
    assert_eq!(kept.len(), 2 + 2 * 5);
    for (name, gradient) in &kept {
        assert_eq!(difference(gradient, &computed_again[name]), 0.0, "{name}");
    }
}

#[test]
fn a_checkpoint_needs_the_backward_that_collects() {
    let (model, _) = seeded(&PalmConfig { checkpoint: true, ..small() }, 50, DType::F32);
    let rows = ids([1, 2, 3, 4, 5, 6, 7, 8]);
    let loss = model.losses(&Tokens { inputs: rows.clone(), targets: rows }).unwrap().objective;
    let err = loss.backward().unwrap_err().to_string();
    assert!(err.contains("fadam_ops::backward"), "{err}");
}

#[test]
fn bf16_computes_nearly_the_same_with_f32_gradients() {
    let (loss, gradients) = trained(&small());
    let (rough, rough_gradients) = trained(&PalmConfig { compute: Compute::Bf16, ..small() });
    let off = difference(&loss, &rough);
    assert!(off > 0.0 && off < 0.01 * scalar(&loss), "the loss is off by {off}");
    for (name, gradient) in &gradients {
        let rough = &rough_gradients[name];
        assert_eq!(rough.dtype(), DType::F32, "{name}");
        let (off, size) =
            (difference(gradient, rough), difference(gradient, &gradient.zeros_like().unwrap()));
        assert!(off > 0.0 && off < 0.05 * size, "{name} is off by {off} of {size}");
    }
}

#[test]
fn what_is_read_on_is_what_is_read_at_once() {
    let (model, _) = seeded(&small(), 50, DType::F32);
    let text = [7, 3, 3, 41, 0, 49, 12, 5];
    let whole = model.forward(&ids(text)).unwrap().get(0).unwrap();
    for cut in [vec![1; 8], vec![8], vec![3, 5], vec![5, 1, 2]] {
        let (mut cache, mut at) = (Cache::new(), 0);
        for n in cut {
            let text: Vec<u32> = text[at..at + n].to_vec();
            at += n;
            let logits = model.read(&text, &mut cache).unwrap();
            assert_eq!((logits.dims(), cache.positions()), (&[50][..], at));
            let off = difference(&logits, &whole.get(at - 1).unwrap());
            assert!(off < 2e-6, "after {at} tokens: off by {off}");
        }
    }
    let mut cache = Cache::new();
    model.read(&[1, 2], &mut cache).unwrap();
    for refused in [&[][..], &[50], &[1; 7]] {
        assert!(model.read(refused, &mut cache).is_err());
        assert_eq!(cache.positions(), 2);
    }
}
