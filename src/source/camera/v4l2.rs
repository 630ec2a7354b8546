//! Cameras on Linux, through V4L2 and the `v4l` crate.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::PollFlags,
    time::{ClockId, clock_gettime},
};
use v4l::{
    FourCC,
    buffer::{Flags, Metadata, Type},
    capability,
    frameinterval::FrameIntervalEnum,
    framesize::FrameSizeEnum,
    io::{
        mmap::Stream,
        traits::{CaptureStream, Stream as _},
    },
    video::{Capture, capture::Parameters},
};

use super::{ALTERNATIVES, Device, decode, refused};
use crate::source::{
    PictureError, SourceError,
    format::{Encoding, Format, Rate, Request},
    live::{Feed, Limits, Outlet, SLICE},
};

const LIMITS: Limits = Limits { first: Duration::from_secs(5), next: Duration::from_secs(2) };
/// Pictures that the driver may have ready or in the making.
const BUFFERS: u32 = 4;
/// Formats tried before giving up: drivers refuse some that they list.
const MOST_TRIES: usize = 8;
/// Capture times further back than this come from a clock of the driver's own.
const OLDEST_CAPTURE: Duration = Duration::from_secs(10);
/// How the names begin of the video nodes that camera modules and codecs of a Raspberry Pi make.
const PI_STAGES: [&str; 6] = ["bcm2835-isp", "bcm2835-codec", "pispbe", "rp1-cfe", "unicam", "rpi-hevc"];
/// Sizes and rates, the asked ones besides, that are looked for where a driver takes any in a range.
const USUAL_SIZES: [(u32, u32); 6] =
    [(320, 240), (640, 480), (800, 600), (1280, 720), (1920, 1080), (3840, 2160)];
const USUAL_FPS: [u32; 7] = [5, 10, 15, 20, 25, 30, 60];

/// The video nodes of this machine in the order of their number, whether they carry pictures or not.
fn nodes() -> Vec<Device> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut devices: Vec<Device> =
        entries.filter_map(|entry| node(entry.file_name().to_str()?.strip_prefix("video")?)).collect();
    devices.sort_by_key(|device| device.index);
    devices
}

