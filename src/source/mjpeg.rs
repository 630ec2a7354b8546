//! A stream of JPEG pictures one after the other, from a file or standard input.

use super::{
    DEFAULT_FPS, Extent, Item, Pace, RecordingClock, Source, SourceError, SourceOptions, display_name,
    jpeg::{self, Scan, Scanner},
    lookahead::Lookahead,
    open_bytes,
};
use crate::frame::Frame;
use std::{
    io::{self, Read},
    sync::Arc,
    time::Instant,
};

/// The largest picture of a stream, in bytes.
pub const MAX_JPEG: usize = 32 << 20;

/// Why a picture past the limit is given up.
pub(super) const TOO_LONG: &str = "it is longer than the limit, 32 MB unless set";

/// What [`Splitter::next_picture`] found.
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
    input: Lookahead<R>,
    limit: usize,
}

impl<R: Read> Splitter<R> {
    pub fn new(input: R) -> Self {
        Self::with_limit(input, MAX_JPEG)
    }

    /// A splitter that gives up on a picture after `limit` bytes instead of [`MAX_JPEG`].
    pub fn with_limit(input: R, limit: usize) -> Self {
        Self { input: Lookahead::new(input), limit }
    }

    /// The next picture, or `None` at the end of the stream. After an error, it may be tried again.
    pub fn next_picture(&mut self) -> io::Result<Option<Found<'_>>> {
        if !self.seek_start()? {
            return Ok(None);
        }
        let mut scanner = Scanner::default();
        loop {
            match scanner.advance(self.input.bytes()) {
                Scan::Complete(length) => return Ok(Some(Found::Jpeg(self.input.take(length)))),
                Scan::Broken(reason) => {
                    self.input.consume(scanner.resume_at());
                    return Ok(Some(Found::Broken(reason)));
                }
                Scan::Incomplete if self.input.bytes().len() > self.limit => {
                    self.input.consume(usize::MAX);
                    return Ok(Some(Found::Broken(TOO_LONG)));
                }
                Scan::Incomplete => {
                    if !self.input.fill()? {
                        self.input.consume(scanner.resume_at());
                        return Ok(Some(Found::Broken("the stream ends in the middle of it")));
                    }
                }
            }
        }
    }

    /// Moves to the next SOI marker that another marker follows.
    fn seek_start(&mut self) -> io::Result<bool> {
        loop {
            let bytes = self.input.bytes();
            if let Some(offset) = bytes.windows(3).position(|window| window == [0xFF, 0xD8, 0xFF]) {
                self.input.consume(offset);
                return Ok(true);
            }
            self.input.consume(bytes.len().saturating_sub(2));
            if !self.input.fill()? {
                return Ok(false);
            }
        }
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
        let found = self.splitter.next_picture().map_err(|error| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// A picture of `width` x 8 pixels.
    fn jpeg(width: u32) -> Vec<u8> {
        let picture = image::RgbImage::from_fn(width, 8, |x, y| image::Rgb([(x * 37) as u8, y as u8, 9]));
        let mut bytes = Vec::new();
        image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
        bytes
    }

    /// Hands out at most `step` bytes a read, as a pipe may.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let step = self.1.min(buffer.len());
            (&mut self.0).take(step as u64).read(buffer)
        }
    }

    /// The widths of the pictures found, with `None` for a broken one.
    fn widths(input: impl Read) -> Vec<Option<u32>> {
        let mut splitter = Splitter::new(input);
        let mut widths = Vec::new();
        while let Some(found) = splitter.next_picture().unwrap() {
            widths.push(match found {
                Found::Jpeg(bytes) => Some(jpeg::decode(bytes).unwrap().width()),
                Found::Broken(_) => None,
            });
        }
        widths
    }

    #[test]
    fn a_picture_cut_short_costs_only_itself() {
        let cut = &jpeg(16)[..jpeg(16).len() - 9];
        let stream = [&jpeg(8)[..], cut, &jpeg(24), &jpeg(32)].concat();
        assert_eq!(widths(&stream[..]), [Some(8), None, Some(24), Some(32)]);
    }

    #[test]
    fn a_picture_cut_in_its_header_costs_only_itself() {
        for length in [5, 12, 40, 200] {
            let stream = [&jpeg(16)[..length], &jpeg(24), &jpeg(32)].concat();
            assert_eq!(widths(&stream[..]), [None, Some(24), Some(32)], "cut at {length}");
        }
    }

    #[test]
    fn a_stream_may_start_and_end_in_the_middle_of_a_picture() {
        let stream = [&jpeg(8)[300..], &jpeg(16), &jpeg(24)[..jpeg(24).len() - 2]].concat();
        assert_eq!(widths(&stream[..]), [Some(16), None]);
    }

    #[test]
    fn other_bytes_between_pictures_are_skipped() {
        let boundary = b"\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n";
        let stream = [&boundary[..], &jpeg(8), &[0xFF, 0xD8, 0x00], &jpeg(16), &[0; 100]].concat();
        assert_eq!(widths(&stream[..]), [Some(8), Some(16)]);
    }

    #[test]
    fn memory_is_bounded() {
        let endless = [&[0xFF, 0xD8, 0xFF, 0xDA, 0, 2][..], &vec![0; 1 << 20], &jpeg(8)].concat();
        let mut splitter = Splitter::with_limit(&endless[..], 100_000);
        assert!(matches!(splitter.next_picture().unwrap(), Some(Found::Broken(_))));
        assert!(matches!(splitter.next_picture().unwrap(), Some(Found::Jpeg(_))));
        assert!(splitter.input.capacity() < 600_000, "{}", splitter.input.capacity());
    }

    proptest! {
        #[test]
        fn concatenated_pictures_come_out_as_they_went_in(
            sizes in vec(1_u32..60, 1..8),
            garbage in vec(0_u8..255, 0..50),
            step in 1_usize..5000,
        ) {
            let pictures: Vec<Vec<u8>> = sizes.iter().map(|&size| jpeg(size)).collect();
            let stream: Vec<u8> =
                pictures.iter().flat_map(|picture| [&garbage[..], picture].concat()).collect();
            let mut splitter = Splitter::new(Trickle(&stream, step));
            for picture in &pictures {
                prop_assert_eq!(splitter.next_picture().unwrap(), Some(Found::Jpeg(picture)));
            }
            prop_assert_eq!(splitter.next_picture().unwrap(), None);
        }

        #[test]
        fn any_bytes_come_to_an_end(
            pieces in vec(prop_oneof![
                vec(any::<u8>(), 0..40),
                Just(vec![0xFF, 0xD8, 0xFF]),
                Just(vec![0xFF, 0xDA, 0, 3, 1]),
                Just(vec![0xFF, 0xE1, 0, 20]),
                Just(vec![0xFF, 0xD9]),
            ], 0..60),
            step in 1_usize..200,
        ) {
            let stream = pieces.concat();
            let mut splitter = Splitter::new(Trickle(&stream, step));
            let mut found = 0;
            while splitter.next_picture().unwrap().is_some() {
                found += 1;
                prop_assert!(found <= stream.len());
            }
        }
    }
}
