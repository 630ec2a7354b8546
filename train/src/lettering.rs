//! Words on contact sheets.

use ab_glyph::{Font, FontRef, ScaleFont, point};
use anyhow::{Context, Result};
use mien::frame::Picture;

/// Height of letters in pixels.
const LETTERS: f32 = 15.0;

/// Writes in black with the font of the runtime's labels.
pub struct Pen {
    font: FontRef<'static>,
}

impl Pen {
    pub fn new() -> Result<Pen> {
        let font = FontRef::try_from_slice(include_bytes!("../../assets/fonts/label.ttf"))
            .context("reading the embedded font")?;
        Ok(Pen { font })
    }

    /// `x` and `y` are where the line begins; what does not fit into the picture is left out.
    pub fn write(&self, picture: &mut Picture, text: &str, (x, y): (u32, u32)) {
        let font = self.font.as_scaled(LETTERS);
        let mut pen = x as f32;
        for letter in text.chars() {
            let id = font.glyph_id(letter);
            if let Some(outline) =
                font.outline_glyph(id.with_scale_and_position(LETTERS, point(pen, y as f32)))
            {
                let (left, top) = (outline.px_bounds().min.x as u32, outline.px_bounds().min.y as u32);
                outline.draw(|dx, dy, ink| {
                    if let Some(pixel) = picture.get_pixel_mut_checked(left + dx, top + dy) {
                        *pixel = pixel.0.map(|paper| (f32::from(paper) * (1.0 - ink)) as u8).into();
                    }
                });
            }
            pen += font.h_advance(id);
        }
    }
}
