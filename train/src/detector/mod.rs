//! The face detector: its network, its data, how it is trained and measured.

mod assign;
mod augment;
mod cells;
mod evaluate;
mod loss;
pub mod network;
mod run;
mod scenes;

pub use evaluate::{EvaluateOptions, evaluate};
pub use run::{Options, train};
