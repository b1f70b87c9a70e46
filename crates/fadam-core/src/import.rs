//! States of PyTorch's optimizers, as `scripts/export-torch-optimizer.py` writes them.
//!
//! Tensors are called `<parameter>.exp_avg` and `.exp_avg_sq` (Adam, AdamW) or `.momentum` and `.fim` (the PyTorch port
//! of FAdam), and `.step`, a 0-d i64. The metadata holds `format`, `version`, `optimizer` and `config` (JSON).

use std::path::Path;

use candle_core::{D, Device, Tensor};
use serde::Deserialize;

use crate::algorithm::{Algorithm, Fim, State};
use crate::config::share;
use crate::kernel::{Momentum, Noise, Rule, Stored};
use crate::math::{clip_rms, compute_dtype, is_finite, is_negative, power, ratio, rms};
use crate::param::Param;
use crate::state_file::Loaded;
use crate::tensor_file::{Parsed, TensorFile, same_shape, wrong_file};
use crate::{NamedOptimizer, Result};

const FORMAT: &str = "torch-optimizer";
const VERSION: &str = "1";

impl<A: Algorithm> NamedOptimizer<A> {
    /// Takes over the state of a PyTorch optimizer from a file that `scripts/export-torch-optimizer.py` wrote, by the
    /// names of the parameters. The weights are to be loaded on their own. The hyper-parameters stay those of this
    /// optimizer; β1′ and β2′ below are those of the file. [`steps`](Self::steps) becomes the largest t.
    ///
    /// **From `AdamW` and `Adam`.** With `m̂ = exp_avg / (1 − β1′^t)` and `f̂ = exp_avg_sq / (1 − β2′^t)`, what PyTorch
    /// divides by and with,
    ///
    /// ```text
    /// Adam         m = (1 − β1^t) m̂                      f = (1 − β2^t) f̂
    /// FAdam        m = (1 − β1^t) clip(m̂ / (f^ρ + ε̂^{2ρ}))    f = f̂    ε̂ = min(ε, ε2 √(mean f̂))
    /// FAdafactor   the same, with R and C the row and column sums of f̂
    /// Adafactor    m = (1 − β1^t) η clip(m̂ / √f)          R and C of f̂ + ε
    /// ```
    ///
    /// `Adam` with the β of the file is exact, and without clipping goes on as `AdamW` would have. (PyTorch's `Adam`
    /// does too if its weight decay is 0, which it adds to the gradient else.) f of the others is exact as well, but
    /// for the factoring: the debiased average is what FAdam keeps. Their m is an average of natural gradients, which
    /// PyTorch did not make. The best guess from an average of gradients is what m would be if each of them had been
    /// m̂; it is exact where they were all the same.
    ///
    /// **From `FAdam` of `lessw2020/FAdam_PyTorch`**, to `FAdam` and `FAdafactor` of the same ρ: m and f as they are,
    /// f debiased there as in line 6. Steps then go on with the paper's ε̂ in the place of the port's
    /// `ε max(1, RMS(g))`, and with clipping to c where the port multiplies by c: the same for c = 1.
    ///
    /// Shapes: those of the parameters. In the file m and f may be of any floating point dtype; here they are kept as
    /// each parameter keeps its own.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor, Var};
    /// use fadam_core::{FAdam, FAdamConfig, NamedVars};
    ///
    /// # let path = std::env::temp_dir().join("fadam-core-import.safetensors");
    /// # let ones = Tensor::ones(2, DType::F32, &Device::Cpu)?;
    /// # let (m, f, step) = (ones.clone(), ones, Tensor::new(5i64, &Device::Cpu)?);
    /// # let tensors = [("w.exp_avg", m), ("w.exp_avg_sq", f), ("w.step", step)];
    /// # let betas = ("config", r#"{"betas": [0.9, 0.999]}"#);
    /// # let kind = [("format", "torch-optimizer"), ("version", "1"), ("optimizer", "adamw"), betas];
    /// # let metadata = kind.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    /// # safetensors::serialize_to_file(tensors, Some(metadata), &path).unwrap();
    /// let w = Var::zeros(2, DType::F32, &Device::Cpu)?;
    /// let params = NamedVars::from_iter([("w".to_owned(), w)]);
    /// let mut optimizer = FAdam::from_named(params, FAdamConfig::default())?;
    /// optimizer.import_torch(&path)?; // after 5 steps of AdamW
    /// assert_eq!(optimizer.steps(), 5);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::StateFile`](crate::Error::StateFile) if the file is no such file, if it lacks a parameter that this optimizer trains or has one
    /// that it does not, for another shape, a number that is not finite or beyond the range of what it is kept in, a
    /// negative second moment, and for a state that the algorithm cannot take. Nothing is changed then.
    pub fn import_torch(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.check()?;
        let imported = TensorFile::read(path).and_then(|file| self.convert(file));
        let imported = imported.map_err(|reason| wrong_file(path, reason))?;
        self.adopt(imported.iter().map(|imported| imported.t).max().unwrap_or(0), imported);
        Ok(())
    }

