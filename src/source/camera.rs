//! Live cameras through nokhwa: V4L2 on Linux, AVFoundation on macOS, Media Foundation on Windows.
//!
//! nokhwa's `frame()` has no time limit, and drivers hand out their queued pictures oldest first. So a
//! thread of its own does nothing but take pictures from the driver and keep the newest; it opens the camera
//! too, which need not move between threads then, and a panic in the library ends that thread alone.

use super::{Extent, Item, Pace, PictureError, Source, SourceError, SourceOptions, jpeg, yuv};
use crate::frame::{Frame, Picture};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use nokhwa::{
    Buffer, NokhwaError,
    utils::{
        ApiBackend, CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType, Resolution,
    },
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const SIZE: (u32, u32) = (640, 480);
const FPS: u32 = 30;

const OPEN_LIMIT: Duration = Duration::from_secs(10);
const FRAME_LIMIT: Duration = Duration::from_secs(5);
/// How long a camera's thread is waited for when its source is dropped.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Capture times further back than this come from a driver with a clock of its own.
const OLDEST_CAPTURE: Duration = Duration::from_secs(10);
/// Formats tried before the one that the driver prefers is taken: drivers refuse some that they list.
const MOST_TRIES: usize = 8;

const ALTERNATIVES: &str = "plug a camera in, or use another source: --source demo, or for a Raspberry Pi \
                            camera module rpicam-vid --codec mjpeg -o - | mien run --source mjpeg:-";

/// How a camera packs its pictures, by the names of V4L2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoding {
    Mjpg,
    Nv12,
    Yuyv,
    Rgb3,
    Bgr3,
    Grey,
}

impl Encoding {
    fn of(format: FrameFormat) -> Encoding {
        match format {
            FrameFormat::MJPEG => Encoding::Mjpg,
            FrameFormat::NV12 => Encoding::Nv12,
            FrameFormat::YUYV => Encoding::Yuyv,
            FrameFormat::RAWRGB => Encoding::Rgb3,
            FrameFormat::RAWBGR => Encoding::Bgr3,
            FrameFormat::GRAY => Encoding::Grey,
        }
    }

    fn to_nokhwa(self) -> FrameFormat {
        match self {
            Encoding::Mjpg => FrameFormat::MJPEG,
            Encoding::Nv12 => FrameFormat::NV12,
            Encoding::Yuyv => FrameFormat::YUYV,
            Encoding::Rgb3 => FrameFormat::RAWRGB,
            Encoding::Bgr3 => FrameFormat::RAWBGR,
            Encoding::Grey => FrameFormat::GRAY,
        }
    }

    /// Lower is better. Above 640x480, raw pictures do not fit through USB 2 at a good rate; up to that,
    /// they are cheaper to convert than a JPEG is to decode, and without its artefacts.
    fn rank(self, pixels: u64) -> u8 {
        let small = pixels <= 640 * 480;
        match self {
            Encoding::Mjpg => 1,
            Encoding::Yuyv | Encoding::Nv12 if small => 0,
            Encoding::Nv12 => 2,
            Encoding::Yuyv => 3,
            Encoding::Rgb3 | Encoding::Bgr3 => 4,
            Encoding::Grey => 5,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Encoding::Mjpg => "MJPG",
            Encoding::Nv12 => "NV12",
            Encoding::Yuyv => "YUYV",
            Encoding::Rgb3 => "RGB3",
            Encoding::Bgr3 => "BGR3",
            Encoding::Grey => "GREY",
        })
    }
}

/// One way in which a camera can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Format {
    pub encoding: Encoding,
    /// Pixels.
    pub width: u32,
    pub height: u32,
    /// Pictures a second.
    pub fps: u32,
}

impl Format {
    fn of(format: CameraFormat) -> Format {
        Format {
            encoding: Encoding::of(format.format()),
            width: format.width(),
            height: format.height(),
            fps: format.frame_rate(),
        }
    }

    fn to_nokhwa(self) -> CameraFormat {
        CameraFormat::new(Resolution::new(self.width, self.height), self.encoding.to_nokhwa(), self.fps)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}x{} at {} fps", self.encoding, self.width, self.height, self.fps)
    }
}

