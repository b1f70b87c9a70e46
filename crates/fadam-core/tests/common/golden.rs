//! The golden cases (`goldens/README.md`): θ, m and the FIM after each step, from an independent float64 transcription
//! of the paper.
//!
//! Tolerances. Our steps are computed in f64, so an f64 run differs from the goldens by rounding alone
//! (1e-10 of each quantity's own scale). An f32 run rounds θ, m and f once a step: half a unit in the
//! last place of θ each step, beside 1e-5 of the distance that θ travelled.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var, safetensors::Load};
use fadam_core::{AnyConfig, AnyOptimizer, Backend, Gradients, NamedVars};
use safetensors::SafeTensors;

pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) config: AnyConfig,
    /// `theta0`; and of each step `grads`, `theta`, `m`, `fim`.
    pub(crate) tensors: HashMap<String, Tensor>,
}

/// All of them, sorted by name.
pub(crate) fn goldens() -> Vec<Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 37, "a golden file is missing or new");
    files.iter().map(|file| Golden::read(file)).collect()
}

impl Golden {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&metadata["config"]).unwrap();
        config["algorithm"] = metadata["algorithm"].clone().into();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            config: serde_json::from_value(config).unwrap(),
            tensors: tensors
                .iter()
                .map(|(name, view)| (name.to_owned(), view.load(&Device::Cpu).unwrap()))
                .collect(),
        }
    }

    /// The share of each quantity's scale that may be off, and the relative rounding of one θ.
    pub(crate) fn tolerance(is_f64: bool) -> (f64, f64) {
        if is_f64 { (1e-10, 2f64.powi(-53)) } else { (1e-5, 2f64.powi(-24)) }
    }

    /// Steps the case in `dtype` and compares after each step.
    pub(crate) fn check(&self, backend: Backend, device: &Device, dtype: DType) {
        let (share, unit) = Self::tolerance(dtype == DType::F64);
        let (theta0, grads) = (&self.tensors["theta0"], &self.tensors["grads"]);
        let on_device = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(device).unwrap();
        let w = Var::from_tensor(&on_device(theta0)).unwrap();
        let vars = NamedVars::from_iter([("w".to_owned(), w.clone())]);
        let optimizer = AnyOptimizer::from_named(vars, self.config.clone());
        let mut optimizer = optimizer.unwrap().backend(backend);

        let steps = grads.dims()[0];
        let golden = |name: &str, k: usize| values(&self.tensors[name].get(k).unwrap());
        let travelled = max_difference(&golden("theta", steps - 1), &values(theta0));
        let largest = max_abs(&values(&self.tensors["theta"])).max(max_abs(&values(theta0)));
        let theta_bound = share * travelled + steps as f64 * unit * largest;
        for k in 0..steps {
            let g = on_device(&grads.get(k).unwrap());
            optimizer.step_named(&Gradients::from([("w".to_owned(), g)])).unwrap();
            let at = format!("{}, {backend:?}, {dtype:?}, step {}", self.name, k + 1);

            let off = max_difference(&values(&w), &golden("theta", k));
            assert!(off <= theta_bound, "{at}: theta is off by {off:e} > {theta_bound:e}");

            let m = golden("m", k);
            let off = max_difference(&values(&optimizer.momentum("w").unwrap()), &m);
            let bound = share * max_abs(&m);
            assert!(off <= bound, "{at}: m is off by {off:e} > {bound:e}");

            let fim = values(&optimizer.fim("w").unwrap());
            for (i, (ours, theirs)) in fim.iter().zip(golden("fim", k)).enumerate() {
                let off = (ours - theirs).abs();
                assert!(off <= share * theirs.abs(), "{at}: fim[{i}] = {ours:e}, not {theirs:e}");
            }
        }
    }
}

pub(crate) fn values(x: &Tensor) -> Vec<f64> {
    let x = x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn max_abs(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |most, v| most.max(v.abs()))
}

pub(crate) fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}
