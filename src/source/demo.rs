//! The demo: a portrait in motion, embedded in the program, with the mask absent, worn and worn wrongly in
//! turn. The portrait is described in `assets/demo/README.md`.

use super::{Extent, Item, Pace, Source, SourceError, SourceOptions, jpeg};
use crate::frame::{Frame, Picture};
use image::imageops::fast_blur;
use std::{
    f64::consts::TAU,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// One after the other: no mask, worn, worn wrongly.
const PORTRAITS: [&[u8]; 3] = [
    include_bytes!("../../assets/demo/none.jpg"),
    include_bytes!("../../assets/demo/worn.jpg"),
    include_bytes!("../../assets/demo/wrong.jpg"),
];
const SECONDS_EACH: f64 = 4.0;
const FPS: u32 = 30;
const SIZE: (u32, u32) = (640, 480);

/// Blur in standard deviations of a Gaussian, in pixels of the portrait; the motion picks one.
const BLURS: [f32; 3] = [0.0, 0.7, 1.4];

/// A delay longer than this, as after the machine slept, moves the schedule instead of being caught up.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// What the imagined camera does at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct View {
    portrait: usize,
    blur: usize,
    /// The middle of the view and its width, in pixels of the portrait.
    centre: (f64, f64),
    width: f64,
    /// Radians, clockwise.
    angle: f64,
    /// 1 leaves the exposure as it is.
    gain: f64,
}

impl View {
    /// The same moment always gives the same view. A view of 4:3 stays inside a portrait of 512x512 but
    /// for a few pixels in the corners.
    fn at(seconds: f64) -> View {
        let swing = |period: f64| (TAU * seconds / period).sin();
        let width = 405.0 + 55.0 * swing(11.0);
        let left = (512.0 - width) * (0.45 + 0.3 * swing(7.0));
        let top = 18.0 + 14.0 * swing(9.0);
        View {
            portrait: (seconds / SECONDS_EACH) as usize % PORTRAITS.len(),
            blur: (swing(5.0).max(0.0) * (BLURS.len() - 1) as f64).round() as usize,
            centre: (left + 0.5 * width, top + 0.375 * width),
            width,
            angle: 0.05 * swing(8.0),
            gain: 1.0 + 0.15 * swing(6.0),
        }
    }
}

/// A picture whose three channels share one word, so that they are interpolated together.
struct Texture {
    width: usize,
    height: usize,
    pixels: Vec<u64>,
}

/// Bits from one channel to the next in a word: room for 8 bits times 8-bit weights and a gain.
const LANE: u32 = 21;
const LANE_BYTES: u64 = 0xFF | 0xFF << LANE | 0xFF << (2 * LANE);

impl Texture {
    fn new(picture: &Picture) -> Self {
        let word = |[r, g, b]: [u8; 3]| u64::from(r) | u64::from(g) << LANE | u64::from(b) << (2 * LANE);
        Self {
            width: picture.width() as usize,
            height: picture.height() as usize,
            pixels: picture.pixels().map(|pixel| word(pixel.0)).collect(),
        }
    }

    /// The view at `size`, sampled bilinearly; beyond the edges the outermost pixels go on.
    fn render(&self, view: &View, (width, height): (u32, u32)) -> Picture {
        const ONE: f64 = 65536.0;
        // A view of 4:3 fills the picture's longer extent.
        let scale = view.width * f64::min(1.0 / f64::from(width), 0.75 / f64::from(height));
        let (sine, cosine) = view.angle.sin_cos();
        let (step_x, step_y) = ((scale * cosine * ONE) as i64, (scale * sine * ONE) as i64);
        let (last_x, last_y) = ((self.width as i64 - 1) << 16, (self.height as i64 - 1) << 16);
        let gain = (view.gain * 256.0) as u64;

        let mut picture = Picture::new(width, height);
        for (row, pixels) in picture.chunks_exact_mut(3 * width as usize).enumerate() {
            let dx = -0.5 * (f64::from(width) - 1.0);
            let dy = row as f64 - 0.5 * (f64::from(height) - 1.0);
            let mut x = ((view.centre.0 + scale * (dx * cosine - dy * sine)) * ONE) as i64;
            let mut y = ((view.centre.1 + scale * (dx * sine + dy * cosine)) * ONE) as i64;
            for pixel in pixels.chunks_exact_mut(3) {
                let word = self.sample(x.clamp(0, last_x - 1), y.clamp(0, last_y - 1)) * gain;
                for (channel, value) in pixel.iter_mut().enumerate() {
                    *value = ((word >> (LANE * channel as u32 + 8)) & 0x1FFF).min(255) as u8;
                }
                x += step_x;
                y += step_y;
            }
        }
        picture
    }

    /// The colour at a place in 16-bit fixed point.
    #[inline]
    fn sample(&self, x: i64, y: i64) -> u64 {
        let at = (y >> 16) as usize * self.width + (x >> 16) as usize;
        let (right, below) = ((x >> 8) as u64 & 0xFF, (y >> 8) as u64 & 0xFF);
        let both = (right * below) >> 8;
        let sum = self.pixels[at] * (256 + both - right - below)
            + self.pixels[at + 1] * (right - both)
            + self.pixels[at + self.width] * (below - both)
            + self.pixels[at + self.width + 1] * both;
        (sum >> 8) & LANE_BYTES
    }
}

