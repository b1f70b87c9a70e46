//! FAdam's parts: all of them are FAdam and none is Adam, bit for bit; every mixture is what a loop of plain numbers says;
//! no switch is without effect.

#[allow(dead_code, reason = "each test program uses some of it")]
#[path = "common/golden.rs"]
mod golden;

use candle_core::{DType, Device, Tensor, Var};
use fadam_core::{
    AnyConfig, AnyOptimizer, Backend, FAdamConfig, Gradients, Group, Measures, NamedVars,
    PartsConfig, StateFormat,
};
use golden::{goldens, max_abs, max_difference, values};

/// The config with the switches, in the order of its table.
fn with(switches: [bool; 5], config: &PartsConfig) -> PartsConfig {
    let [natural_momentum, no_bias_correction, adaptive_epsilon, clip_natural_gradient, decay] =
        switches;
    PartsConfig {
        natural_momentum,
        no_bias_correction,
        adaptive_epsilon,
        clip_natural_gradient,
        fisher_weight_decay: decay,
        ..config.clone()
    }
}

fn all_switches() -> impl Iterator<Item = [bool; 5]> {
    (0..32).map(|bits| std::array::from_fn(|k| bits >> k & 1 == 1))
}

fn optimizer(config: &AnyConfig, theta: &Tensor, backend: Backend) -> (Var, AnyOptimizer) {
    let w = Var::from_tensor(theta).unwrap();
    let vars = NamedVars::from_iter([("w".to_owned(), w.clone())]);
    (w, AnyOptimizer::from_named(vars, config.clone()).unwrap().backend(backend))
}

fn step(optimizer: &mut AnyOptimizer, g: Tensor) {
    optimizer.step_named(&Gradients::from([("w".to_owned(), g)])).unwrap();
}

/// θ, m, the FIM and the measures, as bits.
fn bits(w: &Var, optimizer: &AnyOptimizer) -> (Vec<u64>, Measures) {
    let state = [optimizer.momentum("w").unwrap(), optimizer.fim("w").unwrap()];
    let all = [values(w), values(&state[0]), values(&state[1])].concat();
    (all.iter().map(|x| x.to_bits()).collect(), optimizer.report().unwrap().tensors[0].measures)
}

#[test]
fn all_parts_are_fadam_and_none_is_adam_bit_for_bit_on_every_golden() {
    let mut seen = [0, 0];
    for golden in goldens() {
        let parts = match &golden.config {
            AnyConfig::FAdam(config) => PartsConfig::from(config.clone()),
            AnyConfig::Adam(config) => PartsConfig::from(config.clone()),
            _ => continue,
        };
        seen[usize::from(parts.natural_momentum)] += 1;
        for (dtype, backend) in [
            (DType::F64, Backend::Reference),
            (DType::F64, Backend::Fused),
            (DType::F32, Backend::Reference),
            (DType::F32, Backend::Fused),
        ] {
            let theta0 = golden.tensors["theta0"].to_dtype(dtype).unwrap();
            let grads = golden.tensors["grads"].to_dtype(dtype).unwrap();
            let (w, mut one) = optimizer(&golden.config, &theta0, backend);
            let (v, mut other) = optimizer(&parts.clone().into(), &theta0, backend);
            for k in 0..grads.dims()[0] {
                step(&mut one, grads.get(k).unwrap());
                step(&mut other, grads.get(k).unwrap());
                let at = format!("{} {dtype:?} {backend:?} step {}", golden.name, k + 1);
                assert!(bits(&w, &one) == bits(&v, &other), "{at}");
            }
        }
        // And they are the numbers of the paper's transcription.
        let through_parts = golden::Golden { config: parts.into(), ..golden };
        through_parts.check(Backend::Reference, &Device::Cpu, DType::F64);
    }
    assert_eq!(seen, [3, 23], "goldens of Adam and of FAdam");
}

/// The table of `PartsConfig`, in plain numbers.
struct Plain {
    config: PartsConfig,
    t: i32,
    theta: Vec<f64>,
    m: Vec<f64>,
    /// Uncorrected, from 0: f / (1 − β2^t) is the FIM, of Algorithm 1 too.
    f: Vec<f64>,
}