/// A camera of this machine.
#[derive(Debug, Clone)]
pub struct Device {
    /// What `--source camera:INDEX` takes.
    pub index: u32,
    /// What the maker calls it.
    pub name: String,
}

impl Device {
    /// `/dev/video0`; elsewhere than on Linux, `camera 0`.
    pub fn path(&self) -> String {
        match cfg!(target_os = "linux") {
            true => format!("/dev/video{}", self.index),
            false => format!("camera {}", self.index),
        }
    }

    /// The formats that can be decoded, or why there are none. Asking sets the camera to one of them.
    pub fn formats(&self) -> Result<Vec<Format>, String> {
        let device = self.clone();
        let formats = thread::spawn(move || {
            let mut camera = device.connect(SIZE, FPS)?;
            Ok(formats(&mut camera))
        });
        formats.join().unwrap_or_else(|_| Err("the camera library failed".into()))
    }

    /// Opens the camera in any format, since only an open one lists its formats.
    fn connect(&self, (width, height): (u32, u32), fps: u32) -> Result<nokhwa::Camera, String> {
        let closest =
            |format| RequestedFormatType::Closest(CameraFormat::new_from(width, height, format, fps));
        let mut refused = String::new();
        for kind in [
            closest(FrameFormat::MJPEG),
            closest(FrameFormat::YUYV),
            RequestedFormatType::AbsoluteHighestFrameRate,
            RequestedFormatType::AbsoluteHighestResolution,
            RequestedFormatType::None,
        ] {
            let request = RequestedFormat::with_formats(kind, nokhwa::utils::frame_formats());
            match nokhwa::Camera::new(CameraIndex::Index(self.index), request) {
                Ok(camera) => return Ok(camera),
                Err(NokhwaError::OpenDeviceError(_, reason)) => return Err(reason),
                Err(NokhwaError::GetPropertyError { property, .. }) if property == "CameraFormat" => {
                    refused =
                        "it offers no picture format that can be decoded (MJPG, YUYV, NV12, RGB)".into();
                }
                Err(error) => refused = error.to_string(),
            }
        }
        Err(refused)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path(), self.name)
    }
}

/// The cameras of this machine in the order of their index. On Linux these are all video nodes; one that
/// cannot deliver pictures says so when it is asked for its formats.
pub fn devices() -> Vec<Device> {
    let found = thread::spawn(|| nokhwa::query(ApiBackend::Auto)).join();
    let mut devices: Vec<Device> = match found {
        Ok(Ok(infos)) => infos
            .iter()
            .filter_map(|info| Some(Device { index: info.index().as_index().ok()?, name: info.human_name() }))
            .collect(),
        Ok(Err(error)) => {
            log::warn!("cameras cannot be listed: {error}");
            Vec::new()
        }
        Err(_) => {
            log::warn!("cameras cannot be listed: the camera library failed");
            Vec::new()
        }
    };
    devices.sort_by_key(|device| device.index);
    devices.dedup_by_key(|device| device.index);
    devices
}

/// The formats of an open camera, sorted, without repeats.
fn formats(camera: &mut nokhwa::Camera) -> Vec<Format> {
    let mut formats: Vec<Format> = match camera.compatible_camera_formats() {
        Ok(formats) => formats.into_iter().map(Format::of).collect(),
        Err(_) => vec![Format::of(camera.camera_format())],
    };
    formats.retain(|format| format.fps > 0);
    formats.sort();
    formats.dedup();
    formats
}

/// Orders formats by how near they are to what is asked for: size first, then rate, then encoding.
fn by_preference(mut formats: Vec<Format>, (width, height): (u32, u32), fps: u32) -> Vec<Format> {
    formats.sort_by_key(|format| {
        let size = u64::from(format.width.abs_diff(width)) + u64::from(format.height.abs_diff(height));
        let pixels = u64::from(format.width) * u64::from(format.height);
        (size, format.fps.abs_diff(fps), format.encoding.rank(pixels))
    });
    formats
}

