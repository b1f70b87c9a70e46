//! Which characters are held out.

use std::collections::BTreeMap;

/// What dev and test have of all minutes, each, as near as whole characters come.
const HELD_OUT: f64 = 0.075;

/// What a character's clips are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Train,
    Dev,
    Test,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Train, Self::Dev, Self::Test];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// Splits characters by how long each speaks. From the one who says least upward (so that many are
/// held out), each goes to dev or test, whichever has less so far, if that brings it nearer to 7.5 %
/// of the whole; all others are for training.
pub(crate) fn split(seconds: &BTreeMap<String, f64>) -> BTreeMap<String, Part> {
    let target = HELD_OUT * seconds.values().sum::<f64>();
    let mut from_least: Vec<(&String, f64)> = seconds.iter().map(|(who, s)| (who, *s)).collect();
    from_least.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(b.0)));
    let (mut dev, mut test) = (0.0, 0.0);
    let mut part_of = |seconds: f64| {
        let (part, held) = if test < dev { (Part::Test, &mut test) } else { (Part::Dev, &mut dev) };
        // Nearer with these than without: |held + seconds − target| < |held − target|.
        if *held + seconds / 2.0 >= target {
            return Part::Train;
        }
        *held += seconds;
        part
    };
    from_least.into_iter().map(|(who, seconds)| (who.clone(), part_of(seconds))).collect()
}
