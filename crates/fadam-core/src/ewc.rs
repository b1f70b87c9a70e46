//! Elastic weight consolidation: a second task that leaves alone what the first one needs.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use crate::algorithm::Algorithm;
use crate::math::{compute_dtype, is_finite, is_negative};
use crate::{Error, Gradients, NamedOptimizer, NamedVars, Result};

/// Elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796, equation 3): the penalty on leaving
/// the parameters `θ*` that were learnt for earlier tasks, each the stiffer the more Fisher information F it has.
///
/// ```text
/// penalty = Σ_tasks ½ λ Σ_i F_i (θ_i − θ*_i)²        gradient_i = Σ_tasks λ F_i (θ_i − θ*_i)
/// ```
///
/// F is the optimizer's own diagonal FIM: "EWC can directly utilize FIM from FAdam" (footnote 14 of the FAdam
/// paper). Before an optimizer's first step that is f₀ = 1, and the penalty a plain L2 distance.
///
/// **The scale of λ.** The optimizer squares the mean gradient of a minibatch, so its F is, near an optimum, 1/B
/// of the FIM of single samples, B being the minibatch's number of samples (of a micro-batch, if that is what is
/// squared: see [`Accumulator`](crate::Accumulator)). Where the paper on EWC would use λ with a FIM of samples, λB is
/// the equivalent here. For the posterior over all data, with N samples of the old task and M of the new one, whose
/// mean is the loss, λ is `B N / M`.
///
/// **How to use it.** The penalty is no log-likelihood. In the terms of the FAdam paper's section 3.4.3 it is an
/// auxiliary loss, which is to bypass the FIM: squared into it, the penalty's gradient would be taken for Fisher
/// information of the new task. So give the optimizer the gradients of the log-likelihood as such, and
/// [`gradients`](Self::gradients) as auxiliary ones. Adding [`penalty`](Self::penalty) to the loss is simpler, and
/// what an optimizer without such a door allows.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use fadam_core::{Ewc, Gradients, NamedVars};
///
/// let w = Var::new(&[1f32, 2.0], &Device::Cpu)?;
/// let params = NamedVars::from_iter([("w".to_owned(), w.clone())]);
/// let tensors = |t: Tensor| Gradients::from([("w".to_owned(), t)]);
/// let fisher = tensors(Tensor::new(&[0.5f32, 0.0], &Device::Cpu)?);
/// let ewc = Ewc::from_parts(&tensors(w.as_detached_tensor()), &fisher, 4.0)?;
///
/// w.set(&Tensor::new(&[4f32, 7.0], &Device::Cpu)?)?; // the next task moves w by 3 and 5
/// assert_eq!(ewc.penalty(&params)?.to_scalar::<f32>()?, 9.0); // ½ · 4 · 0.5 · 3²
/// assert_eq!(ewc.gradients(&params)?["w"].to_vec1::<f32>()?, [6.0, 0.0]); // 4 · 0.5 · 3
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Ewc {
    tasks: Vec<Task>,
}

/// One quadratic penalty.
#[derive(Debug, Clone)]
struct Task {
    springs: BTreeMap<String, Spring>,
    strength: f64,
}

/// What holds one parameter.
#[derive(Debug, Clone)]
struct Spring {
    /// θ*.
    anchor: Tensor,
    /// F.
    fisher: Tensor,
}

impl Ewc {
    /// The penalty on leaving `params` as they are now, with `strength` λ and the FIM of the optimizer that
    /// trained them. Both are copied. Variables that the optimizer does not train (buffers) have no FIM and are not
    /// held.
    ///
    /// # Errors
    /// [`Error::Config`] for a strength that is negative or not finite; candle's, with the parameter's name, for one
    /// of the optimizer that is not among `params`, or is of another shape there, or is not finite.
    pub fn consolidate<A: Algorithm>(
        optimizer: &NamedOptimizer<A>,
        params: &NamedVars,
        strength: f64,
    ) -> Result<Self> {
        let mut anchor = Gradients::new();
        let mut fisher = Gradients::new();
        for name in optimizer.names() {
            let Some(var) = params.get(name) else {
                let text = format!("{name:?}, which the optimizer trains, is not among params");
                return Err(wrong(text));
            };
            anchor.insert(name.to_owned(), var.as_detached_tensor());
            fisher.insert(name.to_owned(), optimizer.fim(name)?);
        }
        Self::from_parts(&anchor, &fisher, strength)
    }

    /// The penalty with `strength` λ on leaving the `anchor` θ*, with a given diagonal FIM F ≥ 0 of the same names
    /// and shapes. Both are copied: a variable given as its own anchor stays where it is.
    ///
    /// # Errors
    /// [`Error::Config`] for a strength that is negative or not finite, [`Error::UnsupportedDType`]; candle's, with
    /// the parameter's name, for a name or shape that only one of the two has, an anchor that is not finite,
    /// and a FIM that is negative or not finite.
    pub fn from_parts(
        anchor: &BTreeMap<String, Tensor>,
        fisher: &BTreeMap<String, Tensor>,
        strength: f64,
    ) -> Result<Self> {
        if !(strength >= 0.0 && strength.is_finite()) {
            let expected = "finite and 0 or more";
            return Err(Error::Config { field: "strength", value: strength, expected });
        }
        if let Some(name) = fisher.keys().find(|name| !anchor.contains_key(*name)) {
            return Err(wrong(format!("{name:?} has a FIM and no anchor")));
        }
        let mut springs = BTreeMap::new();
        for (name, anchor) in anchor {
            let Some(fisher) = fisher.get(name) else {
                return Err(wrong(format!("{name:?} has an anchor and no FIM")));
            };
            springs.insert(name.clone(), Spring::new(name, anchor, fisher)?);
        }
        Ok(Self { tasks: vec![Task { springs, strength }] })
    }