fn node(number: &str) -> Option<Device> {
    let index = number.parse().ok()?;
    let system = Path::new("/sys/class/video4linux").join(format!("video{index}"));
    let read = |name: &str| {
        let bytes = fs::read(system.join(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    let place = fs::canonicalize(system.join("device")).ok();
    // A camera may have several nodes; the first is 0.
    let bus = place.and_then(|place| match (place.file_name()?.to_str()?, read("index").as_deref()) {
        (place, None | Some("0")) => Some(place.to_owned()),
        (place, Some(node)) => Some(format!("{place}#{node}")),
    });
    Some(Device { index, name: read("name").unwrap_or_else(|| "unnamed".into()), bus })
}

/// The cameras among the nodes. One that may not be opened counts as a camera if it is the first of its device.
pub fn devices() -> Vec<Device> {
    let mut devices = nodes();
    devices.retain(|device| !is_pi_stage(device));
    devices.retain(|device| match open(device).map(|camera| camera.enum_formats()) {
        Ok(formats) => formats.is_ok_and(|formats| !formats.is_empty()),
        Err(error) => {
            let is_first = device.bus.as_ref().is_none_or(|bus| !bus.contains('#'));
            is_first && !is_gone(&error)
        }
    });
    devices
}

fn is_pi_stage(device: &Device) -> bool {
    PI_STAGES.iter().any(|stage| device.name.starts_with(stage))
}

/// The node of this number.
pub fn find(index: u32) -> Option<Device> {
    nodes().into_iter().find(|device| device.index == index)
}

/// The formats of a camera that can be decoded. None of them is set.
pub fn formats(device: &Device) -> Result<Vec<Format>, SourceError> {
    let camera = open(device).map_err(|error| explain(device, &error))?;
    formats_of(device, &camera, &Request::default())
}

fn open(device: &Device) -> io::Result<v4l::Device> {
    v4l::Device::with_path(device.path())
}

fn formats_of(device: &Device, camera: &v4l::Device, request: &Request) -> Result<Vec<Format>, SourceError> {
    if is_pi_stage(device) {
        let reason = "it is a part of the Raspberry Pi's camera pipeline, which only libcamera can run";
        return Err(SourceError::new(device.to_string(), reason, "use --source rpicam"));
    }
    let offered = camera.enum_formats().map_err(|error| explain(device, &error))?;
    let mut formats = Vec::new();
    for encoding in offered.iter().filter_map(|offer| encoding_of(offer.fourcc)) {
        for (width, height) in sizes(camera, encoding, request) {
            let rates = rates(camera, encoding, (width, height), request);
            formats.extend(rates.into_iter().map(|rate| Format { encoding, width, height, rate }));
        }
    }
    if formats.is_empty() {
        let names: Vec<String> = offered.iter().map(|offer| offer.fourcc.to_string()).collect();
        return Err(not_a_camera(device, camera, &names));
    }
    Ok(formats)
}

fn encoding_of(fourcc: FourCC) -> Option<Encoding> {
    Encoding::ALL.into_iter().find(|&encoding| fourcc_of(encoding) == fourcc)
}

fn fourcc_of(encoding: Encoding) -> FourCC {
    let name = encoding.name().as_bytes();
    FourCC::new(&[name[0], name[1], name[2], name[3]])
}

fn sizes(camera: &v4l::Device, encoding: Encoding, request: &Request) -> Vec<(u32, u32)> {
    let Ok(listed) = camera.enum_framesizes(fourcc_of(encoding)) else {
        // Then there is only the size that is set.
        let current = camera.format().into_iter().filter(|format| format.fourcc == fourcc_of(encoding));
        return current.map(|format| (format.width, format.height)).collect();
    };
    let mut sizes = Vec::new();
    for size in listed {
        match size.size {
            FrameSizeEnum::Discrete(size) => sizes.push((size.width, size.height)),
            FrameSizeEnum::Stepwise(range) => {
                let fits = |&(width, height): &(u32, u32)| {
                    let on_step = |side: u32, least: u32, most: u32, step: u32| {
                        (least..=most).contains(&side) && (side - least).is_multiple_of(step.max(1))
                    };
                    on_step(width, range.min_width, range.max_width, range.step_width)
                        && on_step(height, range.min_height, range.max_height, range.step_height)
                };
                let ends = [(range.min_width, range.min_height), (range.max_width, range.max_height)];
                sizes.extend(USUAL_SIZES.into_iter().chain(request.size).filter(fits).chain(ends));
            }
        }
    }
    sizes.sort();
    sizes.dedup();
    sizes
}

/// The rates at one size; `[None]` where the driver does not say.
fn rates(
    camera: &v4l::Device,
    encoding: Encoding,
    (width, height): (u32, u32),
    request: &Request,
) -> Vec<Option<Rate>> {
    let listed = camera.enum_frameintervals(fourcc_of(encoding), width, height).unwrap_or_default();
    let mut rates = Vec::new();
    for interval in listed {
        match interval.interval {
            FrameIntervalEnum::Discrete(interval) => {
                rates.extend(Rate::new(interval.denominator, interval.numerator));
            }
            FrameIntervalEnum::Stepwise(range) => {
                let highest = Rate::new(range.min.denominator, range.min.numerator);
                let lowest = Rate::new(range.max.denominator, range.max.numerator);
                let fits = |rate: &Rate| {
                    let above =
                        |end: Option<Rate>| end.is_none_or(|end| rate.per_second() >= end.per_second());
                    let below =
                        |end: Option<Rate>| end.is_none_or(|end| rate.per_second() <= end.per_second());
                    above(lowest) && below(highest)
                };
                rates.extend(USUAL_FPS.into_iter().chain(request.fps).map(Rate::fps).filter(fits));
                rates.extend(highest.filter(|rate| rate.per_second() <= 1000.0));
            }
        }
    }
    match rates.is_empty() {
        true => vec![None],
        false => rates.into_iter().map(Some).collect(),
    }
}

/// Sets the camera to the best format that meets the request and gives it with the bytes from row to row.
fn negotiate(
    device: &Device,
    camera: &v4l::Device,
    request: &Request,
) -> Result<(Format, usize), SourceError> {
    let formats =
        request.choose(&formats_of(device, camera, request)?).map_err(|refusal| refused(device, refusal))?;
    let mut tried = Vec::new();
    for mut format in formats.into_iter().take(MOST_TRIES) {
        let wanted = v4l::Format::new(format.width, format.height, fourcc_of(format.encoding));
        let set = match camera.set_format(&wanted) {
            Ok(set)
                if (set.width, set.height, set.fourcc) == (format.width, format.height, wanted.fourcc) =>
            {
                set
            }
            Ok(set) => {
                log::debug!("{device}: {format} became {} {}x{}", set.fourcc, set.width, set.height);
                tried.push(format.to_string());
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                tried.push(format.to_string());
                continue;
            }
            Err(error) => return Err(explain(device, &error)),
        };
        if let Some(rate) = format.rate {
            let interval = v4l::Fraction::new(rate.seconds, rate.pictures);
            // A driver without rates to set refuses; then the rate is what the driver says.
            let _ = camera.set_params(&Parameters::new(interval));
        }
        if let Ok(params) = camera.params() {
            format.rate = Rate::new(params.interval.denominator, params.interval.numerator).or(format.rate);
        }
        if request.fps.is_some_and(|fps| format.rate.is_some_and(|rate| !rate.is(fps))) {
            tried.push(format!("{format} instead of {} fps", request.wanted_fps()));
            continue;
        }
        return Ok((format, set.stride as usize));
    }
    Err(SourceError::new(
        device.to_string(),
        format!("its driver refuses what it lists ({})", tried.join("; ")),
        "ask for another --format, --size or --fps",
    ))
}

/// A camera that is opened again, under whatever number, when it was lost.
pub struct Camera {
    name: String,
    device: Device,
    request: Request,
    /// The other nodes that were there when the camera was lost.
    others: Option<Vec<Device>>,
}

impl Camera {
    pub fn new(device: Device, request: Request) -> Self {
        Self { name: device.path(), device, request, others: None }
    }

    /// Where the camera is now: at the same place, or else a camera of the same name that was not there when this one
    /// was lost.
    fn locate(&self, nodes: Vec<Device>) -> Option<Device> {
        let Device { index, name, bus } = &self.device;
        let at_its_place = |node: &&Device| match bus {
            Some(_) => node.bus == *bus,
            None => node.bus.is_none() && (&node.index, &node.name) == (index, name),
        };
        let is_new = |node: &&Device| {
            let others = self.others.as_ref();
            node.name == *name
                && others.is_some_and(|others| !others.iter().any(|other| other.bus == node.bus))
        };
        nodes.iter().find(at_its_place).or_else(|| nodes.iter().find(is_new)).cloned()
    }
}

impl Feed for Camera {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn run(&mut self, outlet: &Outlet) -> Result<(), SourceError> {
        self.device = self.locate(nodes()).ok_or_else(|| {
            SourceError::new(self.device.to_string(), "it is not plugged in", "plug it in again")
        })?;
        let result = capture(&self.device, &self.request, outlet);
        if result.is_err() {
            let is_other = |node: &Device| node.bus != self.device.bus;
            self.others = Some(nodes().into_iter().filter(is_other).collect());
        }
        result
    }
}

fn capture(device: &Device, request: &Request, outlet: &Outlet) -> Result<(), SourceError> {
    let camera = open(device).map_err(|error| explain(device, &error))?;
    let (format, stride) = negotiate(device, &camera, request)?;
    let mut stream = Stream::with_buffers(&camera, Type::VideoCapture, BUFFERS)
        .map_err(|error| explain(device, &error))?;
    outlet.describe(format!("camera {device}, {format}"));
    let result = Grabber { device, camera: &camera, format, stride }.grab(&mut stream, outlet);
    close(device, stream);
    result
}

/// Lets go of the stream, whose `drop` panics where stopping fails for any reason but that the camera is gone.
fn close(device: &Device, mut stream: Stream) {
    match stream.stop() {
        Err(error) if !is_gone(&error) => {
            log::warn!("{device} does not stop ({error}); it stays occupied until this program ends");
            std::mem::forget(stream);
        }
        _ => drop(stream),
    }
}

struct Grabber<'a> {
    device: &'a Device,
    camera: &'a v4l::Device,
    format: Format,
    stride: usize,
}

impl Grabber<'_> {
    fn grab(&self, stream: &mut Stream, outlet: &Outlet) -> Result<(), SourceError> {
        let interval = self.format.rate.map_or(1.0, |rate| 1.0 / rate.per_second());
        let stale = Duration::from_secs_f64((2.0 * interval).clamp(0.3, 10.0));
        // Only the first call waits itself: it starts the stream.
        stream.set_timeout(LIMITS.first);
        let (mut is_first, mut last) = (true, Instant::now());
        while is_first || self.wait(outlet)? {
            for ready in 1..=BUFFERS {
                let (bytes, metadata) = stream.next().map_err(|error| explain(self.device, &error))?;
                if ready < BUFFERS && self.is_ready(Duration::ZERO)? {
                    outlet.overtaken();
                    continue;
                }
                let captured = captured_at(metadata);
                // After this thread was held up, the driver's queue holds nothing but the past.
                if last.elapsed() > stale && captured.elapsed() > stale && !is_first {
                    outlet.overtaken();
                } else {
                    self.put(bytes, metadata, captured, outlet);
                }
                last = Instant::now();
                break;
            }
            is_first = false;
        }
        Ok(())
    }

    /// Waits for a picture; false when no more is wanted.
    fn wait(&self, outlet: &Outlet) -> Result<bool, SourceError> {
        while outlet.goes_on().map_err(|reason| self.silent(reason))? {
            if self.is_ready(SLICE)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the driver has a picture, or an error, within `limit`.
    fn is_ready(&self, limit: Duration) -> Result<bool, SourceError> {
        match self.camera.handle().poll(PollFlags::POLLIN.bits(), limit.as_millis() as i32) {
            Ok(ready) => Ok(ready > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(explain(self.device, &error)),
        }
    }

    fn put(&self, bytes: &[u8], metadata: &Metadata, captured: Instant, outlet: &Outlet) {
        // The rest of the buffer is what an earlier picture has left there.
        let used = &bytes[..bytes.len().min(metadata.bytesused as usize)];
        let picture = without_padding(&self.format, self.stride, used);
        let (format, damaged) = (self.format, metadata.flags.contains(Flags::ERROR));
        outlet.put(captured, move || match damaged {
            true => Err(PictureError::Damaged("the driver marks it as broken".into())),
            false if picture.is_empty() => Err(PictureError::Empty),
            false => decode(&format, &picture),
        });
    }

    fn silent(&self, reason: String) -> SourceError {
        SourceError::new(self.device.to_string(), reason, "unplug it and plug it in again")
    }
}

/// When the driver says that a picture was taken, or now.
fn captured_at(metadata: &Metadata) -> Instant {
    let now = Instant::now();
    let is_monotonic = metadata.flags & Flags::TIMESTAMP_MASK == Flags::TIMESTAMP_MONOTONIC;
    let Some(clock) = clock_gettime(ClockId::CLOCK_MONOTONIC).ok().filter(|_| is_monotonic) else {
        return now;
    };
    let age = Duration::from(clock).checked_sub(Duration::from(metadata.timestamp));
    age.filter(|age| *age < OLDEST_CAPTURE).and_then(|age| now.checked_sub(age)).unwrap_or(now)
}

/// The bytes of a picture, of a raw one without what lies between its rows, `stride` bytes of the first plane apart.
fn without_padding(format: &Format, stride: usize, bytes: &[u8]) -> Vec<u8> {
    let (width, height) = (format.width as usize, format.height as usize);
    // Bytes of a row, bytes from row to row, rows.
    let planes = match format.encoding {
        Encoding::Mjpg | Encoding::Jpeg => vec![],
        Encoding::Nv12 => vec![(width, stride, height), (width, stride, height / 2)],
        Encoding::Yu12 => {
            let chroma = (width.div_ceil(2), stride / 2, height.div_ceil(2));
            vec![(width, stride, height), chroma, chroma]
        }
        Encoding::Yuyv | Encoding::Uyvy => vec![(2 * width, stride, height)],
        Encoding::Rgb3 | Encoding::Bgr3 => vec![(3 * width, stride, height)],
        Encoding::Grey => vec![(width, stride, height)],
    };
    if planes.first().is_none_or(|&(row, stride, _)| stride <= row) {
        return bytes.to_vec();
    }
    let mut packed = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for (row, stride, rows) in planes {
        for _ in 0..rows {
            packed.extend_from_slice(bytes.get(at..at + row).unwrap_or_default());
            at += stride;
        }
    }
    packed
}

fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::ENODEV, Errno::ENXIO, Errno::ENOENT].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|code| gone.contains(&code))
}

/// What an error of the driver means, and what to do.
fn explain(device: &Device, error: &io::Error) -> SourceError {
    let path = device.path();
    let (reason, advice) = match (error.kind(), error.raw_os_error().map(Errno::from_raw)) {
        (io::ErrorKind::PermissionDenied, _) => {
            let group = group_of(&path).unwrap_or_else(|| "video".into());
            let advice = format!(
                "add yourself to its group with `sudo usermod -aG {group} $USER` and log in again; in a container, \
                 pass --device {path}"
            );
            ("permission denied".to_owned(), advice)
        }
        (io::ErrorKind::ResourceBusy, _) => match holders(&path).as_slice() {
            [] => (
                "busy: another program uses it".to_owned(),
                format!("close the other program; `sudo fuser -v {path}` names it"),
            ),
            holders => {
                (format!("busy: {} uses it", holders.join(", ")), "close the other program".to_owned())
            }
        },
        (io::ErrorKind::TimedOut, _) => (
            format!("no picture within {} s", LIMITS.first.as_secs()),
            "check that it is switched on, unplug it and plug it in again, or try it with another program"
                .to_owned(),
        ),
        (_, Some(Errno::ENODEV | Errno::ENXIO | Errno::ENOENT)) => {
            ("it was unplugged".to_owned(), "plug it in again".to_owned())
        }
        (_, Some(Errno::ENOSPC)) => (
            "its USB bus has no bandwidth left".to_owned(),
            "ask for --format mjpg or a smaller --size, or plug it into another port".to_owned(),
        ),
        (_, Some(Errno::ENOTTY)) => ("not a video device".to_owned(), ALTERNATIVES.to_owned()),
        _ => (
            format!("its driver reports: {error}"),
            "unplug it and plug it in again, try another cable or port; `dmesg` may tell more".to_owned(),
        ),
    };
    SourceError::new(device.to_string(), reason, advice)
}

/// Why a node that offers nothing decodable is of no use; `offered` are the formats that it has.
fn not_a_camera(device: &Device, camera: &v4l::Device, offered: &[String]) -> SourceError {
    let sensor = "it looks like a camera module's bare sensor: use --source rpicam on a Raspberry Pi, --source nvargus \
                  on a Jetson";
    let (reason, advice) = if !offered.is_empty() {
        let known: Vec<&str> = Encoding::ALL.into_iter().map(Encoding::name).collect();
        let advice = match offered.iter().all(|name| is_bayer(name)) {
            true => sensor.to_owned(),
            false => format!("a camera with one of these is needed: {}", known.join(", ")),
        };
        (format!("its formats are not decoded: {}", offered.join(", ")), advice)
    } else {
        let reason = match camera.query_caps().map(|caps| caps.capabilities) {
            Ok(flags) if flags.contains(capability::Flags::META_CAPTURE) => {
                "it carries the metadata of a camera, no pictures"
            }
            Ok(_) => "it is a video device, but not a camera",
            Err(_) => "not a video device",
        };
        let siblings = devices();
        let place =
            |device: &Device| device.bus.as_ref().map(|bus| bus.split('#').next().unwrap_or(bus).to_owned());
        let sibling = siblings.iter().find(|other| other.bus.is_some() && place(other) == place(device));
        (
            reason.to_owned(),
            sibling.map_or_else(super::known, |camera| format!("its pictures come from {camera}")),
        )
    };
    SourceError::new(device.to_string(), reason, advice)
}

/// Whether a format is that of a bare sensor: a colour filter's order and bits, such as `RG10`, or packed, `pRAA`.
fn is_bayer(name: &str) -> bool {
    let (order, bits) = name.split_at_checked(2).unwrap_or_default();
    ["GBRG", "GRBG", "RGGB"].contains(&name)
        || name.starts_with('p')
        || ["BA", "BG", "GB", "RG"].contains(&order) && bits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The name of the group that a file belongs to.
fn group_of(path: &str) -> Option<String> {
    let gid = fs::metadata(path).ok()?.gid().to_string();
    let groups = fs::read_to_string("/etc/group").ok()?;
    let group = groups.lines().find(|line| line.split(':').nth(2) == Some(&gid))?;
    Some(group.split(':').next()?.to_owned())
}

/// The other programs that have a file open, such as `cheese (process 312)`, as far as this user may see them.
fn holders(path: &str) -> Vec<String> {
    let mut holders = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let mut open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let holds = open.any(|file| fs::read_link(file.path()).is_ok_and(|target| target == Path::new(path)));
        if holds && id != std::process::id() {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            holders.push(format!("{} (process {id})", name.trim()));
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str, bus: &str) -> Device {
        Device { index, name: name.into(), bus: Some(bus.into()) }
    }

    fn lost(device: Device, others: &[Device]) -> Camera {
        Camera { others: Some(others.to_vec()), ..Camera::new(device, Request::default()) }
    }

    #[test]
    fn a_camera_is_found_again_at_its_place_under_another_number() {
        let camera = lost(device(0, "Webcam", "1-2:1.0"), &[device(2, "Webcam", "1-3:1.0")]);
        let back = device(4, "Webcam", "1-2:1.0");
        let nodes = vec![device(2, "Webcam", "1-3:1.0"), back.clone(), device(5, "Webcam", "1-2:1.0#1")];
        assert_eq!(camera.locate(nodes), Some(back));
    }

    #[test]
    fn another_camera_of_the_same_name_is_not_taken_for_it() {
        let other = device(2, "Webcam", "1-3:1.0");
        let camera = lost(device(0, "Webcam", "1-2:1.0"), std::slice::from_ref(&other));
        assert_eq!(camera.locate(vec![other]), None);
    }

    #[test]
    fn a_camera_moved_to_another_port_is_found_by_its_name() {
        let camera = lost(device(0, "Webcam", "1-2:1.0"), &[device(2, "Webcam", "1-3:1.0")]);
        let moved = device(0, "Webcam", "1-4:1.0");
        let nodes = vec![moved.clone(), device(1, "Scanner", "1-5:1.0"), device(2, "Webcam", "1-3:1.0")];
        assert_eq!(camera.locate(nodes), Some(moved));
    }

    #[test]
    fn without_a_bus_number_and_name_count() {
        let loopback = |index| Device { index, name: "Dummy".into(), bus: None };
        let camera = Camera::new(loopback(1), Request::default());
        assert_eq!(camera.locate(vec![loopback(0), loopback(1)]), Some(loopback(1)));
        assert_eq!(camera.locate(vec![loopback(0)]), None);
    }

    #[test]
    fn padding_between_rows_is_taken_out() {
        let format = |encoding| Format { encoding, width: 2, height: 2, rate: None };
        let yuyv = [1, 2, 3, 4, 0, 0, 5, 6, 7, 8, 0, 0];
        assert_eq!(without_padding(&format(Encoding::Yuyv), 6, &yuyv), [1, 2, 3, 4, 5, 6, 7, 8]);
        let yu12 = [1, 2, 0, 0, 3, 4, 0, 0, 5, 0, 6, 0];
        assert_eq!(without_padding(&format(Encoding::Yu12), 4, &yu12), [1, 2, 3, 4, 5, 6]);
        let nv12 = [1, 2, 0, 3, 4, 0, 5, 6];
        assert_eq!(without_padding(&format(Encoding::Nv12), 3, &nv12), [1, 2, 3, 4, 5, 6]);
        assert_eq!(without_padding(&format(Encoding::Mjpg), 0, &[9; 5]), [9; 5]);
        assert_eq!(without_padding(&format(Encoding::Yuyv), 6, &yuyv[..7]), [1, 2, 3, 4]);
    }

    #[test]
    fn what_a_driver_says_becomes_advice() {
        let webcam = device(0, "Webcam", "1-2:1.0");
        let explained = |errno: Errno| explain(&webcam, &io::Error::from(errno)).to_string();
        assert!(
            explained(Errno::EACCES).starts_with("/dev/video0 (Webcam): permission denied; add yourself")
        );
        assert!(explained(Errno::EBUSY).contains("busy: another program uses it"));
        assert!(explained(Errno::ENODEV).contains("it was unplugged"));
        assert!(explained(Errno::ENOSPC).contains("--format mjpg"));
        assert!(explained(Errno::EPROTO).contains("its driver reports: Protocol error"));
    }

    #[test]
    fn the_program_that_holds_a_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = fs::canonicalize(file.path()).unwrap();
        let path = path.to_str().unwrap();
        let open = fs::File::open(path).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").stdin(open).spawn().unwrap();
        let holders = holders(path);
        child.kill().unwrap();
        child.wait().unwrap();
        // The child may not have become `sleep` yet.
        assert_eq!(holders.len(), 1, "{holders:?}");
        assert!(holders[0].ends_with(&format!("(process {})", child.id())), "{holders:?}");
    }

    #[test]
    fn bare_sensors_are_told_from_colours() {
        assert!(["RG10", "pRAA", "BA81", "GRBG", "BG16"].into_iter().all(is_bayer));
        assert!(!["RGB4", "BGR4", "H264", "GREY", "Z16 ", ""].into_iter().any(is_bayer));
    }

    #[test]
    fn every_encoding_has_its_code() {
        for encoding in Encoding::ALL {
            assert_eq!(encoding_of(fourcc_of(encoding)), Some(encoding));
        }
        assert_eq!(encoding_of(FourCC::new(b"RG10")), None);
    }
}