impl Plain {
    fn step(&mut self, g: &[f64]) {
        let c = self.config.clone();
        let n = g.len() as f64;
        let rms = |x: &[f64]| (x.iter().map(|v| v * v).sum::<f64>() / n).sqrt();
        let too_large = |x: &[f64]| c.clip.map_or(1.0, |c| (rms(x) / c).max(1.0));
        self.t += 1;
        let mut eps_hat = c.eps;
        if c.adaptive_epsilon {
            eps_hat = eps_hat.min(c.eps2.unwrap() * rms(g));
        }
        let mut d = Vec::new();
        for (f, g) in self.f.iter_mut().zip(g) {
            *f = c.beta2 * *f + (1.0 - c.beta2) * g * g;
            d.push((*f / (1.0 - c.beta2.powi(self.t))).powf(c.rho) + eps_hat.powf(2.0 * c.rho));
        }
        let natural: Vec<f64> = g.iter().zip(&d).map(|(g, d)| g / d).collect();
        let shrunk = if c.clip_natural_gradient { too_large(&natural) } else { 1.0 };
        let mut g_bar = Vec::new();
        for i in 0..g.len() {
            let averaged = if c.natural_momentum { natural[i] } else { g[i] };
            self.m[i] = c.beta1 * self.m[i] + (1.0 - c.beta1) * averaged / shrunk;
            let mut used = self.m[i];
            if !c.no_bias_correction {
                used /= 1.0 - c.beta1.powi(self.t);
            }
            g_bar.push(if c.natural_momentum { used } else { used / d[i] });
        }
        let shrunk = if c.clip_natural_gradient { 1.0 } else { too_large(&g_bar) };
        let mut decay = self.theta.clone();
        if c.fisher_weight_decay {
            decay = decay.iter().zip(&d).map(|(theta, d)| theta / d).collect();
            let shrunk = too_large(&decay);
            for w in &mut decay {
                *w /= shrunk;
            }
        }
        for i in 0..g.len() {
            self.theta[i] -= c.lr * (g_bar[i] / shrunk + c.weight_decay * decay[i]);
        }
    }
}

/// Gradients of 7 numbers so small that ε counts, and so uneven from step to step that clipping and the order of
/// division and average do.
fn gradient(t: usize) -> Vec<f64> {
    let scale = [3e-9, 2e-7, 1e-9, 4e-8, 3e-7, 1e-8][t];
    (0..7).map(|i| scale * ((3 * i + 5 * t + i * t) as f64).sin()).collect()
}

const STEPS: usize = 6;

fn theta0() -> Vec<f64> {
    (0..7).map(|i| 0.3 * f64::from(i * i).cos()).collect()
}

/// Hyper-parameters that let every part be seen.
fn visible(rho: f64, clip: Option<f64>) -> PartsConfig {
    let eps2 = Some(0.03);
    PartsConfig { lr: 0.01, beta2: 0.9, eps2, clip, weight_decay: 0.1, rho, ..PartsConfig::none() }
}

#[test]
fn every_mixture_is_what_plain_numbers_say() {
    for switches in all_switches() {
        for (rho, clip) in [(0.5, Some(0.7)), (0.5, None), (0.4, Some(0.7)), (1.0, Some(0.7))] {
            let config = with(switches, &visible(rho, clip));
            let theta = Tensor::new(theta0(), &Device::Cpu).unwrap();
            let (w, mut ours) = optimizer(&config.clone().into(), &theta, Backend::Fused);
            let zeros = vec![0.0; 7];
            let mut plain = Plain { config, t: 0, theta: theta0(), m: zeros.clone(), f: zeros };
            for t in 0..STEPS {
                step(&mut ours, Tensor::new(gradient(t), &Device::Cpu).unwrap());
                plain.step(&gradient(t));
                let at = format!("{switches:?} rho {rho} clip {clip:?} step {}", t + 1);
                let travelled = max_difference(&plain.theta, &theta0());
                let off = max_difference(&values(&w), &plain.theta);
                assert!(off <= 1e-12 * travelled.max(1e-3), "{at}: theta is off by {off:e}");
                let off = max_difference(&values(&ours.momentum("w").unwrap()), &plain.m);
                assert!(off <= 1e-12 * max_abs(&plain.m), "{at}: m is off by {off:e}");
                let fim = values(&ours.fim("w").unwrap());
                for (ours, f) in fim.iter().zip(&plain.f) {
                    let f = f / (1.0 - 0.9f64.powf((t + 1) as f64));
                    assert!((ours - f).abs() <= 1e-12 * f, "{at}: fim {ours:e}, not {f:e}");
                }
            }
        }
    }
}

