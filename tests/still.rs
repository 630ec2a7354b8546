//! `mien still`: pictures in, one line about each out.

mod common;

use std::fs;

use common::*;

#[test]
fn json_follows_the_schema() {
    // With no least score even a poor model gives faces.
    let output = run(["still", "--json", "--min-score", "0", portrait().to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    assert_eq!(lines.len(), 1);
    check_picture(&lines[0], false);
    assert_eq!((&lines[0]["width"], &lines[0]["height"]), (&512.into(), &512.into()));
    let faces = lines[0]["faces"].as_array().unwrap();
    assert!(!faces.is_empty() && faces.iter().all(|face| face.get("id").is_none()));
}

#[test]
fn the_portraits_face_and_masks_are_seen() {
    let names = ["none", "worn", "wrong"].map(|name| (name, repository(&format!("assets/demo/{name}.jpg"))));
    let paths = names.iter().map(|(_, path)| path.to_str().unwrap());
    let output = run(["still", "--json"].into_iter().chain(paths));
    for (line, (mask, path)) in lines(&output).iter().zip(&names) {
        assert_eq!(line["source"], path.to_str().unwrap());
        let faces = line["faces"].as_array().unwrap();
        assert_eq!(faces.len(), 1, "{line}");
        assert_eq!(faces[0]["mask"]["label"], *mask, "{line}");
        // The face is at 222, 118 of 512.
        let [x, y, w, h] = [0, 1, 2, 3].map(|i| faces[0]["box"][i].as_f64().unwrap());
        assert!(x < 222.0 && 222.0 < x + w && y < 118.0 && 118.0 < y + h, "{line}");
    }
}

#[test]
fn hundreds_of_paths_on_standard_input_are_answered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<String> = (0..300)
        .map(|i| {
            let path = folder.path().join(format!("{}.jpg", (i * 7) % 300));
            fs::write(&path, grey_jpeg(16, 8, i as u8)).unwrap();
            path.display().to_string()
        })
        .collect();
    let list = paths.join("\r\n") + "\n\n";
    let output = run_with_input(["still", "--json", "--detect-size", "32", "-"], list.as_bytes());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let sources: Vec<_> =
        lines(&output).iter().map(|line| line["source"].as_str().unwrap().to_owned()).collect();
    assert_eq!(sources, paths);
}

#[test]
fn folders_and_globs_stand_for_their_pictures() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.jpg", "a.jpg", "c.JPEG"] {
        fs::write(folder.path().join(name), grey_jpeg(20, 20, 90)).unwrap();
    }
    fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
    let glob = folder.path().join("[ab].jpg");
    let output = run(["still", "--json", folder.path().to_str().unwrap(), glob.to_str().unwrap()]);
    let names: Vec<_> = lines(&output)
        .iter()
        .map(|line| line["source"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a.jpg", "b.jpg", "c.JPEG", "a.jpg", "b.jpg"]);
}

#[test]
fn text_names_every_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grey.jpg");
    fs::write(&path, grey_jpeg(64, 64, 128)).unwrap();
    let output = run(["still", "--min-score", "1", path.to_str().unwrap()]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}: no face\n", path.display()));
}

#[test]
fn saves_every_picture_and_the_events() {
    let folder = tempfile::tempdir().unwrap();
    let grey = folder.path().join("grey.jpg");
    fs::write(&grey, grey_jpeg(64, 48, 128)).unwrap();
    let out = folder.path().join("out/deep");
    let output = run(["still", "--json", "--save", out.to_str().unwrap()]
        .into_iter()
        .chain([grey.to_str().unwrap(), portrait().to_str().unwrap()]));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let size = |name: &str| image::image_dimensions(out.join(name)).unwrap();
    assert_eq!((size("000001-grey.jpg"), size("000002-none.jpg")), ((64, 48), (512, 512)));
    let saved = json_lines(&fs::read_to_string(out.join("events.jsonl")).unwrap());
    assert_eq!(saved, lines(&output));
}
