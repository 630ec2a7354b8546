//! YUV4MPEG2 (Y4M): uncompressed video, as `ffmpeg -f yuv4mpegpipe` writes it.

use super::{
    DEFAULT_FPS, Extent, Item, Pace, PictureError, RecordingClock, Source, SourceError, SourceOptions,
    display_name, open_bytes, yuv,
};
use crate::frame::{Frame, Picture};
use std::{
    io::{self, BufRead, BufReader, Read},
    ops::RangeInclusive,
    sync::Arc,
};

/// No header or frame line is longer, its end included.
const MAX_LINE: usize = 4096;
const ACCEPTED: &str = "give 8-bit Y4M: ffmpeg -i FILE -pix_fmt yuv420p -f yuv4mpegpipe -";

/// Pictures a second. With a rate near zero the time of the next picture could not be told.
const RATES: RangeInclusive<f32> = 1e-5..=1e6;

/// How a picture's samples are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Mono,
    /// Chroma is halved so many times across and down.
    Planar(u32, u32),
}

/// The stream header: `YUV4MPEG2 W640 H480 F30:1 Ip A1:1 C420jpeg`.
#[derive(Debug, Clone)]
struct Header {
    width: u32,
    height: u32,
    fps: Option<f32>,
    layout: Layout,
    full_range: bool,
}

impl Header {
    fn parse(line: &str) -> Result<Header, String> {
        let mut fields = line.split_ascii_whitespace();
        if fields.next() != Some("YUV4MPEG2") {
            return Err(format!("not Y4M: it starts with {:?}", line.chars().take(12).collect::<String>()));
        }
        let (mut width, mut height) = (0, 0);
        let mut header =
            Header { width: 0, height: 0, fps: None, layout: Layout::Planar(1, 1), full_range: false };
        for field in fields {
            let (tag, value) = field.split_at_checked(1).unwrap_or_default();
            let number = || value.parse::<u32>().map_err(|_| format!("a malformed header field {field}"));
            match tag {
                "W" => width = number()?,
                "H" => height = number()?,
                "F" => header.fps = parse_rate(value),
                "C" => header.layout = parse_layout(value)?,
                "X" if value == "COLORRANGE=FULL" => header.full_range = true,
                _ => {}
            }
        }
        PictureError::check_size(width.into(), height.into()).map_err(|error| error.to_string())?;
        Ok(Header { width, height, ..header })
    }

    /// Samples in the luma plane and in each chroma plane.
    fn plane_sizes(&self) -> (usize, usize) {
        let luma = self.width as usize * self.height as usize;
        match self.layout {
            Layout::Mono => (luma, 0),
            Layout::Planar(across, down) => {
                (luma, self.width.div_ceil(1 << across) as usize * self.height.div_ceil(1 << down) as usize)
            }
        }
    }

    fn convert(&self, samples: &[u8]) -> Picture {
        let matrix = if self.full_range { yuv::FULL } else { yuv::LIMITED };
        match self.layout {
            Layout::Mono => yuv::from_luma(self.width, self.height, samples, matrix),
            Layout::Planar(across, down) => {
                let (luma, chroma) = self.plane_sizes();
                let (y, uv) = samples.split_at(luma);
                let (u, v) = uv.split_at(chroma);
                yuv::from_planes(self.width, self.height, [y, u, v], (across, down), matrix)
            }
        }
    }
}

/// `30000:1001` is 29.97; `0:0` means unknown, and so does a rate outside [`RATES`].
fn parse_rate(value: &str) -> Option<f32> {
    let (numerator, denominator) = value.split_once(':')?;
    let rate = numerator.parse::<f32>().ok()? / denominator.parse::<f32>().ok()?;
    RATES.contains(&rate).then_some(rate)
}

fn parse_layout(value: &str) -> Result<Layout, String> {
    match value {
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => Ok(Layout::Planar(1, 1)),
        "411" => Ok(Layout::Planar(2, 0)),
        "422" => Ok(Layout::Planar(1, 0)),
        "444" => Ok(Layout::Planar(0, 0)),
        "mono" => Ok(Layout::Mono),
        _ if value.contains('p') || value.starts_with("mono") => {
            Err(format!("colour format C{value}, which has more than 8 bits a sample"))
        }
        _ => Err(format!("unknown colour format C{value}")),
    }
}

/// Pictures from a Y4M stream, a recording at the header's rate.
pub struct Y4m {
    input: BufReader<Box<dyn Read + Send>>,
    name: Arc<str>,
    header: Header,
    fps: f32,
    samples: Vec<u8>,
    clock: RecordingClock,
    count: u64,
    cut_short: bool,
}

impl Y4m {
    /// `input` is a path, or `-` for standard input.
    pub fn open(input: &str, options: &SourceOptions) -> Result<Self, SourceError> {
        Self::new(display_name(input), open_bytes(input)?, options)
    }

    /// Reads the stream header. `name` is what the stream is called in messages.
    ///
    /// # Errors
    /// When it is no Y4M of 8 bits a sample, or its pictures have more than [`MAX_PIXELS`](super::MAX_PIXELS).
    pub fn new(
        name: &str,
        input: Box<dyn Read + Send>,
        options: &SourceOptions,
    ) -> Result<Self, SourceError> {
        let mut input = BufReader::new(input);
        let line = read_line(&mut input).map_err(|error| SourceError::new(name, error, ACCEPTED))?;
        let line = line.ok_or_else(|| SourceError::new(name, "the stream is empty", ACCEPTED))?;
        let header = Header::parse(&line).map_err(|reason| SourceError::new(name, reason, ACCEPTED))?;
        let fps = options.recording_fps().or(header.fps).unwrap_or(DEFAULT_FPS);
        let (luma, chroma) = header.plane_sizes();
        Ok(Self {
            input,
            name: name.into(),
            fps,
            samples: vec![0; luma + 2 * chroma],
            header,
            clock: RecordingClock::default(),
            count: 0,
            cut_short: false,
        })
    }
}

