//! The autoencoder of the paper's section 4.3: a ViT VQ-VAE (Yu et al., arXiv 2110.04627) without adversarial and perceptual losses.
//!
//! An image is cut into patches, a transformer encodes them, each becomes the nearest of some codes, and a second transformer makes
//! the patches again. [`VqVae`] has the losses and their equations, [`VqVaeConfig`] the dimensions and the presets.

mod config;
mod losses;
mod model;
mod quantizer;
mod vit;

pub use config::{ReconstructionLoss, TowerConfig, VqVaeConfig};
pub use losses::{Reconstruction, VqVaeLosses};
pub use model::{Pictures, Reconstructed, VqVae};
pub use quantizer::CodeCounts;
