//! Fused ops for candle that keep the graph.
//!
//! candle-nn's fused norms, softmax, rotary embedding and attention have no backward pass: they cut the graph without an
//! error. These are the same ops for training, each one node of candle's own autograd:
//!
//! | op | what it computes |
//! |---|---|
//! | [`rms_norm`], [`layer_norm`] | normalisation over the last dimension |
//! | [`linear`] | `x Wᵀ + b` |
//! | [`causal_attention`] | causal attention, grouped heads, rotary positions, from packed q, k, v; no `[T, T]` matrix is kept |
//! | [`self_attention`] | attention of encoders over sequences of given lengths, with relative positions as an option |
//! | [`lstm`] | a recurrent layer over time, and backpropagation through time |
//! | [`rope`] | rotary positions on split halves |
//! | [`feed_forward`] | `swiglu(x Uᵀ) Dᵀ` |
//! | [`swiglu`], [`glu`] | `silu(a) b` and `a σ(b)` of the halves of the last dimension |
//! | [`bias_activation`] | `φ(x + b)` |
//! | [`linear_activation`] | `φ(x Wᵀ + b)` |
//! | [`depthwise_conv1d`] | each channel of padded sequences with taps of its own |
//! | [`conv2d`] | a convolution over frames and bands of padded sequences, channels last, with relu |
//! | [`batch_norm`], [`batch_norm_with`] | normalisation of a channel over real frames, and with given statistics |
//! | [`group_norm`] | normalisation of groups of channels over the real frames of an utterance |
//! | [`softmax`] | softmax over the last dimension |
//! | [`cross_entropy()`] | log-softmax cross-entropy, label smoothing, z-loss, ignored targets |
//! | [`linear_cross_entropy()`] | the same of logits `x Wᵀ`, which are never there in full |
//! | [`grouped_linear_cross_entropy()`] | cross-entropies of groups of logits `x Wᵀ + b`, as of a patch's pixels, never there in full |
//! | [`logit_laplace()`] | the negative log-likelihood of a Laplace distribution of logits |
//! | [`vector_quantize()`] | the nearest code of each row, straight-through, with the losses of codes and rows |
//! | [`rnnt_loss()`] | the transducer loss of labels without times, from logits of every frame and prefix |
//! | [`joint_rnnt_loss()`] | the same of logits `W φ(e + p) + b`, which are never there in full |
//! | [`embedding`] | rows of a table |
//! | [`dropout`] | from a seed |
//! | [`checkpoint`] | any part of a network, computed again in the backward pass instead of kept |
//!
//! # Where they run
//!
//! On the CPU in f32 and f64 they are fused: vector instructions chosen at run time, on all threads of rayon's current
//! pool. bf16 and f16 on the CPU are widened to f32 and rounded back. On CUDA and Metal they are composed of candle's
//! differentiable ops: correct, not fused. The RNN-T loss of logits on a device is computed on the host.
//!
//! Results are the same bits on every run on one machine, whatever the number of threads and the layout of the arguments.
//! That includes matrix products: the crate `gemm` shares out tiles of the result, and cuts the inner dimension by the
//! machine's caches alone. Machines whose vectors differ in width round sums differently.
//!
//! # Nothing, and what is refused
//!
//! No rows, or rows of no width, give an empty value and gradients of 0; a softmax of no numbers, a product over an inner
//! dimension of 0 and a mean loss of no rows are errors. Errors begin with the name of the op. An argument that is no
//! variable and comes from none gets no gradient, and [`linear`] and [`linear_cross_entropy()`] do not compute it.
//!
//! # Padding
//!
//! Ops that take `lengths` have one rule for the frames of `[B, T, ...]` beyond an utterance's length: they are read as 0, whatever
//! they hold, and get a gradient of 0; those of the result are 0, and the gradient that they are given is not read.
//!
//! # Gradients of weights
//!
//! `loss.backward()` works as always. [`backward`] gives the same gradients and adds up those of weights in place.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined into pulp's dispatch is not compiled for the instruction set it chose"
)]

mod activation;
mod attention;
mod batch_norm;
mod by_class;
mod checkpoint;
#[cfg(test)]
mod composed_forms;
mod conv2d;
mod conv2d_reverse;
mod cross_entropy;
mod depthwise_conv1d;
mod dropout;
mod embedding;
mod feed_forward;
mod frame_norm;
mod frames;
mod glu;
mod gradients;
mod group_norm;
mod grouped_linear_cross_entropy;
mod joint_rnnt_loss;
mod kept;
mod lanes;
mod lattice;
mod layer_norm;
mod linear;
mod linear_activation;
mod linear_cross_entropy;
mod log_add;
mod logit_laplace;
mod lstm;
mod matrix;
mod moments;
mod number;
mod op;
mod rms_norm;
mod rnnt_loss;
mod rope;
mod route;
mod rows;
mod segments;
mod self_attention;
mod softmax;
mod softmax_loss;
mod swiglu;
mod transducer;
mod vector_quantize;
mod windows;

pub use activation::{Activation, bias_activation};
pub use attention::{Attention, causal_attention};
pub use batch_norm::{Moments, batch_norm, batch_norm_with};
pub use checkpoint::checkpoint;
pub use conv2d::{Conv2d, conv2d};
pub use cross_entropy::{CrossEntropy, Loss};
pub use depthwise_conv1d::depthwise_conv1d;
pub use dropout::dropout;
pub use embedding::embedding;
pub use feed_forward::feed_forward;
pub use glu::glu;
pub use gradients::backward;
pub use group_norm::group_norm;
pub use grouped_linear_cross_entropy::grouped_linear_cross_entropy;
pub use joint_rnnt_loss::{Joint, joint_rnnt_loss};
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use linear_activation::linear_activation;
pub use linear_cross_entropy::linear_cross_entropy;
pub use logit_laplace::logit_laplace;
pub use lstm::{LstmState, lstm};
pub use rms_norm::rms_norm;
pub use rnnt_loss::rnnt_loss;
pub use rope::{Rope, rope};
pub use self_attention::{RelativePositions, SelfAttention, self_attention, sinusoidal_positions};
pub use softmax::softmax;
pub use softmax_loss::cross_entropy;
pub use swiglu::swiglu;
pub use transducer::Transducer;
pub use vector_quantize::{Quantized, vector_quantize};
