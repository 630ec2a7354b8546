//! Where frames come from.
//!
//! [`open`] turns what a user writes after `--source` into a [`Source`]:
//!
//! | written | source |
//! |---|---|
//! | `camera`, `camera:1`, `camera:/dev/video2` | a live camera |
//! | `rpicam`, `rpicam:1` | the camera module of a Raspberry Pi |
//! | `nvargus`, `nvargus:1` | the camera module of a Jetson |
//! | `http://HOST/stream.mjpg` | a network camera |
//! | `exec:COMMAND` | a program that writes JPEG pictures to its standard output |
//! | `mjpeg:FILE`, `mjpeg:-`, `FILE.mjpeg` | JPEG pictures one after the other |
//! | `y4m:FILE`, `y4m:-`, `FILE.y4m` | uncompressed YUV4MPEG2 video |
//! | `FILE.gif` | an animated or still GIF |
//! | a picture, a folder, a glob such as `'photos/*.jpg'` | still pictures |
//! | `demo` | a portrait in motion, embedded in the program |

use crate::frame::Frame;
use std::{
    fs::File,
    io::{IsTerminal, Read, stdin},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

#[cfg(feature = "camera")]
pub mod camera;
pub mod chain;
#[cfg(unix)]
mod child;
mod demo;
pub mod format;
mod gif;
mod http;
pub mod jpeg;
pub mod live;
mod lookahead;
pub mod mjpeg;
pub mod multipart;
pub mod still;
pub mod y4m;
pub mod yuv;

/// The largest picture that is decoded, in pixels: 16320x12240, the largest of today's telephones, fits.
pub const MAX_PIXELS: u64 = 200_000_000;

/// The rate of a recording that does not say its own, in pictures a second.
const DEFAULT_FPS: f32 = 30.0;

/// A live picture that has waited for so long is from before a pause of the program or of the source.
pub(crate) const STALE: Duration = Duration::from_secs(2);

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
#[derive(Debug)]
pub enum Item {
    Frame(Frame),
    /// A picture that could not be read; the source goes on.
    Unreadable {
        name: String,
        reason: String,
    },
    /// A live source gives no more pictures: it was unplugged, died or fell silent. It is tried again until it is back.
    Lost {
        name: String,
        reason: String,
    },
    /// A lost source gives pictures again, after so long; `description` says what it is now.
    Back {
        name: String,
        away: Duration,
        description: String,
    },
    /// Nothing has come for a moment. A live source says so, for its reader to see whether it is time to stop.
    Waiting,
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

impl SourceError {
    pub fn new(what: impl Into<String>, reason: impl ToString, advice: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.to_string(), advice: advice.into() }
    }

    /// Whether something was asked for that the source does not offer, rather than that there is no source.
    pub fn is_about_a_flag(&self) -> bool {
        self.what.starts_with("--")
    }
}

/// Why one picture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("the file is empty")]
    Empty,
    #[error("not a picture: it starts with {start:?}, and only JPEG, PNG, WebP, GIF, BMP and PNM are read")]
    NotAPicture { start: String },
    #[error("{width}x{height} pixels are more than the limit of {} megapixels", MAX_PIXELS / 1_000_000)]
    TooLarge { width: u64, height: u64 },
    #[error("{megabytes} MB are more than the limit of {limit} MB for one file")]
    FileTooLarge { megabytes: u64, limit: u64 },
    #[error("cut short: {0}")]
    CutShort(&'static str),
    #[error("damaged: {0}")]
    Damaged(String),
}

impl PictureError {
    /// Checks a picture's size in pixels before memory is taken for it.
    fn check_size(width: u64, height: u64) -> Result<(), PictureError> {
        match width.checked_mul(height) {
            Some(0) => Err(PictureError::Damaged(format!("a size of {width}x{height}"))),
            Some(pixels) if pixels <= MAX_PIXELS => Ok(()),
            _ => Err(PictureError::TooLarge { width, height }),
        }
    }
}

/// What the command line may ask of a source. A camera that does not offer it is refused; recordings and network
/// streams have a size of their own and keep it.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// Width and height in pixels of the camera's or the demo's pictures.
    pub size: Option<(u32, u32)>,
    /// Pictures a second; for a recording this replaces its own rate.
    pub fps: Option<u32>,
    /// How the camera is to pack its pictures.
    pub format: Option<format::Encoding>,
    /// Ends the demo after so many pictures.
    pub demo_frames: Option<u64>,
    /// When it is set, a live source that is being opened is not waited for any longer.
    pub interrupted: Arc<AtomicBool>,
}

