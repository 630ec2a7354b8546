//! The live window.

use std::{cell::RefCell, rc::Rc};

use minifb::{InputCallback, Key, ScaleMode, WindowOptions};

use crate::{
    frame::Picture,
    geometry::{self, Rect},
};

/// Largest size at which a window opens; it can be enlarged by hand.
const LARGEST: (f32, f32) = (1280.0, 960.0);
/// Smaller pictures open in a window at least this wide.
const NARROWEST: f32 = 320.0;

/// Why the window cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    #[error(
        "no display: neither DISPLAY nor WAYLAND_DISPLAY is set; \
         run from a desktop session, or without a window (--headless)"
    )]
    NoDisplay,
    #[error("display {display}: {reason}; check that it is running and allows this user, or use --headless")]
    Open { display: String, reason: String },
}

/// What the user asked for since the last picture; each field is true once per key press.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowEvents {
    /// `q`, `Esc`, or the window was closed.
    pub quit: bool,
    /// `s`
    pub save: bool,
    /// `l`
    pub toggle_landmarks: bool,
    /// Space.
    pub toggle_pause: bool,
}

/// A resizable window that keeps the picture's aspect. It stays on the thread that opened it,
/// which has to be the main thread on macOS.
pub struct Window {
    window: minifb::Window,
    keys: Rc<RefCell<Keys>>,
    /// The picture as 0x00RRGGBB, reused.
    pixels: Vec<u32>,
}

impl Window {
    /// Opens a window for pictures of `width` × `height` pixels.
    pub fn open(title: &str, width: u32, height: u32) -> Result<Window, WindowError> {
        let display = display().ok_or(WindowError::NoDisplay)?;
        let (width, height) = first_size(width, height);
        let options = WindowOptions {
            resize: true,
            scale_mode: ScaleMode::AspectRatioStretch,
            ..WindowOptions::default()
        };
        let mut window = minifb::Window::new(title, width, height, options)
            .map_err(|error| WindowError::Open { display, reason: error.to_string() })?;
        // Zero takes away the limit, which would sleep inside `show`.
        window.set_target_fps(0);
        let keys = Rc::<RefCell<Keys>>::default();
        window.set_input_callback(Box::new(KeyListener(keys.clone())));
        Ok(Window { window, keys, pixels: Vec::new() })
    }

    /// Shows a picture of any size and gives the keys pressed since the last call. Never waits.
    /// Call it also while nothing changes, or the window stops answering.
    pub fn show(&mut self, picture: &Picture) -> WindowEvents {
        let (width, height) = self.window.get_size();
        let k = fit(picture, width as f32, height as f32);
        // minifb takes the nearest pixel, which tears lettering when a picture is made smaller.
        if k < 1.0 {
            let (w, h) = (picture.width() as f32, picture.height() as f32);
            let size = |side: f32| (side * k).round().max(1.0) as u32;
            self.fill(&geometry::resample(picture, &Rect::new(0.0, 0.0, w, h), size(w), size(h)))
        } else {
            self.fill(picture)
        }
        let mut events = self.keys.borrow_mut().take();
        events.quit |= !self.window.is_open();
        events
    }

    fn fill(&mut self, picture: &Picture) {
        pack(picture, &mut self.pixels);
        let size = (picture.width() as usize, picture.height() as usize);
        if let Err(error) = self.window.update_with_buffer(&self.pixels, size.0, size.1) {
            log::error!("window: {error}");
        }
    }
}

/// The name of the display, or `None` where there is none to draw on.
fn display() -> Option<String> {
    if !cfg!(all(unix, not(target_os = "macos"))) {
        return Some("of this desktop".to_owned());
    }
    ["WAYLAND_DISPLAY", "DISPLAY"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// The factor that fits a picture into `width` × `height`, aspect kept.
fn fit(picture: &Picture, width: f32, height: f32) -> f32 {
    let (w, h) = (picture.width().max(1) as f32, picture.height().max(1) as f32);
    (width / w).min(height / h)
}

/// The window's first size: that of the picture, but neither larger than [`LARGEST`] nor a speck.
fn first_size(width: u32, height: u32) -> (usize, usize) {
    let (w, h) = (width.max(1) as f32, height.max(1) as f32);
    let k = (NARROWEST / w).max(1.0).min(LARGEST.0 / w).min(LARGEST.1 / h);
    let size = |side: f32| (side * k).round().max(1.0) as usize;
    (size(w), size(h))
}

/// RGB bytes to 0x00RRGGBB.
fn pack(picture: &Picture, pixels: &mut Vec<u32>) {
    let packed = picture.as_raw().chunks_exact(3).map(|p| u32::from_be_bytes([0, p[0], p[1], p[2]]));
    pixels.clear();
    pixels.extend(packed);
}

/// Counts presses as they come. Asking minifb for the keys that are down loses a press and release
/// that both fall between two pictures.
#[derive(Default)]
struct Keys {
    held: Vec<Key>,
    events: WindowEvents,
}

impl Keys {
    fn set(&mut self, key: Key, down: bool) {
        let repeated = self.held.contains(&key);
        match (down, repeated) {
            (true, false) => {
                self.held.push(key);
                match key {
                    Key::Q | Key::Escape => self.events.quit = true,
                    Key::S => self.events.save = true,
                    Key::L => self.events.toggle_landmarks ^= true,
                    Key::Space => self.events.toggle_pause ^= true,
                    _ => {}
                }
            }
            (false, true) => self.held.retain(|&held| held != key),
            _ => {}
        }
    }

    fn take(&mut self) -> WindowEvents {
        std::mem::take(&mut self.events)
    }
}

struct KeyListener(Rc<RefCell<Keys>>);

impl InputCallback for KeyListener {
    fn add_char(&mut self, _: u32) {}

    fn set_key_state(&mut self, key: Key, down: bool) {
        self.0.borrow_mut().set(key, down);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_a_press_even_when_held_or_short() {
        let mut keys = Keys::default();
        keys.set(Key::S, true);
        keys.set(Key::S, false);
        keys.set(Key::L, true);
        keys.set(Key::L, true);
        assert_eq!(keys.take(), WindowEvents { save: true, toggle_landmarks: true, ..Default::default() });
        keys.set(Key::L, true);
        assert_eq!(keys.take(), WindowEvents::default());
        keys.set(Key::L, false);
        keys.set(Key::L, true);
        keys.set(Key::Escape, true);
        assert_eq!(keys.take(), WindowEvents { quit: true, toggle_landmarks: true, ..Default::default() });
    }

    #[test]
    fn two_toggles_between_pictures_cancel_out() {
        let mut keys = Keys::default();
        for down in [true, false, true, false] {
            keys.set(Key::Space, down);
        }
        assert_eq!(keys.take(), WindowEvents::default());
    }

    #[test]
    fn first_sizes() {
        assert_eq!(first_size(640, 480), (640, 480));
        assert_eq!(first_size(12000, 9000), (1280, 960));
        assert_eq!(first_size(1, 1), (320, 320));
        assert_eq!(first_size(0, 0), (320, 320));
        assert_eq!(first_size(100, 4000), (24, 960));
    }

    #[test]
    fn pixels_are_packed_in_order() {
        let picture = Picture::from_raw(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        let mut pixels = vec![9; 7];
        pack(&picture, &mut pixels);
        assert_eq!(pixels, [0x010203, 0x040506]);
    }
}
