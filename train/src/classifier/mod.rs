//! The attribute classifier: its data, how it is trained and measured.
//!
//! A [`config`] says all that a run is. `mien-train classifier` reads faces with their [`labels`], keeps some persons
//! for measuring ([`mod@split`]), and holds all pictures as one tensor ([`dataset`]). The `loader` chooses faces and
//! paints masks on some of them; [`crate::augment`] crops and distorts a whole batch on the training device; the
//! [`objective`] is taken over the labels that are known, and over what teachers say ([`distillation`]). The averaged weights of a [`mod@run`] are measured
//! ([`evaluate`], [`figures`]) on the photos kept, cut as the runtime cuts them. Several [`model`]s vote as an
//! [`ensemble`] ([`prediction`]).

pub mod config;
pub mod dataset;
pub mod distillation;
pub mod eda;
pub mod ensemble;
pub mod evaluate;
pub mod figures;
pub mod labels;
pub mod loader;
pub mod model;
pub mod objective;
pub mod prediction;
mod run;
pub mod split;

pub use run::{Options, run, train};
