//! The live window, on a virtual display. Needs Xvfb, xdotool and xwd (Debian: xvfb, xdotool, x11-apps).
#![cfg(all(feature = "window", target_os = "linux"))]

mod common;

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::*;
use mien::{attributes::Mask, frame::Picture, overlay::colour_of};

/// How long anything on the display may take, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A virtual display of 800×600 pixels, closed when dropped.
struct Display {
    server: Child,
    name: String,
}

impl Display {
    /// `None`, with a word about it, where the tools are missing.
    fn open() -> Option<Display> {
        for (tool, flag) in [("Xvfb", "-help"), ("xdotool", "version"), ("xwd", "-help")] {
            if Command::new(tool).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
                eprintln!("SKIPPED: {tool} is not installed; the window is not tested");
                return None;
            }
        }
        // Without -noreset the server turns clients away for a moment whenever its last one has left.
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-noreset", "-screen", "0", "800x600x24", "-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut number = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
        assert!(!number.trim().is_empty(), "Xvfb did not start");
        Some(Display { server, name: format!(":{}", number.trim()) })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DISPLAY", &self.name);
        command
    }

    /// Starts `mien run` in a window.
    fn run(&self, args: &[&str]) -> Run {
        let log = tempfile::NamedTempFile::new().unwrap();
        let process = mien(["run"].iter().chain(args))
            .env("DISPLAY", &self.name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        Run { process, log }
    }

    /// Types into the window, which lies under the pointer.
    fn xdotool(&self, args: &[&str]) {
        let output = self.command("xdotool").args(args).output().unwrap();
        assert!(output.status.success(), "xdotool {args:?}: {}", stderr(&output));
    }

    /// What the display shows, read from xwd's dump.
    fn picture(&self) -> Picture {
        let output = self.command("xwd").args(["-root", "-silent"]).output().unwrap();
        assert!(output.status.success(), "xwd: {}", stderr(&output));
        let dump = output.stdout;
        let field = |i: usize| u32::from_be_bytes(dump[4 * i..4 * i + 4].try_into().unwrap());
        let (width, height, is_msb_first, bits, stride) =
            (field(4), field(5), field(7), field(11), field(12));
        assert_eq!(bits, 32, "bits per pixel");
        let start = (field(0) + 12 * field(19)) as usize;
        Picture::from_fn(width, height, |x, y| {
            let at = start + (y * stride + 4 * x) as usize;
            let bytes: [u8; 4] = dump[at..at + 4].try_into().unwrap();
            let pixel = if is_msb_first == 1 { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
            image::Rgb([(pixel >> 16) as u8, (pixel >> 8) as u8, pixel as u8])
        })
    }

    /// Looks at the display until it shows what `is_right` asks for.
    fn wait_for(&self, run: &mut Run, what: &str, is_right: impl Fn(&Picture) -> bool) -> Picture {
        let mut picture = self.picture();
        run.wait(&format!("the display to show {what}"), || {
            picture = self.picture();
            is_right(&picture)
        });
        picture
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The program in its window, ended when dropped.
struct Run {
    process: Child,
    /// What it writes to standard error.
    log: tempfile::NamedTempFile,
}

impl Run {
    fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    /// Waits until something is true while the program runs.
    fn wait(&mut self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            let ended = self.process.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "waited {:?} for {what}; the program {}; its log:\n{}",
                begun.elapsed(),
                ended.map_or("runs".to_owned(), |status| status.to_string()),
                self.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the program to end by itself; gives its exit code.
    fn end(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "the program does not end; its log:\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn count(picture: &Picture, colour: [u8; 3]) -> usize {
    picture.pixels().filter(|pixel| pixel.0 == colour).count()
}

/// Width and height of the box around the pixels of some colours.
fn extent(picture: &Picture, colours: &[[u8; 3]]) -> (u32, u32) {
    let found: Vec<_> = picture.enumerate_pixels().filter(|pixel| colours.contains(&pixel.2.0)).collect();
    let span = |values: &mut dyn Iterator<Item = u32>| {
        let (low, high) = values.fold((u32::MAX, 0), |(low, high), v| (low.min(v), high.max(v + 1)));
        high.saturating_sub(low)
    };
    (span(&mut found.iter().map(|pixel| pixel.0)), span(&mut found.iter().map(|pixel| pixel.1)))
}

/// Pixels in a colour that only boxes have.
fn drawn(picture: &Picture) -> usize {
    Mask::ALL.iter().map(|&mask| count(picture, colour_of(Some(mask)))).sum()
}

#[test]
fn the_demo_is_shown_with_its_overlay_and_answers_to_keys() {
    let Some(display) = Display::open() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut run = display.run(&["--source", "demo", "--save", folder.path().to_str().unwrap()]);
    let first = display.wait_for(&mut run, "a box around a face", |picture| drawn(picture) > 100);
    display.wait_for(&mut run, "motion", |picture| *picture != first);

    display.xdotool(&["key", "s"]);
    run.wait("the key s to save a picture", || {
        let mut entries = fs::read_dir(folder.path()).unwrap();
        entries.any(|entry| entry.unwrap().path().extension() == Some("jpg".as_ref()))
    });

    display.xdotool(&["key", "space"]);
    let paused = display.wait_for(&mut run, "a held picture", |picture| {
        thread::sleep(Duration::from_millis(300));
        *picture == display.picture()
    });
    assert!(drawn(&paused) > 100, "the box stays while the picture is held");
    display.xdotool(&["key", "l"]);
    let white = count(&paused, [255; 3]);
    display.wait_for(&mut run, "landmarks", |picture| count(picture, [255; 3]) >= white + 20);

    display.xdotool(&["key", "q"]);
    assert_eq!(run.end(), Some(0), "{}", run.log());
    assert!(run.log().contains("processed"), "a summary: {}", run.log());
}

#[test]
fn a_lost_camera_darkens_the_picture_until_it_is_back() {
    let Some(display) = Display::open() else { return };
    let folder = tempfile::tempdir().unwrap();
    let plugged = folder.path().join("plugged");
    fs::write(folder.path().join("picture"), grey_jpeg(320, 240, 200)).unwrap();
    fs::write(&plugged, "").unwrap();
    let command = "while [ -e plugged ]; do cat picture; sleep 0.05; done; exit 1";
    let mut run = display.run(&["--source", &format!("exec:cd '{}' && {command}", folder.path().display())]);
    let light = |picture: &Picture| {
        picture.pixels().filter(|pixel| pixel.0.iter().all(|v| (196..205).contains(v))).count()
    };
    display.wait_for(&mut run, "the picture", |picture| light(picture) > 200_000);

    fs::remove_file(&plugged).unwrap();
    let lost = display.wait_for(&mut run, "a notice on a dark picture", |picture| light(picture) < 1000);
    assert!(count(&lost, [255; 3]) > 300, "{} white pixels", count(&lost, [255; 3]));
    assert_eq!(run.log().matches("is lost").count(), 1, "{}", run.log());

    fs::write(&plugged, "").unwrap();
    display.wait_for(&mut run, "the picture again", |picture| light(picture) > 200_000);
    display.xdotool(&["key", "q"]);
    assert_eq!(run.end(), Some(0), "{}", run.log());
    assert!(run.log().contains("is back after"), "{}", run.log());
}

#[test]
fn colours_and_aspect_are_right_in_a_window_of_any_shape() {
    let Some(display) = Display::open() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (left, right) = ([200, 30, 10], [20, 60, 220]);
    let picture = Picture::from_fn(160, 120, |x, _| image::Rgb(if x < 80 { left } else { right }));
    for i in 0..30 {
        picture.save(folder.path().join(format!("{i:02}.png"))).unwrap();
    }
    let mut run = display.run(&["--source", folder.path().to_str().unwrap()]);
    let shown = display
        .wait_for(&mut run, "the whole picture", |picture| extent(picture, &[left, right]) == (640, 480));
    assert_eq!(shown.get_pixel(200, 300).0, left);
    assert_eq!(shown.get_pixel(600, 300).0, right);

    display.xdotool(&["search", "--name", "mien", "windowsize", "300", "500", "windowmove", "0", "0"]);
    display.wait_for(&mut run, "the picture in a tall window", |picture| {
        let (width, height) = extent(picture, &[left, right]);
        width == 300 && (height as i32 - 225).abs() <= 1
    });

    display.xdotool(&["mousemove", "100", "200", "key", "Escape"]);
    assert_eq!(run.end(), Some(0), "{}", run.log());
}

#[test]
fn without_a_display_the_run_says_so_and_goes_on() {
    let absent: HashMap<_, _> = [("DISPLAY", ":98765")].into();
    for (environment, said) in [(HashMap::new(), "no display"), (absent, "display :98765")] {
        let output = mien(["run", "--source", "demo", "--frames", "2"]).envs(environment).output().unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
        assert!(stderr(&output).contains("--headless"), "{}", stderr(&output));
    }
}
