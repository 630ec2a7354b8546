//! `--source rpicam`, `nvargus` and `exec:`, with stand-ins on the PATH that speak the same stream.
#![cfg(unix)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::*;
use serde_json::Value;
use tempfile::TempDir;

/// A folder at the head of the PATH, with two pictures in `stream`.
struct StandIns(TempDir);

impl StandIns {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("stream"), [grey_jpeg(64, 48, 90), grey_jpeg(64, 48, 120)].concat())
            .unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Adds a program. In its shell script, `$0` leads to this folder, and its process is noted in `pid`.
    fn add(self, name: &str, script: &str) -> Self {
        let text = format!("#!/bin/sh\ncd \"${{0%/*}}\"\necho $$ > pid\n{script}\n");
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn mien(&self, args: &[&str]) -> Command {
        let mut command = mien(["run", "--headless", "--json"].iter().chain(args));
        command.env("PATH", format!("{}:/usr/bin:/bin", self.0.path().display()));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.mien(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Whether the program that was started last still runs, or is a zombie.
    fn is_left(&self) -> bool {
        let alive = Command::new("kill").args(["-0", self.read("pid").trim()]).stderr(Stdio::null()).status();
        alive.unwrap().success()
    }

    fn wait_until_gone(&self) {
        let begun = Instant::now();
        while self.is_left() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the program is left behind");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

const FOR_EVER: &str = "while cat stream; do sleep 0.05; done";

fn pictures(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["faces"].is_array()).collect()
}

#[test]
fn the_camera_of_a_pi_through_its_program() {
    for name in ["rpicam-vid", "libcamera-vid"] {
        let stand_in = StandIns::new().add(name, &format!("echo \"$@\" > arguments; {FOR_EVER}"));
        let args = ["--source", "rpicam", "--size", "800x600", "--fps", "20", "--frames", "5"];
        let output = stand_in.run(&args);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let lines = lines(&output);
        assert_eq!(pictures(&lines).len(), 5);
        pictures(&lines).into_iter().for_each(|line| check_picture(line, true));
        assert_eq!(lines[0]["source"], "rpicam");
        let arguments = stand_in.read("arguments");
        assert!(arguments.contains("--codec mjpeg"), "{arguments}");
        assert!(arguments.contains("--width 800 --height 600 --framerate 20"), "{arguments}");
        assert!(!stand_in.is_left(), "{name} is left behind");
    }
}

#[test]
fn the_camera_of_a_jetson_through_its_program() {
    // What the program prints must not get between the pictures.
    let script = "echo GST_ARGUS: Creating output stream; echo \"$@\" > arguments; \
                  while :; do cat stream >&3; echo chatter; sleep 0.05; done";
    let stand_in = StandIns::new().add("gst-launch-1.0", script);
    let output = stand_in.run(&["--source", "nvargus:1", "--fps", "60", "--frames", "5"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    assert_eq!(pictures(&lines).len(), 5);
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!(summary["unreadable"], 0, "{summary}");
    let arguments = stand_in.read("arguments");
    assert!(
        arguments.contains("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),framerate=60/1"),
        "{arguments}"
    );
    assert!(arguments.ends_with("jpegenc ! fdsink fd=3\n"), "{arguments}");
    assert!(!stand_in.is_left());
}

#[test]
fn any_command_that_writes_pictures() {
    let stand_in = StandIns::new().add("camera", &format!("echo $WIDTH $HEIGHT $FPS > asked; {FOR_EVER}"));
    let args = ["--source", "exec:camera | cat", "--size", "320x240", "--fps", "7", "--frames", "3"];
    let output = stand_in.run(&args);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(pictures(&lines(&output)).len(), 3);
    assert_eq!(stand_in.read("asked"), "320 240 7\n");
    stand_in.wait_until_gone();
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let none = StandIns::new();
    std::os::unix::fs::symlink("/bin/sh", none.path("sh")).unwrap();
    let refusal = |source: &str| {
        let output = none.mien(&["--source", source]).env("PATH", none.0.path()).output().unwrap();
        assert_eq!(code(&output), 2);
        stderr(&output)
    };
    let said = refusal("rpicam");
    assert!(said.contains("rpicam-vid and libcamera-vid not found; install it with `sudo apt"), "{said}");
    let said = refusal("nvargus");
    assert!(
        said.contains("gst-launch-1.0") && said.contains("not found; install it with `sudo apt"),
        "{said}"
    );
    let said = refusal("exec:no-such-program --x");
    assert!(
        said.contains("exec:no-such-program: ") && said.contains("check the command's spelling"),
        "{said}"
    );
    assert!(refusal("exec:").contains("there is no command"));
    assert!(refusal("rpicam:left").contains("not the number of a camera"));
}

#[test]
fn a_program_that_fails_is_quoted() {
    let script = "echo 'ERROR: *** no cameras available ***' >&2; exit 255";
    let stand_in = StandIns::new().add("rpicam-vid", script);
    let output = stand_in.run(&["--source", "rpicam"]);
    assert_eq!(code(&output), 2);
    let said = stderr(&output);
    assert!(
        said.contains(
            "rpicam: it ended (exit status: 255), and said: ERROR: *** no cameras available ***; check the"
        ),
        "{said}"
    );
}

#[test]
fn a_program_that_dies_is_started_again() {
    let script = "if [ -e died ]; then while :; do cat stream; sleep 0.1; done; fi
        touch died
        for i in 1 2 3; do cat stream; sleep 0.2; done
        echo 'the sensor is hot' >&2
        exit 7";
    let stand_in = StandIns::new().add("rpicam-vid", script);
    let output = stand_in.run(&["--source", "rpicam", "--frames", "12"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    let turns: Vec<usize> = ["lost", "back_after"]
        .map(|key| lines.iter().position(|line| line.get(key).is_some()).unwrap())
        .into();
    assert_eq!(lines[turns[0]]["lost"], "it ended (exit status: 7), and said: the sensor is hot");
    assert_eq!(lines[turns[0]]["source"], "rpicam");
    assert!(turns[0] < turns[1] && lines[turns[1]]["back_after"].as_f64().unwrap() >= 0.2, "{lines:?}");
    assert!(pictures(&lines[turns[1]..]).len() > 1, "it goes on");
    assert_eq!(lines.last().unwrap()["summary"]["lost"], 1);
    let said = stderr(&output);
    assert_eq!(said.matches("rpicam is lost").count(), 1, "{said}");
    assert_eq!(said.matches("rpicam is back").count(), 1, "{said}");
    assert!(!stand_in.is_left());
}

#[test]
fn garbage_and_cut_pictures_are_skipped() {
    let stand_in = StandIns::new();
    let picture = grey_jpeg(64, 48, 50);
    fs::write(stand_in.path("cut"), [b"garbage", &picture[..picture.len() / 2]].concat()).unwrap();
    fs::write(stand_in.path("large"), grey_jpeg(128, 96, 50)).unwrap();
    let stand_in = stand_in.add("camera", "while :; do cat cut large stream; sleep 0.05; done");
    let output = stand_in.run(&["--source", "exec:camera", "--frames", "20"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    assert!(pictures(&lines).iter().any(|line| line["width"] == 64), "sizes may change");
    assert!(lines.last().unwrap()["summary"]["lost"] == 0);
}

#[test]
fn a_program_that_never_gives_a_picture_is_ended_too() {
    let stand_in = StandIns::new().add("rpicam-vid", "touch started; sleep 600");
    let mut child = stand_in.mien(&["--source", "rpicam"]).stdout(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !stand_in.path("started").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(10));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!stand_in.is_left());
}

#[test]
fn no_program_is_left_behind() {
    for signal in ["-INT", "-TERM", "-KILL"] {
        // Even one that does not listen.
        let trap = if signal == "-KILL" { "" } else { "trap '' INT TERM;" };
        let stand_in = StandIns::new().add("rpicam-vid", &format!("{trap} {FOR_EVER}"));
        let mut child = stand_in
            .mien(&["--source", "rpicam"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        out.read_line(&mut text).unwrap();
        assert!(!text.is_empty() && stand_in.is_left());
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        out.read_to_string(&mut text).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), (signal != "-KILL").then_some(0), "{signal}");
        // After a kill, the program ends with its next write to the broken pipe.
        stand_in.wait_until_gone();
    }
}
