//! Which clips make up which batch: a pure function of lengths, settings and epoch.
//!
//! An epoch has every clip once. Its clips are shuffled, cut into groups of `bucket` batches, sorted by
//! length within a group, and cut into batches; the batches are shuffled once more. Within a sorted
//! group the lengths of one batch end where those of the next begin, so its padding has a bound:
//!
//! ```text
//! Σ over batches of Σ over clips (longest of the batch − clip) ≤ batch · (longest − shortest of the group)
//! ```

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::batches::SpeechSpec;
use super::sound::RATE;
use crate::draw::stream;

/// A clip in a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Planned {
    /// Its number in the set.
    pub(super) clip: usize,
    /// How many times faster it is played.
    pub(super) speed: f64,
}

/// What random numbers are for. Each epoch, and each clip in it, has a stream for each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Order = 0,
    Speed = 1,
    Mask = 2,
}

/// The generator of a use.
pub(super) fn rng(seed: u64, what: Use, epoch: u64, clip: usize) -> ChaCha8Rng {
    stream(seed, what as u64, epoch, clip)
}

/// Samples of a clip that is played `speed` times faster, rounded up.
pub(super) fn samples_at(samples: usize, speed: f64) -> usize {
    (samples as f64 / speed).ceil() as usize
}

/// The batches of an epoch over clips of so many `samples`.
pub(super) fn epoch(samples: &[usize], spec: &SpeechSpec, epoch: u64) -> Vec<Vec<Planned>> {
    let speed = |clip| match spec.speeds[..] {
        [only] => only,
        ref speeds => speeds[rng(spec.seed, Use::Speed, epoch, clip).random_range(0..speeds.len())],
    };
    let planned = |clip| Planned { clip, speed: speed(clip) };
    let mut order: Vec<Planned> = (0..samples.len()).map(planned).collect();
    let mut rng = rng(spec.seed, Use::Order, epoch, 0);
    order.shuffle(&mut rng);
    let length = |planned: &Planned| samples_at(samples[planned.clip], planned.speed);
    let mut batches = Vec::new();
    for group in order.chunks_mut(spec.batch.saturating_mul(spec.bucket)) {
        group.sort_by_key(|planned| (length(planned), planned.clip));
        batches.extend(cut(group, &length, spec.batch, spec.batch_secs));
    }
    batches.shuffle(&mut rng);
    batches
}

/// Cuts clips, sorted from short to long, into batches of at most `batch` clips, and of at most
/// `batch_secs` with the padding. A clip alone may be longer.
pub(super) fn cut(
    sorted: &[Planned],
    length: &impl Fn(&Planned) -> usize,
    batch: usize,
    batch_secs: Option<f64>,
) -> Vec<Vec<Planned>> {
    let most = batch_secs.map_or(f64::INFINITY, |secs| secs * f64::from(RATE));
    let mut batches: Vec<Vec<Planned>> = Vec::new();
    for &planned in sorted {
        match batches.last_mut() {
            // This one is the longest.
            Some(last)
                if last.len() < batch && ((last.len() + 1) * length(&planned)) as f64 <= most =>
            {
                last.push(planned);
            }
            _ => batches.push(vec![planned]),
        }
    }
    batches
}

/// Batches by their index: the present epoch's, and where it begins.
#[derive(Debug)]
pub(super) struct Planner {
    samples: Vec<usize>,
    spec: SpeechSpec,
    epoch: u64,
    /// The index of the epoch's first batch.
    first: u64,
    batches: Vec<Vec<Planned>>,
}

impl Planner {
    pub(super) fn new(samples: Vec<usize>, spec: SpeechSpec) -> Self {
        let batches = epoch(&samples, &spec, 0);
        Self { samples, spec, epoch: 0, first: 0, batches }
    }

    /// The epoch of batch `index`, which must not be before the present epoch, and its clips.
    pub(super) fn at(&mut self, index: u64) -> (u64, &[Planned]) {
        while index - self.first >= self.batches.len() as u64 {
            self.first += self.batches.len() as u64;
            self.epoch += 1;
            self.batches = epoch(&self.samples, &self.spec, self.epoch);
        }
        (self.epoch, &self.batches[(index - self.first) as usize])
    }

    /// Batches in the present epoch.
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }
}