/// Whatever the other switches are, each changes where a run ends by far more than rounding.
#[test]
fn no_switch_is_without_effect() {
    let end = |switches| {
        let config = with(switches, &visible(0.5, Some(0.7)));
        let theta = Tensor::new(theta0(), &Device::Cpu).unwrap();
        let (w, mut ours) = optimizer(&config.into(), &theta, Backend::Reference);
        for t in 0..STEPS {
            step(&mut ours, Tensor::new(gradient(t), &Device::Cpu).unwrap());
        }
        values(&w)
    };
    for switches in all_switches() {
        for k in 0..5 {
            let mut turned = switches;
            turned[k] = !turned[k];
            let apart = max_difference(&end(switches), &end(turned));
            let travelled = max_difference(&end(switches), &theta0());
            assert!(apart > 1e-3 * travelled, "switch {k} of {switches:?}: {apart:e}");
        }
    }
}

/// A state is saved and read again in mid-run with the same bits after it, in f32, bf16 and 8 bits too; and it is that
/// of the algorithm whose momentum it has.
#[test]
fn states_go_on_and_are_those_of_the_algorithm_whose_momentum_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.safetensors");
    let noise = |seed: usize| {
        let values =
            (0..4100).map(|i| ((i * 7 + seed * 13) as f32 * 0.7).sin()).collect::<Vec<_>>();
        Tensor::from_vec(values, 4100, &Device::Cpu).unwrap()
    };
    let formats = [StateFormat::Full, StateFormat::Bf16, StateFormat::Blocks8];
    for (k, switches) in all_switches().enumerate() {
        let config = AnyConfig::from(with(switches, &PartsConfig::default()));
        let new = |theta: &Tensor| {
            let (w, optimizer) = optimizer(&config, theta, Backend::Fused);
            let group = Group::new("*").state(formats[k % 3]);
            (w, optimizer.groups(vec![group]).unwrap())
        };
        let (w, mut whole) = new(&noise(0));
        for t in 1..3 {
            step(&mut whole, noise(t));
        }
        whole.save(&file).unwrap();
        let (v, mut second) = new(&w.copy().unwrap()); // of a variable itself there would be no second
        second.load(&file).unwrap();
        for t in 3..5 {
            step(&mut whole, noise(t));
            step(&mut second, noise(t));
        }
        assert!(bits(&w, &whole) == bits(&v, &second), "{switches:?}");

        let [own, other] = if switches[0] { ["fadam", "adam"] } else { ["adam", "fadam"] };
        let fits = |name: &str| {
            let config = AnyConfig::named(name).unwrap();
            let (_, mut plain) = optimizer(&config, &noise(0), Backend::Fused);
            plain.load(&file).map_err(|e| e.to_string())
        };
        fits(own).unwrap();
        let refused = fits(other).unwrap_err();
        assert!(
            refused.contains(&format!("a state of {own}, this optimizer is {other}")),
            "{refused}"
        );
    }
}

#[test]
fn the_momentum_cannot_be_exchanged_in_mid_run_and_other_parts_can() {
    let (_, mut ours) = optimizer(
        &PartsConfig::default().into(),
        &Tensor::new(theta0(), &Device::Cpu).unwrap(),
        Backend::Fused,
    );
    step(&mut ours, Tensor::new(gradient(1), &Device::Cpu).unwrap());
    let other = PartsConfig { natural_momentum: false, ..Default::default() };
    let refused = ours.set_config(other.into()).unwrap_err().to_string();
    assert!(refused.contains("its state is of fadam, not of adam"), "{refused}");
    let other = PartsConfig { fisher_weight_decay: false, ..Default::default() };
    ours.set_config(other.into()).unwrap();
    ours.set_config(FAdamConfig::default().into()).unwrap();
    step(&mut ours, Tensor::new(gradient(2), &Device::Cpu).unwrap());
}

#[test]
fn a_config_is_written_and_read_with_its_switches() {
    let config: AnyConfig = serde_json::from_str(
        r#"{"algorithm": "fadam-parts", "natural_momentum": false, "clip": "off", "rho": 0.4}"#,
    )
    .unwrap();
    let expected =
        PartsConfig { natural_momentum: false, clip: None, rho: 0.4, ..Default::default() };
    assert_eq!(config, expected.into());
    let again: AnyConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    let misspelt = r#"{"algorithm": "fadam-parts", "natural_momentun": false}"#;
    assert!(serde_json::from_str::<AnyConfig>(misspelt).is_err());
    let impossible = PartsConfig { rho: f64::NAN, ..Default::default() };
    let w = Var::zeros(1, DType::F32, &Device::Cpu).unwrap();
    let vars = NamedVars::from_iter([("w".to_owned(), w)]);
    let refused = AnyOptimizer::from_named(vars, impossible.into()).unwrap_err().to_string();
    assert!(refused.contains("rho"), "{refused}");
}
