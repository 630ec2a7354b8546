//! The int8 engine: a quantised network in whole numbers from the picture to the logits.
//!
//! [`recognize`] reads the ONNX protobuf, where quantised layers are still whole (`DequantizeLinear` of input, weights
//! and bias, `Conv`, `QuantizeLinear`; tract's own translation folds the weights to f32), and makes a [`Program`] of
//! all layers from the picture on that it knows. What it doesn't know, and what depends on that, stays ONNX, reads the
//! program's results, and runs in plain tract. [`operator::Int8`] makes the program an operator of tract.
//!
//! Tensors are channels last; see [`super::kernels`] for the arithmetic.

mod convolution;
mod cut;
pub mod operator;
mod program;
mod recognize;

pub use program::{Layer, Memory, Program, TooSmall};
pub use recognize::{Fate, Recognized, recognize};
