//! Encoder, quantizer and decoder.
//!
//! Shapes: `B` images, `T` patches of an image, `P` the numbers of a patch, `d` and `d'` the widths of encoder and decoder, `K` codes of
//! width `w`.
//!
//! ```text
//! x = patches of the image, from −1 to 1        z = down(encoder(x Wᵀ + b))              [B, T, w]
//! n = z / ‖z‖                                   q = the code e_k = c_k / ‖c_k‖ of largest n · e_k
//! y = n + sg(q − n)                             reconstruction = head(decoder(up y))
//! loss = reconstruction loss + mean (q − sg n)² + β mean (sg q − n)²
//! ```

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::config::VqVaeConfig;
use super::losses::{Head, Reconstruction, VqVaeLosses, to_signed};
use super::quantizer::{Quantizer, STEPS_UNUSED};
use super::vit::{Tower, patches, unpatched};
use crate::layers::Affine;

/// A ViT VQ-VAE. Parameters, with matrices stored `[out, in]`:
///
/// - `encoder`: `patches.{weight [d, P], bias [d]}`, and for block i `blocks.i.attention.{norm, qkv.weight [3 d, d], out}` and
///   `blocks.i.mlp.{norm, up, down}`, and `norm` with `final_norm`;
/// - `quantizer`: `down.{weight [w, d], bias [w]}`, `codes [K, w]` of any length, `up.{weight [d', w], bias [d']}`;
/// - `decoder`: blocks and norm as the encoder's, and `head.{weight, bias}`, of `256 P`, `P` or `2 P` rows as the loss asks for.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use fadam_models::init::SeededVars;
/// use fadam_models::vqvae::{TowerConfig, VqVae, VqVaeConfig};
///
/// let tower = TowerConfig::new(1, 8, 2);
/// let config = VqVaeConfig { image: 8, encoder: tower.clone(), decoder: tower, ..VqVaeConfig::tiny() };
/// config.check()?;
/// let vars = SeededVars::new(1);
/// let model = VqVae::new(&config, &vars.builder(DType::F32, &Device::Cpu))?;
/// let images = Tensor::zeros((2, 3, 8, 8), DType::U8, &Device::Cpu)?;
/// let losses = model.losses(&images)?;
/// assert_eq!(losses.indices.dims(), [2, 4]);
/// let gradients = fadam_ops::backward(&losses.total()?)?;
/// assert!(vars.into_named().values().all(|var| gradients.get(var).is_some()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct VqVae {
    config: VqVaeConfig,
    of_patches: Affine,
    encoder: Tower,
    quantizer: Quantizer,
    decoder: Tower,
    head: Head,
}

/// Images of the decoder.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// u8 `[B, 3, H, W]`: of cross-entropy the expected value of each channel, of the other losses what they compare.
    pub expected: Tensor,
    /// u8 `[B, 3, H, W]`: of cross-entropy the most probable value of each channel; the other losses have none.
    pub likeliest: Option<Tensor>,
}

/// Images, encoded and decoded.
#[derive(Debug, Clone)]
pub struct Reconstructed {
    /// What they became.
    pub pictures: Pictures,
    /// The code of each patch, u32 `[B, T]`.
    pub indices: Tensor,
}

impl VqVae {
    /// Builds the network, taking parameters from `vb`, and with `restart` a buffer.
    ///
    /// # Errors
    /// If `vb` has not the parameters, or not in these shapes.
    pub fn new(config: &VqVaeConfig, vb: &VarBuilder) -> Result<Self> {
        let (encoder, decoder) = (vb.pp("encoder"), vb.pp("decoder"));
        let d = config.encoder.d_model;
        Ok(Self {
            of_patches: Affine::new(d, config.pixels(), &encoder.pp("patches"))?,
            encoder: Tower::new(&config.encoder, config, &encoder)?,
            quantizer: Quantizer::new(config, &vb.pp("quantizer"))?,
            decoder: Tower::new(&config.decoder, config, &decoder)?,
            head: Head::new(config, &decoder.pp("head"))?,
            config: config.clone(),
        })
    }

    /// Whether this is the name of a buffer of a VQ-VAE and not of a parameter.
    pub fn is_buffer(name: &str) -> bool {
        name.strip_prefix("quantizer.") == Some(STEPS_UNUSED)
    }

    /// The dimensions.
    pub fn config(&self) -> &VqVaeConfig {
        &self.config
    }

    /// Where the model computes.
    pub fn device(&self) -> &Device {
        self.of_patches.weight.device()
    }