    /// What becomes of each parameter.
    fn convert(&self, file: TensorFile) -> Parsed<Vec<Loaded>> {
        let mut file = Export::new(file)?;
        let mut all = Vec::with_capacity(self.params.len());
        for p in &self.params {
            let averages = file.take_averages(p)?;
            let rule = self.config_of(p.group).rule(averages.t);
            let about = |reason| format!("{:?}: {reason}", p.name);
            let state = match file.port_rho {
                Some(rho) => {
                    check_port(&rule, rho).map_err(about)?;
                    of_port(&averages, &p.state.f)
                }
                None => of_adam(&rule, file.betas, &averages, &p.state.f),
            };
            let imported = state.and_then(|state| keep(p, averages.t, &state));
            all.push(imported.map_err(|e| about(e.to_string()))?);
        }
        file.file.check_empty("this optimizer does not train")?;
        Ok(all)
    }
}

/// What PyTorch keeps of one parameter, in the dtype to compute in.
struct Averages {
    t: u64,
    m: Tensor,
    f: Tensor,
}

/// The state after t steps from Adam's averages, in which bias is not corrected.
fn of_adam(
    rule: &Rule,
    [beta1, beta2]: [f64; 2],
    averages: &Averages,
    like: &Fim<Stored>,
) -> Result<State> {
    // The share of all weights that t steps have given out, the start at 0 having the rest.
    let given_out = |beta: f64| 1.0 - beta.powf(averages.t as f64);
    if rule.momentum == Momentum::OfGradient {
        let m = (&averages.m * (given_out(rule.beta1) / given_out(beta1)))?;
        let f = (&averages.f * (given_out(rule.beta2) / given_out(beta2)))?;
        return Ok(State { m, f: Fim::Full(f) });
    }
    let m_hat = (&averages.m / given_out(beta1))?;
    let f_hat = (&averages.f / given_out(beta2))?;
    let rms_g = rms(&f_hat.sqrt()?)?; // f̂ is the average of g²
    let eps_hat = rule.eps_hat(rms_g);
    let f = summed(&(f_hat + rule.offset)?, like)?;
    let d = (power(&f.diagonal()?, rule.rho)? + eps_hat.powf(2.0 * rule.rho))?;
    let (g_bar, _) = clip_rms(ratio(&m_hat, &d)?, rule.clip)?;
    let of_one = rule.share / (1.0 - rule.beta1); // η for Adafactor, whose m holds it; else 1
    Ok(State { m: (g_bar * (of_one * given_out(rule.beta1)))?, f })
}

/// Whether a state of the port of FAdam is one that the algorithm can take.
fn check_port(rule: &Rule, rho: f64) -> Parsed<()> {
    if rule.momentum != (Momentum::OfNaturalGradient { decay_on_manifold: true }) {
        return Err("a state of FAdam, whose momentum only fadam and fadafactor can take".into());
    }
    if rho == rule.rho {
        return Ok(());
    }
    let own = rule.rho;
    Err(format!("its momentum was made with p = {rho}, this optimizer has rho = {own}"))
}

/// The state of the port of FAdam as ours.
fn of_port(averages: &Averages, like: &Fim<Stored>) -> Result<State> {
    Ok(State { m: averages.m.clone(), f: summed(&averages.f, like)? })
}

/// f as it is, or its row and column sums, as `like` is.
fn summed(f: &Tensor, like: &Fim<Stored>) -> Result<Fim> {
    Ok(match like {
        Fim::Full(_) => Fim::Full(f.clone()),
        Fim::Factored { .. } => Fim::Factored { r: f.sum(D::Minus1)?, c: f.sum(D::Minus2)? },
    })
}

