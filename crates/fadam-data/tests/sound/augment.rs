//! `SpecAugment`: what is hidden, how often, and that the rest stays.

use fadam_data::speech::{BINS, Features, SpecAugment};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Features without a zero.
fn features(frames: usize) -> Features {
    Features { frames, values: (0..frames * BINS).map(|n| n as f32 + 1.0).collect() }
}

/// Which bins and which frames are hidden as a whole; everything else must be as it was.
fn hidden(augment: SpecAugment, frames: usize, rng: &mut ChaCha8Rng) -> (Vec<usize>, Vec<usize>) {
    let (before, mut after) = (features(frames), features(frames));
    augment.apply(&mut after, rng);
    assert_eq!(after.frames, frames);
    let zero = |frame: usize, bin: usize| after.values[frame * BINS + bin] == 0.0;
    let bins: Vec<_> = (0..BINS).filter(|&b| (0..frames).all(|t| zero(t, b))).collect();
    let times: Vec<_> = (0..frames).filter(|&t| (0..BINS).all(|b| zero(t, b))).collect();
    for frame in 0..frames {
        for bin in 0..BINS {
            let at = frame * BINS + bin;
            let expected =
                if bins.contains(&bin) || times.contains(&frame) { 0.0 } else { before.values[at] };
            assert_eq!(after.values[at], expected, "frame {frame}, bin {bin}");
        }
    }
    (bins, times)
}

/// Counts of 0 … n−1 from `draws` uniform draws: 5 standard deviations at most from the mean.
fn uniform(counts: &[usize]) {
    let draws: usize = counts.iter().sum();
    let p = 1.0 / counts.len() as f64;
    let (mean, deviation) = (draws as f64 * p, (draws as f64 * p * (1.0 - p)).sqrt());
    for (value, &count) in counts.iter().enumerate() {
        assert!((count as f64 - mean).abs() < 5.0 * deviation, "{value}: {count} of {draws}");
    }
}

#[test]
fn widths_are_uniform_and_places_too() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let band = SpecAugment { frequency_masks: 1, time_masks: 0, ..SpecAugment::default() };
    let stretch = SpecAugment { frequency_masks: 0, time_masks: 1, ..SpecAugment::default() };
    // At most 27 bins; at most 5 % of 199 frames, 9.95: 9 frames.
    let (mut of_bins, mut of_frames) = ([0; 28], [0; 10]);
    let mut places = [0; 80];
    for _ in 0..6000 {
        let (bins, _) = hidden(band, 2, &mut rng);
        of_bins[bins.len()] += 1;
        if let [bin] = bins[..] {
            places[bin] += 1;
        }
        let (_, times) = hidden(stretch, 199, &mut rng);
        of_frames[times.len()] += 1;
        for range in [&bins, &times] {
            assert!(range.windows(2).all(|pair| pair[1] == pair[0] + 1), "one piece: {range:?}");
        }
    }
    uniform(&of_bins);
    uniform(&of_frames);
    // Bands of one bin begin at any of the 80.
    uniform(&places);
}

#[test]
fn several_masks_add_up() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (mut most_bins, mut most_frames, mut pieces) = (0, 0, 0);
    for _ in 0..200 {
        let (bins, times) = hidden(SpecAugment::default(), 200, &mut rng);
        most_bins = most_bins.max(bins.len());
        most_frames = most_frames.max(times.len());
        let gaps = times.windows(2).filter(|pair| pair[1] > pair[0] + 1).count();
        pieces = pieces.max(gaps + 1);
    }
    assert!((28..=54).contains(&most_bins), "two bands of 27: {most_bins}");
    assert!((50..=100).contains(&most_frames), "ten stretches of 10: {most_frames}");
    assert!((7..=10).contains(&pieces), "{pieces}");
}

#[test]
fn the_seed_decides() {
    let masked = |seed| {
        let mut features = features(100);
        SpecAugment::default().apply(&mut features, &mut ChaCha8Rng::seed_from_u64(seed));
        features
    };
    assert_eq!(masked(1), masked(1));
    assert_ne!(masked(1), masked(2));
}

#[test]
fn extremes() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let nothing = SpecAugment { frequency_masks: 0, time_masks: 0, ..SpecAugment::default() };
    assert_eq!(hidden(nothing, 50, &mut rng), (vec![], vec![]));
    // 5 % of 19 frames is less than one.
    for _ in 0..50 {
        let (_, times) =
            hidden(SpecAugment { frequency_masks: 0, ..SpecAugment::default() }, 19, &mut rng);
        assert!(times.is_empty());
    }
    for frames in [0, 1] {
        SpecAugment::default().apply(&mut features(frames), &mut rng);
    }
    let all = SpecAugment { frequency_width: 1000, time_share: 1.0, ..SpecAugment::default() };
    let mut widest = 0;
    for _ in 0..100 {
        let (bins, _) =
            hidden(SpecAugment { frequency_masks: 1, time_masks: 0, ..all }, 3, &mut rng);
        widest = widest.max(bins.len());
    }
    assert!(widest > 70, "{widest}");
    assert!(all.check().is_ok() && SpecAugment::default().check().is_ok());
    for time_share in [-0.1, 1.1, f64::NAN] {
        let text = SpecAugment { time_share, ..all }.check().unwrap_err().to_string();
        assert!(text.starts_with(&format!("SpecAugment's time_share = {time_share}")), "{text}");
    }
}
