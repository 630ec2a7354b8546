//! `mien model explain` and `mien bench`: what runs the networks here.

mod common;

use common::*;

#[test]
fn explain_lists_every_layer_with_its_time() {
    let output = run(["model", "explain", "--json", "--runs", "1"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let explanation = &lines(&output)[0];
    let layers = explanation["layers"].as_array().unwrap();
    assert!(layers.len() > 40, "{explanation}");
    assert!(layers.iter().all(|layer| layer["microseconds"].as_f64().unwrap() > 0.0));
    assert_eq!(explanation["plain"].as_array().unwrap().len(), 0);
    let face = repository("models/face.onnx");
    let output = run(["model", "explain", "--json", "--runs", "1", face.to_str().unwrap()]);
    assert_eq!(lines(&output)[0]["input"], serde_json::json!([1, 320, 320]), "the size that the file names");
    let output = run(["model", "explain", face.to_str().unwrap(), "--size", "64x96", "--runs", "1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("input 1×64×96×3") && text.contains("nothing stays in plain tract"), "{text}");
}

#[test]
fn explain_says_which_file_it_cannot_read() {
    let output = run(["model", "explain", "/nowhere/model.onnx"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("/nowhere/model.onnx"));
}

#[test]
fn bench_times_every_engine_and_picks_a_right_one() {
    let output = run(["bench", "--json", "--runs", "1", "--detect-input", "32x64"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report = &lines(&output)[0];
    let work = report["work"].as_array().unwrap();
    assert_eq!(work.len(), 3);
    for work in work {
        let engines = work["engines"].as_array().unwrap();
        assert!(engines.len() >= 2 && engines.iter().all(|engine| engine["right"] == true), "{work}");
    }
    let picked = run(["bench", "--pick", "--runs", "1", "--detect-input", "32x64"]);
    let picked = String::from_utf8(picked.stdout).unwrap();
    assert!(["int8", "tract"].contains(&picked.trim()), "{picked}");
}

#[test]
fn kernels_that_are_unknown_are_refused_with_those_that_exist() {
    let output = mien(["model", "explain"]).env("MIEN_KERNELS", "mmx").output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("MIEN_KERNELS=mmx") && stderr(&output).contains("portable"));
}

#[test]
fn the_kernels_of_this_build_are_listed() {
    let output = run(["model", "kernels", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let held = &lines(&output)[0];
    let names = |key: &str| -> Vec<&str> {
        held[key].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
    };
    let expected: &[&str] = match std::env::consts::ARCH {
        "x86_64" => &["portable", "avx2", "avxvnni", "avx512vnni"],
        "aarch64" => &["portable", "neon", "neon_dot", "neon_i8mm"],
        _ => &["portable"],
    };
    assert_eq!(names("built"), expected);
    assert!(names("supported").contains(&held["chosen"].as_str().unwrap()), "{held}");
    assert!(held["tract"].as_array().unwrap().iter().any(|routine| routine["runs_here"] == true), "{held}");

    let chosen = mien(["model", "kernels"]).env("MIEN_KERNELS", "portable").output().unwrap();
    let text = String::from_utf8(chosen.stdout).unwrap();
    assert!(text.lines().any(|line| line.split_whitespace().eq(["portable", "chosen"])), "{text}");
}
