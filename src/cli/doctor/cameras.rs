//! The cameras that the system lists, what they offer, and whether this user may use them.

#[cfg(feature = "camera")]
use mien::source::{SourceError, format::Format};

use super::{Line, run};

/// What `mien run` was asked to read, if it is no camera of the system's.
fn other_source(settings: Option<&run::Args>) -> Option<&str> {
    let sources = &settings?.source;
    let is_camera = |source: &String| source == "camera" || source.starts_with("camera:");
    sources.iter().find(|source| !is_camera(source)).map(String::as_str)
}

#[cfg(not(feature = "camera"))]
pub fn check(settings: Option<&run::Args>) -> Vec<Line> {
    let found = "this build has no camera support";
    vec![match other_source(settings) {
        Some(source) => Line::ok("camera", format!("{found}; --source {source} needs none")),
        None => Line::fail("camera", found, "build with --features camera"),
    }]
}

#[cfg(feature = "camera")]
pub fn check(settings: Option<&run::Args>) -> Vec<Line> {
    let mut lines = permissions();
    let devices = mien::source::camera::devices();
    lines.extend(devices.iter().map(|device| camera(device.to_string(), device.formats())));
    // A second node of a camera, which gives no pictures, doesn't matter while the first does.
    let usable = lines.iter().any(|line| line.state == super::State::Ok);
    if usable {
        lines
            .iter_mut()
            .filter(|line| line.state == super::State::Fail)
            .for_each(|line| line.state = super::State::Warn);
    }
    if devices.is_empty() && lines.is_empty() {
        lines.push(match other_source(settings) {
            Some(source) => Line::ok("camera", format!("there is none; --source {source} needs none")),
            None => Line::fail(
                "camera",
                "there is none",
                "plug a USB camera in and see dmesg; for a camera on a Raspberry Pi's ribbon cable use --source \
                 rpicam, on a Jetson's --source nvargus; mien run shows the demo meanwhile",
            ),
        });
    }
    lines
}

#[cfg(feature = "camera")]
fn camera(name: String, formats: Result<Vec<Format>, SourceError>) -> Line {
    let formats = match formats {
        Ok(formats) if !formats.is_empty() => formats,
        Ok(_) => return Line::fail(name, "it offers no picture that can be read", "use another camera"),
        Err(error) => return Line::fail(name, error.reason, error.advice),
    };
    let mut sizes: Vec<String> = Vec::new();
    for format in &formats {
        let size = format!("{} {}x{}", format.encoding, format.width, format.height);
        if !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    const SHOWN: usize = 6;
    let rest = match sizes.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more: see mien devices"),
    };
    sizes.truncate(SHOWN);
    Line::ok(name, format!("{}{rest}", sizes.join(", ")))
}

/// A line for each video device that this user may not open.
#[cfg(all(feature = "camera", target_os = "linux"))]
fn permissions() -> Vec<Line> {
    use std::{fs, io::ErrorKind, os::unix::fs::MetadataExt};

    let Ok(entries) = fs::read_dir("/dev") else { return Vec::new() };
    let is_video = |name: &str| name.strip_prefix("video").is_some_and(|n| n.parse::<u32>().is_ok());
    let mut paths: Vec<_> =
        entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_video)).collect();
    paths.sort_by_key(fs::DirEntry::file_name);
    let denied = |entry: &fs::DirEntry| {
        let opened = fs::File::options().read(true).write(true).open(entry.path());
        opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    let line = |entry: fs::DirEntry| {
        let group = entry.metadata().ok().and_then(|metadata| group_name(metadata.gid()));
        let group = group.unwrap_or_else(|| "video".into());
        Line::fail(
            entry.path().display().to_string(),
            "this user may not open it",
            format!("sudo usermod -aG {group} $USER, then log in again; in a container pass the device in"),
        )
    };
    paths.into_iter().filter(denied).map(line).collect()
}

#[cfg(all(feature = "camera", not(target_os = "linux")))]
fn permissions() -> Vec<Line> {
    Vec::new()
}

#[cfg(all(feature = "camera", target_os = "linux"))]
fn group_name(gid: u32) -> Option<String> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(gid)).then(|| name.to_owned())
    })
}
