//! How a camera packs its pictures, and which of its formats is taken.

use std::{fmt, str::FromStr};

/// What a camera's pictures are taken at unless something else is asked for.
const SIZE: (u32, u32) = (640, 480);
const FPS: u32 = 30;

/// How a camera packs its pictures, by the names of V4L2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// JPEG, one picture by itself.
    Mjpg,
    /// The same under another name.
    Jpeg,
    /// 4:2:0, luma plane, then U and V in turn.
    Nv12,
    /// 4:2:0, luma plane, U plane, V plane.
    Yu12,
    /// 4:2:2, `Y0 U Y1 V`.
    Yuyv,
    /// 4:2:2, `U Y0 V Y1`.
    Uyvy,
    Rgb3,
    Bgr3,
    Grey,
}

impl Encoding {
    pub const ALL: [Encoding; 9] = [
        Encoding::Mjpg,
        Encoding::Jpeg,
        Encoding::Nv12,
        Encoding::Yu12,
        Encoding::Yuyv,
        Encoding::Uyvy,
        Encoding::Rgb3,
        Encoding::Bgr3,
        Encoding::Grey,
    ];

    /// The four letters that V4L2 knows it by.
    pub fn name(self) -> &'static str {
        ["MJPG", "JPEG", "NV12", "YU12", "YUYV", "UYVY", "RGB3", "BGR3", "GREY"][self as usize]
    }

    /// Lower is better. Above 640x480, raw pictures do not fit through USB 2 at a good rate; up to that,
    /// they are cheaper to convert than a JPEG is to decode, and without its artefacts.
    fn rank(self, pixels: u64) -> u8 {
        let small = pixels <= 640 * 480;
        match self {
            Encoding::Yuyv | Encoding::Uyvy | Encoding::Nv12 | Encoding::Yu12 if small => 0,
            Encoding::Mjpg | Encoding::Jpeg => 1,
            Encoding::Nv12 | Encoding::Yu12 => 2,
            Encoding::Yuyv | Encoding::Uyvy => 3,
            Encoding::Rgb3 | Encoding::Bgr3 => 4,
            Encoding::Grey => 5,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Encoding::ALL.into_iter().find(|encoding| encoding.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("give one of {}", names(Encoding::ALL).to_lowercase()))
    }
}

/// Pictures in so many seconds, as drivers state it: 30000 in 1001 is 29.97 a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    pub pictures: u32,
    pub seconds: u32,
}

impl Rate {
    /// `None` if one of them is zero.
    pub fn new(pictures: u32, seconds: u32) -> Option<Rate> {
        (pictures > 0 && seconds > 0).then_some(Rate { pictures, seconds })
    }

    pub fn fps(fps: u32) -> Rate {
        Rate { pictures: fps, seconds: 1 }
    }

    pub fn per_second(self) -> f64 {
        f64::from(self.pictures) / f64::from(self.seconds)
    }

    /// Whether somebody who asks for `fps` pictures a second means this rate: 29.97 is 30.
    pub fn is(self, fps: u32) -> bool {
        (self.per_second() - f64::from(fps)).abs() < 0.05
    }

    fn distance(self, fps: u32) -> u64 {
        ((self.per_second() - f64::from(fps)).abs() * 1000.0) as u64
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", (self.per_second() * 100.0).round() / 100.0)
    }
}

/// One way in which a camera can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    pub encoding: Encoding,
    /// Pixels.
    pub width: u32,
    pub height: u32,
    /// Unknown where the driver does not say.
    pub rate: Option<Rate>,
}

impl Format {
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}x{}", self.encoding, self.width, self.height)?;
        match self.rate {
            Some(rate) => write!(f, " at {rate} fps"),
            None => Ok(()),
        }
    }
}

/// What is asked of a camera; what is not asked for is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request {
    pub encoding: Option<Encoding>,
    /// Width and height in pixels.
    pub size: Option<(u32, u32)>,
    /// Pictures a second.
    pub fps: Option<u32>,
}

