//! Settings in a file and in the environment, and `mien config`, which shows them.

mod common;

use std::{fs, path::Path, process::Command};

use common::*;

/// The binary with this file as the user's.
fn with_file<'a>(folder: &Path, text: &str, args: impl IntoIterator<Item = &'a str>) -> Command {
    fs::create_dir_all(folder.join("mien")).unwrap();
    fs::write(folder.join("mien/mien.toml"), text).unwrap();
    let mut command = mien(args);
    command.env("XDG_CONFIG_HOME", folder);
    command
}

#[test]
fn a_file_sets_what_run_does_and_flags_win() {
    let folder = tempfile::tempdir().unwrap();
    let text = "source = 'demo'\nheadless = true\njson = true\nframes = 3\n";
    let output = with_file(folder.path(), text, ["run"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(lines(&output).last().unwrap()["summary"]["processed"], 3);

    let output =
        with_file(folder.path(), text, ["run", "--frames", "2"]).env("MIEN_FRAMES", "5").output().unwrap();
    assert_eq!(lines(&output).last().unwrap()["summary"]["processed"], 2);
    let output = with_file(folder.path(), text, ["run"]).env("MIEN_FRAMES", "4").output().unwrap();
    assert_eq!(lines(&output).last().unwrap()["summary"]["processed"], 4);
}

#[test]
fn config_says_where_each_value_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let text = "# mine\nsize = '1280x720'\nfps = 10\n";
    let flags = ["config", "--json", "--", "--detect-size", "416"];
    let output = with_file(folder.path(), text, flags).env("MIEN_FPS", "20").output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report = &lines(&output)[0];
    let file = folder.path().join("mien/mien.toml");
    assert!(
        report["files"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["path"] == file.to_str().unwrap() && f["found"] == true)
    );
    let setting =
        |key: &str| report["settings"].as_array().unwrap().iter().find(|s| s["key"] == key).unwrap();
    assert_eq!((&setting("size")["from"], &setting("size")["line"]), (&"file".into(), &2.into()));
    assert_eq!((&setting("fps")["value"], &setting("fps")["variable"]), (&20.into(), &"MIEN_FPS".into()));
    assert_eq!(
        (&setting("detect-size")["value"], &setting("detect-size")["from"]),
        (&416.into(), &"flag".into())
    );
    assert_eq!(setting("headless")["from"], "built in");

    let output = with_file(folder.path(), text, ["config"]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("size = \"1280x720\"") && printed.contains("mien.toml:2"), "{printed}");
}

#[test]
fn mistakes_stop_a_run_and_name_file_and_line() {
    let cases = [
        ("fps = 10\nspurce = 'demo'\n", ":2: unknown key \"spurce\"; there are source,"),
        ("fps = 'ten'\n", ":1: fps must be a whole number, and is a text"),
        ("\n\nfps = 0\n", ":3: invalid value '0' for '--fps <RATE>': 0 is not in 1..=1000"),
        ("fps = = 2\n", ":1: "),
    ];
    for (text, message) in cases {
        let folder = tempfile::tempdir().unwrap();
        let place = format!("{}{message}", folder.path().join("mien/mien.toml").display());
        for args in [["run"].as_slice(), &["still", "a.jpg"], &["config"]] {
            let output = with_file(folder.path(), text, args.iter().copied()).output().unwrap();
            assert_eq!(code(&output), 2, "{text}");
            assert!(stderr(&output).contains(&place), "{args:?}: {}", stderr(&output));
        }
        // What could help must go on.
        assert_eq!(code(&with_file(folder.path(), text, ["run", "--help"]).output().unwrap()), 0);
    }
    let output = mien(["run"]).env("MIEN_ENGINE", "steam").output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("MIEN_ENGINE: invalid value 'steam'"), "{}", stderr(&output));
}

#[test]
fn a_variable_that_stands_for_nothing_is_said() {
    let output = mien(["config"]).env("MIEN_SPURCE", "demo").output().unwrap();
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("MIEN_SPURCE"), "{}", stderr(&output));
}

#[test]
fn the_packaged_file_names_every_setting_and_sets_none() {
    let text = fs::read_to_string(repository("packaging/mien.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = |text: &str| -> Vec<(String, String)> {
        let output = with_file(folder.path(), text, ["config", "--json"]).output().unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let report = lines(&output).remove(0);
        let settings = report["settings"].as_array().unwrap().iter();
        settings
            .map(|s| (s["key"].as_str().unwrap().to_owned(), s["from"].as_str().unwrap().to_owned()))
            .collect()
    };
    assert!(settings(&text).iter().all(|(_, from)| from == "built in"));
    // A line such as `#fps = 30` is a setting that is commented out.
    let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.contains(" = ");
    let examples: String = text.lines().filter(is_setting).map(|line| format!("{}\n", &line[1..])).collect();
    for (key, from) in settings(&examples) {
        assert_eq!(from, "file", "{key} is missing from packaging/mien.toml");
    }
}
