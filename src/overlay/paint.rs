//! Filled shapes blended into a picture; what lies outside it is left out.

use crate::frame::Picture;

/// Red, green, blue.
pub type Colour = [u8; 3];

/// Whole pixels from `x0`, `y0` up to but without `x1`, `y1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    pub x0: i32,
    pub y0: i32,
    pub x1: i32,
    pub y1: i32,
}

impl Area {
    pub fn new(x: i32, y: i32, width: i32, height: i32) -> Self {
        Self { x0: x, y0: y, x1: x + width, y1: y + height }
    }

    pub fn width(&self) -> i32 {
        self.x1 - self.x0
    }

    pub fn height(&self) -> i32 {
        self.y1 - self.y0
    }

    /// Larger by `by` on each side.
    pub fn grown(&self, by: i32) -> Self {
        Self { x0: self.x0 - by, y0: self.y0 - by, x1: self.x1 + by, y1: self.y1 + by }
    }

    /// Pixels that both cover.
    pub fn overlap(&self, other: &Area) -> i64 {
        let w = self.x1.min(other.x1) - self.x0.max(other.x0);
        let h = self.y1.min(other.y1) - self.y0.max(other.y0);
        i64::from(w.max(0)) * i64::from(h.max(0))
    }
}

/// Blends `colour` over an area; `alpha` 255 covers it.
pub fn fill(picture: &mut Picture, area: Area, colour: Colour, alpha: u8) {
    let (width, height) = (picture.width() as i32, picture.height() as i32);
    let (x0, x1) = (area.x0.clamp(0, width), area.x1.clamp(0, width));
    if x0 >= x1 {
        return;
    }
    for y in area.y0.clamp(0, height)..area.y1.clamp(0, height) {
        let row = y as usize * width as usize;
        let pixels =
            &mut picture.as_flat_samples_mut().samples[3 * (row + x0 as usize)..3 * (row + x1 as usize)];
        for pixel in pixels.chunks_exact_mut(3) {
            blend(pixel, colour, alpha);
        }
    }
}

/// A filled circle with a smooth edge.
pub fn disc(picture: &mut Picture, (cx, cy): (f32, f32), radius: f32, colour: Colour) {
    let span = |centre: f32, side: u32| {
        let low = (centre - radius - 1.0).max(0.0);
        let high = (centre + radius + 1.0).min(side as f32);
        low as i32..high as i32
    };
    for y in span(cy, picture.height()) {
        for x in span(cx, picture.width()) {
            let distance = (x as f32 + 0.5 - cx).hypot(y as f32 + 0.5 - cy);
            let alpha = ((radius - distance + 0.5).clamp(0.0, 1.0) * 255.0) as u8;
            blend_pixel(picture, x, y, colour, alpha);
        }
    }
}

/// Blends one pixel, if it lies in the picture.
pub fn blend_pixel(picture: &mut Picture, x: i32, y: i32, colour: Colour, alpha: u8) {
    let inside = x >= 0 && y >= 0 && x < picture.width() as i32 && y < picture.height() as i32;
    if alpha > 0 && inside {
        blend(&mut picture.get_pixel_mut(x as u32, y as u32).0, colour, alpha);
    }
}

fn blend(pixel: &mut [u8], colour: Colour, alpha: u8) {
    let alpha = u32::from(alpha);
    for (below, above) in pixel.iter_mut().zip(colour) {
        *below = ((u32::from(*below) * (255 - alpha) + u32::from(above) * alpha + 127) / 255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_blends_only_its_area() {
        let mut picture = Picture::from_pixel(4, 3, image::Rgb([100; 3]));
        fill(&mut picture, Area::new(1, 1, 2, 1), [200, 100, 0], 255);
        fill(&mut picture, Area::new(-5, 2, 6, 9), [0; 3], 128);
        assert_eq!(picture.get_pixel(1, 1).0, [200, 100, 0]);
        assert_eq!(picture.get_pixel(3, 1).0, [100; 3]);
        assert_eq!(picture.get_pixel(0, 2).0, [50; 3]);
        assert_eq!(picture.get_pixel(1, 2).0, [100; 3]);
    }

    #[test]
    fn shapes_outside_are_left_out() {
        let mut picture = Picture::new(2, 2);
        fill(&mut picture, Area::new(5, 5, 3, 3), [255; 3], 255);
        fill(&mut picture, Area { x0: 2, y0: 2, x1: -1, y1: -1 }, [255; 3], 255);
        for far in [(-30.0, 1e9), (1e30, f32::NAN), (f32::NEG_INFINITY, 0.0)] {
            disc(&mut picture, far, 4.0, [255; 3]);
        }
        assert!(picture.pixels().all(|p| p.0 == [0; 3]));
    }

    #[test]
    fn overlaps() {
        let area = Area::new(0, 0, 10, 10);
        assert_eq!(area.overlap(&Area::new(8, 5, 10, 10)), 10);
        assert_eq!(area.overlap(&Area::new(20, 20, 1, 1)), 0);
    }
}
