//! Cameras through nokhwa: AVFoundation on macOS, Media Foundation on Windows.
//!
//! nokhwa's `frame()` has no time limit. A camera that falls silent there is reported as lost, and goes on when it
//! gives pictures again.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nokhwa::{
    Buffer, NokhwaError,
    utils::{
        ApiBackend, CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType, Resolution,
        frame_formats,
    },
};

use super::{ALTERNATIVES, Device, decode, refused};
use crate::source::{
    SourceError,
    format::{Encoding, Format, Rate, Request},
    live::{Feed, Limits, Outlet},
};

const LIMITS: Limits = Limits { first: Duration::from_secs(10), next: Duration::from_secs(2) };
/// Capture times further back than this come from a clock of the driver's own.
const OLDEST_CAPTURE: Duration = Duration::from_secs(10);
/// Formats tried before giving up: drivers refuse some that they list.
const MOST_TRIES: usize = 8;

/// All cameras, in the order of their number.
pub fn devices() -> Vec<Device> {
    let mut devices: Vec<Device> = match thread::spawn(|| nokhwa::query(ApiBackend::Auto)).join() {
        Ok(Ok(infos)) => infos
            .iter()
            .filter_map(|info| {
                let index = info.index().as_index().ok()?;
                Some(Device {
                    index,
                    name: info.human_name(),
                    bus: Some(info.misc()).filter(|id| !id.is_empty()),
                })
            })
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

/// The camera of this number.
pub fn find(index: u32) -> Option<Device> {
    devices().into_iter().find(|device| device.index == index)
}

/// The formats of a camera that can be decoded. Asking sets the camera to one of them.
pub fn formats(device: &Device) -> Result<Vec<Format>, SourceError> {
    let asked = device.clone();
    let formats = thread::spawn(move || Ok(formats_of(&mut connect(&asked, &Request::default())?)));
    formats.join().unwrap_or_else(|_| Err(failed(device, "the camera library failed")))
}

fn failed(device: &Device, reason: impl ToString) -> SourceError {
    let reason = reason.to_string();
    let advice = if reason.contains("ermission") || reason.contains("uthoriz") {
        "allow this program to use the camera in the system's privacy settings"
    } else if reason.contains("busy") || reason.contains("in use") {
        "close the other program that uses it"
    } else {
        ALTERNATIVES
    };
    SourceError::new(device.to_string(), reason, advice)
}

/// Opens the camera in any format, since only an open one lists its formats.
fn connect(device: &Device, request: &Request) -> Result<nokhwa::Camera, SourceError> {
    let ((width, height), fps) = (request.wanted_size(), request.wanted_fps());
    let closest = |format| RequestedFormatType::Closest(CameraFormat::new_from(width, height, format, fps));
    let mut refusal = String::new();
    for kind in [
        closest(FrameFormat::MJPEG),
        closest(FrameFormat::YUYV),
        RequestedFormatType::AbsoluteHighestFrameRate,
        RequestedFormatType::AbsoluteHighestResolution,
        RequestedFormatType::None,
    ] {
        let wanted = RequestedFormat::with_formats(kind, frame_formats());
        match nokhwa::Camera::new(CameraIndex::Index(device.index), wanted) {
            Ok(camera) => return Ok(camera),
            Err(NokhwaError::OpenDeviceError(_, reason)) => return Err(failed(device, reason)),
            Err(error) => refusal = error.to_string(),
        }
    }
    Err(failed(device, refusal))
}

fn encoding_of(format: FrameFormat) -> Encoding {
    match format {
        FrameFormat::MJPEG => Encoding::Mjpg,
        FrameFormat::NV12 => Encoding::Nv12,
        FrameFormat::YUYV => Encoding::Yuyv,
        FrameFormat::RAWRGB => Encoding::Rgb3,
        FrameFormat::RAWBGR => Encoding::Bgr3,
        FrameFormat::GRAY => Encoding::Grey,
    }
}

fn format_of(format: CameraFormat) -> Format {
    Format {
        encoding: encoding_of(format.format()),
        width: format.width(),
        height: format.height(),
        rate: Rate::new(format.frame_rate(), 1),
    }
}

fn formats_of(camera: &mut nokhwa::Camera) -> Vec<Format> {
    match camera.compatible_camera_formats() {
        Ok(formats) => formats.into_iter().map(format_of).collect(),
        Err(_) => vec![format_of(camera.camera_format())],
    }
}

/// Sets the camera to the best format that meets the request and that its driver accepts.
fn negotiate(device: &Device, camera: &mut nokhwa::Camera, request: &Request) -> Result<Format, SourceError> {
    let offered = match camera.compatible_camera_formats() {
        Ok(offered) => offered,
        Err(_) => vec![camera.camera_format()],
    };
    let formats: Vec<Format> = offered.iter().copied().map(format_of).collect();
    let chosen = request.choose(&formats).map_err(|refusal| refused(device, refusal))?;
    for format in chosen.into_iter().take(MOST_TRIES) {
        let Some(&wanted) = offered.iter().find(|&&offer| format_of(offer) == format) else { continue };
        let exact = RequestedFormat::with_formats(RequestedFormatType::Exact(wanted), &[wanted.format()]);
        if camera.camera_format() == wanted || camera.set_camera_requset(exact).is_ok() {
            return Ok(format);
        }
    }
    Err(failed(device, "its driver refuses the formats that it lists"))
}

/// A camera that is opened again when it was lost.
pub struct Camera {
    device: Device,
    request: Request,
}

impl Camera {
    pub fn new(device: Device, request: Request) -> Self {
        Self { device, request }
    }
}

impl Feed for Camera {
    fn name(&self) -> String {
        self.device.path()
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn run(&mut self, outlet: &Outlet) -> Result<(), SourceError> {
        if let Some(bus) = &self.device.bus {
            let place = devices().into_iter().find(|device| device.bus.as_ref() == Some(bus));
            self.device = place.ok_or_else(|| failed(&self.device, "it is not plugged in"))?;
        }
        let mut camera = connect(&self.device, &self.request)?;
        let format = negotiate(&self.device, &mut camera, &self.request)?;
        camera.open_stream().map_err(|error| failed(&self.device, error))?;
        outlet.describe(format!("camera {}, {format}", self.device));
        while outlet.goes_on().map_err(|reason| failed(&self.device, reason))? {
            let buffer = camera.frame().map_err(|error| failed(&self.device, error))?;
            let captured = captured_at(&buffer);
            let Resolution { width_x: width, height_y: height } = buffer.resolution();
            let format =
                Format { encoding: encoding_of(buffer.source_frame_format()), width, height, rate: None };
            outlet.put(captured, move || decode(&format, buffer.buffer()));
        }
        Ok(())
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
