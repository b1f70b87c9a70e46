//! The speech recogniser of the paper's section 4.2: a Conformer encoder with a transducer's loss, and how text is read from
//! it.

mod beam;
mod config;
mod convolution;
mod encoder;
mod greedy;
mod pass;
mod prediction;
mod transducer;

pub use beam::{Beam, Hypothesis};
pub use config::{BINS, ConvNorm, JointActivation, SUBSAMPLING, TransducerConfig};
pub use convolution::MOMENTUM as RUNNING_MOMENTUM;
pub use greedy::{Recognised, greedy};
pub use pass::Mode;
pub use prediction::BLANK;
pub use transducer::{Encoded, Transducer, Utterances};
