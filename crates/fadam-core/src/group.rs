//! Parameter groups: what differs from parameter to parameter.

use crate::algorithm::Algorithm;
use crate::config::not_negative;
use crate::{Error, Result};

/// Parameters that are treated alike, chosen by a pattern of their names.
///
/// A parameter belongs to the first group that matches it, and to the optimizer's own config if none does. The
/// learning rate of a group is `lr_scale` times that of the optimizer, so that a schedule sets one number.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_nn::{VarBuilder, VarMap};
/// use fadam_core::{
///     AdamConfig, AnyConfig, AnyOptimizer, FAdafactorConfig, FAdamConfig, Group, NamedVars, StateFormat,
/// };
///
/// let varmap = VarMap::new();
/// let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
/// let _first = candle_nn::linear(64, 128, vb.pp("first"))?;
/// let _head = candle_nn::linear(128, 10, vb.pp("head"))?;
///
/// let base = FAdamConfig { lr: 3e-4, ..Default::default() };
/// let optimizer = AnyOptimizer::from_named(NamedVars::from_varmap(&varmap), base.clone().into())?
///     .groups(vec![
///         Group::new("head.*").frozen(true),
///         Group::new("*.bias")
///             .config(FAdamConfig { weight_decay: 0.0, ..base.clone() }.into())
///             .lr_scale(2.0),
///         Group::new("*")
///             .ranks(2, usize::MAX)
///             .config(FAdafactorConfig { lr: base.lr, ..Default::default() }.into())
///             .state(StateFormat::Blocks8),
///     ])?;
/// assert_eq!(optimizer.names().collect::<Vec<_>>(), ["first.bias", "first.weight"]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Group<A> {
    pattern: String,
    min_rank: usize,
    max_rank: usize,
    lr_scale: f64,
    config: Option<A>,
    frozen: bool,
    precision: Precision,
}

/// How m and f are kept between steps. R and C of a factored f are always plain numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StateFormat {
    /// f32; f64 for f64 parameters.
    #[default]
    Full,
    /// bf16 with stochastic rounding: 4 bytes a parameter for m and f.
    Bf16,
    /// 8-bit floats in blocks of 256 with a power of two in common, with stochastic rounding: 2.03 bytes a
    /// parameter for m and f. Only tensors of 4096 elements or more; others are kept in full.
    Blocks8,
}

/// How a bf16 parameter takes up a step that may be less than half a unit in its last place. Parameters of other
/// dtypes are rounded to the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Rounding {
    /// To the nearest: a small step is lost.
    #[default]
    Nearest,
    /// Up or down by chance, right on average.
    Stochastic,
    /// What is rounded away is kept in a second bf16 (2 bytes a parameter) and taken up at the next step: Kahan's
    /// compensated sum, as exact as 16 bits of mantissa.
    Compensated,
}

/// How the numbers of a parameter are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Precision {
    pub(crate) state: StateFormat,
    pub(crate) rounding: Rounding,
}

impl<A> Group<A> {
    /// The parameters whose names match: `*` stands for any characters (dots too), `?` for one, the rest for itself.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self {
            pattern: pattern.into(),
            min_rank: 0,
            max_rank: usize::MAX,
            lr_scale: 1.0,
            config: None,
            frozen: false,
            precision: Precision::default(),
        }
    }

    /// Only those of at least `min` and at most `max` dimensions: `(2, usize::MAX)` for matrices and more.
    #[must_use]
    pub fn ranks(mut self, min: usize, max: usize) -> Self {
        (self.min_rank, self.max_rank) = (min, max);
        self
    }

    /// What the learning rate is multiplied by.
    #[must_use]
    pub fn lr_scale(mut self, lr_scale: f64) -> Self {
        self.lr_scale = lr_scale;
        self
    }

    /// The hyper-parameters, and with `AnyConfig` the algorithm, of this group. Its `lr` has to be that of the
    /// optimizer: `..base.clone()` sets it so, and [`lr_scale`](Self::lr_scale) changes it.
    #[must_use]
    pub fn config(mut self, config: A) -> Self {
        self.config = Some(config);
        self
    }

    /// Whether these are not trained: they need no gradient, have no state and are not changed.
    #[must_use]
    pub fn frozen(mut self, frozen: bool) -> Self {
        self.frozen = frozen;
        self
    }

    /// How m and f are kept.
    #[must_use]
    pub fn state(mut self, state: StateFormat) -> Self {
        self.precision.state = state;
        self
    }

    /// How bf16 parameters are rounded.
    #[must_use]
    pub fn rounding(mut self, rounding: Rounding) -> Self {
        self.precision.rounding = rounding;
        self
    }

    /// The pattern of names.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether it is for all that is in no other group; it may be that nothing is.
    pub(crate) fn is_catch_all(&self) -> bool {
        self.pattern == "*" && (self.min_rank, self.max_rank) == (0, usize::MAX)
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    pub(crate) fn matches(&self, name: &str, rank: usize) -> bool {
        (self.min_rank..=self.max_rank).contains(&rank) && matches(&self.pattern, name)
    }
}

impl<A: Algorithm> Group<A> {
    /// Checks it against the optimizer's own config.
    pub(crate) fn validate(&self, base: &A) -> Result<()> {
        not_negative("lr_scale", self.lr_scale)?;
        let Some(config) = &self.config else { return Ok(()) };
        config.validate()?;
        if config.lr() == base.lr() {
            return Ok(());
        }
        Err(Error::Group {
            pattern: self.pattern.clone(),
            reason: format!(
                "its config has lr = {}, the optimizer {}; use lr_scale for another learning rate",
                config.lr(),
                base.lr()
            ),
        })
    }

    /// The hyper-parameters beside those of the optimizer, whose learning rate a schedule may have changed since.
    pub(crate) fn resolve(&self, base: &A) -> A {
        let mut config = self.config.clone().unwrap_or_else(|| base.clone());
        config.set_lr(base.lr() * self.lr_scale);
        config
    }
}

/// Whether a name matches a pattern of `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stands, and how far it reaches so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((at, reach)) = star else { return false };
                star = Some((at, reach + 1));
                (p, n) = (at + 1, reach + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name) in [
            ("*", ""),
            ("*", "a.b"),
            ("*.bias", "a.b.bias"),
            ("block.?.*", "block.3.w"),
            ("a*b*c", "a_b_b_c"),
            ("w", "w"),
            ("**w", "xw"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("", "a"),
            ("*.bias", "bias"),
            ("block.?.w", "block.12.w"),
            ("a*b", "a_b_c"),
            ("w", "wv"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
