//! Whether a window could be opened.

use super::{Line, run};

pub fn check(settings: Option<&run::Args>) -> Line {
    if settings.is_some_and(|settings| settings.headless) {
        return Line::ok("display", "not needed: --headless");
    }
    if !cfg!(feature = "window") {
        return Line::warn(
            "display",
            "this build has no window support",
            "build with --features window, or use --headless",
        );
    }
    reach()
}

#[cfg(not(all(unix, not(target_os = "macos"))))]
fn reach() -> Line {
    Line::ok("display", "of this desktop")
}

/// Connects to the display server, as a window would.
#[cfg(all(unix, not(target_os = "macos")))]
fn reach() -> Line {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (wayland, x) = (set("WAYLAND_DISPLAY"), set("DISPLAY"));
    let mut failures = Vec::new();
    for (name, connect) in [(&wayland, wayland_socket as fn(&str) -> _), (&x, x_socket)] {
        let Some(name) = name else { continue };
        match connect(name) {
            Ok(()) => return Line::ok("display", format!("{name} answers")),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    match failures.is_empty() {
        true => Line::warn(
            "display",
            "neither DISPLAY nor WAYLAND_DISPLAY is set: mien run goes on without a window",
            "run from a desktop session, or say --headless",
        ),
        false => Line::fail(
            "display",
            failures.join("; "),
            "check that the desktop is running and allows this user, or say --headless",
        ),
    }
}

#[cfg(all(unix, not(target_os = "macos")))]
fn wayland_socket(name: &str) -> std::io::Result<()> {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_default();
    std::os::unix::net::UnixStream::connect(std::path::Path::new(&folder).join(name)).map(drop)
}

/// `:0`, `:0.0`, or `host:10.0` as ssh sets it.
#[cfg(all(unix, not(target_os = "macos")))]
fn x_socket(name: &str) -> std::io::Result<()> {
    use std::{
        io::{Error, ErrorKind},
        net::TcpStream,
        os::unix::net::UnixStream,
    };
    let parts = name
        .rsplit_once(':')
        .and_then(|(host, screen)| Some((host, screen.split('.').next()?.parse::<u16>().ok()?)));
    let (host, number) = parts.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "not of the form :0"))?;
    match host {
        "" | "unix" => UnixStream::connect(format!("/tmp/.X11-unix/X{number}")).map(drop),
        host => TcpStream::connect((host, number.saturating_add(6000))).map(drop),
    }
}

#[cfg(all(test, unix, not(target_os = "macos")))]
mod tests {
    use super::*;

    #[test]
    fn a_display_that_is_not_there_cannot_be_reached() {
        assert!(x_socket(":971").is_err());
        assert!(x_socket("nonsense").is_err());
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        if let Some(number) = listener.local_addr().unwrap().port().checked_sub(6000) {
            assert!(x_socket(&format!("127.0.0.1:{number}.0")).is_ok());
        }
    }
}
