//! PSNR and SSIM against scikit-image, and what is no pair of images.

use candle_core::{DType, Device, Tensor};
use fadam_models::quality::{psnr, ssim};

/// `goldens/quality.safetensors`, from scikit-image 0.26 in float64: see `goldens/make_fid.py`.
#[test]
fn both_are_scikit_images() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/quality.safetensors");
    let golden = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    for (name, metric) in [("psnr", psnr as fn(&Tensor, &Tensor) -> _), ("ssim", ssim)] {
        let wanted = golden[name].to_vec1::<f64>().unwrap();
        let ours: Vec<f64> = metric(&golden["a"], &golden["b"]).unwrap();
        assert_eq!(ours.len(), wanted.len());
        for (i, (ours, wanted)) in ours.iter().zip(wanted).enumerate() {
            // Both in f64; their order of sums differs.
            assert!((ours - wanted).abs() < 1e-9 * wanted, "{name} {i}: {ours}, wanted {wanted}");
        }
        let swapped = metric(&golden["b"], &golden["a"]).unwrap();
        assert!(ours.iter().zip(swapped).all(|(a, b)| (a - b).abs() < 1e-12 * a), "{name}");
    }
}

#[test]
fn the_same_image_is_without_noise_and_most_similar() {
    let bytes: Vec<u8> = (0..2 * 3 * 12 * 17).map(|i| (i * 37 % 251) as u8).collect();
    let x = Tensor::from_vec(bytes, (2, 3, 12, 17), &Device::Cpu).unwrap();
    assert_eq!(psnr(&x, &x).unwrap(), [f64::INFINITY; 2]);
    assert!(ssim(&x, &x).unwrap().iter().all(|s| (s - 1.0).abs() < 1e-12));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let x = zeros(&[1, 3, 16, 16], DType::U8);
    for (a, b, wanted) in [
        (&x, &zeros(&[1, 3, 16, 17], DType::U8), "[1, 3, 16, 16] and [1, 3, 16, 17]"),
        (&x, &zeros(&[1, 3, 16, 16], DType::F32), "F32"),
        (&zeros(&[3, 16, 16], DType::U8), &x, "[3, 16, 16], where [N, C, H, W]"),
        (&zeros(&[0, 3, 16, 16], DType::U8), &zeros(&[0, 3, 16, 16], DType::U8), "no pixels"),
    ] {
        for metric in [psnr, ssim] {
            let error = metric(a, b).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
    let small = zeros(&[1, 1, 10, 20], DType::U8);
    assert!(psnr(&small, &small).is_ok());
    assert!(ssim(&small, &small).unwrap_err().to_string().contains("10 × 20"));
}
