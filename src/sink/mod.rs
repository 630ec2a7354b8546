//! Where results go: the live window and annotated pictures.

pub mod pictures;
#[cfg(feature = "window")]
pub mod window;
