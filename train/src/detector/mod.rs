//! The face detector: its network, its data, how it is trained and measured.
//!
//! `mien-train detector` reads photos with every face marked ([`scenes`]), keeps some for measuring, and shows the
//! [`network`] squares cut from the others at random sizes and places ([`augment`]), so that it meets faces from 8
//! pixels to the whole square, some of them cut off by its edge. For each square, [`assign`] decides by what the
//! network says now which [`cells`] learn which face, and [`loss`] says how far off they are. Faces too small or too much cut off are ignored: they
//! count neither as faces nor as background. After every epoch of [`run`], the average of the last steps' weights is
//! measured on the photos kept ([`mod@evaluate`]), decoded as the runtime does. [`trials`] puts faces where cameras
//! have them and photos may not: close up and at the edge; [`yunet`] is the detector to beat.

mod assign;
mod augment;
mod cells;
mod evaluate;
mod loss;
pub mod network;
mod run;
mod scenes;
mod trials;
mod yunet;

pub use evaluate::{
    EvaluateOptions, LEAST_SCORE, Reports, evaluate, find, letterbox, reports, score_at, stack,
};
pub use run::{Options, train};
pub use scenes::{Mark, Scene, Split, read_marks, read_scenes};
pub use trials::Answers;
pub use yunet::Yunet;
