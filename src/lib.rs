pub mod attributes;
pub mod detect;
pub mod frame;
pub mod geometry;
pub mod source;
