//! The ViT VQ-VAE: losses, gradients and pictures against PyTorch, evaluation, counts, restarts, and what is refused.

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use fadam_models::init::SeededVars;
use fadam_models::vqvae::{CodeCounts, ReconstructionLoss, TowerConfig, VqVae, VqVaeConfig};

const LOSSES: [ReconstructionLoss; 3] =
    [ReconstructionLoss::CrossEntropy, ReconstructionLoss::L2, ReconstructionLoss::L2LogitLaplace];

/// The model of `goldens/make_vqvae.py`.
fn small(loss: ReconstructionLoss) -> VqVaeConfig {
    VqVaeConfig {
        image: 6,
        patch: 2,
        encoder: TowerConfig { layers: 2, d_model: 8, heads: 2, mlp: 12 },
        decoder: TowerConfig { layers: 1, d_model: 4, heads: 2, mlp: 10 },
        final_norm: loss == ReconstructionLoss::CrossEntropy,
        codes: 6,
        code_width: 3,
        loss,
        l2_weight: 1.5,
        logit_laplace_weight: 0.3,
        ..VqVaeConfig::tiny()
    }
}

fn seeded(config: &VqVaeConfig, dtype: DType) -> (VqVae, BTreeMap<String, Var>) {
    let vars = SeededVars::new(3);
    let model = VqVae::new(config, &vars.builder(dtype, &Device::Cpu)).unwrap();
    (model, vars.into_named())
}

fn model_of(config: &VqVaeConfig, tensors: HashMap<String, Tensor>, dtype: DType) -> VqVae {
    VqVae::new(config, &VarBuilder::from_tensors(tensors, dtype, &Device::Cpu)).unwrap()
}

/// Pseudo-random images of 6 × 6.
fn images(count: usize, seed: usize) -> Tensor {
    let value =
        |i: usize| (256.0 * (((i + seed * 977 + 1) * 7919) as f64 * 0.618_033_988_7).fract()) as u8;
    let values: Vec<u8> = (0..count * 3 * 36).map(value).collect();
    Tensor::from_vec(values, (count, 3, 6, 6), &Device::Cpu).unwrap()
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let off = |(a, b): (f64, f64)| if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() };
    numbers(a).into_iter().zip(numbers(b)).map(off).fold(0.0, f64::max)
}

type Golden = HashMap<String, Tensor>;

