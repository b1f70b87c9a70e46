//! Resampling, against the tone that should come out, sample by sample.

use fadam_data::speech::{RATE, change_speed, decode};

use crate::{off, tone, wav_f32};

fn resampled(rate: u32, samples: &[f32]) -> Vec<f32> {
    decode(wav_f32(rate, 1, samples), "tone").unwrap().sound.into_samples()
}

#[test]
fn a_tone_keeps_frequency_amplitude_and_place() {
    for rate in [8000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000] {
        for hertz in [60.0, 1000.0, 3800.0] {
            // 0.7 s and a few samples.
            let samples = tone(rate, hertz, rate as usize * 7 / 10 + 3);
            let ours = resampled(rate, &samples);
            let exact = (samples.len() * 16_000).div_ceil(rate as usize);
            assert_eq!(ours.len(), exact, "{rate} Hz");
            // Of the amplitude 0.5, 1 % is 5e-3.
            let off = off(&ours, &tone(RATE, hertz, exact), 1024);
            assert!(off < 1e-4, "{hertz} Hz at {rate} Hz: off by {off}");
        }
    }
}

#[test]
fn the_beginning_stays_where_it_is() {
    // A click is as long after the beginning as before.
    for (rate, at) in [(8000, 400), (48_000, 2400), (44_100, 2205)] {
        let mut samples = vec![0.0; rate as usize / 5];
        samples[at] = 1.0;
        let ours = resampled(rate, &samples);
        let loudest = (0..ours.len()).max_by(|&a, &b| ours[a].abs().total_cmp(&ours[b].abs()));
        assert_eq!(loudest, Some(800), "{rate}");
    }
}

#[test]
fn what_is_above_the_nyquist_frequency_is_gone() {
    for (rate, hertz) in
        [(44_100, 15_000.0), (44_100, 8400.0), (48_000, 23_000.0), (22_050, 9000.0)]
    {
        let ours = resampled(rate, &tone(rate, hertz, rate as usize));
        let off = off(&ours, &vec![0.0; ours.len()], 2048);
        assert!(off < 1e-4, "{hertz} Hz at {rate} Hz leaves {off}");
    }
}

#[test]
fn any_rate_and_any_length() {
    for rate in [4000, 15_999, 16_001, 44_101, 767_999] {
        let samples = tone(rate, 300.0, rate as usize / 2);
        let ours = resampled(rate, &samples);
        let off = off(&ours, &tone(RATE, 300.0, ours.len()), 1500);
        assert!(off < 1e-3, "{rate}: off by {off}");
    }
    for length in 1..40 {
        let ours = resampled(44_100, &tone(44_100, 300.0, length));
        assert_eq!(ours.len(), (length * 160).div_ceil(441), "{length} samples");
    }
    // A second comes out as a second, however floats round.
    for rate in (4000..60_000).step_by(997) {
        assert_eq!(resampled(rate, &vec![0.25; rate as usize]).len(), 16_000, "{rate}");
    }
}

#[test]
fn speed_changes_length_and_pitch() {
    let sound = tone(RATE, 1000.0, 32_000);
    for factor in [0.5, 0.9, 0.95, 1.1, 2.0] {
        let ours = change_speed(&sound, factor).unwrap();
        assert_eq!(ours.len(), (32_000.0 / factor).ceil() as usize, "{factor}");
        let off = off(&ours, &tone(RATE, 1000.0 * factor, ours.len()), 2048);
        assert!(off < 1e-4, "{factor}: off by {off}");
    }
    assert_eq!(change_speed(&sound, 1.0).unwrap(), sound);
    assert!(change_speed(&[], 0.9).unwrap().is_empty());
    for factor in [0.0, -1.0, 0.49, 2.01, f64::NAN, f64::INFINITY] {
        let text = change_speed(&sound, factor).unwrap_err().to_string();
        let expected = "expected a factor from 0.5 (twice as long) to 2 (half as long)";
        assert_eq!(text, format!("speed {factor}: {expected}"));
    }
}
