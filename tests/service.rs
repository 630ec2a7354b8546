//! `mien run` as a systemd service: what is said on the notification socket.
#![cfg(target_os = "linux")]

mod common;

use std::{io::Write, os::unix::net::UnixDatagram, process::Stdio, time::Duration};

use common::*;

/// The next notification; `None` if none comes within `limit`.
fn hear(socket: &UnixDatagram, limit: Duration) -> Option<String> {
    socket.set_read_timeout(Some(limit)).unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
}

#[test]
fn readiness_and_watchdog_follow_the_pictures() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut child = mien(["run", "--headless", "--source", "mjpeg:-"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "400000")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut feed = || {
        // A picture is known to be whole when the next begins.
        stdin.write_all(&grey_jpeg(64, 48, 99).repeat(2)).unwrap();
        stdin.flush().unwrap();
    };

    assert_eq!(hear(&socket, Duration::from_millis(1500)), None, "ready before the first picture");
    feed();
    let first = hear(&socket, PATIENCE).expect("no word of the first picture");
    assert!(first.starts_with("READY=1\nSTATUS=") && first.ends_with("0 in view\n"), "{first}");
    while hear(&socket, Duration::from_millis(1500)).is_some() {}
    assert_eq!(hear(&socket, Duration::from_millis(1000)), None, "a word without a picture");
    feed();
    let later = hear(&socket, PATIENCE).expect("no word of the later picture");
    assert!(later.starts_with("WATCHDOG=1\n"), "{later}");

    drop(stdin);
    let last = std::iter::from_fn(|| hear(&socket, PATIENCE)).find(|word| !word.starts_with("WATCHDOG=1"));
    assert_eq!(last.as_deref(), Some("STOPPING=1\n"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_socket_that_is_gone_is_said_once_and_ends_nothing() {
    let output = mien(["run", "--headless", "--source", "demo", "--frames", "3"])
        .env("NOTIFY_SOCKET", "/nowhere/notify")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stderr(&output).matches("NOTIFY_SOCKET").count(), 1, "{}", stderr(&output));
}

#[test]
fn a_service_without_a_camera_fails_instead_of_showing_the_demo() {
    let output = run(["run", "--headless", "--no-demo", "--source", "camera:97"]);
    assert_eq!(code(&output), 2);
    if !std::path::Path::new("/dev/video0").exists() {
        let output = run(["run", "--headless", "--no-demo"]);
        assert_eq!(code(&output), 2);
        assert!(stderr(&output).contains("there is no camera"), "{}", stderr(&output));
    }
}
