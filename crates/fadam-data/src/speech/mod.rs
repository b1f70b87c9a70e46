//! Speech: sound files to log-mel features.
//!
//! ```text
//! bytes ─decode→ Sound (mono, 16 kHz) ─change_speed→ samples ─LogMel→ Features [frames, 80]
//! Features ─normalise, SpecAugment→ Features
//! ```
//!
//! ```
//! use fadam_data::speech::{LogMel, decode, embedded};
//!
//! let clip = embedded()?.into_iter().find(|clip| clip.text == "Hello world.").unwrap();
//! let decoded = decode(clip.bytes.to_vec(), clip.name)?;
//! let mut features = LogMel::new().compute(decoded.sound.samples());
//! features.normalise();
//! // 10 ms a frame.
//! assert_eq!(features.frames, 1 + decoded.sound.samples().len() / 160);
//! # Ok::<(), fadam_data::Error>(())
//! ```

mod augment;
mod embedded;
mod features;
mod resample;
mod sound;
mod stream;

pub use augment::{SpecAugment, change_speed};
pub use embedded::{EmbeddedClip, embedded};
pub use features::{BINS, Features, LogMel};
pub use sound::{Decoded, RATE, Sound, decode, duration, read};
