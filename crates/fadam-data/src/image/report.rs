//! What became of the pictures: which are in the set, and why the others are not.

use std::collections::BTreeMap;
use std::fmt;

use super::decode::Conversion;
use crate::speech::LeftOut;

/// Why a picture is not in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// There is no such file.
    Missing,
    /// A file without a byte.
    Empty,
    /// It cannot be read, is no picture, or is damaged.
    Unreadable,
    /// Its bytes end before it does.
    Truncated,
    /// A side of fewer pixels than [`SetSpec::min_side`](super::SetSpec::min_side).
    TooSmall,
    /// More pixels than [`SetSpec::max_pixels`](super::SetSpec::max_pixels), as it is or scaled.
    TooLarge,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Empty => "empty",
            Self::Unreadable => "unreadable",
            Self::Truncated => "truncated",
            Self::TooSmall => "too small",
            Self::TooLarge => "too large",
        })
    }
}

/// So many examples are told of each reason.
const EXAMPLES: usize = 3;

/// What is in a set and what is not. Its `Display` has a line for the set, one for what was done to
/// pictures, and one for each reason to leave some out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageReport {
    /// Pictures that there were.
    pub given: usize,
    /// Pictures in the set.
    pub kept: usize,
    /// The smallest and the largest shorter side of them, in pixels.
    pub sides: Option<(usize, usize)>,
    /// Pictures whose shorter side had to grow.
    pub enlarged: usize,
    /// Pictures that were decoded, so that what follows is known of them.
    pub decoded: usize,
    /// What was done to how many of them.
    pub converted: BTreeMap<Conversion, usize>,
    /// The others.
    pub left_out: BTreeMap<Reason, LeftOut>,
}

impl ImageReport {
    /// Counts a picture that is not in the set.
    pub(super) fn leave_out(&mut self, reason: Reason, what: String) {
        let left_out = self.left_out.entry(reason).or_default();
        left_out.count += 1;
        if left_out.first.len() < EXAMPLES {
            left_out.first.push(what);
        }
    }

    /// Counts one that is, of that shorter side, which becomes `size`.
    pub(super) fn keep(&mut self, side: usize, size: usize) {
        self.kept += 1;
        self.enlarged += usize::from(side < size);
        let (smallest, largest) = self.sides.unwrap_or((side, side));
        self.sides = Some((smallest.min(side), largest.max(side)));
    }

    /// Counts what was done to it when it was decoded.
    pub(super) fn describe(&mut self, converted: &[Conversion]) {
        self.decoded += 1;
        for &what in converted {
            *self.converted.entry(what).or_default() += 1;
        }
    }

    /// How many were left out for a reason.
    pub fn count(&self, reason: Reason) -> usize {
        self.left_out.get(&reason).map_or(0, |left_out| left_out.count)
    }
}

impl fmt::Display for ImageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, kept, sides, decoded, .. } = self;
        write!(f, "{kept} of {given} pictures")?;
        if let Some((smallest, largest)) = sides {
            write!(f, ", shorter sides of {smallest} to {largest} pixels")?;
        }
        if decoded < kept {
            write!(f, ", of {} the header was looked at", kept - decoded)?;
        }
        let enlarged = (self.enlarged > 0).then(|| format!("{} enlarged", self.enlarged));
        let converted = self.converted.iter().map(|(what, count)| format!("{count} {what}"));
        let done: Vec<String> = enlarged.into_iter().chain(converted).collect();
        if !done.is_empty() {
            write!(f, "\n  {}", done.join(", "))?;
        }
        for (reason, LeftOut { count, first }) in &self.left_out {
            write!(f, "\n  {count} {reason}: {}", first.join("; "))?;
            if *count > first.len() {
                f.write_str("; …")?;
            }
        }
        Ok(())
    }
}
