pub mod attributes;
pub mod classify;
pub mod detect;
pub mod engine;
pub mod frame;
pub mod geometry;
pub mod models;
pub mod source;
