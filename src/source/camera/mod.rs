//! Live cameras: V4L2 on Linux, elsewhere what nokhwa reads (AVFoundation on macOS, Media Foundation on Windows).
//! `docs/cameras.md` says why.

use std::fmt;

use super::{
    PictureError, SourceError, SourceOptions,
    format::{Encoding, Format, Refusal, Request},
    jpeg,
    live::Live,
    yuv,
};
use crate::frame::Picture;

#[cfg(target_os = "linux")]
#[path = "v4l2.rs"]
mod driver;
#[cfg(not(target_os = "linux"))]
#[path = "nokhwa.rs"]
mod driver;

const ALTERNATIVES: &str = "plug a camera in, or use another source: rpicam (Raspberry Pi camera module), nvargus \
                            (Jetson camera module), http://HOST/stream.mjpg (IP camera), demo";

/// A camera of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What `--source camera:INDEX` takes.
    pub index: u32,
    /// What the maker calls it.
    pub name: String,
    /// Where it is plugged in, such as `1-2:1.0`, the same for as long as it stays there; `None` where that is unknown.
    pub bus: Option<String>,
}

impl Device {
    /// `/dev/video0`; elsewhere than on Linux, `camera 0`.
    pub fn path(&self) -> String {
        match cfg!(target_os = "linux") {
            true => format!("/dev/video{}", self.index),
            false => format!("camera {}", self.index),
        }
    }

    /// The formats that can be decoded, or why there are none.
    pub fn formats(&self) -> Result<Vec<Format>, SourceError> {
        driver::formats(self)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path(), self.name)
    }
}

/// The cameras of this machine in the order of their index. Video nodes that carry no pictures are left out.
pub fn devices() -> Vec<Device> {
    driver::devices()
}

/// Opens a camera and waits for its first picture. `selector` is an index (`1`), a device file or a link to one
/// (`/dev/video2`, `/dev/v4l/by-id/…`); without it, the first camera that can be used is opened.
pub fn open(selector: Option<&str>, options: &SourceOptions) -> Result<Live, SourceError> {
    let request = Request { encoding: options.format, size: options.size, fps: options.fps };
    let open = |device| Live::open(driver::Camera::new(device, request), &options.interrupted);
    let Some(selector) = selector else { return open_first(open) };
    let what = format!("camera:{selector}");
    let Some(index) = index_of(selector) else {
        return Err(SourceError::new(what, "neither a number nor a video device", known()));
    };
    match driver::find(index) {
        Some(device) => open(device),
        None => Err(SourceError::new(what, "no such camera", known())),
    }
}

fn open_first(open: impl Fn(Device) -> Result<Live, SourceError>) -> Result<Live, SourceError> {
    let mut errors = Vec::new();
    for device in devices() {
        match open(device) {
            Ok(camera) => return Ok(camera),
            Err(error) => errors.push(error),
        }
    }
    if let Some(at) = errors.iter().position(SourceError::is_about_a_flag) {
        return Err(errors.swap_remove(at));
    }
    match errors.len() {
        0 => Err(SourceError::new("camera", "there is no camera", ALTERNATIVES)),
        1 => Err(errors.remove(0)),
        _ => {
            let reasons: Vec<String> =
                errors.iter().map(|error| format!("{}: {}", error.what, error.reason)).collect();
            let reason = format!("none can be used ({})", reasons.join("; "));
            Err(SourceError::new("camera", reason, errors.remove(0).advice))
        }
    }
}

/// The index in `1`, `/dev/video1`, or a link to the latter.
fn index_of(selector: &str) -> Option<u32> {
    if let Ok(index) = selector.parse() {
        return Some(index);
    }
    let path = std::path::Path::new(selector);
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    path.to_str()?.strip_prefix("/dev/video")?.parse().ok()
}

/// What can be chosen instead of a camera that does not exist.
fn known() -> String {
    match devices().as_slice() {
        [] => format!("there is no camera at all: {ALTERNATIVES}"),
        [device] => format!("there is {device}"),
        devices => {
            let names: Vec<String> = devices.iter().map(Device::to_string).collect();
            format!("there are {}", names.join(", "))
        }
    }
}

