//! Text in the embedded font, each glyph rasterised once per size.

use std::collections::HashMap;

use ab_glyph::{Font, FontRef, ScaleFont, point};

use super::paint::{Colour, blend_pixel};
use crate::frame::Picture;

/// Glyphs kept before the cache starts anew, as it must when every picture has another size.
const CACHED: usize = 1024;

/// Draws text; see `assets/fonts` for the letters it has.
#[derive(Debug)]
pub struct Lettering {
    font: FontRef<'static>,
    glyphs: HashMap<(char, u32), Glyph>,
}

/// A rasterised glyph, relative to the pen on the line's top.
#[derive(Debug)]
struct Glyph {
    left: i32,
    top: i32,
    width: usize,
    coverage: Vec<u8>,
    advance: f32,
}

impl Default for Lettering {
    fn default() -> Self {
        let font = FontRef::try_from_slice(include_bytes!("../../assets/fonts/label.ttf"))
            .expect("the embedded font is whole: every test of the overlay reads it");
        Self { font, glyphs: HashMap::new() }
    }
}

impl Lettering {
    /// The width in pixels of one line whose height is `size` pixels.
    pub fn width(&mut self, text: &str, size: u32) -> i32 {
        text.chars().map(|c| self.glyph(c, size).advance).sum::<f32>().ceil() as i32
    }

    /// Draws one line, `size` pixels high, with its top left corner at `x`, `y`.
    pub fn draw(&mut self, picture: &mut Picture, text: &str, size: u32, (x, y): (i32, i32), colour: Colour) {
        let mut pen = x as f32;
        for c in text.chars() {
            let glyph = self.glyph(c, size);
            let (left, top) = (pen.round() as i32 + glyph.left, y + glyph.top);
            for (row, line) in glyph.coverage.chunks_exact(glyph.width.max(1)).enumerate() {
                for (column, &alpha) in line.iter().enumerate() {
                    blend_pixel(picture, left + column as i32, top + row as i32, colour, alpha);
                }
            }
            pen += glyph.advance;
        }
    }

    fn glyph(&mut self, c: char, size: u32) -> &Glyph {
        if self.glyphs.len() >= CACHED {
            self.glyphs.clear();
        }
        self.glyphs.entry((c, size)).or_insert_with(|| rasterise(&self.font, c, size))
    }
}

fn rasterise(font: &FontRef, c: char, size: u32) -> Glyph {
    let font = font.as_scaled(size as f32);
    let id = font.glyph_id(c);
    let advance = font.h_advance(id);
    let Some(outline) =
        font.outline_glyph(id.with_scale_and_position(size as f32, point(0.0, font.ascent())))
    else {
        return Glyph { left: 0, top: 0, width: 0, coverage: Vec::new(), advance };
    };
    let bounds = outline.px_bounds();
    let (width, height) = (bounds.width() as usize, bounds.height() as usize);
    let mut coverage = vec![0; width * height];
    outline.draw(|x, y, c| coverage[y as usize * width + x as usize] = (c.min(1.0) * 255.0).round() as u8);
    Glyph { left: bounds.min.x as i32, top: bounds.min.y as i32, width, coverage, advance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn width_scales_with_the_size() {
        let mut lettering = Lettering::default();
        let (small, large) = (lettering.width("mask · man", 16), lettering.width("mask · man", 64));
        assert!(small > 40, "{small}");
        assert!((large - 4 * small).abs() <= 4, "{small} {large}");
        assert_eq!(lettering.width("", 16), 0);
    }

    #[test]
    fn every_letter_of_a_label_is_in_the_font() {
        let lettering = Lettering::default();
        for c in "abcdefghijklmnopqrstuvwxyz0123456789 ·–+%#?éü…".chars() {
            assert_ne!(lettering.font.glyph_id(c).0, 0, "{c}");
        }
    }

    #[test]
    fn text_stays_within_its_line() {
        let mut lettering = Lettering::default();
        let mut picture = Picture::new(200, 60);
        let width = lettering.width("gjÉ|%", 24);
        lettering.draw(&mut picture, "gjÉ|%", 24, (10, 20), [255; 3]);
        let lit: Vec<_> = picture.enumerate_pixels().filter(|p| p.2.0[0] > 40).collect();
        assert!(lit.len() > 100);
        assert!(lit.iter().all(|&(x, y, _)| (9..=11 + width as u32).contains(&x) && (20..44).contains(&y)));
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut lettering = Lettering::default();
        for size in 10..200 {
            lettering.width("mask · woman · 30–59 · 87 %", size);
        }
        assert!(lettering.glyphs.len() <= CACHED);
    }
}
