//! Animated GIF, and GIF with a single picture.

use super::{Extent, Item, Pace, PictureError, RecordingClock, Source, SourceError, SourceOptions};
use crate::frame::Frame;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageResult, codecs::gif::GifDecoder};
use std::{fs::File, io::BufReader, sync::Arc, thread, time::Duration};

/// Browsers show pictures whose delay is shorter than 20 ms for 100 ms; files are made for that.
const SHORTEST_DELAY: Duration = Duration::from_millis(20);
const DEFAULT_DELAY: Duration = Duration::from_millis(100);

type Decoded = ImageResult<image::Frame>;

/// The pictures of a GIF, each taken when the one before it has been shown for its delay.
pub struct Gif {
    decoded: crossbeam::channel::Receiver<Decoded>,
    /// The first pictures, read to find out whether there is more than one.
    ahead: std::vec::IntoIter<Decoded>,
    name: Arc<str>,
    pace: Pace,
    /// Replaces the file's own delays.
    fps: Option<f32>,
    clock: RecordingClock,
    /// When the next picture is taken, since the start.
    time: Duration,
    count: u64,
    damaged: bool,
}

impl Gif {
    pub fn open(path: &str, options: &SourceOptions) -> Result<Self, SourceError> {
        let cannot = |error: PictureError| SourceError::new(path, error, "give a readable GIF file");
        let file = File::open(path).map_err(|error| cannot(error.into()))?;
        if file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            return Err(cannot(PictureError::Empty));
        }
        let damaged = |error: image::ImageError| cannot(PictureError::Damaged(error.to_string()));
        let decoder = GifDecoder::new(BufReader::new(file)).map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        PictureError::check_size(width.into(), height.into()).map_err(cannot)?;

        let decoded = decode_on_thread(decoder);
        let no_picture = |_| cannot(PictureError::CutShort("there is no picture in it"));
        let first = decoded.recv().map_err(no_picture)?.map_err(damaged)?;
        let second = decoded.recv().ok();
        let fps = options.recording_fps();
        let pace = match second {
            Some(_) => Pace::Recorded(fps.unwrap_or(1.0 / delay(&first).as_secs_f32())),
            None => Pace::Stills,
        };
        let ahead: Vec<Decoded> = [Some(Ok(first)), second].into_iter().flatten().collect();
        Ok(Self {
            decoded,
            ahead: ahead.into_iter(),
            name: path.into(),
            pace,
            fps,
            clock: RecordingClock::default(),
            time: Duration::ZERO,
            count: 0,
            damaged: false,
        })
    }
}

fn delay(frame: &image::Frame) -> Duration {
    match Duration::from(frame.delay()) {
        delay if delay < SHORTEST_DELAY => DEFAULT_DELAY,
        delay => delay,
    }
}

/// Decodes one picture ahead. The decoder's iterator cannot move between threads, so it stays on its own;
/// the thread ends with the file or with the receiver.
fn decode_on_thread(decoder: GifDecoder<BufReader<File>>) -> crossbeam::channel::Receiver<Decoded> {
    let (sender, receiver) = crossbeam::channel::bounded(1);
    thread::spawn(move || {
        for frame in decoder.into_frames() {
            if sender.send(frame).is_err() {
                break;
            }
        }
    });
    receiver
}

impl Source for Gif {
    fn describe(&self) -> String {
        match self.pace {
            Pace::Recorded(fps) => format!("{}, GIF at {fps:.0} fps", self.name),
            _ => format!("{}, GIF", self.name),
        }
    }

    fn extent(&self) -> Extent {
        Extent::Ends
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if self.damaged {
            return Ok(None);
        }
        let Some(decoded) = self.ahead.next().or_else(|| self.decoded.recv().ok()) else { return Ok(None) };
        let sequence = self.count;
        self.count += 1;
        let frame = match decoded {
            Ok(frame) => frame,
            Err(error) => {
                self.damaged = true;
                return Ok(Some(Item::Unreadable {
                    name: format!("{}, picture {sequence}", self.name),
                    reason: PictureError::Damaged(error.to_string()).to_string(),
                }));
            }
        };
        let captured = self.clock.at(self.time);
        self.time += match self.fps {
            Some(fps) => Duration::from_secs_f32(1.0 / fps),
            None => delay(&frame),
        };
        let picture = DynamicImage::ImageRgba8(frame.into_buffer()).into_rgb8();
        Ok(Some(Item::Frame(Frame { picture: picture.into(), captured, sequence, name: self.name.clone() })))
    }
}
