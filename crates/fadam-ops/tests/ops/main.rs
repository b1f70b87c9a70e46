//! Every op against three sources: finite differences in f64, the same composed of candle's differentiable ops (written here,
//! apart from the crate's own), and PyTorch's values in `tests/goldens`; then laws, and what is refused.

mod bias_activation;
mod causal_attention;
mod check;
mod cross_entropy;
mod dropout;
mod embedding;
mod errors;
mod feed_forward;
mod goldens;
mod gradients;
mod laws;
mod layer_norm;
mod linear;
mod lstm;
mod rms_norm;
mod rope;
mod self_attention;
mod softmax;
mod swiglu;
