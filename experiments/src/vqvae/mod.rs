//! `train-vqvae`: the paper's section 4.3, a ViT VQ-VAE on pictures.

mod autoencoder;
mod config;
mod distance;
mod exported;
mod grid;
mod looks;
mod pictures;
mod task;

pub use autoencoder::Autoencoder;
pub use config::{Features, PictureCheck, TrainVqVae, VqVaeData};
pub use distance::{Distances, Measured};
pub use exported::{VqVaeManifest, export};
pub use grid::{encode_png, grid};
pub use pictures::Pictures;
pub use task::{GRIDS_FOLDER, VqVaeTask};