impl SourceOptions {
    fn recording_fps(&self) -> Option<f32> {
        self.fps.map(|fps| fps as f32)
    }

    fn check(&self) -> Result<(), SourceError> {
        if self.fps == Some(0) {
            return Err(SourceError::new("--fps", "0 pictures a second", "give 1 or more"));
        }
        if let Some((width, height)) = self.size {
            PictureError::check_size(width.into(), height.into())
                .map_err(|error| SourceError::new("--size", error, "give a size such as 640x480"))?;
        }
        Ok(())
    }
}

/// A stream of pictures. Runs on the capture thread.
pub trait Source: Send {
    /// For the log and the window's title: `camera /dev/video0, MJPG 640x480 at 30 fps`.
    fn describe(&self) -> String;
    fn extent(&self) -> Extent;
    fn pace(&self) -> Pace;
    /// How long dropping it may take.
    fn closing_time(&self) -> Duration {
        Duration::ZERO
    }
    /// The next picture; `None` at the end. Blocks until there is one or, of a live source, for a moment.
    fn next(&mut self) -> Result<Option<Item>, SourceError>;
}

/// Opens the source that `spec` names, as in the table above.
pub fn open(spec: &str, options: &SourceOptions) -> Result<Box<dyn Source>, SourceError> {
    options.check()?;
    let (scheme, rest) = match spec.split_once(':') {
        Some((scheme, rest)) => (scheme, Some(rest)),
        None => (spec, None),
    };
    if let (Some(format), false) = (options.format, scheme == "camera") {
        return Err(SourceError::new(
            format!("--format {}", format.name().to_lowercase()),
            format!("{} has no choice of formats", http::shown(spec)),
            "leave it out, or give --source camera",
        ));
    }
    match (scheme, rest) {
        ("camera", selector) => open_camera(selector, options),
        ("rpicam" | "nvargus" | "exec", rest) => open_program(scheme, rest, options),
        ("http", Some(_)) => {
            Ok(Box::new(live::Live::open(http::Http::new(spec, options)?, &options.interrupted)?))
        }
        ("https", Some(_)) => Err(http::encrypted(spec)),
        ("demo", None) => Ok(Box::new(demo::Demo::new(options)?)),
        ("mjpeg", Some(input)) => Ok(Box::new(mjpeg::Mjpeg::open(input, options)?)),
        ("y4m", Some(input)) => Ok(Box::new(y4m::Y4m::open(input, options)?)),
        _ => open_path(spec, options),
    }
}

/// The first usable camera; where there is none, the demo together with the reason.
///
/// # Errors
/// When cameras are there, but none offers what `options` ask for.
pub fn open_default(options: &SourceOptions) -> Result<(Box<dyn Source>, Option<SourceError>), SourceError> {
    options.check()?;
    match open_camera(None, options) {
        Ok(camera) => Ok((camera, None)),
        Err(refused) if refused.is_about_a_flag() => Err(refused),
        Err(reason) => Ok((Box::new(demo::Demo::new(options)?), Some(reason))),
    }
}

#[cfg(feature = "camera")]
fn open_camera(selector: Option<&str>, options: &SourceOptions) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(camera::open(selector, options)?))
}