    /// Adds the penalties of `other`: those of further tasks, each with its own θ*, F and λ. Their parameters
    /// need not be the same.
    ///
    /// # Errors
    /// candle's, for a parameter that has another shape there; nothing is changed then.
    pub fn add(&mut self, other: Self) -> Result<()> {
        for (name, theirs) in other.tasks.iter().flat_map(|task| &task.springs) {
            let own = self.tasks.iter().find_map(|task| task.springs.get(name));
            let (Some(own), theirs) = (own, theirs.anchor.shape()) else { continue };
            let own = own.anchor.shape();
            if own != theirs {
                let text =
                    format!("{name:?} has shape {theirs:?} in the added task, {own:?} before");
                return Err(wrong(text));
            }
        }
        self.tasks.extend(other.tasks);
        Ok(())
    }

    /// The number of tasks.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// `Σ_tasks ½ λ Σ F (θ − θ*)²`, 0-d, in f64 if any parameter is and else in f32. Its graph leads to every
    /// variable with a θ*; other variables, of a new task's head, are free.
    ///
    /// # Errors
    /// candle's, with the parameter's name, if one with a θ* is not among `params` or has another shape there.
    pub fn penalty(&self, params: &NamedVars) -> Result<Tensor> {
        let double = params.iter().any(|(_, var)| var.dtype() == DType::F64);
        let dtype = if double { DType::F64 } else { DType::F32 };
        let mut total: Option<Tensor> = None;
        for task in &self.tasks {
            for (name, spring) in &task.springs {
                let var = find(params, name, spring)?;
                let (distance, fisher) = spring.distance(var.as_tensor())?;
                let term =
                    (distance.sqr()? * fisher)?.sum_all()?.affine(0.5 * task.strength, 0.0)?;
                total = Some(match total {
                    Some(total) => (total + term)?,
                    None => term,
                });
            }
        }
        match total {
            Some(total) => Ok(total.to_dtype(dtype)?),
            None => Ok(Tensor::zeros((), dtype, &Device::Cpu)?),
        }
    }

    /// `Σ_tasks λ F (θ − θ*)`, the gradient of [`penalty`](Self::penalty) without a graph: of every variable with a
    /// θ*, shaped as it and in its dtype.
    ///
    /// # Errors
    /// Those of [`penalty`](Self::penalty).
    pub fn gradients(&self, params: &NamedVars) -> Result<Gradients> {
        let mut sums = Gradients::new();
        for task in &self.tasks {
            for (name, spring) in &task.springs {
                let var = find(params, name, spring)?;
                let (distance, fisher) = spring.distance(&var.as_detached_tensor())?;
                let mut g = (distance * fisher)?.affine(task.strength, 0.0)?;
                if let Some(sum) = sums.get(name) {
                    g = (sum + g)?;
                }
                sums.insert(name.clone(), g);
            }
        }
        for (name, var) in params.iter() {
            if let Some(g) = sums.get_mut(name) {
                *g = g.to_dtype(var.dtype())?;
            }
        }
        Ok(sums)
    }
}

impl Spring {
    fn new(name: &str, anchor: &Tensor, fisher: &Tensor) -> Result<Self> {
        for tensor in [anchor, fisher] {
            let dtype = tensor.dtype();
            if !matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16) {
                return Err(Error::UnsupportedDType { name: name.into(), dtype });
            }
        }
        if anchor.shape() != fisher.shape() {
            let (anchor, fisher) = (anchor.shape(), fisher.shape());
            return Err(wrong(format!("{name:?} has shape {anchor:?}, its FIM {fisher:?}")));
        }
        let (anchor, fisher) = (anchor.detach(), fisher.detach());
        if !is_finite(&anchor)? {
            return Err(wrong(format!("the anchor of {name:?} is not finite")));
        }
        if !is_finite(&fisher)? || is_negative(&fisher)? {
            return Err(wrong(format!("the FIM of {name:?} is negative or not finite")));
        }
        Ok(Self { anchor: anchor.force_contiguous()?, fisher: fisher.force_contiguous()? })
    }

    /// θ − θ* and F, in the dtype to compute in.
    fn distance(&self, theta: &Tensor) -> Result<(Tensor, Tensor)> {
        let dtype = compute_dtype(theta.device());
        let distance = (theta.to_dtype(dtype)? - self.anchor.to_dtype(dtype)?)?;
        Ok((distance, self.fisher.to_dtype(dtype)?))
    }
}

/// The variable that a spring holds.
fn find<'a>(params: &'a NamedVars, name: &str, spring: &Spring) -> Result<&'a Var> {
    let var = params
        .get(name)
        .ok_or_else(|| wrong(format!("{name:?} has an anchor and is not among params")))?;
    if var.shape() != spring.anchor.shape() {
        let (own, anchor) = (var.shape(), spring.anchor.shape());
        return Err(wrong(format!("{name:?} has shape {own:?}, its anchor {anchor:?}")));
    }
    Ok(var)
}

fn wrong(text: String) -> Error {
    Error::Candle(candle_core::Error::msg(text))
}
