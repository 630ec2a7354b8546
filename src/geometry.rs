//! Boxes, landmarks, IoU, non-maximum suppression, and the face crop shared with `train`.

use std::cell::RefCell;

use fast_image_resize as fir;

use crate::frame::Picture;

/// x to the right, y down, in pixels.
pub type Point = [f32; 2];

/// Right eye, left eye, nose tip, right and left mouth corner: the person's right, so on the picture's left.
pub type Landmarks = [Point; 5];

/// An axis-aligned box in pixels; `x`, `y` is the top left corner.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rect {
    pub x: f32,
    pub y: f32,
    pub w: f32,
    pub h: f32,
}

impl Rect {
    pub fn new(x: f32, y: f32, w: f32, h: f32) -> Self {
        Self { x, y, w, h }
    }

    pub fn centre(&self) -> Point {
        [self.x + self.w / 2.0, self.y + self.h / 2.0]
    }

    pub fn area(&self) -> f32 {
        self.w.max(0.0) * self.h.max(0.0)
    }

    pub fn right(&self) -> f32 {
        self.x + self.w
    }

    pub fn bottom(&self) -> f32 {
        self.y + self.h
    }

    pub fn shifted(&self, dx: f32, dy: f32) -> Self {
        Self { x: self.x + dx, y: self.y + dy, ..*self }
    }

    /// Position and size multiplied by `k`.
    pub fn scaled(&self, k: f32) -> Self {
        Self { x: self.x * k, y: self.y * k, w: self.w * k, h: self.h * k }
    }

    /// Intersection over union, 0–1; 0 when both are empty.
    pub fn iou(&self, other: &Rect) -> f32 {
        let w = self.right().min(other.right()) - self.x.max(other.x);
        let h = self.bottom().min(other.bottom()) - self.y.max(other.y);
        let both = w.max(0.0) * h.max(0.0);
        let union = self.area() + other.area() - both;
        if union > 0.0 { both / union } else { 0.0 }
    }
}

/// Greedy non-maximum suppression: the indices kept, best score first.
/// A box is dropped when its IoU with a kept one exceeds `overlap`.
pub fn nms(boxes: &[Rect], scores: &[f32], overlap: f32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut kept: Vec<usize> = Vec::new();
    for i in order {
        if kept.iter().all(|&k| boxes[k].iou(&boxes[i]) <= overlap) {
            kept.push(i);
        }
    }
    kept
}

/// The square of side `k * max(w, h)` around a box's centre: what the classifier sees.
pub fn crop_square(face: &Rect, k: f32) -> Rect {
    let side = k * face.w.max(face.h);
    let [cx, cy] = face.centre();
    Rect::new(cx - side / 2.0, cy - side / 2.0, side, side)
}

/// Cuts `square` out of `picture` and resamples it to `size` × `size` with an area-correct (triangle) filter.
/// Where the square leaves the picture, the picture's edge pixels are repeated.
/// `picture` must not be empty and the square's side must be positive.
pub fn crop(picture: &Picture, square: &Rect, size: u32) -> Picture {
    let (pw, ph) = (picture.width() as f32, picture.height() as f32);
    let inside = square.x >= 0.0 && square.y >= 0.0 && square.right() <= pw && square.bottom() <= ph;
    if inside {
        return resample(picture, square, size, size);
    }
    // Pad to whole pixels so that the sub-pixel position of the square is kept.
    let (x0, y0) = (square.x.floor() as i64, square.y.floor() as i64);
    let (x1, y1) = (square.right().ceil() as i64, square.bottom().ceil() as i64);
    let (w, h) = ((x1 - x0).max(1), (y1 - y0).max(1));
    let (columns, rows) = (i64::from(picture.width()), i64::from(picture.height()));
    // Columns to the left of the picture and to the right of it, and the first byte and the bytes within it.
    let (before, after) = ((-x0).clamp(0, w), (x0 + w - columns).clamp(0, w));
    let (first, length) = ((x0 + before).clamp(0, columns) as usize * 3, (w - before - after) as usize * 3);
    let mut padded = Vec::with_capacity((w * h * 3) as usize);
    for y in y0..y0 + h {
        let row = y.clamp(0, rows - 1) as usize * columns as usize * 3;
        let row = &picture.as_raw()[row..][..columns as usize * 3];
        padded.extend_from_slice(&row[..3].repeat(before as usize));
        padded.extend_from_slice(&row[first..][..length]);
        padded.extend_from_slice(&row[row.len() - 3..].repeat(after as usize));
    }
    let (w, h) = (w as u32, h as u32);
    let padded = Picture::from_raw(w, h, padded).expect("three bytes were pushed for each of w × h pixels");
    resample(&padded, &square.shifted(-x0 as f32, -y0 as f32), size, size)
}

