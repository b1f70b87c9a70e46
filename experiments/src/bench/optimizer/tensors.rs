//! The tensors that a step is timed on.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use clap::ValueEnum;
use fadam_core::{Gradients, NamedVars};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// Standard deviation of the parameters.
const THETA_STD: f32 = 0.02;

/// Standard deviation of the gradients.
const GRADIENT_STD: f32 = 0.01;

/// How many parameters are stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ParamSet {
    /// 0.1 M: fits the cache; to try the program out
    Small,
    /// 29.4 M: the decoder that PyTorch's optimizers are timed on
    Full,
}

impl ParamSet {
    /// Names and shapes of a decoder: an embedding, and in each block four matrices and two vectors.
    pub(crate) fn shapes(self) -> Vec<(String, Vec<usize>)> {
        let (vocab, width, blocks) = match self {
            Self::Small => (256, 64, 2),
            Self::Full => (8192, 512, 8),
        };
        let mut shapes = vec![("embedding".to_owned(), vec![vocab, width])];
        for block in 0..blocks {
            for (name, shape) in [
                ("qkv", vec![width, 3 * width]),
                ("out", vec![width, width]),
                ("up", vec![width, 4 * width]),
                ("down", vec![4 * width, width]),
                ("norm1", vec![width]),
                ("norm2", vec![width]),
            ] {
                shapes.push((format!("block{block}.{name}"), shape));
            }
        }
        shapes
    }

    /// Bytes to copy when the machine's bandwidth is measured: for the full set more than a cache holds.
    pub(crate) fn copy_bytes(self) -> usize {
        match self {
            Self::Small => 4 << 20,
            Self::Full => 256 << 20,
        }
    }
}

/// Parameters and gradients by name, f32.
pub(crate) struct Tensors {
    pub(crate) theta: BTreeMap<String, Tensor>,
    gradients: Gradients,
}

impl Tensors {
    /// Parameters N(0, 0.02) and gradients N(0, 0.01), the same ones on every machine.
    pub(crate) fn draw(set: ParamSet) -> candle_core::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut normal = |std: f32, shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product())
                .map(|_| {
                    let unit: f32 = StandardNormal.sample(&mut rng);
                    std * unit
                })
                .collect();
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        let (mut theta, mut gradients) = (BTreeMap::new(), Gradients::new());
        for (name, shape) in set.shapes() {
            theta.insert(name.clone(), normal(THETA_STD, &shape)?);
            gradients.insert(name, normal(GRADIENT_STD, &shape)?);
        }
        Ok(Self { theta, gradients })
    }

    /// Fresh variables with the parameters' values.
    pub(crate) fn vars(&self, dtype: DType, device: &Device) -> candle_core::Result<NamedVars> {
        let var = |(name, theta): (&String, &Tensor)| {
            Ok((name.clone(), Var::from_tensor(&theta.to_dtype(dtype)?.to_device(device)?)?))
        };
        self.theta.iter().map(var).collect()
    }

    /// The gradients.
    pub(crate) fn gradients(
        &self,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Gradients> {
        let cast = |(name, g): (&String, &Tensor)| {
            Ok((name.clone(), g.to_dtype(dtype)?.to_device(device)?))
        };
        self.gradients.iter().map(cast).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SHAPES` of `torch_optimizers.py`.
    #[test]
    fn the_full_set_is_that_of_the_pytorch_benchmark() {
        let shapes = ParamSet::Full.shapes();
        let elements = |(_, shape): &(String, Vec<usize>)| shape.iter().product::<usize>();
        assert_eq!(shapes.len(), 49);
        assert_eq!(shapes.iter().map(elements).sum::<usize>(), 29_368_320);
        assert_eq!(shapes[0].1, [8192, 512]);
        assert_eq!(shapes[1].1, [512, 1536]);
        assert_eq!(shapes[4].1, [2048, 512]);
    }

    #[test]
    fn values_are_seeded_and_as_wide_as_promised() {
        let tensors = Tensors::draw(ParamSet::Small).unwrap();
        let again = Tensors::draw(ParamSet::Small).unwrap();
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (drawn, std) in [(&tensors.theta, 0.02), (&tensors.gradients, 0.01)] {
            let values = values(&drawn["embedding"]);
            let mean_sqr = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
            assert!((mean_sqr.sqrt() / std - 1.0).abs() < 0.02);
        }
        assert_eq!(values(&tensors.theta["block1.up"]), values(&again.theta["block1.up"]));
    }
}