fn golden(loss: ReconstructionLoss) -> Golden {
    let name = match loss {
        ReconstructionLoss::CrossEntropy => "cross-entropy",
        ReconstructionLoss::L2 => "l2",
        ReconstructionLoss::L2LogitLaplace => "l2+logit-laplace",
    };
    let file = format!("{}/tests/goldens/vqvae-{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

/// Its parameters, as variables.
fn variables(golden: &Golden) -> (BTreeMap<String, Var>, HashMap<String, Tensor>) {
    let var = |(name, x): (&String, &Tensor)| {
        let name = name.strip_prefix("param.")?;
        Some((name.to_owned(), Var::from_tensor(&x.to_dtype(DType::F64).unwrap()).unwrap()))
    };
    let vars: BTreeMap<String, Var> = golden.iter().filter_map(var).collect();
    let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    (vars, tensors)
}

/// Every gradient that PyTorch has, and no other.
fn compare(vars: &BTreeMap<String, Var>, gradients: &GradStore, golden: &Golden, of: &str) {
    for (name, var) in vars {
        let wanted = golden.get(&format!("{of}.{name}"));
        match (gradients.get(var), wanted) {
            (Some(ours), Some(wanted)) => {
                let off = difference(ours, wanted);
                assert!(off < 1e-10, "{of}: the gradient of {name} is off by {off:e}");
            }
            (None, None) => {}
            (ours, _) => panic!("{of}: {name} has a gradient: {}", ours.is_some()),
        }
    }
    assert!(vars.keys().any(|name| golden.contains_key(&format!("{of}.{name}"))));
}

/// Losses, the gradients of reconstruction and auxiliary loss one by one and together, and pictures.
#[test]
fn losses_gradients_and_pictures_are_pytorchs() {
    for loss in LOSSES {
        let golden = golden(loss);
        let (vars, tensors) = variables(&golden);
        assert_eq!(vars.len(), golden.keys().filter(|name| name.starts_with("param.")).count());
        let model = model_of(&small(loss), tensors, DType::F64);
        let losses = model.losses(&golden["images"]).unwrap();
        let indices = losses.indices.to_dtype(DType::I64).unwrap();
        assert_eq!(difference(&indices, &golden["indices"]), 0.0);
        let reconstruction = &losses.reconstruction;
        let [ce, l2, laplace] =
            [&reconstruction.cross_entropy, &reconstruction.l2, &reconstruction.logit_laplace];
        let has = [ce.is_some(), l2.is_some(), laplace.is_some()];
        let (wanted, parts) = match loss {
            ReconstructionLoss::CrossEntropy => {
                ([true, false, false], [("reconstruction", ce), ("reconstruction", ce)])
            }
            ReconstructionLoss::L2 => {
                ([false, true, false], [("reconstruction", l2), ("reconstruction", l2)])
            }
            ReconstructionLoss::L2LogitLaplace => {
                ([false, true, true], [("l2", l2), ("logit_laplace", laplace)])
            }
        };
        assert_eq!(has, wanted, "{loss:?}");
        let all = [
            ("reconstruction", &reconstruction.objective),
            ("codebook", &losses.codebook),
            ("commitment", &losses.commitment),
        ];
        let parts = parts.map(|(name, part)| (name, part.as_ref().unwrap()));
        for (name, ours) in all.into_iter().chain(parts) {
            let off = difference(ours, &golden[name]);
            assert!(off < 1e-11, "{loss:?}: {name} is off by {off:e}");
        }
        let of_images = fadam_ops::backward(&reconstruction.objective).unwrap();
        compare(&vars, &of_images, &golden, "reconstruction");
        let auxiliary = fadam_ops::backward(&losses.auxiliary().unwrap()).unwrap();
        compare(&vars, &auxiliary, &golden, "auxiliary");
        let total = model.losses(&golden["images"]).unwrap().total().unwrap();
        let total = fadam_ops::backward(&total).unwrap();
        for (name, var) in &vars {
            let parts = [&of_images, &auxiliary].into_iter().filter_map(|g| g.get(var));
            let sum = parts.fold(var.zeros_like().unwrap(), |sum, g| (sum + g).unwrap());
            assert!(difference(total.get(var).unwrap(), &sum) < 1e-12, "{loss:?}: {name}");
        }
        pictures(&model, &golden);
    }
}

/// Rounded, and cut to what a channel holds.
fn pictures(model: &VqVae, golden: &Golden) {
    let of = model.reconstruct(&golden["images"]).unwrap();
    let wanted: Vec<f64> =
        numbers(&golden["expected"]).iter().map(|x| x.round().clamp(0.0, 255.0)).collect();
    assert_eq!(of.pictures.expected.dtype(), DType::U8);
    assert_eq!(of.pictures.expected.dims(), golden["images"].dims());
    assert_eq!(numbers(&of.pictures.expected), wanted);
    assert_eq!(of.pictures.likeliest.is_some(), golden.contains_key("likeliest"));
    if let Some(likeliest) = &of.pictures.likeliest {
        assert_eq!(numbers(likeliest), numbers(&golden["likeliest"]));
    }
    // Indices are all that the decoder needs.
    let indices = model.encode(&golden["images"]).unwrap();
    assert_eq!(difference(&indices, &of.indices), 0.0);
    let again = model.decode(&indices).unwrap();
    assert_eq!(difference(&again.expected, &of.pictures.expected), 0.0);
}

/// A model of constants says what the one that trains says, bit by bit, and in f32 what it says in f64.
#[test]
fn evaluation_is_the_forward_pass_of_training() {
    for loss in LOSSES {
        let mut of_dtypes = Vec::new();
        for dtype in [DType::F32, DType::F64] {
            let (trained, vars) = seeded(&small(loss), dtype);
            let constants =
                vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
            let evaluated = model_of(&small(loss), constants, dtype);
            let batch = images(4, 1);
            let [a, b] = [&trained, &evaluated].map(|model| model.losses(&batch).unwrap());
            let pairs = [
                (&a.reconstruction.objective, &b.reconstruction.objective),
                (&a.codebook, &b.codebook),
                (&a.commitment, &b.commitment),
                (&a.indices, &b.indices),
                (&a.latents, &b.latents),
            ];
            for (a, b) in pairs {
                assert_eq!(difference(a, b), 0.0, "{loss:?}");
            }
            assert!(!b.reconstruction.objective.track_op());
            of_dtypes.push(a.reconstruction.objective.detach());
        }
        assert!(difference(&of_dtypes[0], &of_dtypes[1]) < 1e-5, "{loss:?}");
    }
}

/// An image's codes and pictures do not depend on the batch that it is in.
#[test]
fn images_do_not_meet() {
    let (model, _) = seeded(&small(ReconstructionLoss::CrossEntropy), DType::F64);
    let batch = images(3, 2);
    let together = model.reconstruct(&batch).unwrap();
    for i in 0..3 {
        let alone = model.reconstruct(&batch.narrow(0, i, 1).unwrap()).unwrap();
        let same = |a: &Tensor, b: &Tensor| difference(a, &b.narrow(0, i, 1).unwrap());
        assert_eq!(same(&alone.indices, &together.indices), 0.0);
        assert_eq!(same(&alone.pictures.expected, &together.pictures.expected), 0.0);
    }
}

#[test]
fn a_checkpointed_model_has_the_same_bits() {
    for loss in LOSSES {
        let run = |checkpoint| {
            let (model, vars) = seeded(&VqVaeConfig { checkpoint, ..small(loss) }, DType::F32);
            let total = model.losses(&images(2, 3)).unwrap().total().unwrap();
            let gradients = fadam_ops::backward(&total).unwrap();
            let of =
                |(name, var): (&String, &Var)| (name.clone(), gradients.get(var).unwrap().clone());
            vars.iter().map(of).collect::<Vec<_>>()
        };
        for ((name, a), (_, b)) in run(false).iter().zip(&run(true)) {
            assert_eq!(difference(a, b), 0.0, "{loss:?}: {name}");
        }
    }
}

#[test]
fn counts_are_those_of_the_formula() {
    let presets = [
        (VqVaeConfig::tiny(), [2_408_224, 829_264, 835_456]),
        (VqVaeConfig::small(), [19_043_872, 6_461_152, 6_510_496]),
        (VqVaeConfig::paper_100m(), [148_436_768, 110_786_528, 110_934_176]),
    ];
    for (preset, wanted) in presets {
        for (loss, wanted) in LOSSES.into_iter().zip(wanted) {
            let config = VqVaeConfig { loss, ..preset.clone() };
            config.check().unwrap();
            assert_eq!(config.num_params(), wanted, "{config:?}");
        }
    }
    for loss in LOSSES {
        for config in [
            small(loss),
            VqVaeConfig { restart: 5, ..small(loss) },
            VqVaeConfig { loss, ..VqVaeConfig::tiny() },
        ] {
            let (_, vars) = seeded(&config, DType::F32);
            let params = vars.iter().filter(|(name, _)| !VqVae::is_buffer(name));
            assert_eq!(params.map(|(_, var)| var.elem_count()).sum::<usize>(), config.num_params());
            let buffers = vars.keys().filter(|name| VqVae::is_buffer(name)).count();
            assert_eq!(buffers, usize::from(config.restart > 0));
        }
    }
}

/// One patch and one pixel a patch, a decoder of its own width, and a batch of one.
#[test]
fn odd_sizes_train() {
    for loss in LOSSES {
        for (image, patch) in [(3, 3), (3, 1)] {
            let config = VqVaeConfig { image, patch, ..small(loss) };
            config.check().unwrap();
            let (model, vars) = seeded(&config, DType::F32);
            let batch = images(1, 4).narrow(2, 0, 3).unwrap().narrow(3, 0, 3).unwrap();
            let gradients =
                fadam_ops::backward(&model.losses(&batch).unwrap().total().unwrap()).unwrap();
            for (name, var) in &vars {
                let g = gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
                assert!(numbers(g).iter().all(|g| g.is_finite()), "{name}");
            }
        }
    }
}

/// A step along the gradient makes the loss smaller by what the gradient says: nothing is trained twice or with a wrong sign. The codes stay
/// as they are, so that reconstructions change with the decoder alone.
#[test]
fn descent_descends() {
    for loss in LOSSES {
        let (model, vars) = seeded(&small(loss), DType::F64);
        let batch = images(4, 5);
        let of = || model.losses(&batch).unwrap().reconstruction.objective;
        let before = of();
        let gradients = fadam_ops::backward(&before).unwrap();
        let mut expected = 0.0;
        for (name, var) in &vars {
            if !name.starts_with("decoder.") && !name.starts_with("quantizer.up") {
                continue;
            }
            let g = gradients.get(var).unwrap();
            expected += 1e-6 * numbers(&g.sqr().unwrap().sum_all().unwrap())[0];
            var.set(&(var.as_tensor() - (g * 1e-6).unwrap()).unwrap()).unwrap();
        }
        let gain = numbers(&before)[0] - numbers(&of())[0];
        assert!(
            expected > 0.0 && (gain / expected - 1.0).abs() < 1e-3,
            "{loss:?}: {gain} {expected}"
        );
    }
}

/// A code that no patch had for `restart` steps becomes a latent of the batch; the others, and everything else, stay as they are.
#[test]
fn dead_codes_begin_anew() {
    let config = VqVaeConfig { restart: 2, codes: 40, ..small(ReconstructionLoss::L2) };
    let run = |seed: u64| {
        let (model, vars) = seeded(&config, DType::F32);
        let codes = || vars["quantizer.codes"].to_vec2::<f32>().unwrap();
        let losses = model.losses(&images(2, 6)).unwrap();
        let used: Vec<u32> = losses.indices.flatten_all().unwrap().to_vec1().unwrap();
        let latents = losses.latents.reshape(((), 3)).unwrap().to_vec2::<f32>().unwrap();
        let dead = (0..40).filter(|k| !used.contains(k)).count();
        assert!(dead > 20);
        let first = codes();
        assert_eq!(model.restart_dead_codes(&losses, seed).unwrap(), 0);
        assert_eq!(codes(), first);
        assert_eq!(model.restart_dead_codes(&losses, seed).unwrap(), dead);
        for (k, (now, before)) in (0..).zip(codes().iter().zip(&first)) {
            if used.contains(&k) {
                assert_eq!(now, before);
            } else {
                assert!(latents.contains(now), "code {k}");
            }
        }
        // Counted from then on.
        assert!(vars["quantizer.steps_unused"].to_vec1::<f32>().unwrap().iter().all(|n| *n == 0.0));
        assert_eq!(model.restart_dead_codes(&losses, seed).unwrap(), 0);
        codes()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    // Never without the key, and not of a model that cannot change.
    let (model, vars) = seeded(&small(ReconstructionLoss::L2), DType::F32);
    let losses = model.losses(&images(2, 6)).unwrap();
    assert!((0..5).all(|seed| model.restart_dead_codes(&losses, seed).unwrap() == 0));
    assert!(!vars.contains_key("quantizer.steps_unused"));
    let (_, vars) = seeded(&config, DType::F32);
    let constants =
        vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    let err = model_of(&config, constants, DType::F32).restart_dead_codes(&losses, 1).unwrap_err();
    assert!(err.to_string().contains("constants"), "{err}");
}

#[test]
fn use_of_codes() {
    let mut counts = CodeCounts::new(4);
    assert_eq!((counts.used(), counts.perplexity()), (0, 1.0));
    counts.add(&Tensor::new(&[[0u32, 0, 0], [1, 1, 2]], &Device::Cpu).unwrap()).unwrap();
    let entropy = 0.5 * 2f64.ln() + 3f64.ln() / 3.0 + 6f64.ln() / 6.0;
    assert!((counts.perplexity() - entropy.exp()).abs() < 1e-12);
    assert_eq!((counts.used(), counts.usage()), (3, 0.75));
    let before = counts.clone();
    let err = counts.add(&Tensor::new(&[3u32, 4], &Device::Cpu).unwrap()).unwrap_err();
    assert!(err.to_string().contains("index 4 among 4 codes"), "{err}");
    assert_eq!(counts, before);
    counts.add(&Tensor::new(&[3u32], &Device::Cpu).unwrap()).unwrap();
    assert_eq!((counts.counts(), counts.usage()), (&[3, 2, 1, 1][..], 1.0));
}

#[test]
fn impossible_dimensions_are_named() {
    let fine = || small(ReconstructionLoss::L2LogitLaplace);
    let tower = |layers, d_model, heads, mlp| TowerConfig { layers, d_model, heads, mlp };
    let refused = [
        ("image", VqVaeConfig { image: 0, ..fine() }),
        ("patch", VqVaeConfig { patch: 0, ..fine() }),
        ("patch", VqVaeConfig { patch: 4, ..fine() }),
        ("code_width", VqVaeConfig { code_width: 0, ..fine() }),
        ("codes", VqVaeConfig { codes: 1, ..fine() }),
        ("codes", VqVaeConfig { codes: 1 << 32, ..fine() }),
        ("encoder.layers", VqVaeConfig { encoder: tower(0, 8, 2, 8), ..fine() }),
        ("encoder.d_model", VqVaeConfig { encoder: tower(1, 6, 2, 8), ..fine() }),
        ("encoder.heads", VqVaeConfig { encoder: tower(1, 8, 3, 8), ..fine() }),
        ("decoder.heads", VqVaeConfig { decoder: tower(1, 8, 0, 8), ..fine() }),
        ("decoder.mlp", VqVaeConfig { decoder: tower(1, 8, 2, 0), ..fine() }),
        ("beta", VqVaeConfig { beta: f64::NAN, ..fine() }),
        ("beta", VqVaeConfig { beta: -0.1, ..fine() }),
        ("l2_weight", VqVaeConfig { l2_weight: f64::INFINITY, ..fine() }),
        ("logit_laplace_weight", VqVaeConfig { logit_laplace_weight: -1.0, ..fine() }),
        ("l2_weight", VqVaeConfig { l2_weight: 0.0, logit_laplace_weight: 0.0, ..fine() }),
    ];
    for (field, config) in refused {
        assert_eq!(config.check().unwrap_err().field, field, "{config:?}");
    }
    fine().check().unwrap();
    VqVaeConfig { l2_weight: 0.0, ..fine() }.check().unwrap();
}

#[test]
fn other_inputs_are_refused() {
    let (model, _) = seeded(&small(ReconstructionLoss::CrossEntropy), DType::F32);
    let refused = |result: candle_core::Result<()>, said: &[&str]| {
        let err = result.unwrap_err().to_string();
        assert!(said.iter().all(|said| err.contains(said)), "{err}");
    };
    let losses = |images: &Tensor| model.losses(images).map(|_| ());
    let floats = images(2, 1).to_dtype(DType::F32).unwrap();
    refused(losses(&floats), &["F32", "u8"]);
    refused(losses(&images(2, 1).narrow(1, 0, 1).unwrap()), &["[2, 1, 6, 6]", "[B, 3, 6, 6]"]);
    refused(losses(&images(2, 1).narrow(2, 0, 4).unwrap()), &["[2, 3, 4, 6]"]);
    refused(losses(&images(2, 1).flatten_all().unwrap()), &["[216]"]);
    refused(losses(&images(2, 1).narrow(0, 0, 0).unwrap()), &["vector_quantize", "no row"]);
    let decode = |indices: Vec<u32>, shape: (usize, usize)| {
        model.decode(&Tensor::from_vec(indices, shape, &Device::Cpu).unwrap()).map(|_| ())
    };
    refused(decode(vec![0; 8], (1, 8)), &["[1, 8]", "[B, 9]"]);
    let mut indices = vec![5; 18];
    decode(indices.clone(), (2, 9)).unwrap();
    indices[13] = 6;
    refused(decode(indices, (2, 9)), &["index 6", "patch 4 of image 1", "6 codes"]);
}
