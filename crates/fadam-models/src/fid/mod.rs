//! How far generated or reconstructed images are from real ones: Fréchet and kernel distances of features, and the networks that the
//! features come from.
//!
//! | what | where | name |
//! |---|---|---|
//! | FID | [`Inception`] features, [`frechet_distance`] | "FID" |
//! | Fréchet distance in other features | [`EfficientNetLite0`] features, [`frechet_distance`] | "Fréchet distance, EfficientNet-Lite0", never FID |
//! | KID, for small sets | [`kid()`] of features | "KID", and the features |
//!
//! Features are added up as they come ([`FeatureMoments`]), so that 50,000 images need the memory of one covariance (34 MB at 2,048
//! features). The Fréchet distance of a finite set is too large by what the set lacks, about in proportion to 1/N: compare sets of the same
//! size, of 10,000 images and more, or take the KID, which has no such bias.
//!
//! Weights are files that are not part of this repository. [`Inception::load`] and [`EfficientNetLite0::load`] read PyTorch's files as they
//! are published, and safetensors with the same names; [`read_torch`] is what reads the former.
//!
//! ```no_run
//! use candle_core::{Device, Tensor};
//! use fadam_models::fid::{FeatureMoments, FeatureNetwork, Inception, frechet_distance};
//!
//! # let (real, generated): (Vec<Tensor>, Vec<Tensor>) = (vec![], vec![]);
//! let network = Inception::load("pt_inception-2015-12-05-6726825d.pth", &Device::Cpu)?;
//! let mut sets = [FeatureMoments::new(network.width()), FeatureMoments::new(network.width())];
//! for (set, batches) in sets.iter_mut().zip([&real, &generated]) {
//!     for images in batches {
//!         set.add(&network.features(images)?)?; // u8 [N, 3, H, W]
//!     }
//! }
//! println!("{}: {}", network.distance_name(), frechet_distance(&sets[0], &sets[1])?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod distance;
mod efficientnet;
mod error;
mod images;
mod inception;
mod kid;
mod layers;
mod moments;
mod planes;
mod reduce;
#[cfg(test)]
mod test_support;
mod torch_file;
mod weights;

use candle_core::{Result, Tensor};

pub use distance::frechet_distance;
pub use efficientnet::EfficientNetLite0;
pub use error::DistanceError;
pub use inception::Inception;
pub use kid::{Kid, KidConfig, kid, squared_mmd};
pub use moments::FeatureMoments;
pub use torch_file::read_torch;

/// A network that images are compared in.
pub trait FeatureNetwork {
    /// What a Fréchet distance in these features is to be called in every table and log.
    fn distance_name(&self) -> &'static str;

    /// The width D of a feature vector.
    fn width(&self) -> usize;

    /// Features `[N, D]`, f32, of `images [N, 3, H, W]`, RGB, u8, or f32 from 0 to 1. Images are brought to the size that the network was
    /// trained at, and go through it a few at a time, on all threads of rayon's current pool.
    ///
    /// # Errors
    /// If the images are of another shape or dtype, or none, or if a number is outside of 0 to 1.
    fn features(&self, images: &Tensor) -> Result<Tensor>;
}
