//! Parameters and gradients by name, in sorted order.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::VarMap;

use crate::{Error, Result};

/// Gradients by the name of their parameter.
pub type Gradients = BTreeMap<String, Tensor>;

/// Variables by name, walked in sorted order.
///
/// candle's `VarMap::all_vars` yields variables in random order and without names; here a name is
/// what a gradient, a state, an error and a checkpoint are keyed by.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_nn::{VarBuilder, VarMap};
/// use fadam_core::NamedVars;
///
/// let varmap = VarMap::new();
/// let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
/// let _linear = candle_nn::linear(4, 2, vb.pp("head"))?;
/// let _norm = candle_nn::batch_norm(4, 1e-5, vb.pp("norm"))?;
/// let (params, buffers) =
///     NamedVars::from_varmap(&varmap).split_buffers(NamedVars::is_batch_norm_statistic);
/// let names: Vec<&str> = params.iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["head.bias", "head.weight", "norm.bias", "norm.weight"]);
/// assert_eq!(buffers.len(), 2); // running mean and variance
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct NamedVars(BTreeMap<String, Var>);

impl NamedVars {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// All variables of a candle `VarMap` under their names.
    ///
    /// # Panics
    /// If another thread panicked while it held the map's lock.
    pub fn from_varmap(varmap: &VarMap) -> Self {
        let data = varmap.data().lock().expect("no thread panicked while it held the VarMap");
        data.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// Adds a variable.
    ///
    /// # Errors
    /// [`Error::DuplicateName`] if the name is taken.
    pub fn insert(&mut self, name: impl Into<String>, var: Var) -> Result<()> {
        let name = name.into();
        if self.0.contains_key(&name) {
            return Err(Error::DuplicateName { name });
        }
        self.0.insert(name, var);
        Ok(())
    }

    /// The variable of that name.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.0.get(name)
    }

    /// Names and variables, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.0.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The number of variables.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without variables.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of elements of all variables together.
    pub fn num_elements(&self) -> usize {
        self.0.values().map(|var| var.elem_count()).sum()
    }

    /// Parameters to train, and buffers: the variables for whose name `is_buffer` holds, which are
    /// kept with the model but get no gradient.
    pub fn split_buffers(self, is_buffer: impl Fn(&str) -> bool) -> (Self, Self) {
        let (buffers, params) = self.0.into_iter().partition(|(name, _)| is_buffer(name));
        (Self(params), Self(buffers))
    }

    /// True for the names under which candle-nn's `BatchNorm` keeps its statistics in the `VarMap`.
    pub fn is_batch_norm_statistic(name: &str) -> bool {
        matches!(name.rsplit('.').next(), Some("running_mean" | "running_var"))
    }

    /// The gradients of these variables that `backward` computed, by name. A variable that no
    /// gradient reached has no entry; [`step_named`](crate::NamedOptimizer::step_named) reports it.
    pub fn gradients(&self, grads: &GradStore) -> Gradients {
        self.0
            .iter()
            .filter_map(|(name, var)| Some((name.clone(), grads.get(var)?.clone())))
            .collect()
    }

    /// Checks what an optimizer needs: floating point, and no two names for one storage. Returns the addresses of
    /// the storages, sorted.
    pub(crate) fn check(&self) -> Result<Vec<usize>> {
        let mut seen: BTreeMap<usize, &str> = BTreeMap::new();
        for (name, var) in self.iter() {
            let dtype = var.dtype();
            if !matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16) {
                return Err(Error::UnsupportedDType { name: name.into(), dtype });
            }
            if let Some(first) = seen.insert(storage_address(var), name) {
                return Err(Error::SharedStorage { first: first.into(), second: name.into() });
            }
        }
        Ok(seen.into_keys().collect())
    }
}

/// What tells one storage from another.
fn storage_address(tensor: &Tensor) -> usize {
    let (storage, _layout) = tensor.storage_and_layout();
    std::ptr::from_ref(&*storage).addr()
}

/// The tensor, or a copy if it is stored where one of the parameters is: a gradient can be a parameter. `storages`
/// is what [`NamedVars::check`] returned.
pub(crate) fn apart_from(storages: &[usize], tensor: Tensor) -> Result<Tensor> {
    let is_a_parameter = storages.binary_search(&storage_address(&tensor)).is_ok();
    Ok(if is_a_parameter { tensor.copy()? } else { tensor })
}

impl FromIterator<(String, Var)> for NamedVars {
    /// Collects variables; of two under one name the last is kept ([`NamedVars::insert`] refuses).
    fn from_iter<I: IntoIterator<Item = (String, Var)>>(vars: I) -> Self {
        Self(vars.into_iter().collect())
    }
}

impl IntoIterator for NamedVars {
    type Item = (String, Var);
    type IntoIter = std::collections::btree_map::IntoIter<String, Var>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
