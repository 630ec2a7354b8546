//! Picture → faces.

use crate::geometry::{Landmarks, Rect};

/// A face found in a picture, in pixels of that picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Face {
    pub rect: Rect,
    pub landmarks: Landmarks,
    /// 0–1.
    pub score: f32,
}
