//! What a step is told about one parameter, from the caller's maps down to the strips of the kernel.

/// The gradients of one parameter: `T` is a reference at first, then a tensor that the kernel can read, then that
/// tensor locked, then a column of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<T> {
    /// The gradient of the loss.
    pub(crate) g: T,
    /// γ: what all gradients are multiplied by before anything else (and squares by γ²).
    pub(crate) gamma: f64,
    /// What is averaged in f.
    pub(crate) estimate: Estimate<T>,
    /// The gradient of an auxiliary loss, and its weight.
    pub(crate) auxiliary: Option<(T, f64)>,
}

/// Where the estimate of the FIM of one step comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Estimate<T> {
    /// g²
    OfGradient,
    /// Given as it is.
    Given(T),
    /// `B s²`, with the mean gradient s of B sampled labels.
    Sampled(T, f64),
}

impl<T> Terms<T> {
    /// The same of what `each` makes of each of them.
    pub(crate) fn map<'a, U, E>(
        &'a self,
        mut each: impl FnMut(&'a T) -> Result<U, E>,
    ) -> Result<Terms<U>, E> {
        Ok(Terms {
            g: each(&self.g)?,
            gamma: self.gamma,
            estimate: self.estimate.map(&mut each)?,
            auxiliary: match &self.auxiliary {
                Some((u, weight)) => Some((each(u)?, *weight)),
                None => None,
            },
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        let auxiliary = self.auxiliary.as_ref().map(|(u, _)| u);
        [Some(&self.g), self.estimate.given(), auxiliary].into_iter().flatten()
    }
}

impl<T> Estimate<T> {
    /// The same of what `each` makes of what is given, if something is.
    pub(crate) fn map<'a, U, E>(
        &'a self,
        each: impl FnOnce(&'a T) -> Result<U, E>,
    ) -> Result<Estimate<U>, E> {
        Ok(match self {
            Self::OfGradient => Estimate::OfGradient,
            Self::Given(q) => Estimate::Given(each(q)?),
            Self::Sampled(s, batch) => Estimate::Sampled(each(s)?, *batch),
        })
    }

    fn given(&self) -> Option<&T> {
        match self {
            Self::OfGradient => None,
            Self::Given(x) | Self::Sampled(x, _) => Some(x),
        }
    }
}