/// One line without its end, or `None` at the end of the stream.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    input.take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
    if line.len() == MAX_LINE && !line.ends_with(b"\n") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line of more than 4096 bytes"));
    }
    Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).trim_end().to_owned()))
}

impl Source for Y4m {
    fn describe(&self) -> String {
        format!("{}, Y4M {}x{} at {} fps", self.name, self.header.width, self.header.height, self.fps)
    }

    fn extent(&self) -> Extent {
        Extent::Ends
    }

    fn pace(&self) -> Pace {
        Pace::Recorded(self.fps)
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if self.cut_short {
            return Ok(None);
        }
        let broken = |reason: &dyn std::fmt::Display| SourceError::new(&*self.name, reason, ACCEPTED);
        let Some(line) = read_line(&mut self.input).map_err(|error| broken(&error))? else {
            return Ok(None);
        };
        if line.split_ascii_whitespace().next() != Some("FRAME") {
            return Err(broken(&format!("no FRAME line where picture {} should start", self.count)));
        }
        let sequence = self.count;
        self.count += 1;
        match self.input.read_exact(&mut self.samples) {
            Ok(()) => Ok(Some(Item::Frame(Frame {
                picture: self.header.convert(&self.samples).into(),
                captured: self.clock.picture(sequence, self.fps),
                sequence,
                name: self.name.clone(),
            }))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.cut_short = true;
                Ok(Some(Item::Unreadable {
                    name: format!("{}, picture {sequence}", self.name),
                    reason: "cut short: the stream ends in the middle of it".into(),
                }))
            }
            Err(error) => Err(broken(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ffmpeg_writes() {
        let header =
            Header::parse("YUV4MPEG2 W640 H480 F30000:1001 Ip A1:1 C420mpeg2 XYSCSS=420MPEG2").unwrap();
        assert_eq!((header.width, header.height), (640, 480));
        assert!((header.fps.unwrap() - 29.97).abs() < 0.001);
        assert_eq!(header.layout, Layout::Planar(1, 1));
        assert!(!header.full_range);
        assert_eq!(header.plane_sizes(), (640 * 480, 320 * 240));
        assert!(Header::parse("YUV4MPEG2 W2 H2 XCOLORRANGE=FULL").unwrap().full_range);
    }

    #[test]
    fn chroma_planes_of_odd_sizes_are_rounded_up() {
        let header = |c: &str| Header::parse(&format!("YUV4MPEG2 W5 H3 {c}")).unwrap().plane_sizes();
        assert_eq!(header("C420"), (15, 6));
        assert_eq!(header("C422"), (15, 9));
        assert_eq!(header("C444"), (15, 15));
        assert_eq!(header("C411"), (15, 6));
        assert_eq!(header("Cmono"), (15, 0));
    }

    #[test]
    fn says_what_is_wrong_with_a_header() {
        let error = |line: &str| Header::parse(line).unwrap_err();
        assert!(error("GIF89a").contains("not Y4M"));
        assert!(error("YUV4MPEG2 W640").contains("640x0"));
        assert!(error("YUV4MPEG2 Wx H2").contains("Wx"));
        assert!(error("YUV4MPEG2 W2 H2 C420p10").contains("more than 8 bits"));
        assert!(error("YUV4MPEG2 W2 H2 Cmono16").contains("more than 8 bits"));
        assert!(error("YUV4MPEG2 W2 H2 C999").contains("C999"));
        assert!(error("YUV4MPEG2 W60000 H60000").contains("megapixels"));
    }

    #[test]
    fn an_unknown_rate_is_none() {
        assert_eq!(parse_rate("0:0"), None);
        assert_eq!(parse_rate("25:0"), None);
        assert_eq!(parse_rate("25:1"), Some(25.0));
    }

    fn y4m(stream: Vec<u8>) -> Result<Y4m, SourceError> {
        Y4m::new("test", Box::new(io::Cursor::new(stream)), &SourceOptions::default())
    }

    /// Found by fuzzing.
    #[test]
    fn a_rate_near_zero_does_not_overflow_the_clock() {
        let rate = "F1:99999999999999999999999999999999999999";
        let stream = format!("YUV4MPEG2 W1 H1 {rate} Cmono\nFRAME\naFRAME\nb");
        let mut y4m = y4m(stream.into_bytes()).unwrap();
        assert_eq!(y4m.pace(), Pace::Recorded(DEFAULT_FPS));
        for _ in 0..2 {
            assert!(matches!(y4m.next(), Ok(Some(Item::Frame(_)))));
        }
        assert!(matches!(y4m.next(), Ok(None)));
    }

    /// Found by fuzzing: the recording ended there, and nothing was said.
    #[test]
    fn an_empty_line_is_no_end() {
        let mut y4m = y4m(b"YUV4MPEG2 W1 H1 Cmono\n\nFRAME\na".into()).unwrap();
        assert!(y4m.next().unwrap_err().reason.contains("no FRAME line where picture 0"));
    }

    #[test]
    fn a_line_has_a_limit() {
        let long = format!("YUV4MPEG2 W1 H1 Cmono\nFRAME {}\na", "I".repeat(MAX_LINE));
        let mut y4m = y4m(long.into_bytes()).unwrap();
        assert!(y4m.next().unwrap_err().reason.contains("more than 4096 bytes"));
    }
}