#[cfg(not(feature = "camera"))]
fn open_camera(_: Option<&str>, _: &SourceOptions) -> Result<Box<dyn Source>, SourceError> {
    Err(SourceError::new(
        "camera",
        "this build has no camera support",
        "build with `--features camera`, or pipe a stream in with `--source mjpeg:-`",
    ))
}

#[cfg(unix)]
fn open_program(
    scheme: &str,
    rest: Option<&str>,
    options: &SourceOptions,
) -> Result<Box<dyn Source>, SourceError> {
    let program = match scheme {
        "rpicam" => child::Program::rpicam(rest, options)?,
        "nvargus" => child::Program::nvargus(rest, options)?,
        _ => child::Program::shell(rest, options)?,
    };
    Ok(Box::new(live::Live::open(program, &options.interrupted)?))
}

#[cfg(not(unix))]
fn open_program(scheme: &str, _: Option<&str>, _: &SourceOptions) -> Result<Box<dyn Source>, SourceError> {
    Err(SourceError::new(
        scheme,
        "programs are run only on Linux and macOS",
        "pipe the program's output into `mien run --source mjpeg:-`",
    ))
}

fn open_path(spec: &str, options: &SourceOptions) -> Result<Box<dyn Source>, SourceError> {
    let path = Path::new(spec);
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    if path.is_file() {
        match extension.as_str() {
            "mjpeg" | "mjpg" => return Ok(Box::new(mjpeg::Mjpeg::open(spec, options)?)),
            "y4m" => return Ok(Box::new(y4m::Y4m::open(spec, options)?)),
            "gif" => return Ok(Box::new(gif::Gif::open(spec, options)?)),
            "mp4" | "m4v" | "mkv" | "webm" | "avi" | "mov" | "mpg" | "mpeg" | "ts" | "h264" => {
                return Err(SourceError::new(
                    spec,
                    format!("compressed video (.{extension}) is not decoded"),
                    "pipe it in: ffmpeg -i FILE -pix_fmt yuv420p -f yuv4mpegpipe - | mien run --source y4m:-",
                ));
            }
            _ => {}
        }
    }
    Ok(Box::new(still::Stills::new(spec, still::expand(path)?)))
}

/// Opens a file, or standard input for `-`.
fn open_bytes(input: &str) -> Result<Box<dyn Read + Send>, SourceError> {
    if input == "-" {
        if stdin().is_terminal() {
            return Err(SourceError::new(
                "standard input",
                "it is a terminal",
                "pipe a stream into it, such as rpicam-vid --codec mjpeg -o - | mien run --source mjpeg:-",
            ));
        }
        return Ok(Box::new(stdin()));
    }
    let file = File::open(input)
        .and_then(|file| Ok((file.metadata()?, file)))
        .map_err(|error| SourceError::new(input, error, "give the path of a readable file"))?;
    match file {
        (metadata, _) if metadata.is_dir() => {
            Err(SourceError::new(input, "it is a folder", "give the path of a file"))
        }
        (metadata, _) if metadata.is_file() && metadata.len() == 0 => {
            Err(SourceError::new(input, "the file is empty", "give a file with pictures in it"))
        }
        (_, file) => Ok(Box::new(file)),
    }
}

/// What a stream is called in messages.
fn display_name(input: &str) -> &str {
    if input == "-" { "standard input" } else { input }
}

/// The times at which a recording's pictures were taken, counted from when the first was asked for.
#[derive(Debug, Default)]
struct RecordingClock {
    start: Option<Instant>,
}

impl RecordingClock {
    fn at(&mut self, since_start: Duration) -> Instant {
        *self.start.get_or_insert_with(Instant::now) + since_start
    }

    /// When picture `number`, counted from 0, of a recording at `fps` was taken.
    fn picture(&mut self, number: u64, fps: f32) -> Instant {
        self.at(Duration::from_secs_f64(number as f64 / f64::from(fps)))
    }
}
