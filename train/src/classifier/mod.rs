//! The attribute classifier: its data, how it is trained and measured.
//!
//! `mien-train classifier` reads faces with their [`labels`], keeps some photos for measuring, and holds all pictures
//! as one tensor on the training device ([`dataset`]). The [`loader`] chooses faces and paints masks on some of them;
//! [`crate::augment`] crops and distorts a whole batch there; [`loss`] is taken over the heads whose label is known. The
//! averaged weights of a [`run`] are measured ([`mod@evaluate`]) on held-out photos, cut as the runtime cuts them.

pub mod dataset;
pub mod evaluate;
pub mod labels;
mod loader;
mod loss;
mod run;

pub use evaluate::{EvaluateOptions, evaluate};
pub use run::{Options, train};