/// What a camera does not offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The flags, with their values, that no format of the camera meets together.
    pub flags: String,
    /// All that the camera offers.
    pub offers: String,
}

impl Request {
    pub fn wanted_size(&self) -> (u32, u32) {
        self.size.unwrap_or(SIZE)
    }

    pub fn wanted_fps(&self) -> u32 {
        self.fps.unwrap_or(FPS)
    }

    /// The formats that fit, the best first: what is asked for must be met; of what is not, the nearest to
    /// 640x480 at 30 fps comes first, by size, then rate, then encoding.
    ///
    /// # Errors
    /// What cannot be met, with what there is instead.
    pub fn choose(&self, formats: &[Format]) -> Result<Vec<Format>, Refusal> {
        let mut fitting = formats.to_vec();
        let mut asked = Vec::new();
        let mut keep = |flag: String, fits: &dyn Fn(&Format) -> bool| {
            asked.push(flag);
            fitting.retain(|format| fits(format));
            match fitting.is_empty() {
                true => Err(Refusal { flags: asked.join(" "), offers: summary(formats) }),
                false => Ok(()),
            }
        };
        if let Some(encoding) = self.encoding {
            let flag = format!("--format {}", encoding.name().to_lowercase());
            keep(flag, &|format| format.encoding == encoding)?;
        }
        if let Some(size) = self.size {
            keep(format!("--size {}x{}", size.0, size.1), &|format| format.size() == size)?;
        }
        if let Some(fps) = self.fps {
            keep(format!("--fps {fps}"), &|format| format.rate.is_some_and(|rate| rate.is(fps)))?;
        }
        let ((width, height), fps) = (self.wanted_size(), self.wanted_fps());
        fitting.sort_by_key(|format| {
            let size = u64::from(format.width.abs_diff(width)) + u64::from(format.height.abs_diff(height));
            let pixels = u64::from(format.width) * u64::from(format.height);
            let rate = format.rate.map_or(u64::MAX, |rate| rate.distance(fps));
            (size, rate, format.encoding.rank(pixels))
        });
        Ok(fitting)
    }
}

/// One encoding and size with all its rates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub encoding: Encoding,
    pub width: u32,
    pub height: u32,
    /// The highest first; empty where the driver does not say.
    pub rates: Vec<Rate>,
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}x{}", self.encoding, self.width, self.height)?;
        if !self.rates.is_empty() {
            let rates: Vec<String> = self.rates.iter().map(Rate::to_string).collect();
            write!(f, " at {} fps", rates.join(", "))?;
        }
        Ok(())
    }
}

/// Formats gathered by encoding and size, in this order, without repeats.
pub fn offers(formats: &[Format]) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    for &Format { encoding, width, height, rate } in formats {
        let same =
            |offer: &&mut Offer| (offer.encoding, offer.width, offer.height) == (encoding, width, height);
        match offers.iter_mut().find(same) {
            Some(offer) => offer.rates.extend(rate),
            None => offers.push(Offer { encoding, width, height, rates: rate.into_iter().collect() }),
        }
    }
    for offer in &mut offers {
        offer.rates.sort_by(|a, b| b.per_second().total_cmp(&a.per_second()));
        offer.rates.dedup();
    }
    offers.sort_by_key(|offer| (offer.encoding, offer.width, offer.height));
    offers
}

/// All that is on offer, in one line.
fn summary(formats: &[Format]) -> String {
    let offers: Vec<String> = offers(formats).iter().map(Offer::to_string).collect();
    offers.join("; ")
}

