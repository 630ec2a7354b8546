//! What must not bring the program down, and what it says of it.

mod common;

use std::{fs, path::Path};

use common::*;
use mien::models::sha256;
use serde_json::{Value, json};

/// Runs `mien still --json` on one file with this content and gives its line and the exit code.
fn still(name: &str, content: &[u8]) -> (Value, i32) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let output = run(["still", "--json", path.to_str().unwrap()]);
    let lines = lines(&output);
    assert_eq!(lines.len(), 1, "{}", stderr(&output));
    (lines[0].clone(), code(&output))
}

fn assert_unreadable(name: &str, content: &[u8], reason: &str) {
    let (line, code) = still(name, content);
    let error = line["error"].as_str().unwrap_or_else(|| panic!("{line} is no error"));
    assert!(error.contains(reason), "{error}");
    assert!(line["source"].as_str().unwrap().ends_with(name));
    assert_eq!((line["schema"].as_u64(), code), (Some(1), 1));
}

#[test]
fn an_empty_file() {
    assert_unreadable("empty.jpg", b"", "empty");
}

#[test]
fn a_text_file_named_jpg() {
    assert_unreadable("text.jpg", b"Dear diary,\ntoday I was taken for a picture.\n", "not a picture");
}

#[test]
fn a_truncated_jpeg() {
    let jpeg = fs::read(portrait()).unwrap();
    assert_unreadable("cut.jpg", &jpeg[..jpeg.len() / 2], "cut short");
}

#[test]
fn one_pixel() {
    let (line, code) = still("dot.jpg", &grey_jpeg(1, 1, 200));
    check_picture(&line, false);
    assert_eq!((line["width"].as_u64(), code), (Some(1), 0));
}

#[test]
fn a_hundred_megapixels() {
    let (line, code) = still("huge.jpg", &grey_jpeg(12_000, 9_000, 120));
    check_picture(&line, false);
    assert_eq!((line["width"].as_u64(), line["height"].as_u64(), code), (Some(12_000), Some(9_000), 0));
}

#[test]
fn a_missing_file_is_reported_in_its_place_and_the_run_goes_on() {
    let portrait = portrait();
    let portrait = portrait.to_str().unwrap();
    let output = run(["still", "--json", "no/such.jpg", portrait, "nor/this.jpg"]);
    let lines = lines(&output);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["source"], "no/such.jpg");
    assert!(lines[0]["error"].is_string() && lines[2]["error"].is_string());
    assert_eq!(lines[1]["source"], portrait);
    assert_eq!(code(&output), 0);
    assert_eq!(stderr(&output).matches("such.jpg").count(), 1, "{}", stderr(&output));
}

#[test]
fn nothing_processed_is_exit_code_1() {
    assert_eq!(code(&run(["still", "no/such.jpg"])), 1);
    assert_eq!(code(&run_with_input(["still", "-"], b"")), 1);
}

#[test]
fn sources_that_do_not_exist() {
    for source in ["no/such.mjpeg", "mjpeg:no/such", "no/such/folder", "camera:97", "camera:/dev/nothing97"] {
        let output = run(["run", "--headless", "--source", source]);
        assert_eq!(code(&output), 2, "{source}: {}", stderr(&output));
        let named = source.trim_start_matches("mjpeg:").trim_start_matches("camera:");
        assert!(stderr(&output).contains(named), "{source}: {}", stderr(&output));
    }
}

#[test]
fn unknown_flags_and_values() {
    let wrong: [&[&str]; 9] = [
        &["run", "--size", "640"],
        &["run", "--size", "0x480"],
        &["run", "--engine", "steam"],
        &["run", "--frames", "0"],
        &["run", "--fps", "0"],
        &["still", "a.jpg", "--min-score", "1.5"],
        &["still", "a.jpg", "--detect-size", "1"],
        &["still"],
        &["fly"],
    ];
    for args in wrong {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}");
        let culprit = args.iter().rfind(|arg| arg.starts_with("--")).unwrap_or(&"Usage");
        assert!(stderr(&output).contains(culprit), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_folder_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let output = run(["still", portrait().to_str().unwrap(), "--save", file.to_str().unwrap()]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains(file.to_str().unwrap()), "{}", stderr(&output));
}

/// Copies the models and puts `onnx` in place of one, its card telling the truth about it.
fn models_with(folder: &Path, name: &str, onnx: &[u8]) {
    for model in ["face", "attributes"] {
        for extension in ["json", "onnx"] {
            let file = format!("{model}.{extension}");
            fs::copy(repository("models").join(&file), folder.join(file)).unwrap();
        }
    }
    let card_path = folder.join(format!("{name}.json"));
    let mut card: Value = serde_json::from_slice(&fs::read(&card_path).unwrap()).unwrap();
    card["file"] = json!("other.onnx");
    card["sha256"] = json!(sha256(onnx));
    fs::write(folder.join("other.onnx"), onnx).unwrap();
    fs::write(card_path, card.to_string()).unwrap();
}

fn assert_models_refused(folder: &Path, reasons: &[&str]) {
    let output = run(["still", "--models", folder.to_str().unwrap(), portrait().to_str().unwrap()]);
    let said = stderr(&output);
    assert_eq!(code(&output), 2, "{said}");
    assert!(reasons.iter().all(|reason| said.contains(reason)), "{said}");
}

#[test]
fn an_onnx_that_is_not_ours() {
    let attributes = fs::read(repository("models/attributes.onnx")).unwrap();
    let face = fs::read(repository("models/face.onnx")).unwrap();
    for (name, onnx) in [("face", &attributes), ("attributes", &face)] {
        let folder = tempfile::tempdir().unwrap();
        models_with(folder.path(), name, onnx);
        assert_models_refused(folder.path(), &["other.onnx", "not one of ours"]);
    }
}

#[test]
fn a_model_that_is_no_onnx() {
    for name in ["face", "attributes"] {
        let folder = tempfile::tempdir().unwrap();
        models_with(folder.path(), name, b"this is a poem, not a network");
        assert_models_refused(folder.path(), &["other.onnx"]);
    }
}

#[test]
fn a_model_whose_hash_differs_from_its_card() {
    let folder = tempfile::tempdir().unwrap();
    let mut onnx = fs::read(repository("models/face.onnx")).unwrap();
    models_with(folder.path(), "face", &onnx);
    let expected = sha256(&onnx);
    *onnx.last_mut().unwrap() ^= 1;
    fs::write(folder.path().join("other.onnx"), &onnx).unwrap();
    assert_models_refused(folder.path(), &["other.onnx", &expected, &sha256(&onnx)]);
}

#[test]
fn a_folder_without_models_and_a_card_that_is_not_one() {
    let folder = tempfile::tempdir().unwrap();
    assert_models_refused(folder.path(), &["face.json"]);
    let onnx = fs::read(repository("models/face.onnx")).unwrap();
    models_with(folder.path(), "face", &onnx);
    fs::write(folder.path().join("face.json"), "{\"schema\": 1}").unwrap();
    assert_models_refused(folder.path(), &["face.json"]);
}
