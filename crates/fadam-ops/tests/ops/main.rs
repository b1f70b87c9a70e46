//! Every op against three sources: finite differences in f64, the same composed of candle's differentiable ops (written here,
//! apart from the crate's own), and PyTorch's values in `tests/goldens`; then laws, and what is refused.

mod batch_norm;
mod bias_activation;
mod causal_attention;
mod check;
mod conv2d;
mod cross_entropy;
mod depthwise_conv1d;
mod dropout;
mod embedding;
mod errors;
mod feed_forward;
mod glu;
mod goldens;
mod gradients;
mod group_norm;
mod grouped_linear_cross_entropy;
mod joint_rnnt_loss;
mod laws;
mod layer_norm;
mod linear;
mod linear_activation;
mod logit_laplace;
mod lstm;
mod padding;
mod rms_norm;
mod rnnt_loss;
mod rope;
mod self_attention;
mod softmax;
mod swiglu;
mod vector_quantize;
