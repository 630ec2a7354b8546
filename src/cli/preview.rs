//! The live window and its keys.

use std::path::PathBuf;

use mien::{
    frame::{Frame, Picture},
    overlay::Overlay,
    pipeline::Screen,
    sink::{
        SinkError,
        pictures::{PictureWriter, WriteError},
        window::{Window, WindowError},
    },
    track::Person,
};

/// The window's first size, before the size of the pictures is known.
const SIZE: (u32, u32) = (640, 480);

/// Shows frames with people drawn over them: `l` switches the landmarks, space holds the picture,
/// `s` saves it, `q` or Esc closes.
pub struct Preview {
    window: Window,
    overlay: Overlay,
    /// Where `s` saves pictures.
    folder: PathBuf,
    writer: Option<PictureWriter>,
    paused: bool,
    shown: Option<(Frame, Vec<Person>, String)>,
    /// Why no more frames come.
    lost: Option<String>,
    drawn: Picture,
}

impl Preview {
    pub fn open(title: &str, overlay: Overlay, folder: PathBuf) -> Result<Self, WindowError> {
        let (width, height) = SIZE;
        Ok(Self {
            window: Window::open(&format!("mien: {title}"), width, height)?,
            overlay,
            folder,
            writer: None,
            paused: false,
            shown: None,
            lost: None,
            drawn: Picture::new(width, height),
        })
    }

    fn draw(&mut self) {
        if let Some((frame, people, status)) = &self.shown {
            self.drawn.clone_from(&frame.picture);
            match &self.lost {
                None => self.overlay.draw(&mut self.drawn, people, Some(status)),
                Some(reason) => self.overlay.draw_notice(&mut self.drawn, "camera lost", reason),
            }
        }
    }

    /// Shows what is drawn and does what the keys say; false once the window is closed.
    fn present(&mut self) -> bool {
        let events = self.window.show(&self.drawn);
        self.paused ^= events.toggle_pause;
        if events.toggle_landmarks {
            self.overlay.landmarks ^= true;
            self.draw();
        }
        if events.save {
            match self.save() {
                Ok(path) => log::info!("saved {}", path.display()),
                Err(error) => log::error!("{error}"),
            }
        }
        !events.quit
    }

    fn save(&mut self) -> Result<PathBuf, WriteError> {
        let name = self.shown.as_ref().map_or("picture", |(frame, ..)| &frame.name);
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(PictureWriter::new(&self.folder)?),
        };
        writer.write(name, &self.drawn)
    }
}

impl Screen for Preview {
    fn show(&mut self, frame: &Frame, people: &[Person], status: &str) -> Result<bool, SinkError> {
        let is_back = self.lost.take().is_some();
        if !self.paused {
            self.shown = Some((frame.clone(), people.to_vec(), status.to_owned()));
        }
        if !self.paused || is_back {
            self.draw();
        }
        Ok(self.present())
    }

    fn lost(&mut self, reason: &str) -> Result<bool, SinkError> {
        self.lost = Some(reason.to_owned());
        self.draw();
        Ok(self.present())
    }

    fn idle(&mut self) -> Result<bool, SinkError> {
        Ok(self.present())
    }
}