fn refused(device: &Device, refusal: Refusal) -> SourceError {
    let reason = format!("{device} does not offer it");
    SourceError::new(refusal.flags, reason, format!("it offers {}", refusal.offers))
}

/// The picture in `bytes`, which may have more behind it. Raw pictures have no padding between their rows.
fn decode(format: &Format, bytes: &[u8]) -> Result<Picture, PictureError> {
    let Format { encoding, width, height, .. } = *format;
    let pixels = width as usize * height as usize;
    let decoded = match encoding {
        Encoding::Mjpg | Encoding::Jpeg => return jpeg::decode(jpeg::trim(bytes)?),
        Encoding::Yuyv => yuv::from_yuyv(width, height, bytes),
        Encoding::Uyvy => yuv::from_uyvy(width, height, bytes),
        Encoding::Nv12 => yuv::from_nv12(width, height, bytes),
        Encoding::Yu12 => yuv::from_yu12(width, height, bytes),
        Encoding::Grey => bytes.get(..pixels).map(|luma| yuv::from_luma(width, height, luma, yuv::FULL)),
        Encoding::Rgb3 => {
            bytes.get(..3 * pixels).and_then(|rgb| Picture::from_raw(width, height, rgb.to_vec()))
        }
        Encoding::Bgr3 => bytes.get(..3 * pixels).and_then(|bgr| {
            let mut rgb = bgr.to_vec();
            rgb.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
            Picture::from_raw(width, height, rgb)
        }),
    };
    decoded.ok_or(PictureError::CutShort("the camera delivered too few bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_camera_is_named_by_number_or_device_file() {
        assert_eq!(index_of("2"), Some(2));
        assert_eq!(index_of("/dev/video10"), Some(10));
        assert_eq!(index_of("/dev/null"), None);
        assert_eq!(index_of(""), None);
    }

    fn decoded(encoding: Encoding, bytes: &[u8]) -> Result<Picture, PictureError> {
        decode(&Format { encoding, width: 2, height: 2, rate: None }, bytes)
    }

    #[test]
    fn a_buffer_is_decoded_by_its_encoding_and_never_read_beyond_its_end() {
        use Encoding::*;
        let bgr = [1, 2, 3].repeat(4);
        assert_eq!(decoded(Bgr3, &bgr).unwrap().get_pixel(1, 1).0, [3, 2, 1]);
        assert_eq!(decoded(Rgb3, &bgr).unwrap().get_pixel(1, 1).0, [1, 2, 3]);
        assert_eq!(decoded(Yuyv, &[235, 128, 235, 128].repeat(2)).unwrap().get_pixel(1, 1).0, [255; 3]);
        assert_eq!(decoded(Uyvy, &[128, 235, 128, 235].repeat(2)).unwrap().get_pixel(1, 1).0, [255; 3]);
        assert_eq!(decoded(Yu12, &[235, 235, 235, 235, 128, 128]).unwrap().get_pixel(1, 1).0, [255; 3]);
        assert_eq!(decoded(Grey, &[7; 4]).unwrap().get_pixel(0, 1).0, [7; 3]);
        for encoding in Encoding::ALL {
            assert!(decoded(encoding, &[0xFF, 0xD8, 0xFF]).is_err(), "{encoding}");
            assert!(decoded(encoding, &[]).is_err(), "{encoding}");
        }
    }

    #[test]
    fn a_jpeg_is_decoded_without_the_old_bytes_behind_it_whatever_its_size() {
        let picture = Picture::from_pixel(16, 24, image::Rgb([200, 30, 30]));
        let mut bytes = Vec::new();
        image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
        bytes.extend_from_slice(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 0, 0x55].repeat(100));
        assert_eq!(decoded(Encoding::Mjpg, &bytes).unwrap().dimensions(), (16, 24));
    }
}