    /// The losses of u8 images `[B, 3, H, W]`, each a mean over the batch. In training and in evaluation they are the same.
    ///
    /// # Errors
    /// If the images are not u8, or not of the model's size.
    pub fn losses(&self, images: &Tensor) -> Result<VqVaeLosses> {
        let patches = self.patches(images)?;
        let latents = self.latents_of(&patches)?;
        let quantized = self.quantizer.quantize(&latents)?;
        Ok(VqVaeLosses {
            reconstruction: self.head.loss(&self.decoded(&quantized.codes)?, &patches)?,
            codebook: quantized.codebook_loss,
            commitment: quantized.commitment_loss,
            latents: latents.detach(),
            indices: quantized.indices,
            beta: self.config.beta,
        })
    }

    /// z: what u8 images `[B, 3, H, W]` are encoded to, `[B, T, w]`, before it is quantised.
    ///
    /// # Errors
    /// As for [`losses`](Self::losses).
    pub fn latents(&self, images: &Tensor) -> Result<Tensor> {
        self.latents_of(&self.patches(images)?)
    }

    /// The loss of u8 images `[B, 3, H, W]` where their quantised latents are `codes [B, T, w]`.
    ///
    /// # Errors
    /// As for [`losses`](Self::losses).
    pub fn reconstruction(&self, codes: &Tensor, images: &Tensor) -> Result<Reconstruction> {
        self.head.loss(&self.decoded(codes)?, &self.patches(images)?)
    }

    /// u8 images `[B, 3, H, W]`, encoded, quantised and decoded. For evaluation: on a model of constants, nothing is kept.
    ///
    /// # Errors
    /// As for [`losses`](Self::losses).
    pub fn reconstruct(&self, images: &Tensor) -> Result<Reconstructed> {
        let quantized = self.quantizer.quantize(&self.latents(images)?)?;
        let pictures = self.pictures(&quantized.codes)?;
        Ok(Reconstructed { pictures, indices: quantized.indices })
    }

    /// The code of each patch, u32 `[B, T]`, of u8 images `[B, 3, H, W]`.
    ///
    /// # Errors
    /// As for [`losses`](Self::losses).
    pub fn encode(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.quantizer.quantize(&self.latents(images)?)?.indices)
    }

    /// The images that u32 `indices [B, T]` are the codes of.
    ///
    /// # Errors
    /// If there are not T of each image; for an index that is no code, by its place.
    pub fn decode(&self, indices: &Tensor) -> Result<Pictures> {
        let tokens = self.config.tokens();
        if indices.rank() != 2 || indices.dim(1)? != tokens || indices.dtype() != DType::U32 {
            bail!(
                "indices are {:?} of shape {:?}, where u32 of [B, {tokens}] is expected",
                indices.dtype(),
                indices.dims()
            );
        }
        self.pictures(&self.quantizer.look_up(indices)?)
    }

    /// To be called after each step, with the losses that it was made of: with the key `restart`, a code that no patch had for so many steps
    /// begins anew as what a patch of this batch was encoded to, drawn by `seed`. Returns how many codes did.
    ///
    /// What an optimizer keeps of these codes stays as it is.
    ///
    /// # Errors
    /// If the model is made of constants.
    pub fn restart_dead_codes(&self, losses: &VqVaeLosses, seed: u64) -> Result<usize> {
        self.quantizer.restart(&losses.latents, &losses.indices, seed)
    }

    fn patches(&self, images: &Tensor) -> Result<Tensor> {
        if images.dtype() != DType::U8 {
            bail!("images are {:?}, not u8", images.dtype());
        }
        patches(images, &self.config)
    }

    fn latents_of(&self, patches: &Tensor) -> Result<Tensor> {
        let x = to_signed(patches, self.of_patches.weight.dtype())?;
        self.quantizer.down(&self.encoder.forward(&self.of_patches.forward(&x)?)?)
    }

    /// What the head is applied to, `[B, T, d']`.
    fn decoded(&self, codes: &Tensor) -> Result<Tensor> {
        self.decoder.forward(&self.quantizer.up(codes)?)
    }

    fn pictures(&self, codes: &Tensor) -> Result<Pictures> {
        let (expected, likeliest) = self.head.patches(&self.decoded(codes)?)?;
        let image = |patches: &Tensor| unpatched(patches, &self.config)?.contiguous();
        Ok(Pictures {
            expected: image(&expected)?,
            likeliest: likeliest.as_ref().map(image).transpose()?,
        })
    }
}
