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
//! | [`rope`] | rotary positions on split halves |
//! | [`feed_forward`] | `swiglu(x Uᵀ) Dᵀ` |
//! | [`swiglu`] | `silu(a) b` of the halves of the last dimension |
//! | [`bias_activation`] | `φ(x + b)` |
//! | [`softmax`] | softmax over the last dimension |
//! | [`cross_entropy()`] | log-softmax cross-entropy, label smoothing, z-loss, ignored targets |
//! | [`linear_cross_entropy()`] | the same of logits `x Wᵀ`, which are never there in full |
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
//! # Gradients of weights
//!
//! `loss.backward()` works as always. [`backward`] gives the same gradients and adds up those of weights in place.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined into pulp's dispatch is not compiled for the instruction set it chose"
)]

mod activation;
mod attention;
mod checkpoint;
mod cross_entropy;
mod dropout;
mod embedding;
mod feed_forward;
mod gradients;
mod joint_rnnt_loss;
mod lanes;
mod lattice;
mod layer_norm;
mod linear;
mod linear_cross_entropy;
mod log_add;
mod matrix;
mod number;
mod op;
mod rms_norm;
mod rnnt_loss;
mod rope;
mod route;
mod rows;
mod segments;
mod softmax;
mod softmax_loss;
mod swiglu;
mod transducer;

pub use activation::{Activation, bias_activation};
pub use attention::{Attention, causal_attention};
pub use checkpoint::checkpoint;
pub use cross_entropy::{CrossEntropy, Loss};
pub use dropout::dropout;
pub use embedding::embedding;
pub use feed_forward::feed_forward;
pub use gradients::backward;
pub use joint_rnnt_loss::{Joint, joint_rnnt_loss};
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use linear_cross_entropy::linear_cross_entropy;
pub use rms_norm::rms_norm;
pub use rnnt_loss::rnnt_loss;
pub use rope::{Rope, rope};
pub use softmax::softmax;
pub use softmax_loss::cross_entropy;
pub use swiglu::swiglu;
pub use transducer::Transducer;