/// Sets the camera to the most preferred format that its driver accepts.
fn negotiate(camera: &mut nokhwa::Camera, size: (u32, u32), fps: u32) -> Format {
    for format in by_preference(formats(camera), size, fps).into_iter().take(MOST_TRIES) {
        let wanted = format.to_nokhwa();
        let exact = RequestedFormatType::Exact(wanted);
        if camera.camera_format() == wanted
            || camera.set_camera_requset(RequestedFormat::with_formats(exact, &[wanted.format()])).is_ok()
        {
            return format;
        }
        log::debug!("the driver refuses {format}");
    }
    Format::of(camera.camera_format())
}

/// A picture as the driver gave it.
struct Grab {
    buffer: Buffer,
    captured: Instant,
    sequence: u64,
}

/// The thread that holds the camera. Reports on `opened` once, then keeps the newest picture in `newest`.
struct Grabber {
    device: Device,
    size: (u32, u32),
    fps: u32,
    newest: Sender<Result<Grab, String>>,
    /// The other end of `newest`, to take an overtaken picture out.
    overtaken: Receiver<Result<Grab, String>>,
    stop: Arc<AtomicBool>,
}

impl Grabber {
    fn run(self, opened: Sender<Result<Format, String>>) {
        let mut camera = match self.open() {
            Ok((camera, format)) => {
                let _ = opened.send(Ok(format));
                camera
            }
            Err(reason) => {
                let _ = opened.send(Err(reason));
                return;
            }
        };
        let mut sequence = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let grab = match camera.frame() {
                Ok(buffer) => Ok(Grab { captured: captured_at(&buffer), buffer, sequence }),
                Err(error) => Err(error.to_string()),
            };
            let lost = grab.is_err();
            self.put(grab);
            if lost {
                return;
            }
            sequence += 1;
        }
    }

    fn open(&self) -> Result<(nokhwa::Camera, Format), String> {
        let mut camera = self.device.connect(self.size, self.fps)?;
        let format = negotiate(&mut camera, self.size, self.fps);
        camera.open_stream().map_err(|error| error.to_string())?;
        Ok((camera, format))
    }

    fn put(&self, mut grab: Result<Grab, String>) {
        while let Err(TrySendError::Full(unsent)) = self.newest.try_send(grab) {
            let _ = self.overtaken.try_recv();
            grab = unsent;
        }
    }
}

/// When the driver says that a picture was taken, or now.
fn captured_at(buffer: &Buffer) -> Instant {
    let now = Instant::now();
    buffer
        .capture_timestamp()
        .and_then(|since_epoch| SystemTime::now().duration_since(UNIX_EPOCH + since_epoch).ok())
        .filter(|age| *age < OLDEST_CAPTURE)
        .and_then(|age| now.checked_sub(age))
        .unwrap_or(now)
}

fn decode(buffer: &Buffer) -> Result<Picture, PictureError> {
    let (width, height) = (buffer.resolution().width(), buffer.resolution().height());
    let bytes = buffer.buffer();
    let pixels = width as usize * height as usize;
    let decoded = match buffer.source_frame_format() {
        // The driver's whole buffer arrives, with old bytes behind the picture.
        FrameFormat::MJPEG => return jpeg::decode(jpeg::trim(bytes)?),
        FrameFormat::YUYV => yuv::from_yuyv(width, height, bytes),
        FrameFormat::NV12 => yuv::from_nv12(width, height, bytes),
        FrameFormat::GRAY => bytes.get(..pixels).map(|luma| yuv::from_luma(width, height, luma, yuv::FULL)),
        FrameFormat::RAWRGB => {
            bytes.get(..3 * pixels).and_then(|rgb| Picture::from_raw(width, height, rgb.to_vec()))
        }
        FrameFormat::RAWBGR => bytes.get(..3 * pixels).and_then(|bgr| {
            let mut rgb = bgr.to_vec();
            rgb.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
            Picture::from_raw(width, height, rgb)
        }),
    };
    decoded.ok_or(PictureError::CutShort("the camera delivered too few bytes"))
}

/// A live camera.
pub struct Camera {
    device: Device,
    format: Format,
    name: Arc<str>,
    newest: Receiver<Result<Grab, String>>,
    stop: Arc<AtomicBool>,
}