/// The frames that clips take with their padding, and without it.
pub(super) fn frames(frames: &[usize]) -> (u64, u64) {
    let longest = frames.iter().max().copied().unwrap_or(0);
    ((longest * frames.len()) as u64, frames.iter().sum::<usize>() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(batch: usize, bucket: usize, batch_secs: Option<f64>, speeds: &[f64]) -> SpeechSpec {
        let speeds = speeds.to_vec();
        SpeechSpec { batch, batch_secs, seed: 3, speeds, spec_augment: None, bucket }
    }

    fn clips(batches: &[Vec<Planned>]) -> Vec<usize> {
        batches.iter().flatten().map(|planned| planned.clip).collect()
    }

    #[test]
    fn streams_do_not_meet() {
        let first = |what, epoch, clip| rand::Rng::random::<u64>(&mut rng(1, what, epoch, clip));
        let mut seen = std::collections::HashSet::new();
        for what in [Use::Order, Use::Speed, Use::Mask] {
            for (epoch, clip) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2)] {
                assert!(seen.insert(first(what, epoch, clip)));
            }
        }
        assert_eq!(first(Use::Mask, 5, 9), first(Use::Mask, 5, 9));
    }

    #[test]
    fn epochs_follow_each_other() {
        let samples: Vec<usize> = (0..23).map(|n| 16_000 + 777 * n).collect();
        let spec = spec(4, 2, None, &[1.0]);
        let mut planner = Planner::new(samples.clone(), spec.clone());
        let mut index = 0;
        for number in 0..4 {
            for batch in epoch(&samples, &spec, number) {
                assert_eq!(planner.at(index), (number, &batch[..]));
                // From anywhere.
                assert_eq!(Planner::new(samples.clone(), spec.clone()).at(index).1, batch);
                index += 1;
            }
        }
    }

    #[test]
    fn speeds_are_drawn_evenly_and_anew_each_epoch() {
        let spec = spec(16, 4, None, &[0.9, 1.0, 1.1]);
        let samples = vec![32_000; 3000];
        let speeds = |number| {
            let mut planned: Vec<Planned> =
                epoch(&samples, &spec, number).into_iter().flatten().collect();
            planned.sort_by_key(|planned| planned.clip);
            planned.into_iter().map(|planned| planned.speed).collect::<Vec<f64>>()
        };
        let (first, second) = (speeds(0), speeds(1));
        for speed in [0.9, 1.0, 1.1] {
            // 1000 expected; four standard deviations of 26 around it.
            let count = first.iter().filter(|&&drawn| drawn == speed).count();
            assert!((897..=1103).contains(&count), "{speed}: {count}");
        }
        let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
        assert!((897..=1103).contains(&same), "{same}");
    }

    proptest! {
        #[test]
        fn an_epoch_has_every_clip_once_within_the_bounds(
            lengths in proptest::collection::vec(1_600usize..300_000, 1..200),
            batch in 1usize..20,
            bucket in 1usize..6,
            batch_secs in prop_oneof![Just(None), (21.0..120.0).prop_map(Some)],
            speeds in prop_oneof![Just(vec![1.0]), Just(vec![0.9, 1.0, 1.1])],
            number in 0u64..5,
        ) {
            let spec = spec(batch, bucket, batch_secs, &speeds);
            let batches = epoch(&lengths, &spec, number);
            let mut all = clips(&batches);
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            let length = |p: &Planned| samples_at(lengths[p.clip], p.speed);
            for planned in &batches {
                prop_assert!((1..=batch).contains(&planned.len()));
                let longest = planned.iter().map(length).max().unwrap();
                if let Some(secs) = batch_secs {
                    prop_assert!((planned.len() * longest) as f64 <= secs * 16_000.0);
                }
            }
            prop_assert_eq!(&batches, &epoch(&lengths, &spec, number));
        }

        /// The bound of the module's page: padding of all batches ≤ groups · batch · (longest − shortest).
        #[test]
        fn padding_has_a_bound(
            lengths in proptest::collection::vec(1_600usize..300_000, 1..300),
            batch in 1usize..20,
            bucket in 1usize..6,
        ) {
            let batches = epoch(&lengths, &spec(batch, bucket, None, &[1.0]), 0);
            let padded = |planned: &Vec<Planned>| {
                let of: Vec<usize> = planned.iter().map(|p| lengths[p.clip]).collect();
                let (all, real) = frames(&of);
                all - real
            };
            let padding: u64 = batches.iter().map(padded).sum();
            let spread = lengths.iter().max().unwrap() - lengths.iter().min().unwrap();
            let groups = lengths.len().div_ceil(batch * bucket);
            prop_assert!(padding <= (groups * batch * spread) as u64);
        }
    }

    #[test]
    fn sorting_saves_most_of_the_padding() {
        // 2 to 16 s, spread evenly.
        let samples: Vec<usize> = (0..2048).map(|n| 32_000 + (n * 37 % 2048) * 109).collect();
        let share = |bucket| {
            let batches = epoch(&samples, &spec(16, bucket, None, &[1.0]), 0);
            let of = |planned: &Vec<Planned>| {
                frames(&planned.iter().map(|p| samples[p.clip]).collect::<Vec<_>>())
            };
            let (all, real) =
                batches.iter().map(of).fold((0, 0), |sum, (all, real)| (sum.0 + all, sum.1 + real));
            (all - real) as f64 / all as f64
        };
        // The longest of 16 uniform draws is at 16/17 of the range: 2 + 14 · 16/17 = 15.2 s against a
        // mean of 9 s, a share of 0.41. In 32 sorted batches, each spans 1/32 of it: about 0.02.
        let (unsorted, sorted) = (share(1), share(32));
        assert!((0.37..0.45).contains(&unsorted), "{unsorted}");
        assert!((0.005..0.05).contains(&sorted), "{sorted}");
    }
}
