//! What a loss of a transducer is asked for: options, and the utterances of a batch, checked.

use candle_core::{Result, bail};

use crate::lattice::Lattice;

/// Choices of [`rnnt_loss`](crate::rnnt_loss()) and [`joint_rnnt_loss`](crate::joint_rnnt_loss()).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transducer {
    /// The symbol ∅ that moves on to the next frame. No label may be it.
    pub blank: u32,
    /// λ ≥ 0 of FastEmit (Yu et al., arXiv 2010.11148): gradients of label emissions are multiplied by 1 + λ, so that labels come
    /// early. The loss itself stays what it is.
    pub fast_emit: f64,
    /// c > 0: each element of the gradient of one utterance's loss with respect to its logits is kept within ±c, before it is
    /// multiplied by what the utterance's loss weighs in the total.
    pub clamp: Option<f64>,
}

impl Default for Transducer {
    /// Blank 0, without FastEmit and clamp.
    fn default() -> Self {
        Self { blank: 0, fast_emit: 0.0, clamp: None }
    }
}

/// An utterance: only its cells of the batch's `[T, U + 1]` are looked at.
#[derive(Debug, Clone)]
pub(crate) struct Utterance {
    /// Cells of the utterances before it.
    first: usize,
    pub(crate) frames: usize,
    pub(crate) labels: Vec<usize>,
}

impl Utterance {
    pub(crate) fn lattice(&self) -> Lattice {
        Lattice { frames: self.frames, labels: self.labels.len() }
    }

    /// Its cells among those of the batch, which lie utterance after utterance.
    pub(crate) fn of<'a, T>(&self, cells: &'a [T]) -> &'a [T] {
        &cells[self.first..][..self.lattice().cells()]
    }

    /// The label that comes after `u` of them.
    pub(crate) fn label(&self, u: usize) -> Option<usize> {
        self.labels.get(u).copied()
    }
}

/// The cells of each utterance.
pub(crate) fn split<'a, T>(utterances: &[Utterance], mut cells: &'a mut [T]) -> Vec<&'a mut [T]> {
    let of = |utterance: &Utterance| {
        let (here, rest) = std::mem::take(&mut cells).split_at_mut(utterance.lattice().cells());
        cells = rest;
        here
    };
    utterances.iter().map(of).collect()
}

/// The sizes of a batch's logits, `[B, T, U + 1, V]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) frames: usize,
    pub(crate) columns: usize,
    pub(crate) symbols: usize,
}

impl Transducer {
    /// The utterances of a batch of that size.
    ///
    /// # Errors
    /// Options out of range; lengths that do not fit; a label that is no symbol or the blank.
    pub(crate) fn utterances(
        &self,
        op: &str,
        targets: &[Vec<u32>],
        frames: &[usize],
        sizes: Sizes,
    ) -> Result<Vec<Utterance>> {
        self.check(op, sizes)?;
        let Sizes { batch, columns, .. } = sizes;
        if targets.len() != batch || frames.len() != batch {
            bail!(
                "{op}: {} sequences of labels and {} numbers of frames for {batch} utterances",
                targets.len(),
                frames.len()
            );
        }
        let mut cells = 0;
        let of = |(b, (labels, &frames)): (usize, (&Vec<u32>, &usize))| {
            if !(1..=sizes.frames).contains(&frames) {
                bail!("{op}: utterance {b} has {frames} frames, not within 1 and {}", sizes.frames);
            }
            if labels.len() >= columns {
                let (count, most) = (labels.len(), columns - 1);
                bail!("{op}: utterance {b} has {count} labels, where there is room for {most}");
            }
            let label = |(u, &y): (usize, &u32)| self.label(op, (b, u, y), sizes.symbols);
            let labels = labels.iter().enumerate().map(label).collect::<Result<_>>()?;
            let utterance = Utterance { first: cells, frames, labels };
            cells += utterance.lattice().cells();
            Ok(utterance)
        };
        targets.iter().zip(frames).enumerate().map(of).collect()
    }

    fn check(&self, op: &str, sizes: Sizes) -> Result<()> {
        let Self { blank, fast_emit, clamp } = *self;
        if blank as usize >= sizes.symbols {
            bail!("{op}: the blank is {blank}, and there are {} symbols", sizes.symbols);
        }
        if !(fast_emit.is_finite() && fast_emit >= 0.0) {
            bail!("{op}: fast_emit is {fast_emit}, not a finite number of 0 or more");
        }
        if let Some(clamp) = clamp
            && !(clamp.is_finite() && clamp > 0.0)
        {
            bail!("{op}: clamp is {clamp}, not a finite number above 0");
        }
        if sizes.columns == 0 {
            bail!("{op}: there are no cells, where U labels need U + 1 a frame");
        }
        Ok(())
    }

    /// Label y of place u in utterance b, if it is one.
    fn label(&self, op: &str, (b, u, y): (usize, usize, u32), symbols: usize) -> Result<usize> {
        if y == self.blank {
            bail!("{op}: label {u} of utterance {b} is {y}, which is the blank");
        }
        if y as usize >= symbols {
            bail!("{op}: label {u} of utterance {b} is {y}, and there are {symbols} symbols");
        }
        Ok(y as usize)
    }
}