/// The state as the parameter keeps it, in tensors of its own: those of before stay as they are. PyTorch keeps
/// nothing of what it rounds away from θ, and so nothing is left of that.
fn keep(p: &Param, t: u64, state: &State) -> Result<Loaded> {
    let noise = Noise::new(&p.name, t);
    let state = p.state.zip(state, |kind, own, numbers| {
        let dtype = own.range_dtype();
        if !is_finite(&numbers.to_dtype(dtype)?)? {
            let text = format!("its {kind} is beyond the range of {dtype:?}");
            return Err(candle_core::Error::msg(text).into());
        }
        own.map(|_, tensor| tensor.copy())?.replaced(numbers, &p.tasks, noise, kind)
    })?;
    let theta =
        p.theta.map(|end, x| if end.is_empty() { Ok(x.clone()) } else { x.zeros_like() })?;
    Ok(Loaded { t, state, theta })
}

/// What is read of the hyper-parameters: what the averages were made with.
#[derive(Deserialize)]
struct TorchConfig {
    betas: [f64; 2],
    /// ρ of the port of FAdam.
    p: Option<f64>,
}

/// A file from PyTorch.
struct Export {
    betas: [f64; 2],
    /// ρ if it is a state of the port of FAdam.
    port_rho: Option<f64>,
    file: TensorFile,
}

impl Export {
    fn new(file: TensorFile) -> Parsed<Self> {
        let (betas, port_rho) = check_metadata(&file)?;
        Ok(Self { betas, port_rho, file })
    }

    /// What the file holds of a parameter.
    fn take_averages(&mut self, p: &Param) -> Parsed<Averages> {
        let [m, f] = match self.port_rho {
            None => ["exp_avg", "exp_avg_sq"],
            Some(_) => ["momentum", "fim"],
        };
        let (f_key, step_key) = (format!("{}.{f}", p.name), format!("{}.step", p.name));
        let m = self.take_numbers(&format!("{}.{m}", p.name), p)?;
        let f = self.take_numbers(&f_key, p)?;
        if is_negative(&f).map_err(|e| format!("{f_key:?}: {e}"))? {
            return Err(format!("{f_key:?} is negative somewhere: no second moment"));
        }
        let step = self.file.take(&step_key, &Device::Cpu)?.to_scalar::<i64>().ok();
        let t = step.and_then(|step| u64::try_from(step).ok()).filter(|t| *t > 0);
        let t = t.ok_or_else(|| format!("{step_key:?} is no step count (a 0-d i64 above 0)"))?;
        Ok(Averages { t, m, f })
    }

    /// Finite numbers shaped as the parameter, in the dtype to compute in.
    fn take_numbers(&mut self, key: &str, p: &Param) -> Parsed<Tensor> {
        let device = p.var.device();
        let found = self.file.take(key, device)?;
        same_shape(key, &found, &p.var, "the parameter")?;
        if !found.dtype().is_float() {
            return Err(format!("{key:?} is {:?}, not floating point", found.dtype()));
        }
        let numbers = found.to_dtype(compute_dtype(device)).map_err(|e| format!("{key:?}: {e}"))?;
        if !is_finite(&numbers).map_err(|e| format!("{key:?}: {e}"))? {
            return Err(format!("{key:?} is not finite somewhere"));
        }
        Ok(numbers)
    }
}

/// β1 and β2, and ρ if it is a state of the port of FAdam, if the metadata is that of such a file.
fn check_metadata(file: &TensorFile) -> Parsed<([f64; 2], Option<f64>)> {
    file.check(FORMAT, VERSION, "no export from PyTorch")?;
    let of_port = match file.get("optimizer") {
        Some("adam" | "adamw") => false,
        Some("fadam-lessw2020") => true,
        other => {
            let found = other.unwrap_or("none");
            return Err(format!("its optimizer is {found}, not adamw, adam or fadam-lessw2020"));
        }
    };
    let unread = |e: &dyn std::fmt::Display| format!("its metadata \"config\" cannot be read: {e}");
    let TorchConfig { betas, p } =
        serde_json::from_str(file.get("config").unwrap_or("{}")).map_err(|e| unread(&e))?;
    share("betas[0]", betas[0]).map_err(|e| unread(&e))?;
    share("betas[1]", betas[1]).map_err(|e| unread(&e))?;
    match (of_port, p) {
        (false, _) => Ok((betas, None)),
        (true, Some(p)) => Ok((betas, Some(p))),
        (true, None) => Err(unread(&"it has no p")),
    }
}
