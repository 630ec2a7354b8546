//! Where results go.

use std::{io, time::Duration};

use crate::{frame::Frame, sink::pictures::WriteError, track::Person};

pub mod events;
pub mod pictures;
#[cfg(target_os = "linux")]
pub mod service;
pub mod text;
#[cfg(feature = "window")]
pub mod window;

/// What became of one picture of the source, or of a live source itself.
#[derive(Debug, Clone)]
pub enum Outcome {
    Seen(Seen),
    /// It could not be read.
    Unreadable {
        name: String,
        reason: String,
    },
    /// The source was lost, so long after the stream began.
    Lost {
        name: String,
        reason: String,
        time: Duration,
    },
    /// It is back, after so long.
    Back {
        name: String,
        away: Duration,
        time: Duration,
    },
}

/// A picture and the people found in it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub shot: Shot,
    pub people: Vec<Person>,
}

/// A frame and its place in the stream.
#[derive(Debug, Clone)]
pub struct Shot {
    /// Its capture time is by the clock on the wall, also where it comes from a recording.
    pub frame: Frame,
    /// Since the stream began; in a recording, by the recording's own clock.
    pub time: Duration,
}

/// Takes outcomes one after another, in the order of the source.
pub trait Sink: Send {
    fn accept(&mut self, outcome: &Outcome) -> Result<(), SinkError>;
}

impl<S: Sink + ?Sized> Sink for &mut S {
    fn accept(&mut self, outcome: &Outcome) -> Result<(), SinkError> {
        (**self).accept(outcome)
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    #[error("cannot write to {what}: {source}; check that the place exists, is writable and has room")]
    Stream { what: String, source: io::Error },
    #[error(transparent)]
    Picture(#[from] WriteError),
}

impl SinkError {
    /// Whether the reader of a pipe went away, which is no failure.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Stream { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}
