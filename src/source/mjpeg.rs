//! A stream of JPEG pictures one after the other, from a file or standard input.

use super::{
    DEFAULT_FPS, Extent, Item, Pace, RecordingClock, Source, SourceError, SourceOptions, display_name,
    jpeg::{self, Scan, Scanner},
    open_bytes,
};
use crate::frame::Frame;
use std::{
    io::{self, Read},
    sync::Arc,
    time::Instant,
};

/// The largest picture of a stream, in bytes.
const MAX_JPEG: usize = 32 << 20;
const READ_SIZE: usize = 64 << 10;

/// What [`Splitter::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// The bytes of one picture, from its SOI to its EOI marker.
    Jpeg(&'a [u8]),
    /// The start of a picture without a proper end.
    Broken(&'static str),
}

/// Cuts a stream of bytes into JPEG pictures. Bytes between pictures are skipped; after a picture that
/// is cut short the next start is looked for. Holds at most one picture and a read's worth of bytes.
pub struct Splitter<R> {
    input: R,
    buffer: Vec<u8>,
    /// Where in `buffer` the bytes begin that are still wanted.
    start: usize,
    limit: usize,
}

impl<R: Read> Splitter<R> {
    pub fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), start: 0, limit: MAX_JPEG }
    }

    /// The next picture, or `None` at the end of the stream.
    pub fn next(&mut self) -> io::Result<Option<Found<'_>>> {
        if !self.seek_start()? {
            return Ok(None);
        }
        let mut scanner = Scanner::default();
        loop {
            match scanner.advance(&self.buffer[self.start..]) {
                Scan::Complete(length) => {
                    let picture = self.start..self.start + length;
                    self.start = picture.end;
                    return Ok(Some(Found::Jpeg(&self.buffer[picture])));
                }
                Scan::Broken(reason) => {
                    self.start += scanner.resume_at();
                    return Ok(Some(Found::Broken(reason)));
                }
                Scan::Incomplete if self.buffer.len() - self.start > self.limit => {
                    self.start = self.buffer.len();
                    return Ok(Some(Found::Broken("it goes on for more than 32 MB")));
                }
                Scan::Incomplete => {
                    if !self.fill()? {
                        self.start = (self.start + scanner.resume_at()).min(self.buffer.len());
                        return Ok(Some(Found::Broken("the stream ends in the middle of it")));
                    }
                }
            }
        }
    }

    /// Moves to the next SOI marker that another marker follows.
    fn seek_start(&mut self) -> io::Result<bool> {
        loop {
            let bytes = &self.buffer[self.start..];
            if let Some(offset) = bytes.windows(3).position(|window| window == [0xFF, 0xD8, 0xFF]) {
                self.start += offset;
                return Ok(true);
            }
            self.start += bytes.len().saturating_sub(2);
            if !self.fill()? {
                return Ok(false);
            }
        }
    }

    /// Reads on; false at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_SIZE, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }
}

/// JPEG pictures from a stream.
///
/// Standard input counts as live, since it mostly is a camera's (`rpicam-vid --codec mjpeg -o -`), unless
/// a rate is given. A file is a recording at that rate, or at 30 pictures a second.
pub struct Mjpeg {
    splitter: Splitter<Box<dyn Read + Send>>,
    name: Arc<str>,
    pace: Pace,
    clock: RecordingClock,
    /// Pictures met so far, readable or not.
    count: u64,
}

impl Mjpeg {
    /// `input` is a path, or `-` for standard input.
    pub fn open(input: &str, options: &SourceOptions) -> Result<Self, SourceError> {
        let pace = match options.recording_fps() {
            Some(fps) => Pace::Recorded(fps),
            None if input == "-" => Pace::Live,
            None => Pace::Recorded(DEFAULT_FPS),
        };
        Ok(Self {
            splitter: Splitter::new(open_bytes(input)?),
            name: display_name(input).into(),
            pace,
            clock: RecordingClock::default(),
            count: 0,
        })
    }
}

impl Source for Mjpeg {
    fn describe(&self) -> String {
        match self.pace {
            Pace::Recorded(fps) => format!("{}, MJPEG at {fps} fps", self.name),
            _ => format!("{}, live MJPEG", self.name),
        }
    }

    fn extent(&self) -> Extent {
        Extent::Ends
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        let found = self.splitter.next().map_err(|error| {
            SourceError::new(&*self.name, error, "check the device or program that the stream comes from")
        })?;
        let arrived = Instant::now();
        let picture = match found {
            None if self.count == 0 => {
                return Err(SourceError::new(
                    &*self.name,
                    "the stream ended without a JPEG picture in it",
                    "give JPEG pictures one after the other, as `rpicam-vid --codec mjpeg` writes them",
                ));
            }
            None => return Ok(None),
            Some(Found::Jpeg(bytes)) => jpeg::decode(bytes).map_err(|error| error.to_string()),
            Some(Found::Broken(reason)) => Err(format!("cut short: {reason}")),
        };
        let sequence = self.count;
        self.count += 1;
        let captured = match self.pace {
            Pace::Recorded(fps) => self.clock.picture(sequence, fps),
            _ => arrived,
        };
        Ok(Some(match picture {
            Ok(picture) => {
                Item::Frame(Frame { picture: picture.into(), captured, sequence, name: self.name.clone() })
            }
            Err(reason) => Item::Unreadable { name: format!("{}, picture {sequence}", self.name), reason },
        }))
    }
}
