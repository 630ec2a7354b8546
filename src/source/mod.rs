//! Where frames come from.

use crate::frame::Frame;

/// Whether a source stops by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Ends after a known or unknown number of pictures.
    Ends,
    /// Goes on until it is stopped.
    Endless,
}

/// How a source's pictures relate to the clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Pictures come when they are taken; an unread one is overtaken by the next.
    Live,
    /// A recording of so many pictures a second; without a window, none is skipped.
    Recorded(f32),
    /// Unrelated pictures; none is skipped and there is no motion between them.
    Stills,
}

/// One step of a source.
pub enum Item {
    Frame(Frame),
    /// A picture that could not be read; the source goes on.
    Unreadable {
        name: String,
        reason: String,
    },
}

/// Why a source cannot be opened or cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}; {advice}")]
pub struct SourceError {
    /// The device, file or flag.
    pub what: String,
    /// What was found.
    pub reason: String,
    /// What would be accepted, or what to do.
    pub advice: String,
}

/// A stream of pictures. Runs on the capture thread.
pub trait Source: Send {
    /// For the log and the window's title: `camera /dev/video0, MJPG 640x480 at 30 fps`.
    fn describe(&self) -> String;
    fn extent(&self) -> Extent;
    fn pace(&self) -> Pace;
    /// The next picture; `None` at the end. Blocks until there is one.
    fn next(&mut self) -> Result<Option<Item>, SourceError>;
}