fn names(encodings: impl IntoIterator<Item = Encoding>) -> String {
    encodings.into_iter().map(Encoding::name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Encoding::*;

    fn format(encoding: Encoding, width: u32, height: u32, fps: u32) -> Format {
        Format { encoding, width, height, rate: Rate::new(fps, 1) }
    }

    fn webcam() -> Vec<Format> {
        vec![
            format(Mjpg, 320, 180, 1),
            format(Mjpg, 640, 480, 30),
            format(Mjpg, 640, 480, 15),
            format(Mjpg, 1280, 720, 30),
            format(Yuyv, 640, 480, 30),
            format(Yuyv, 1280, 720, 10),
            format(Yuyv, 1280, 720, 30),
        ]
    }

    fn chosen(request: Request) -> Format {
        request.choose(&webcam()).unwrap()[0]
    }

    fn refused(request: Request) -> Refusal {
        request.choose(&webcam()).unwrap_err()
    }

    #[test]
    fn raw_pictures_are_preferred_while_they_are_small() {
        let size = |size| Request { size: Some(size), ..Request::default() };
        assert_eq!(chosen(Request::default()), format(Yuyv, 640, 480, 30));
        assert_eq!(chosen(size((640, 480))), format(Yuyv, 640, 480, 30));
        assert_eq!(chosen(size((1280, 720))), format(Mjpg, 1280, 720, 30));
    }

    #[test]
    fn what_is_not_asked_for_is_the_nearest_to_the_usual() {
        assert_eq!(chosen(Request { fps: Some(15), ..Request::default() }), format(Mjpg, 640, 480, 15));
        assert_eq!(chosen(Request { fps: Some(10), ..Request::default() }), format(Yuyv, 1280, 720, 10));
        let mjpg = Request { encoding: Some(Mjpg), ..Request::default() };
        assert_eq!(chosen(mjpg), format(Mjpg, 640, 480, 30));
        let odd = [format(Mjpg, 320, 180, 1), format(Mjpg, 1920, 1080, 30)];
        assert_eq!(Request::default().choose(&odd).unwrap()[0], odd[0]);
    }

    #[test]
    fn what_is_asked_for_and_missing_is_refused_with_all_that_there_is() {
        let refusal = refused(Request { size: Some((800, 600)), encoding: Some(Yuyv), fps: None });
        assert_eq!(refusal.flags, "--format yuyv --size 800x600");
        assert_eq!(
            refusal.offers,
            "MJPG 320x180 at 1 fps; MJPG 640x480 at 30, 15 fps; MJPG 1280x720 at 30 fps; YUYV 640x480 at 30 fps; \
             YUYV 1280x720 at 30, 10 fps"
        );
        let fast = Request { fps: Some(60), ..Request::default() };
        assert_eq!(refused(fast).flags, "--fps 60");
        let fast = Request { size: Some((1280, 720)), encoding: Some(Mjpg), ..fast };
        assert_eq!(refused(fast).flags, "--format mjpg --size 1280x720 --fps 60");
        assert_eq!(refused(Request { encoding: Some(Nv12), ..Request::default() }).flags, "--format nv12");
    }

    #[test]
    fn broken_rates_are_told_apart() {
        let ntsc = Rate::new(30000, 1001).unwrap();
        assert!(ntsc.is(30) && !ntsc.is(29));
        assert_eq!(ntsc.to_string(), "29.97");
        let half = Rate::new(25, 2).unwrap();
        assert!(!half.is(12) && !half.is(13) && !half.is(25));
        assert_eq!(half.to_string(), "12.5");
        assert_eq!(Rate::fps(30).to_string(), "30");
        assert_eq!(Rate::new(0, 1), None);
    }

    #[test]
    fn encodings_are_named_as_v4l2_does() {
        for encoding in Encoding::ALL {
            assert_eq!(encoding.name().to_lowercase().parse(), Ok(encoding));
        }
        let error = "h264".parse::<Encoding>().unwrap_err();
        assert!(error.starts_with("give one of mjpg, jpeg, nv12"), "{error}");
    }

    #[test]
    fn a_camera_that_does_not_say_its_rates_is_taken_last() {
        let unknown = Format { rate: None, ..format(Yuyv, 640, 480, 1) };
        let chosen = Request::default().choose(&[unknown, format(Mjpg, 640, 480, 5)]).unwrap();
        assert_eq!(chosen[1], unknown);
        assert!(Request { fps: Some(30), ..Request::default() }.choose(&[unknown]).is_err());
        assert_eq!(unknown.to_string(), "YUYV 640x480");
    }
}
