//! Distances between originals and reconstructions in the features of a pretrained network.

use std::fmt;

use anyhow::Context;
use candle_core::{Device, Tensor};
use fadam_data::hub::{Hub, HubFile, RepoKind};
use fadam_models::fid::{
    EfficientNetLite0, FeatureMoments, FeatureNetwork, Inception, KidConfig, frechet_distance, kid,
};
use fadam_train::bad_input;

use super::config::{Features, VqVaeData};

/// A feature network, and what its distances are called.
pub struct Distances {
    network: Box<dyn FeatureNetwork>,
    names: [&'static str; 2],
}

/// The distances of two sets of pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The Fréchet distance of the features. Too large by what the sets lack, about in proportion to 1/N.
    pub frechet: f64,
    /// The kernel distance, which has no such bias.
    pub kid: f64,
}

impl fmt::Debug for Distances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Distances({})", self.network.distance_name())
    }
}

impl Distances {
    /// The network that `data.features` names, with the weights of `data.features_file`.
    ///
    /// # Errors
    /// Bad input: weights that are missing, damaged or of another network.
    pub fn load(data: &VqVaeData, device: &Device) -> anyhow::Result<Option<Self>> {
        if data.features == Features::None {
            return Ok(None);
        }
        let mut file = data.features_file.clone();
        let place = file.display().to_string();
        if HubFile::is_meant(&file) {
            let of_hub = HubFile::parse(&place, RepoKind::Model, None).map_err(bad_input)?;
            file = Hub::from_env().fetch(&of_hub).map_err(bad_input)?;
        }
        let network = match data.features {
            Features::None => return Ok(None),
            Features::Inception => Inception::load(&file, device)
                .map(|network| Box::new(network) as Box<dyn FeatureNetwork>),
            Features::EfficientNetLite0 => {
                EfficientNetLite0::load(&file, device).map(|network| Box::new(network) as _)
            }
        };
        let names = match data.features {
            Features::Inception => ["fid", "kid"],
            _ => ["frechet_efficientnet_lite0", "kid_efficientnet_lite0"],
        };
        let network =
            network.with_context(|| format!("data.features_file {place}")).map_err(bad_input)?;
        Ok(Some(Self { network, names }))
    }

    /// The names of the Fréchet distance and of the kernel distance in metrics.
    pub fn names(&self) -> [&'static str; 2] {
        self.names
    }

    /// Features `[N, D]` of u8 pictures `[N, 3, H, W]`.
    ///
    /// # Errors
    /// When candle fails.
    pub fn features(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        self.network.features(pictures)
    }

    /// The distances of two sets of features.
    ///
    /// # Errors
    /// If a set has fewer than two pictures.
    pub fn measure(&self, originals: &Tensor, others: &Tensor) -> anyhow::Result<Measured> {
        let moments = |features: &Tensor| {
            let mut moments = FeatureMoments::new(self.network.width());
            moments.add(features).map(|()| moments)
        };
        Ok(Measured {
            frechet: frechet_distance(&moments(originals)?, &moments(others)?)?,
            kid: kid(originals, others, &KidConfig::default())?.mean,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of each channel.
    struct Means;

    impl FeatureNetwork for Means {
        fn distance_name(&self) -> &'static str {
            "Fréchet distance, means"
        }

        fn width(&self) -> usize {
            3
        }

        fn features(&self, images: &Tensor) -> candle_core::Result<Tensor> {
            images.to_dtype(candle_core::DType::F32)?.mean((2, 3))
        }
    }

    #[test]
    fn distances_of_means() {
        let distances = Distances { network: Box::new(Means), names: ["frechet", "kid"] };
        let pictures = |shift: u32| {
            let values = (0..5 * 12).map(|i| ((i * i * 7 + i / 12) % 200 + shift) as u8);
            let pictures = Tensor::from_vec(values.collect(), (5, 3, 2, 2), &Device::Cpu).unwrap();
            distances.features(&pictures).unwrap()
        };
        let same = distances.measure(&pictures(0), &pictures(0)).unwrap();
        assert!((0.0..1e-3).contains(&same.frechet), "{same:?}");
        // Another mean and the same covariance: the squares of three shifts.
        let shifted = distances.measure(&pictures(0), &pictures(20)).unwrap();
        assert!((shifted.frechet - 1200.0).abs() < 0.01, "{shifted:?}");
        assert!(shifted.kid > same.kid);
        assert!(distances.measure(&pictures(0), &pictures(0).narrow(0, 0, 1).unwrap()).is_err());
    }
}
