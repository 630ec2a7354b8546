//! A picture with its capture time and sequence number.

use std::{sync::Arc, time::Instant};

/// 8-bit RGB pixels, row by row, `3 * width * height` bytes.
pub type Picture = image::RgbImage;

/// One picture from a source. Cloning is cheap: the pixels are shared.
#[derive(Debug, Clone)]
pub struct Frame {
    pub picture: Arc<Picture>,
    /// When the picture was taken, as near as the source knows.
    pub captured: Instant,
    /// Counts the source's pictures from 0; a gap means that some were skipped.
    pub sequence: u64,
    /// What to call the picture: a file's path, or the source's name.
    pub name: Arc<str>,
}