thread_local! {
    /// Keeps its memory between two passes, so that it is not cleared each time.
    static RESIZER: RefCell<fir::Resizer> = RefCell::default();
}

/// Resamples a part of a picture, which must lie within it, to `width` × `height`.
pub fn resample(picture: &Picture, part: &Rect, width: u32, height: u32) -> Picture {
    let mut out = Picture::new(width, height);
    let (pw, ph) = (f64::from(picture.width()), f64::from(picture.height()));
    let (x, y) = (f64::from(part.x).clamp(0.0, pw), f64::from(part.y).clamp(0.0, ph));
    let options = fir::ResizeOptions::new()
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear))
        .crop(x, y, f64::from(part.w).min(pw - x), f64::from(part.h).min(ph - y));
    let resized =
        fir::images::ImageRef::new(picture.width(), picture.height(), picture.as_raw(), fir::PixelType::U8x3)
            .map_err(|e| e.to_string())
            .and_then(|source| {
                let mut target =
                    fir::images::Image::from_slice_u8(width, height, &mut out, fir::PixelType::U8x3)
                        .map_err(|e| e.to_string())?;
                RESIZER
                    .with_borrow_mut(|resizer| resizer.resize(&source, &mut target, &options))
                    .map_err(|e| e.to_string())
            });
    // Cannot fail: the buffers have their pictures' sizes and the part was clamped to the picture.
    if let Err(error) = resized {
        log::error!("resampling {part:?} of a {pw}×{ph} picture: {error}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(w: u32, h: u32) -> Picture {
        Picture::from_fn(w, h, |x, y| image::Rgb([x as u8, y as u8, 7]))
    }

    #[test]
    fn iou_of_known_boxes() {
        let a = Rect::new(0.0, 0.0, 10.0, 10.0);
        assert_eq!(a.iou(&a), 1.0);
        assert_eq!(a.iou(&a.shifted(20.0, 0.0)), 0.0);
        assert!((a.iou(&a.shifted(5.0, 0.0)) - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(Rect::default().iou(&Rect::default()), 0.0);
    }

    #[test]
    fn nms_keeps_the_best_of_overlapping_boxes() {
        let a = Rect::new(0.0, 0.0, 10.0, 10.0);
        let boxes = [a, a.shifted(1.0, 0.0), a.shifted(30.0, 0.0)];
        assert_eq!(nms(&boxes, &[0.5, 0.9, 0.7], 0.4), vec![1, 2]);
    }

    #[test]
    fn crop_inside_keeps_the_pixels() {
        let out = crop(&gradient(100, 100), &Rect::new(10.0, 20.0, 16.0, 16.0), 16);
        assert_eq!(out.get_pixel(0, 0).0, [10, 20, 7]);
        assert_eq!(out.get_pixel(15, 15).0, [25, 35, 7]);
    }

    #[test]
    fn crop_outside_repeats_the_edge() {
        let out = crop(&gradient(50, 50), &Rect::new(-8.0, -8.0, 16.0, 16.0), 16);
        assert_eq!(out.get_pixel(0, 0).0, [0, 0, 7]);
        assert_eq!(out.get_pixel(15, 15).0, [7, 7, 7]);
        let far = crop(&gradient(50, 50), &Rect::new(200.0, 200.0, 10.0, 10.0), 8);
        assert_eq!(far.get_pixel(3, 3).0, [49, 49, 7]);
    }

    #[test]
    fn crop_of_a_single_pixel() {
        let out = crop(&gradient(1, 1), &Rect::new(0.0, 0.0, 1.0, 1.0), 12);
        assert!(out.pixels().all(|p| p.0 == [0, 0, 7]));
    }

    #[test]
    fn downscaling_averages_the_area() {
        let checks = Picture::from_fn(64, 64, |x, y| image::Rgb([if (x + y) % 2 == 0 { 0 } else { 254 }; 3]));
        let out = crop(&checks, &Rect::new(0.0, 0.0, 64.0, 64.0), 8);
        assert!(out.pixels().all(|p| p.0[0].abs_diff(127) < 8), "{:?}", out.get_pixel(4, 4));
    }
}
