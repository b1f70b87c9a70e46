//! Whatever is wrong is an error that names it, and nothing has changed.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Module, Optimizer, VarBuilder, VarMap};
use fadam_core::{
    Adam, Algorithm, AnyConfig, AnyOptimizer, Error, FAdam, FAdamConfig, Gradients, NamedVars,
};

fn two(dtype: DType) -> NamedVars {
    let ones = Tensor::ones((2, 3), dtype, &Device::Cpu).unwrap();
    NamedVars::from_iter(["b", "a"].map(|name| (name.to_owned(), Var::from_tensor(&ones).unwrap())))
}

fn gradients(a: f64, b: f64) -> Gradients {
    let filled = |v: f64| Tensor::full(v, (2, 3), &Device::Cpu).unwrap();
    Gradients::from([("a".to_owned(), filled(a)), ("b".to_owned(), filled(b))])
}

fn snapshot(vars: &NamedVars, optimizer: &AnyOptimizer) -> Vec<Vec<f64>> {
    let values = |x: &Tensor| -> Vec<f64> {
        x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    let mut all = vec![vec![optimizer.steps() as f64]];
    for (name, var) in vars.iter() {
        all.push(values(var));
        all.push(values(&optimizer.momentum(name).unwrap()));
        all.push(values(&optimizer.fim(name).unwrap()));
    }
    all
}

/// Every algorithm refuses these gradients after one good step, and changes nothing.
fn refuses(gradients_of: impl Fn() -> Gradients, expected: &str) {
    for name in AnyConfig::NAMES {
        let vars = two(DType::F32);
        let config = AnyConfig::named(name).unwrap();
        let mut optimizer = AnyOptimizer::from_named(vars.clone(), config).unwrap();
        optimizer.step_named(&gradients(0.1, 0.2)).unwrap();
        let before = snapshot(&vars, &optimizer);
        let err = optimizer.step_named(&gradients_of()).unwrap_err().to_string();
        assert!(err.contains(expected), "{name}: {err}");
        assert_eq!(snapshot(&vars, &optimizer), before, "{name} changed something");
    }
}

#[test]
fn missing_gradient() {
    refuses(
        || gradients(1.0, 1.0).into_iter().filter(|(name, _)| name == "a").collect(),
        "no gradient for [\"b\"]",
    );
    refuses(Gradients::new, "no gradient for [\"a\", \"b\"]");
}

#[test]
fn non_finite_gradient() {
    // The bad gradient is that of the last parameter: the first must not have moved.
    refuses(|| gradients(1.0, f64::NAN), "the gradient of \"b\" is not finite");
    refuses(|| gradients(1.0, f64::INFINITY), "the gradient of \"b\" is not finite");
    refuses(|| gradients(f64::NEG_INFINITY, 1.0), "the gradient of \"a\" is not finite");
}

#[test]
fn gradient_whose_square_overflows_the_state() {
    // An infinite f would freeze the weight for ever.
    refuses(|| gradients(1.0, 1e30), "of \"b\" not finite");
}

#[test]
fn gradient_of_another_shape_or_name() {
    let wrong = || {
        let mut g = gradients(1.0, 1.0);
        g.insert("b".to_owned(), Tensor::ones((3, 2), DType::F32, &Device::Cpu).unwrap());
        g
    };
    refuses(wrong, "the gradient of \"b\" has shape [3, 2], the parameter [2, 3]");
    let unknown = || {
        let mut g = gradients(1.0, 1.0);
        g.insert("c".to_owned(), Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap());
        g
    };
    refuses(unknown, "\"c\" is not a parameter");
}

#[test]
fn skipping_only_when_asked_for() {
    let vars = two(DType::F32);
    let mut optimizer = FAdam::from_named(vars.clone(), FAdamConfig::default())
        .unwrap()
        .skip_missing(true)
        .skip_non_finite(true);
    let mut only_a = gradients(0.5, 0.5);
    only_a.remove("b");
    optimizer.step_named(&only_a).unwrap();
    let b = vars.get("b").unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(b, [[1.0; 3]; 2]);
    optimizer.step_named(&gradients(0.5, f64::NAN)).unwrap();
    assert_eq!((optimizer.steps(), optimizer.skipped_steps()), (1, 1));
    // b's first update comes now and is a first step: f = g², not a mix with f₀ = 1.
    optimizer.step_named(&gradients(0.5, 0.5)).unwrap();
    let fim = optimizer.fim("b").unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(fim, [[0.25; 3]; 2]);
}

#[test]
fn impossible_hyper_parameters_name_their_field() {
    let fields = |name: &str| {
        let config = serde_json::to_value(AnyConfig::named(name).unwrap()).unwrap();
        config.as_object().unwrap().clone()
    };
    let bad = |field: &str| match field {
        "lr" | "weight_decay" | "eps" => vec![-1e-9, f64::INFINITY],
        "beta1" | "beta2" => vec![-0.1, 1.0, 1.5],
        "eps2" | "clip" | "rho" => vec![0.0, -1.0, f64::INFINITY],
        other => panic!("no bad values for {other}"),
    };
    let mut tried = 0;
    for name in AnyConfig::NAMES {
        for field in fields(name).keys() {
            if ["algorithm", "weight_decay_times_lr"].contains(&field.as_str()) {
                continue;
            }
            for value in bad(field).into_iter().filter(|v| v.is_finite()) {
                let mut json = fields(name);
                json.insert(field.clone(), value.into());
                let config: AnyConfig = serde_json::from_value(json.into()).unwrap();
                let err = AnyOptimizer::from_named(two(DType::F32), config).unwrap_err();
                assert!(err.to_string().starts_with(&format!("{field} = ")), "{name}: {err}");
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 2 * 15 + 2 * 11);
    for nan in [
        FAdamConfig { lr: f64::NAN, ..Default::default() },
        FAdamConfig { beta1: f64::NAN, ..Default::default() },
        FAdamConfig { eps2: Some(f64::NAN), ..Default::default() },
        FAdamConfig { rho: f64::NAN, ..Default::default() },
        FAdamConfig { clip: Some(f64::INFINITY), ..Default::default() },
    ] {
        assert!(matches!(nan.validate(), Err(Error::Config { .. })), "{nan:?}");
    }
}

#[test]
fn a_learning_rate_set_to_nan_is_an_error_of_the_next_step() {
    let vars = two(DType::F32);
    let mut optimizer = FAdam::from_named(vars, FAdamConfig::default()).unwrap();
    optimizer.set_learning_rate(f64::NAN);
    let err = optimizer.step_named(&gradients(1.0, 1.0)).unwrap_err();
    assert!(err.to_string().starts_with("lr = NaN"), "{err}");
}

#[test]
fn config_text_is_strict() {
    let parse = |text: &str| serde_json::from_str::<AnyConfig>(text);
    let err = parse(r#"{"algorithm": "fadam", "roh": 0.5}"#).unwrap_err().to_string();
    assert!(err.contains("unknown field `roh`") && err.contains("rho"), "{err}");
    let err = parse(r#"{"algorithm": "adam", "rho": 0.5}"#).unwrap_err().to_string();
    assert!(err.contains("unknown field `rho`"), "{err}");
    assert!(parse(r#"{"algorithm": "sgd"}"#).is_err());
    assert!(parse(r#"{"algorithm": "fadam", "clip": "of"}"#).is_err());
    for off in ["null", "\"off\""] {
        let config = parse(&format!(r#"{{"algorithm": "adam", "clip": {off}}}"#)).unwrap();
        let AnyConfig::Adam(adam) = &config else { panic!("{config:?}") };
        assert_eq!(adam.clip, None);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(parse(&text).unwrap(), config);
    }
}

#[test]
fn parameters_are_checked() {
    let w = Var::new(&[1f32], &Device::Cpu).unwrap();
    let mut vars = NamedVars::new();
    vars.insert("w", w.clone()).unwrap();
    assert!(matches!(vars.insert("w", w.clone()), Err(Error::DuplicateName { .. })));

    vars.insert("tied", w).unwrap();
    let err = FAdam::from_named(vars, FAdamConfig::default()).unwrap_err().to_string();
    assert!(err.contains("\"tied\" and \"w\" share their storage"), "{err}");

    let ids = Var::new(&[1u32, 2], &Device::Cpu).unwrap();
    let vars = NamedVars::from_iter([("ids".to_owned(), ids)]);
    let err = FAdam::from_named(vars, FAdamConfig::default()).unwrap_err().to_string();
    assert!(err.contains("\"ids\" is U32"), "{err}");
}

#[test]
fn a_graph_cut_by_candles_rms_norm_is_caught() {
    // candle_nn::RmsNorm::forward has no backward: its own weight and everything before it get no
    // gradient, without an error from candle.
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let first = candle_nn::linear_no_bias(4, 4, vb.pp("first")).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the cut under test")]
    let norm = candle_nn::rms_norm(4, 1e-6, vb.pp("norm")).unwrap();
    let last = candle_nn::linear_no_bias(4, 1, vb.pp("last")).unwrap();
    let x = Tensor::ones((2, 4), DType::F32, &Device::Cpu).unwrap();
    let h = norm.forward(&first.forward(&x).unwrap()).unwrap();
    let loss = last.forward(&h).unwrap().sum_all().unwrap();
    let params = NamedVars::from_varmap(&varmap);
    let mut optimizer =
        Adam::from_named(params.clone(), fadam_core::AdamConfig::default()).unwrap();
    let err = optimizer.step_named(&params.gradients(&loss.backward().unwrap())).unwrap_err();
    let Error::MissingGradient { names } = err else { panic!("{err}") };
    assert_eq!(names, ["first.weight", "norm.weight"]);
}

#[test]
fn the_trait_reports_the_same_errors() {
    let vars: Vec<Var> = two(DType::F32).into_iter().map(|(_, var)| var).collect();
    let mut optimizer = FAdam::new(vars.clone(), FAdamConfig::default()).unwrap();
    let loss = vars[0].sum_all().unwrap();
    let err = optimizer.backward_step(&loss).unwrap_err().to_string();
    assert!(err.contains("no gradient for [\"var0001\"]"), "{err}");
}
