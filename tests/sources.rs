//! What `--source` accepts, what comes out of it, and what it says when it cannot go on.

use image::{
    Delay, DynamicImage, ExtendedColorType, Frame as GifFrame, ImageEncoder, Rgb, RgbImage, Rgba, RgbaImage,
    codecs::{gif::GifEncoder, jpeg::JpegEncoder, png::PngEncoder},
};
use mien::{
    frame::Frame,
    source::{Extent, Item, Pace, Source, SourceOptions, open, open_default, still},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let picture = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 128]));
    let mut bytes = Vec::new();
    JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
    bytes
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn write(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_string()
}

fn opened(spec: &str) -> Box<dyn Source> {
    open(spec, &SourceOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(spec: &str) -> String {
    match open(spec, &SourceOptions::default()) {
        Ok(source) => panic!("{spec} opened as {}", source.describe()),
        Err(error) => error.to_string(),
    }
}

/// All that comes out: frames, and the names and reasons of what could not be read.
fn drain(mut source: Box<dyn Source>) -> (Vec<Frame>, Vec<(String, String)>) {
    let (mut frames, mut unreadable) = (Vec::new(), Vec::new());
    while let Some(item) = source.next().unwrap() {
        match item {
            Item::Frame(frame) => frames.push(frame),
            Item::Unreadable { name, reason } => unreadable.push((name, reason)),
            Item::Waiting => {}
            turn => panic!("{turn:?}"),
        }
    }
    (frames, unreadable)
}

fn widths(frames: &[Frame]) -> Vec<u32> {
    frames.iter().map(|frame| frame.picture.width()).collect()
}

fn gif(delays: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for (index, &delay) in delays.iter().enumerate() {
        let picture = RgbaImage::from_pixel(20, 10, Rgba([60 * index as u8, 10, 200, 255]));
        let delay = Delay::from_numer_denom_ms(delay, 1);
        encoder.encode_frame(GifFrame::from_parts(picture, 0, 0, delay)).unwrap();
    }
    drop(encoder);
    bytes
}

#[test]
fn a_picture_file_is_one_frame_named_by_its_path() {
    let folder = folder();
    let path = write(&folder, "a.jpg", jpeg(30, 20));
    let source = opened(&path);
    assert_eq!((source.extent(), source.pace()), (Extent::Ends, Pace::Stills));
    let (frames, unreadable) = drain(source);
    assert_eq!(frames[0].picture.dimensions(), (30, 20));
    assert_eq!((&*frames[0].name, frames[0].sequence), (path.as_str(), 0));
    assert_eq!((frames.len(), unreadable.len()), (1, 0));
}

#[test]
fn a_folder_gives_its_pictures_in_order_and_passes_over_other_files() {
    let folder = folder();
    for (name, width) in [("b.JPG", 20), ("a.jpeg", 10), ("c.jpg", 30)] {
        write(&folder, name, jpeg(width, 8));
    }
    write(&folder, "notes.txt", "not a picture");
    write(&folder, "deeper/d.jpg", jpeg(40, 8));
    let (frames, unreadable) = drain(opened(folder.path().to_str().unwrap()));
    assert_eq!(widths(&frames), [10, 20, 30]);
    assert_eq!(frames.iter().map(|frame| frame.sequence).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(unreadable.is_empty());
}

#[test]
fn a_glob_reaches_into_folders() {
    let folder = folder();
    write(&folder, "x/a.jpg", jpeg(10, 8));
    write(&folder, "y/z/b.jpg", jpeg(20, 8));
    write(&folder, "y/c.txt", "text");
    let glob = |pattern: &str| format!("{}/{pattern}", folder.path().display());
    assert_eq!(widths(&drain(opened(&glob("**/*.jpg"))).0), [10, 20]);
    assert_eq!(widths(&drain(opened(&glob("?/*"))).0), [10]);
    assert!(refusal(&glob("*.png")).contains("no picture matches"));
}

#[test]
fn a_file_with_glob_characters_in_its_name_is_that_file() {
    let folder = folder();
    let path = write(&folder, "a[1].jpg", jpeg(10, 8));
    assert_eq!(still::expand(Path::new(&path)).unwrap(), [PathBuf::from(path)]);
}

#[test]
fn what_is_not_a_picture_is_reported_and_the_rest_goes_on() {
    let folder = folder();
    write(&folder, "a.jpg", "this is no picture, whatever its name says");
    write(&folder, "b.jpg", "");
    write(&folder, "c.jpg", &jpeg(64, 64)[..400]);
    write(&folder, "d.jpg", jpeg(50, 8));
    let (frames, unreadable) = drain(opened(folder.path().to_str().unwrap()));
    assert_eq!(widths(&frames), [50]);
    assert_eq!(frames[0].sequence, 3);
    let reasons: Vec<&str> = unreadable.iter().map(|(_, reason)| reason.as_str()).collect();
    assert!(reasons[0].starts_with("not a picture: it starts with \"this is no"), "{}", reasons[0]);
    assert!(reasons[1].contains("empty"), "{}", reasons[1]);
    assert!(reasons[2].contains("cut short"), "{}", reasons[2]);
    assert!(unreadable[0].0.ends_with("a.jpg"));
}

#[test]
fn the_content_decides_what_a_file_is_not_its_name() {
    let folder = folder();
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&[9; 12], 3, 4, ExtendedColorType::L8).unwrap();
    let path = write(&folder, "really-a-png.jpg", png);
    let picture = still::read_picture(Path::new(&path)).unwrap();
    assert_eq!((picture.dimensions(), picture.get_pixel(2, 3).0), ((3, 4), [9; 3]));
}

#[test]
fn pictures_are_turned_upright_as_exif_says() {
    // Exif, little endian: one entry, orientation (0x0112) 6, "turn 90° clockwise".
    let exif =
        [b"Exif\0\0II*\0\x08\0\0\0\x01\0".as_slice(), b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"].concat();
    let upright = jpeg(32, 16);
    let length = (exif.len() as u16 + 2).to_be_bytes();
    let turned = [&upright[..2], &[0xFF, 0xE1], &length, &exif, &upright[2..]].concat();
    let folder = folder();
    let read = |name, bytes| still::read_picture(Path::new(&write(&folder, name, bytes))).unwrap();
    let (upright, turned) = (read("a.jpg", upright), read("b.jpg", turned));
    assert_eq!(turned.dimensions(), (16, 32));
    assert_eq!(DynamicImage::from(upright).rotate90().into_rgb8(), turned);
}

#[test]
fn sizes_from_1x1_to_12000x9000_are_read_and_larger_ones_refused() {
    let folder = folder();
    let tiny = write(&folder, "tiny.jpg", jpeg(1, 1));
    assert_eq!(drain(opened(&tiny)).0[0].picture.dimensions(), (1, 1));

    let mut large = Vec::new();
    PngEncoder::new(&mut large)
        .write_image(&vec![40; 12000 * 9000], 12000, 9000, ExtendedColorType::L8)
        .unwrap();
    let large = write(&folder, "large.png", large);
    assert_eq!(drain(opened(&large)).0[0].picture.dimensions(), (12000, 9000));

    let header = write(&folder, "huge.pgm", "P5 40000 40000 255\n");
    let (_, unreadable) = drain(opened(&header));
    assert!(unreadable[0].1.contains("40000x40000 pixels are more than the limit"), "{}", unreadable[0].1);
}

#[test]
fn an_mjpeg_file_is_a_recording_that_survives_a_cut_picture() {
    let folder = folder();
    let cut = &jpeg(20, 16)[..jpeg(20, 16).len() - 20];
    let stream = [&jpeg(10, 16)[..], cut, b"garbage", &jpeg(30, 16)].concat();
    for spec in [write(&folder, "a.mjpeg", &stream), format!("mjpeg:{}", write(&folder, "b.bin", &stream))] {
        let source = opened(&spec);
        assert_eq!((source.extent(), source.pace()), (Extent::Ends, Pace::Recorded(30.0)));
        let (frames, unreadable) = drain(source);
        assert_eq!(widths(&frames), [10, 30]);
        assert_eq!((frames[0].sequence, frames[1].sequence), (0, 2));
        let apart = frames[1].captured - frames[0].captured;
        assert!(apart.abs_diff(Duration::from_secs(2) / 30) < Duration::from_micros(1), "{apart:?}");
        assert_eq!(unreadable.len(), 1);
        assert!(unreadable[0].0.ends_with("picture 1") && unreadable[0].1.starts_with("cut short"));
    }
}

#[test]
fn the_rate_of_a_recording_can_be_given() {
    let folder = folder();
    let options = SourceOptions { fps: Some(10), ..Default::default() };
    let path = write(&folder, "a.mjpg", [jpeg(10, 8), jpeg(10, 8)].concat());
    let source = open(&path, &options).unwrap();
    assert_eq!(source.pace(), Pace::Recorded(10.0));
    let (frames, _) = drain(source);
    assert_eq!(frames[1].captured - frames[0].captured, Duration::from_millis(100));
    let error = open(&path, &SourceOptions { fps: Some(0), ..Default::default() }).err().unwrap();
    assert!(error.to_string().contains("--fps"), "{error}");
}

#[test]
fn a_stream_without_any_picture_is_an_error() {
    let folder = folder();
    let path = write(&folder, "a.mjpeg", "just text");
    let error = opened(&path).next().unwrap_err().to_string();
    assert!(error.contains(&path) && error.contains("without a JPEG picture"), "{error}");
}

#[test]
fn y4m_gives_its_pictures_at_the_rate_of_its_header() {
    let folder = folder();
    let grey = |luma: u8| [vec![luma; 16 * 8], vec![128; 2 * 8 * 4]].concat();
    let mut stream = b"YUV4MPEG2 W16 H8 F25:1 Ip A1:1 C420jpeg\n".to_vec();
    for luma in [16, 235] {
        stream.extend_from_slice(b"FRAME\n");
        stream.extend(grey(luma));
    }
    stream.extend_from_slice(b"FRAME Xwhatever\n cut");
    let path = write(&folder, "a.y4m", stream);
    let source = opened(&path);
    assert_eq!((source.extent(), source.pace()), (Extent::Ends, Pace::Recorded(25.0)));
    let (frames, unreadable) = drain(source);
    assert_eq!(frames[0].picture.dimensions(), (16, 8));
    assert!(frames[0].picture.pixels().all(|pixel| pixel.0 == [0; 3]));
    assert!(frames[1].picture.pixels().all(|pixel| pixel.0 == [255; 3]));
    assert_eq!(frames[1].captured - frames[0].captured, Duration::from_millis(40));
    assert_eq!(unreadable.len(), 1);
    assert!(unreadable[0].1.contains("cut short"));
}

#[test]
fn y4m_of_more_than_8_bits_is_refused_with_advice() {
    let folder = folder();
    let path = write(&folder, "a.y4m", "YUV4MPEG2 W16 H8 F25:1 C420p10\nFRAME\n");
    let error = refusal(&path);
    assert!(error.contains("C420p10") && error.contains("yuv420p"), "{error}");
}

#[test]
fn an_animated_gif_keeps_its_own_time() {
    let folder = folder();
    let source = opened(&write(&folder, "a.gif", gif(&[50, 200, 0])));
    assert_eq!((source.extent(), source.pace()), (Extent::Ends, Pace::Recorded(20.0)));
    let (frames, unreadable) = drain(source);
    assert!(unreadable.is_empty());
    let since_first: Vec<Duration> = frames.iter().map(|frame| frame.captured - frames[0].captured).collect();
    assert_eq!(since_first, [0, 50, 250].map(Duration::from_millis));
    assert_eq!(frames[2].picture.dimensions(), (20, 10));
    assert!(frames[2].picture.get_pixel(5, 5).0[0].abs_diff(120) < 4);
}

#[test]
fn a_gif_of_one_picture_is_a_still_and_a_cut_one_ends() {
    let folder = folder();
    let source = opened(&write(&folder, "a.gif", gif(&[100])));
    assert_eq!(source.pace(), Pace::Stills);
    assert_eq!(drain(source).0.len(), 1);

    let whole = gif(&[100; 4]);
    let (frames, unreadable) = drain(opened(&write(&folder, "b.gif", &whole[..whole.len() * 2 / 3])));
    assert!(!frames.is_empty() && frames.len() < 4);
    assert_eq!(unreadable.len(), 1);
    assert!(refusal(&write(&folder, "c.gif", "not a gif")).contains("c.gif"));
}

#[test]
fn the_demo_moves_ends_when_told_and_is_endless_otherwise() {
    let demo = opened("demo");
    assert_eq!((demo.extent(), demo.pace()), (Extent::Endless, Pace::Live));
    let options = SourceOptions { demo_frames: Some(3), size: Some((320, 240)), ..Default::default() };
    let begin = Instant::now();
    let demo = open("demo", &options).unwrap();
    assert_eq!(demo.extent(), Extent::Ends);
    let (frames, _) = drain(demo);
    assert_eq!(widths(&frames), [320; 3]);
    assert_ne!(frames[0].picture, frames[2].picture);
    assert!(begin.elapsed() >= Duration::from_secs_f64(2.0 / 30.0));
}

#[test]
fn refusals_name_the_thing_and_say_what_would_do() {
    let folder = folder();
    let missing = folder.path().join("missing.jpg").display().to_string();
    let empty_folder = folder.path().join("empty");
    fs::create_dir(&empty_folder).unwrap();
    write(&folder, "texts/a.txt", "text");
    let texts = folder.path().join("texts").display().to_string();
    for (spec, reason) in [
        (missing.as_str(), "no such file"),
        (&format!("mjpeg:{missing}"), "No such file"),
        (&format!("y4m:{missing}"), "No such file"),
        (empty_folder.to_str().unwrap(), "the folder is empty"),
        (&texts, "none of the 1 entries"),
        (&format!("mjpeg:{texts}"), "it is a folder"),
        (&write(&folder, "empty.mjpeg", ""), "empty"),
        (&write(&folder, "empty.y4m", ""), "empty"),
        (&write(&folder, "empty.gif", ""), "empty"),
        (&write(&folder, "film.mp4", "whatever"), "ffmpeg"),
        (&write(&folder, "text.y4m", "hello"), "not Y4M"),
        ("webcam", "no such file"),
        ("rtsp://somewhere", "no such file"),
        ("demo:3", "no such file"),
        ("", "no such file"),
    ] {
        let error = refusal(spec);
        assert!(error.contains(reason), "{spec}: {error}");
        assert!(error.contains(spec.split_once(':').map_or(spec, |(_, rest)| rest)), "{spec}: {error}");
        assert!(error.contains("; "), "no advice: {error}");
    }
}

#[cfg(feature = "camera")]
#[test]
fn a_camera_that_does_not_exist_is_refused_with_what_there_is() {
    let error = refusal("camera:97");
    assert!(error.starts_with("camera:97: no such camera; there "), "{error}");
    let error = refusal("camera:/dev/null");
    assert!(error.contains("neither a number nor a video device"), "{error}");
}

#[test]
fn without_a_camera_the_demo_stands_in_and_says_why() {
    let (source, reason) = open_default(&SourceOptions::default()).unwrap();
    match reason {
        Some(reason) => {
            assert!(source.describe().starts_with("demo"));
            assert!(reason.to_string().starts_with("camera"), "{reason}");
        }
        None => assert!(source.describe().starts_with("camera")),
    }
}
