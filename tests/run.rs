//! `mien run`: streams without a window.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::Stdio,
};

use common::*;

/// Writes a stream of `n` JPEG pictures.
fn write_stream(path: &Path, n: u8) {
    let pictures = (0..n).flat_map(|i| grey_jpeg(64, 48, 10 * i));
    fs::write(path, pictures.collect::<Vec<u8>>()).unwrap();
}

#[test]
fn every_frame_of_a_recording_is_processed() {
    let folder = tempfile::tempdir().unwrap();
    let stream = folder.path().join("grey.mjpeg");
    write_stream(&stream, 20);
    let output = run(["run", "--headless", "--json", "--fps", "10", "--source", stream.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let mut lines = lines(&output);

    let summary = lines.pop().unwrap();
    assert_eq!(summary["schema"], 1);
    let counted = |name: &str| summary["summary"][name].as_u64().unwrap();
    assert_eq!(["captured", "processed", "skipped", "unreadable"].map(counted), [20, 20, 0, 0]);
    assert!(summary["summary"]["age_ms"]["p95"].as_f64().unwrap() > 0.0, "{summary}");
    assert!(summary["summary"]["stages_ms"]["detect"]["p50"].as_f64().unwrap() > 0.0, "{summary}");

    assert_eq!(lines.len(), 20);
    for (i, line) in lines.iter().enumerate() {
        check_picture(line, true);
        assert_eq!(line["frame"], i);
        // A hair late: the first picture is asked for when the run has begun.
        let time = line["time"].as_f64().unwrap() - i as f64 / 10.0;
        assert!((0.0..0.09).contains(&time), "{line}");
    }
    assert!(stderr(&output).contains("20 processed"), "{}", stderr(&output));
}

#[test]
fn frames_is_exact_and_ids_stay() {
    let output =
        run(["run", "--source", "demo", "--headless", "--json", "--frames", "25", "--min-score", "0.2"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    assert_eq!(lines.len(), 26);
    assert_eq!(lines[25]["summary"]["processed"], 25);
    for line in &lines[..25] {
        check_picture(line, true);
        assert!(line["faces"].as_array().unwrap().iter().all(|face| face["id"].is_u64()), "{line}");
    }
}

#[test]
fn without_camera_or_display_it_says_so_and_goes_on() {
    let output = run(["run", "--frames", "2"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = stderr(&output);
    assert_eq!(said.matches("no display").count(), 1, "{said}");
    assert!(said.contains("2 processed"), "{said}");
}

#[test]
fn pictures_with_people_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output =
        run(["run", "--source", "demo", "--headless", "--frames", "40", "--save", out.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let events = json_lines(&fs::read_to_string(out.join("events.jsonl")).unwrap());
    assert_eq!(events.len(), 40);
    let with_people = events.iter().filter(|line| !line["faces"].as_array().unwrap().is_empty());
    let seconds = with_people.map(|line| line["time"].as_f64().unwrap()).collect::<Vec<_>>();
    assert!(!seconds.is_empty(), "nobody was found in the demo");
    let span = seconds.last().unwrap() - seconds[0];
    let pictures = fs::read_dir(&out).unwrap().count() - 1;
    assert!(pictures >= 1 && pictures as f64 <= 2.0 * span + 1.0, "{pictures} pictures in {span} s");
}

#[test]
fn a_damaged_picture_in_a_stream_is_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let stream = folder.path().join("cut.mjpeg");
    let good = fs::read(portrait()).unwrap();
    let cut = &good[..good.len() / 2];
    fs::write(&stream, [&good, cut, &good, &good].concat()).unwrap();
    let output = run(["run", "--headless", "--json", "--source", stream.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!((&summary["processed"], &summary["unreadable"]), (&3.into(), &1.into()), "{summary}");
    let errors: Vec<_> = lines.iter().filter(|line| line["error"].is_string()).collect();
    assert_eq!(errors.len(), 1, "{lines:?}");
}

#[test]
fn a_stream_on_standard_input() {
    let stream: Vec<u8> = (0..6).flat_map(|i| grey_jpeg(64, 48, 20 * i)).collect();
    let output = run_with_input(["run", "--headless", "--json", "--source", "mjpeg:-"], &stream);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!(summary["captured"], 6);
    // The newest picture is never the one that is skipped.
    assert_eq!(lines[lines.len() - 2]["frame"], 5);
}

#[test]
fn unrelated_pictures_are_all_processed_and_nobody_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..5 {
        fs::copy(portrait(), folder.path().join(format!("{i}.jpg"))).unwrap();
    }
    let source = folder.path().to_str().unwrap();
    let output = run(["run", "--headless", "--json", "--min-score", "0.2", "--source", source]);
    let lines = lines(&output);
    assert_eq!(lines.len(), 6);
    for line in &lines[..5] {
        check_picture(line, true);
        assert!(line["faces"].as_array().unwrap().iter().all(|face| face.get("id").is_none()));
    }
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let mut child = mien(["run", "--source", "demo", "--headless", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    check_picture(&serde_json::from_str(&first).unwrap(), true);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    assert_eq!(stderr(&output).lines().count(), 1, "only the source is named: {}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_with_a_summary() {
    let mut child = mien(["run", "--source", "demo", "--headless", "--json", "--frames", "100000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    out.read_line(&mut text).unwrap();
    let signalled = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(signalled.unwrap().success());
    out.read_to_string(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("frame age"), "{}", stderr(&output));
    let lines = json_lines(&text);
    assert_eq!(lines.last().unwrap()["summary"]["processed"], lines.len() - 1);
}

/// A read from a pipe that nobody writes to must not hold up the end.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_wait_for_input() {
    let mut child = mien(["run", "--source", "mjpeg:-", "--headless"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let open_input = child.stdin.take();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    log.read_line(&mut said).unwrap();
    assert!(said.contains("source"), "{said}");
    // The signal's handler is set right after the source is named.
    std::thread::sleep(std::time::Duration::from_millis(300));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    log.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    assert!(said.contains("0 captured"), "{said}");
    drop(open_input);
}
