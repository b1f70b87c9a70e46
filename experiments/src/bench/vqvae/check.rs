//! Gradients of a small VQ-VAE beside differences of its losses.

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor, Var};
use fadam_models::vqvae::{ReconstructionLoss, TowerConfig, VqVaeConfig};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use super::Bench;

/// Where the gradients of a small model are looked at, in f64. The codes that patches have are constants there: as a function of the
/// encoder, the reconstruction loss has steps, and the gradient that is passed straight through them is that of
///
/// ```text
/// S = reconstruction(q₀) + ⟨∂reconstruction/∂q at q₀, n⟩ + mean (e_a − n₀)² + β mean (q₀ − n)²
/// ```
///
/// with q₀, n₀ and the places a as they are at this point.
struct Point {
    bench: Bench,
    images: Tensor,
    indices: Tensor,
    /// n₀
    units: Tensor,
    /// q₀
    codes: Tensor,
    /// ∂reconstruction/∂q
    slope: Tensor,
}

impl Point {
    fn new(config: &VqVaeConfig) -> anyhow::Result<Self> {
        let mut bench = Bench::new(config, DType::F64, &Device::Cpu)?;
        let images = bench.images(3)?;
        let indices = bench.model.encode(&images)?;
        let units = unit(&bench.model.latents(&images)?)?.detach();
        let q = Var::from_tensor(&looked_up(&bench, &indices)?.detach())?;
        let loss = bench.model.reconstruction(&q, &images)?.objective;
        let slope = fadam_ops::backward(&loss)?.get(&q).context("no gradient of codes")?.clone();
        let codes = q.as_detached_tensor();
        Ok(Self { bench, images, indices, units, codes, slope })
    }

    /// S, with the parameters as they are now.
    fn surrogate(&self) -> anyhow::Result<f64> {
        let model = &self.bench.model;
        let n = unit(&model.latents(&self.images)?)?;
        let reconstruction = model.reconstruction(&self.codes, &self.images)?.objective;
        let through = (&self.slope * &n)?.sum_all()?;
        let codebook = (looked_up(&self.bench, &self.indices)? - &self.units)?.sqr()?.mean_all()?;
        let commitment = ((&self.codes - n)?.sqr()?.mean_all()? * model.config().beta)?;
        let auxiliary = (codebook + commitment)?;
        Ok(((reconstruction + through)? + auxiliary)?.to_scalar::<f64>()?)
    }
}

/// Rows of unit length.
fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(2)?.sqrt()?)
}

/// The codes of unit length at these places.
fn looked_up(bench: &Bench, indices: &Tensor) -> anyhow::Result<Tensor> {
    let of_codes = bench.vars.iter().find(|(name, _)| *name == "quantizer.codes");
    let (_, codes) = of_codes.context("no codes among the parameters")?;
    let (b, t) = indices.dims2()?;
    let rows = codes.as_tensor().index_select(&indices.flatten_all()?, 0)?;
    Ok(unit(&rows.reshape((b, t, ()))?)?)
}

/// A small model in f64: its gradient along a direction is what S changes by.
pub(super) fn check(loss: ReconstructionLoss) -> anyhow::Result<()> {
    let tower = TowerConfig { layers: 1, d_model: 12, heads: 2, mlp: 20 };
    let decoder = TowerConfig { d_model: 8, ..tower.clone() };
    let config = VqVaeConfig {
        image: 6,
        patch: 2,
        encoder: tower,
        decoder,
        codes: 9,
        code_width: 5,
        loss,
        ..VqVaeConfig::default()
    };
    let point = Point::new(&config)?;
    let vars = &point.bench.vars;
    let gradients = fadam_ops::backward(&point.bench.model.losses(&point.images)?.total()?)?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (name, var) in vars.iter() {
        let direction: Vec<f64> =
            (0..var.elem_count()).map(|_| StandardNormal.sample(&mut rng)).collect();
        let direction = Tensor::from_vec(direction, var.shape(), &Device::Cpu)?;
        let gradient = gradients.get(var).with_context(|| format!("no gradient for {name}"))?;
        let along = (gradient * &direction)?.sum_all()?.to_scalar::<f64>()?;
        let at = var.as_detached_tensor().copy()?;
        let moved = |h: f64| -> anyhow::Result<f64> {
            var.set(&(&at + (&direction * h)?)?)?;
            point.surrogate()
        };
        let h = 1e-5; // S is smooth but for the corners of the logit-Laplace loss
        let differences = (moved(h)? - moved(-h)?) / (2.0 * h);
        var.set(&at)?;
        let off = (along - differences).abs();
        ensure!(
            off <= 1e-6 * along.abs().max(1e-2),
            "the gradient of {name} along a direction is {along}, and differences say {differences}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_small_models() {
        for loss in [
            ReconstructionLoss::CrossEntropy,
            ReconstructionLoss::L2,
            ReconstructionLoss::L2LogitLaplace,
        ] {
            check(loss).unwrap_or_else(|err| panic!("{loss:?}: {err:#}"));
        }
    }
}