impl Camera {
    /// `selector` is an index (`1`), a device file or a link to one (`/dev/video2`, `/dev/v4l/by-id/…`);
    /// without it, the first camera that can be used is opened.
    pub fn open(selector: Option<&str>, options: &SourceOptions) -> Result<Self, SourceError> {
        let devices = devices();
        let Some(selector) = selector else { return Self::open_first(devices, options) };
        let what = format!("camera:{selector}");
        let Some(index) = index_of(selector) else {
            return Err(SourceError::new(what, "neither a number nor a video device", known(&devices)));
        };
        let Some(device) = devices.iter().find(|device| device.index == index) else {
            return Err(SourceError::new(what, "no such camera", known(&devices)));
        };
        Self::open_device(device.clone(), options)
            .map_err(|reason| SourceError::new(device.to_string(), &reason, advice(&reason)))
    }

    fn open_first(devices: Vec<Device>, options: &SourceOptions) -> Result<Self, SourceError> {
        if devices.is_empty() {
            return Err(SourceError::new("camera", "there is no camera", ALTERNATIVES));
        }
        let mut reasons = Vec::new();
        for device in devices {
            match Self::open_device(device.clone(), options) {
                Ok(camera) => return Ok(camera),
                Err(reason) => reasons.push((device, reason)),
            }
        }
        let advice = advice(&reasons[0].1);
        let reasons: Vec<String> =
            reasons.into_iter().map(|(device, reason)| format!("{device}: {reason}")).collect();
        Err(SourceError::new("camera", format!("none can be used ({})", reasons.join("; ")), advice))
    }

    fn open_device(device: Device, options: &SourceOptions) -> Result<Self, String> {
        let (opened, result) = bounded(1);
        let (newest, frames) = bounded(1);
        let stop = Arc::new(AtomicBool::new(false));
        let grabber = Grabber {
            device: device.clone(),
            size: options.size.unwrap_or(SIZE),
            fps: options.fps.unwrap_or(FPS),
            newest,
            overtaken: frames.clone(),
            stop: stop.clone(),
        };
        thread::spawn(move || grabber.run(opened));
        let format = match result.recv_timeout(OPEN_LIMIT) {
            Ok(format) => format?,
            Err(RecvTimeoutError::Timeout) => {
                stop.store(true, Ordering::Relaxed);
                return Err(format!("it did not open within {} s", OPEN_LIMIT.as_secs()));
            }
            Err(RecvTimeoutError::Disconnected) => return Err("the camera library failed".into()),
        };
        if options.size.is_some_and(|size| size != (format.width, format.height))
            || options.fps.is_some_and(|fps| fps != format.fps)
        {
            log::warn!("{device}: the nearest to what was asked for is {format}");
        }
        Ok(Self { name: device.path().into(), device, format, newest: frames, stop })
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
fn known(devices: &[Device]) -> String {
    match devices {
        [] => format!("there is no camera at all: {ALTERNATIVES}"),
        devices => {
            let names: Vec<String> = devices.iter().map(Device::to_string).collect();
            format!("there are {}", names.join(", "))
        }
    }
}

fn advice(reason: &str) -> &'static str {
    if reason.contains("ermission denied") {
        "add yourself to the group of the device: sudo usermod -aG video $USER, then log in again"
    } else if reason.contains("busy") {
        "close the other program that uses it"
    } else if reason.contains("FrameFormat: unsupported") || reason.contains("Framerate not whole") {
        "another program left it in a format that cannot be read back: plug it in again, or \
         v4l2-ctl --set-fmt-video=pixelformat=YUYV --set-parm=30"
    } else {
        ALTERNATIVES
    }
}

impl Source for Camera {
    fn describe(&self) -> String {
        format!("camera {}, {}", self.device, self.format)
    }

