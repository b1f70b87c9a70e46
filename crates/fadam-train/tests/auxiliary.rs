//! An auxiliary loss goes past the Fisher information.

mod common;

use common::{Faults, checkpoint, config, metrics, tensors, train_with};

/// The gradient of half the sum of squares is θ, and Eq. 28 treats weight decay as an auxiliary loss is treated: the weights are those of
/// a run with that weight decay, with one batch a step and with several.
#[test]
fn half_the_sum_of_squares_is_weight_decay() {
    for batches in ["1", "3"] {
        let folder = tempfile::tempdir().unwrap();
        let run = |name: &str, decay: &str, auxiliary: Option<f64>| {
            let overrides = [
                "optimizer.algorithm='fadam'".to_owned(),
                format!("optimizer.weight_decay={decay}"),
                format!("train.accumulate={batches}"),
            ];
            let config = config(&overrides.each_ref().map(String::as_str));
            let out = folder.path().join(name);
            train_with(&config, &out, false, None, Faults { auxiliary, ..Faults::default() })
                .unwrap();
            let weights = tensors(&checkpoint(&out, 40).join("model.safetensors"));
            let numbers = |bytes: &[u8]| -> Vec<f32> {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            };
            let weights: Vec<f32> = weights
                .iter()
                .filter(|(name, _)| name.as_str() != "running")
                .flat_map(|(_, (_, bytes))| numbers(bytes))
                .collect();
            (weights, metrics(&out))
        };
        let (decayed, _) = run("decayed", "0.1", None);
        let (auxiliary, lines) = run("auxiliary", "0.0", Some(0.1));
        let (plain, plain_lines) = run("plain", "0.0", None);
        assert_eq!(decayed.len(), 4);
        for ((a, b), c) in decayed.iter().zip(&auxiliary).zip(&plain) {
            assert!((a - b).abs() < 2e-6, "{decayed:?} {auxiliary:?}");
            assert!((a - c).abs() > 1e-4, "{decayed:?} {plain:?}");
        }
        let first = |lines: &[serde_json::Value]| {
            let line = lines.iter().find(|line| line["split"] == "train").unwrap();
            line["loss"].as_f64().unwrap()
        };
        assert!(first(&lines) > first(&plain_lines), "both losses are reported");
    }
}
