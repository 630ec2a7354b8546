//! `mien doctor`.

mod common;

use common::*;
use serde_json::Value;

fn examine(flags: &[&str]) -> (Value, i32) {
    let output = run(["doctor", "--json", "--"].iter().chain(flags));
    let lines = lines(&output);
    assert_eq!(lines.len(), 1, "{}", stderr(&output));
    (lines[0].clone(), code(&output))
}

fn line<'r>(report: &'r Value, check: &str) -> &'r Value {
    let lines = report["lines"].as_array().unwrap();
    lines.iter().find(|line| line["check"] == check).unwrap_or_else(|| panic!("no line on {check}: {report}"))
}

#[test]
fn every_part_has_its_line_and_trouble_has_advice() {
    let (report, _) = examine(&["--source", "demo", "--headless"]);
    assert_eq!(report["schema"], 1);
    for check in
        ["program", "processor", "plain tract", "configuration", "detector", "classifier", "display", "trial"]
    {
        line(&report, check);
    }
    let lines = report["lines"].as_array().unwrap();
    assert!(lines.iter().all(|line| (line["state"] == "ok") == line["advice"].is_null()), "{report}");
    let trial = line(&report, "trial");
    assert_ne!(trial["state"], "fail", "{trial}");
    assert!(trial["found"].as_str().unwrap().contains("frame age"), "{trial}");
    assert_eq!(line(&report, "display")["state"], "ok", "a window is not wanted");
}

#[test]
fn a_red_line_is_exit_code_1_and_names_what_failed() {
    let (report, code) = examine(&["--headless", "--source", "demo", "--models", "/nowhere"]);
    assert_eq!(code, 1);
    for check in ["detector", "classifier", "trial"] {
        assert_eq!(line(&report, check)["state"], "fail", "{report}");
    }
    assert!(line(&report, "detector")["found"].as_str().unwrap().contains("/nowhere/face.json"), "{report}");

    let (report, code) = examine(&["--headless", "--source", "camera:97"]);
    assert_eq!(code, 1);
    assert!(line(&report, "trial")["found"].as_str().unwrap().contains("camera:97"), "{report}");
}

#[test]
fn a_broken_configuration_is_a_red_line() {
    let output = mien(["doctor", "--json"]).env("MIEN_FPS", "fast").output().unwrap();
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let line = line(&lines(&output)[0], "configuration").clone();
    assert!(line["state"] == "fail" && line["found"].as_str().unwrap().contains("MIEN_FPS"), "{line}");
}

#[test]
fn people_get_words_without_colour_in_a_pipe() {
    let output = run(["doctor", "--", "--headless", "--source", "demo"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("ok    program: mien") && !text.contains('\x1b'), "{text}");
    assert!(text.lines().last().unwrap().contains(" fine"), "{text}");
}
