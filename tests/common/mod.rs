//! What the tests of the command line share. Each of them uses a part of it.
#![allow(dead_code)]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};
use serde_json::Value;

/// The binary, with no window to open, its log at the default level and no settings of the user's.
pub fn mien<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mien"));
    command.args(args);
    for name in ["DISPLAY", "WAYLAND_DISPLAY", "RUST_LOG", "NOTIFY_SOCKET"] {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("MIEN_")) {
            command.env_remove(name);
        }
    }
    command.env("XDG_CONFIG_HOME", "/nowhere");
    command
}

/// Runs the binary to its end with `input` on standard input.
pub fn run_with_input<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>, input: &[u8]) -> Output {
    let mut command = mien(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A process that ends without reading its input is no failure of the test.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

/// Runs the binary to its end.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    run_with_input(args, b"")
}

pub fn code(output: &Output) -> i32 {
    output.status.code().expect("the process ended by itself")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Standard output as JSON, line by line.
pub fn lines(output: &Output) -> Vec<Value> {
    json_lines(&String::from_utf8(output.stdout.clone()).unwrap())
}

pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// A file that comes with the sources.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The demo's portrait without a mask.
pub fn portrait() -> PathBuf {
    repository("assets/demo/none.jpg")
}

/// A grey JPEG.
pub fn grey_jpeg(width: u32, height: u32, level: u8) -> Vec<u8> {
    let mut jpeg = Vec::new();
    let pixels = vec![level; width as usize * height as usize];
    JpegEncoder::new(&mut jpeg).encode(&pixels, width, height, ExtendedColorType::L8).unwrap();
    jpeg
}

/// Checks one line about a picture against the schema; `is_stream` says that it comes from `mien run`.
pub fn check_picture(line: &Value, is_stream: bool) {
    assert_eq!(line["schema"], 1, "{line}");
    assert!(line["source"].is_string(), "{line}");
    assert!(line["width"].as_u64().unwrap() > 0 && line["height"].as_u64().unwrap() > 0, "{line}");
    assert_eq!(line["frame"].is_u64(), is_stream, "{line}");
    assert_eq!(line["time"].is_number(), is_stream, "{line}");
    assert_eq!(line["age_ms"].is_number(), is_stream, "{line}");
    line["faces"].as_array().unwrap().iter().for_each(check_face);
}

fn check_face(face: &Value) {
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    assert_eq!(numbers(&face["box"]).len(), 4, "{face}");
    assert!((0.0..=1.0).contains(&face["score"].as_f64().unwrap()), "{face}");
    let landmarks = face["landmarks"].as_array().unwrap();
    assert!(landmarks.len() == 5 && landmarks.iter().all(|point| numbers(point).len() == 2), "{face}");

    let class = face["class18"].as_u64().unwrap() as usize;
    let said = [class / 6, class / 3 % 2, class % 3];
    let heads: [(&str, &[&str]); 3] = [
        ("mask", &["worn", "wrong", "none"]),
        ("gender", &["male", "female"]),
        ("age", &["<30", "30-59", ">=60"]),
    ];
    for ((head, names), said) in heads.into_iter().zip(said) {
        let p = numbers(&face[head]["p"]);
        assert_eq!(p.len(), names.len(), "{face}");
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-3, "{face}");
        let label = face[head]["label"].as_str().unwrap();
        assert!(label == "unsure" || names.contains(&label), "{face}");
        // As they are rounded, another may be equal.
        assert!(p.iter().all(|&other| other <= p[said]), "{face}");
    }
    assert!((0.0..=100.0).contains(&face["age"]["years"].as_f64().unwrap()), "{face}");
}