    fn extent(&self) -> Extent {
        Extent::Endless
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        let lost = |reason: &str| {
            SourceError::new(self.device.to_string(), reason, "check its cable, or plug it in again")
        };
        let grab = match self.newest.recv_timeout(FRAME_LIMIT) {
            Ok(Ok(grab)) => grab,
            Ok(Err(reason)) => return Err(lost(&reason)),
            Err(RecvTimeoutError::Timeout) => {
                return Err(lost(&format!("no picture for {} s", FRAME_LIMIT.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(lost("the camera library failed")),
        };
        let Grab { buffer, captured, sequence } = grab;
        Ok(Some(match decode(&buffer) {
            Ok(picture) => {
                Item::Frame(Frame { picture: picture.into(), captured, sequence, name: self.name.clone() })
            }
            Err(error) => Item::Unreadable {
                name: format!("{}, picture {sequence}", self.name),
                reason: error.to_string(),
            },
        }))
    }
}

impl Drop for Camera {
    /// Waits a moment for the thread to let go of the device, so that it can be opened again at once.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + CLOSE_LIMIT;
        while self.newest.recv_deadline(deadline).is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Encoding::*;

    fn format(encoding: Encoding, width: u32, height: u32, fps: u32) -> Format {
        Format { encoding, width, height, fps }
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

    #[test]
    fn raw_pictures_are_preferred_while_they_are_small() {
        assert_eq!(by_preference(webcam(), (640, 480), 30)[0], format(Yuyv, 640, 480, 30));
        assert_eq!(by_preference(webcam(), (1280, 720), 30)[0], format(Mjpg, 1280, 720, 30));
    }

    #[test]
    fn the_nearest_size_comes_before_the_nearest_rate() {
        assert_eq!(by_preference(webcam(), (1920, 1080), 30)[0], format(Mjpg, 1280, 720, 30));
        assert_eq!(by_preference(webcam(), (640, 480), 10)[0], format(Mjpg, 640, 480, 15));
        assert_eq!(by_preference(webcam(), (300, 200), 60)[0], format(Mjpg, 320, 180, 1));
    }

    #[test]
    fn formats_survive_the_way_through_nokhwa() {
        for encoding in [Mjpg, Nv12, Yuyv, Rgb3, Bgr3, Grey] {
            let format = format(encoding, 640, 480, 30);
            assert_eq!(Format::of(format.to_nokhwa()), format);
        }
    }

    #[test]
    fn a_camera_is_named_by_number_or_device_file() {
        assert_eq!(index_of("2"), Some(2));
        assert_eq!(index_of("/dev/video10"), Some(10));
        assert_eq!(index_of("/dev/null"), None);
        assert_eq!(index_of(""), None);
    }

    #[test]
    fn a_buffer_is_decoded_by_its_encoding_and_never_read_beyond_its_end() {
        let size = Resolution::new(2, 2);
        let decode =
            |bytes: &[u8], encoding: Encoding| decode(&Buffer::new(size, bytes, encoding.to_nokhwa()));
        let bgr = [1, 2, 3].repeat(4);
        assert_eq!(decode(&bgr, Bgr3).unwrap().get_pixel(1, 1).0, [3, 2, 1]);
        assert_eq!(decode(&bgr, Rgb3).unwrap().get_pixel(1, 1).0, [1, 2, 3]);
        assert_eq!(decode(&[235, 128, 235, 128].repeat(2), Yuyv).unwrap().get_pixel(1, 1).0, [255; 3]);
        assert_eq!(decode(&[7; 4], Grey).unwrap().get_pixel(0, 1).0, [7; 3]);
        for encoding in [Mjpg, Nv12, Yuyv, Rgb3, Bgr3, Grey] {
            assert!(decode(&[0xFF, 0xD8, 0xFF], encoding).is_err(), "{encoding}");
            assert!(decode(&[], encoding).is_err(), "{encoding}");
        }
    }

    #[test]
    fn a_jpeg_is_decoded_without_the_old_bytes_behind_it() {
        let picture = Picture::from_pixel(16, 16, image::Rgb([200, 30, 30]));
        let mut bytes = Vec::new();
        image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
        bytes.extend_from_slice(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 0, 0x55].repeat(100));
        let buffer = Buffer::new(Resolution::new(16, 16), &bytes, FrameFormat::MJPEG);
        assert_eq!(decode(&buffer).unwrap().dimensions(), (16, 16));
    }
}
