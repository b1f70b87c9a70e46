//! One parameter of a step, as `step.cu` reads it: words of 8 bytes.

use super::table::{Place, Shape};

/// Words of a tensor.
pub(crate) const TENSOR: usize = 32;
/// Words of a rule.
pub(crate) const RULE: usize = 15;

/// What a parameter is stored in. Its state is f64 for f64, and f32 for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    BF16,
    F16,
    F64,
}

/// What f is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Squared {
    /// (γ g)²
    OfGradient,
    /// A tensor of squares, in the dtype of the state, times this.
    Given(f64),
    /// s², of a tensor s in the dtype of the parameter, times this.
    Sampled(f64),
}

/// Which equations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Algorithms 1, 2 and 4.
    Preconditioned,
    /// Algorithm 3.
    Adam,
}

/// One step of one algorithm in numbers; `crate::kernel` has the equations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Numbers {
    pub(crate) kind: Kind,
    /// β2, from which the device makes β̂2: it knows how many steps were cancelled.
    pub(crate) beta2: f64,
    /// The number of this step, from 1, as if none had been cancelled since the last check.
    pub(crate) t: u64,
    /// o, what Adafactor adds to g²; 0 for the others.
    pub(crate) offset: f64,
    /// ε; 0 for Adafactor.
    pub(crate) eps: f64,
    /// ε2, or off.
    pub(crate) eps2: Option<f64>,
    /// ρ.
    pub(crate) rho: f64,
    /// c, or off.
    pub(crate) clip: Option<f64>,
    /// β1.
    pub(crate) beta1: f64,
    /// The share of the new gradient in m; 1 − β1 for Adam.
    pub(crate) share: f64,
    /// What m (of Adam: ḡ) is multiplied by; η for Adam.
    pub(crate) step: f64,
    /// What the weight decay is multiplied by; η λ for Adam.
    pub(crate) decay: f64,
    /// What the preconditioned auxiliary gradient is multiplied by.
    pub(crate) aux: f64,
    /// γ, a factor on the gradient and the auxiliary gradient.
    pub(crate) gamma: f64,
    /// Whether the weight decay is on the manifold; false for Adam.
    pub(crate) on_manifold: bool,
}

impl Numbers {
    pub(crate) fn words(&self) -> [u64; RULE] {
        [
            f64::from(u8::from(self.kind == Kind::Adam)),
            self.beta2,
            self.t as f64,
            self.offset,
            self.eps,
            self.eps2.unwrap_or(f64::NAN),
            self.rho,
            self.clip.unwrap_or(f64::NAN),
            self.beta1,
            self.share,
            self.step,
            self.decay,
            self.aux,
            self.gamma,
            f64::from(u8::from(self.on_manifold)),
        ]
        .map(f64::to_bits)
    }
}

/// Where the tensors of a parameter lie on the device; 0 for those that it does not have.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Addresses {
    pub(crate) theta: u64,
    pub(crate) m: u64,
    pub(crate) f: u64,
    pub(crate) r: u64,
    pub(crate) c: u64,
    pub(crate) g: u64,
    pub(crate) squares: u64,
    pub(crate) auxiliary: u64,
}

/// One parameter of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Shape,
    pub(crate) addresses: Addresses,
    pub(crate) squares: Squared,
    pub(crate) numbers: Numbers,
}

impl Entry<'_> {
    /// The tensor for `step.cu`: with the number of its rule and of its slot, and where its cancelled steps are counted.
    pub(crate) fn words(
        &self,
        place: &Place,
        rule: usize,
        slot: usize,
        missed: u64,
    ) -> [u64; TENSOR] {
        let Addresses { theta, m, f, r, c, g, squares, auxiliary } = self.addresses;
        let (kind, scale) = match self.squares {
            Squared::OfGradient => (0, 0.0),
            Squared::Given(scale) => (1, scale),
            Squared::Sampled(scale) => (2, scale),
        };
        let mut words = [0; TENSOR];
        let (own, rest) = words.split_at_mut(TENSOR - place.0.len());
        own.copy_from_slice(&[
            theta,
            m,
            f,
            r,
            c,
            g,
            squares,
            auxiliary,
            missed,
            scale.to_bits(),
            self.dtype as u64,
            kind,
            rule as u64,
            slot as u64,
        ]);
        rest.copy_from_slice(&place.0);
        words
    }
}
