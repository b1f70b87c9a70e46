//! The networks of `fid` with weights from files, which are too large for the repository. Each test says on stderr that it was skipped where
//! its variable is not set:
//!
//! | variable | file |
//! |---|---|
//! | `FADAM_EFFICIENTNET` | `data/features/efficientnet-lite0.safetensors` of `scripts/fetch-data.sh features`, or the package's `.pth` |
//! | `FADAM_EFFICIENTNET_IMAGES` | what `tests/goldens/make_fid.py foolbox` packs |
//! | `FADAM_INCEPTION` | weights by pytorch-fid's names, `.pth` or safetensors |
//! | `FADAM_INCEPTION_CASE` | `images` and pytorch-fid's `features` with these weights, safetensors |

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use candle_core::{D, DType, Device, Tensor};
use fadam_models::fid::{EfficientNetLite0, FeatureNetwork, Inception};

/// To stderr itself: what a test that passes prints by macro is not shown.
fn say(message: &str) {
    std::io::stderr().write_all(format!("{message}\n").as_bytes()).unwrap();
}

/// The files of these variables, if all are set.
fn files<const N: usize>(test: &str, variables: [&str; N]) -> Option<[PathBuf; N]> {
    let missing: Vec<&str> =
        variables.into_iter().filter(|name| std::env::var_os(name).is_none()).collect();
    if !missing.is_empty() {
        say(&format!("SKIPPED {test}: {} not set; see tests/pretrained.rs", missing.join(" and ")));
        return None;
    }
    Some(variables.map(|name| std::env::var_os(name).expect("it is set").into()))
}

fn tensors(path: &PathBuf) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// The largest difference, by the standard deviation of what is wanted.
fn off(ours: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(ours.dims(), wanted.dims());
    let numbers = |x: &Tensor| {
        x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let (ours, wanted) = (numbers(ours), numbers(wanted));
    let mean = wanted.iter().sum::<f64>() / wanted.len() as f64;
    let variance = wanted.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / wanted.len() as f64;
    let most = |most: f64, x: f64| if x <= most { most } else { x };
    let differences = ours.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, most) / variance.sqrt()
}

/// At least 18 of foolbox's 20 ImageNet images, which is what the PyTorch network gets; two are labelled otherwise than it thinks.
#[test]
fn efficientnet_knows_what_it_sees() {
    let test = "efficientnet_knows_what_it_sees";
    let Some([weights, images]) = files(test, ["FADAM_EFFICIENTNET", "FADAM_EFFICIENTNET_IMAGES"])
    else {
        return;
    };
    let network = EfficientNetLite0::load(weights, &Device::Cpu).unwrap();
    let case = tensors(&images);
    let begin = std::time::Instant::now();
    let features = network.features(&case["images"]).unwrap();
    let images_per_s = 20.0 / begin.elapsed().as_secs_f64();
    let logits = network.logits(&features).unwrap();
    let found = logits.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap();
    let labels = case["labels"].to_vec1::<i64>().unwrap();
    let right = found.iter().zip(&labels).filter(|(a, b)| i64::from(**a) == **b).count();
    say(&format!("{test}: {right} of {}, {images_per_s:.1} images/s", labels.len()));
    assert_eq!(labels.len(), 20);
    assert!(right >= 18, "{right} of 20: {found:?}, labels {labels:?}");
    // Where the reference's own numbers are in the file, they are compared too.
    for (name, ours) in [("features", &features), ("logits", &logits)] {
        if let Some(wanted) = case.get(name) {
            let off = off(ours, wanted);
            say(&format!("{test}: {name} off by {off:e} standard deviations"));
            assert!(off < 1e-3, "{name} off by {off:e} standard deviations");
        }
    }
}

/// The features of pytorch-fid, within 1e-3 of their standard deviation.
#[test]
fn inception_is_pytorch_fids() {
    let test = "inception_is_pytorch_fids";
    let Some([weights, case]) = files(test, ["FADAM_INCEPTION", "FADAM_INCEPTION_CASE"]) else {
        return;
    };
    let network = Inception::load(weights, &Device::Cpu).unwrap();
    let case = tensors(&case);
    let begin = std::time::Instant::now();
    let features = network.features(&case["images"]).unwrap();
    let images_per_s = features.dim(0).unwrap() as f64 / begin.elapsed().as_secs_f64();
    let off = off(&features, &case["features"]);
    say(&format!("{test}: off by {off:e} standard deviations, {images_per_s:.1} images/s"));
    assert!(off < 1e-3, "off by {off:e} standard deviations");
}

/// A file that is no network, or half of one, is named, and so is the tensor.
#[test]
fn files_that_are_no_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.safetensors");
    let stem = Tensor::zeros((32, 3, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let half = HashMap::from([
        ("Conv2d_1a_3x3.conv.weight".to_owned(), stem.clone()),
        ("_conv_stem.weight".to_owned(), stem),
    ]);
    candle_core::safetensors::save(&half, &path).unwrap();
    let inception = Inception::load(&path, &Device::Cpu).unwrap_err().to_string();
    assert!(inception.contains("half.safetensors"), "{inception}");
    assert!(inception.contains("Conv2d_1a_3x3.bn."), "{inception}");
    let efficientnet = EfficientNetLite0::load(&path, &Device::Cpu).unwrap_err().to_string();
    assert!(efficientnet.contains("half.safetensors"), "{efficientnet}");
    assert!(efficientnet.contains("_bn0."), "{efficientnet}");
    let nowhere = folder.path().join("nowhere.pth");
    let error = Inception::load(&nowhere, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("nowhere.pth"), "{error}");
}