/// The portrait in motion, at a live camera's pace.
pub struct Demo {
    /// By portrait and blur.
    textures: Vec<[Texture; BLURS.len()]>,
    size: (u32, u32),
    fps: u32,
    frames: Option<u64>,
    name: Arc<str>,
    start: Option<Instant>,
    count: u64,
}

impl Demo {
    pub fn new(options: &SourceOptions) -> Result<Self, SourceError> {
        let textures = PORTRAITS
            .iter()
            .map(|portrait| {
                let sharp = jpeg::decode(portrait)?;
                Ok(BLURS.map(|sigma| match sigma {
                    0.0 => Texture::new(&sharp),
                    sigma => Texture::new(&fast_blur(&sharp, sigma)),
                }))
            })
            .collect::<Result<_, super::PictureError>>()
            .map_err(|error| SourceError::new("demo", error, "build the program again"))?;
        Ok(Self {
            textures,
            size: options.size.unwrap_or(SIZE),
            fps: options.fps.unwrap_or(FPS),
            frames: options.demo_frames,
            name: "demo".into(),
            start: None,
            count: 0,
        })
    }

    fn render(&self, number: u64) -> Picture {
        let view = View::at(number as f64 / f64::from(self.fps));
        self.textures[view.portrait][view.blur].render(&view, self.size)
    }

    /// Waits until the next picture is due and returns that time.
    fn wait(&mut self) -> Instant {
        let now = Instant::now();
        let start = self.start.get_or_insert(now);
        let since_start = Duration::from_secs_f64(self.count as f64 / f64::from(self.fps));
        let late = now.saturating_duration_since(*start + since_start);
        if late > LONGEST_DELAY {
            *start += late;
        }
        let due = *start + since_start;
        thread::sleep(due.saturating_duration_since(now));
        due
    }
}

impl Source for Demo {
    fn describe(&self) -> String {
        format!("demo, {}x{} at {} fps", self.size.0, self.size.1, self.fps)
    }

    fn extent(&self) -> Extent {
        if self.frames.is_some() { Extent::Ends } else { Extent::Endless }
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if self.frames.is_some_and(|frames| self.count >= frames) {
            return Ok(None);
        }
        let captured = self.wait();
        let sequence = self.count;
        self.count += 1;
        Ok(Some(Item::Frame(Frame {
            picture: self.render(sequence).into(),
            captured,
            sequence,
            name: self.name.clone(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo(options: SourceOptions) -> Demo {
        Demo::new(&options).unwrap()
    }

    #[test]
    fn an_upright_view_of_its_own_size_is_the_portrait() {
        let portrait = jpeg::decode(PORTRAITS[0]).unwrap();
        let view = View { portrait: 0, blur: 0, centre: (255.5, 255.5), width: 512.0, angle: 0.0, gain: 1.0 };
        let rendered = Texture::new(&portrait).render(&view, (512, 384));
        for (x, y, pixel) in rendered.enumerate_pixels().filter(|(x, ..)| *x < 511) {
            assert_eq!(pixel, portrait.get_pixel(x, y + 64), "at {x}, {y}");
        }
    }

    #[test]
    fn gain_saturates_without_spilling_into_other_channels() {
        let texture = Texture::new(&Picture::from_pixel(4, 4, image::Rgb([250, 0, 100])));
        let view = View { portrait: 0, blur: 0, centre: (1.5, 1.5), width: 2.0, angle: 0.3, gain: 1.5 };
        assert!(texture.render(&view, (8, 6)).pixels().all(|pixel| pixel.0 == [255, 0, 150]));
    }

    #[test]
    fn the_face_stays_in_view_and_moves_steadily() {
        const FACE: (f64, f64) = (226.0, 125.0);
        let place = |number: u32| {
            let view = View::at(f64::from(number) / f64::from(FPS));
            let scale = f64::from(SIZE.0) / view.width;
            (320.0 + scale * (FACE.0 - view.centre.0), 240.0 + scale * (FACE.1 - view.centre.1))
        };
        for number in 0..3000 {
            let ((x, y), next) = (place(number), place(number + 1));
            assert!((110.0..530.0).contains(&x) && (110.0..370.0).contains(&y), "{number}: {x}, {y}");
            assert!((next.0 - x).hypot(next.1 - y) < 5.0, "{number} jumps");
        }
    }

    #[test]
    fn the_same_frame_is_always_the_same_picture() {
        let (a, b) = (demo(SourceOptions::default()), demo(SourceOptions::default()));
        assert_eq!(a.render(50), b.render(50));
        assert_ne!(a.render(50), a.render(51));
    }

    #[test]
    fn every_portrait_is_shown_in_turn() {
        let shown: Vec<usize> = (0..4).map(|turn| View::at(4.0 * f64::from(turn) + 1.0).portrait).collect();
        assert_eq!(shown, [0, 1, 2, 0]);
    }

    #[test]
    fn keeps_the_pace_and_ends_when_told() {
        let mut demo = demo(SourceOptions { demo_frames: Some(4), fps: Some(50), ..Default::default() });
        let begin = Instant::now();
        let mut times = Vec::new();
        while let Some(Item::Frame(frame)) = demo.next().unwrap() {
            assert_eq!(frame.picture.dimensions(), SIZE);
            times.push(frame.captured);
        }
        assert_eq!(times.len(), 4);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_millis(20)));
        assert!(begin.elapsed() >= Duration::from_millis(60));
    }
}
