//! `mien run`

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use mien::{
    overlay::Overlay,
    pipeline::{self, PipelineError, Report, Screen},
    sink::{Sink, events::EventLines, text::TextLines},
    source::{self, Pace, Source, SourceOptions, chain::Chain, format::Encoding},
};

#[cfg(target_os = "linux")]
use mien::sink::service::Service;

use super::{
    AnalyserArgs, Interrupt, Outcome, STDOUT,
    save::{Album, event_file},
};

/// The demo goes on for ever in a window; without one it ends after so many pictures, 12 s at its own rate.
const DEMO_FRAMES: u64 = 360;

/// Follow people in a live camera, a recording, or the built-in demo
#[derive(clap::Args)]
pub struct Args {
    /// camera[:N or :/dev/videoN], rpicam[:N], nvargus[:N], http://HOST/STREAM, 'exec:COMMAND' (docs/cameras.md),
    /// mjpeg:FILE, y4m:FILE (- is standard input), a GIF, a picture, a folder, a quoted glob, or demo; several
    /// recordings or pictures play one after the other [default: the camera, or else the demo]
    #[arg(long, num_args = 1..)]
    pub source: Vec<String>,
    /// Size of the camera's pictures, one that it offers (see mien devices) [default: the nearest to 640x480]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = size)]
    size: Option<(u32, u32)>,
    /// Pictures a second, one of the camera's rates [default: the nearest to 30]; a recording is played at it
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..=1000))]
    fps: Option<u32>,
    /// How the camera packs its pictures, such as mjpg or yuyv [default: what suits the size]
    #[arg(long)]
    format: Option<Encoding>,
    /// Fail where there is no camera, instead of showing the demo
    #[arg(long)]
    no_demo: bool,
    /// Open no window
    #[arg(long)]
    pub headless: bool,
    /// Write one JSON object per processed picture, then a summary, to standard output (docs/events.md)
    #[arg(long)]
    json: bool,
    /// Save events.jsonl in this folder and, without a window, annotated pictures: of a stream those with
    /// people, two a second, of unrelated pictures all. In a window, the key s saves there what is shown
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// As --save, but only if it is the demo that is shown
    #[arg(long, value_name = "DIR", conflicts_with = "save")]
    demo_save: Option<PathBuf>,
    /// Stop after so many processed pictures
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    frames: Option<u64>,
    /// Draw the five landmarks of each face; the key l switches them
    #[arg(long)]
    landmarks: bool,
    #[command(flatten)]
    pub analyser: AnalyserArgs,
}

pub fn run(mut args: Args) -> anyhow::Result<Outcome> {
    let mut analyser = args.analyser.load()?;
    let interrupt = Interrupt::listen()?;
    let (source, is_demo) = match open_source(&args, &interrupt.happened) {
        Err(_) if interrupt.happened() => return Ok(Outcome::Done),
        opened => opened?,
    };
    if is_demo {
        args.save = args.save.or(args.demo_save.take());
    }
    log::info!("source: {}", source.describe());
    let mut screen = open_screen(&args, &source.describe());
    let mut sinks = open_sinks(&args, source.pace(), screen.is_some())?;
    let limit = args.frames.or((is_demo && screen.is_none()).then_some(DEMO_FRAMES));

    let screen = screen.as_mut().map(|screen| screen.as_mut() as &mut dyn Screen);
    let Report { stats, elapsed, error } =
        pipeline::run(source, &mut analyser, &mut sinks, screen, limit, &interrupt.stop);
    if error.as_ref().is_some_and(PipelineError::is_broken_pipe) {
        return Ok(Outcome::Done);
    }
    let summary = stats.summary(elapsed);
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "{summary}");
    if args.json {
        EventLines::of_stream(io::stdout(), STDOUT).summary(&summary)?;
    }
    match error {
        Some(error) => Err(error.into()),
        None if stats.processed + stats.shown == 0 && !interrupt.happened() => Ok(Outcome::NothingProcessed),
        None => Ok(Outcome::Done),
    }
}

/// The source asked for, and whether it is the demo.
pub fn open_source(args: &Args, interrupted: &Arc<AtomicBool>) -> anyhow::Result<(Box<dyn Source>, bool)> {
    let options = SourceOptions {
        size: args.size,
        fps: args.fps,
        format: args.format,
        interrupted: interrupted.clone(),
        ..SourceOptions::default()
    };
    match args.source.as_slice() {
        [] if args.no_demo => Ok((source::open("camera", &options)?, false)),
        [] => {
            let (source, no_camera) = source::open_default(&options)?;
            if let Some(reason) = &no_camera {
                log::info!("{reason}; showing the built-in demo instead");
            }
            Ok((source, no_camera.is_some()))
        }
        [spec] => Ok((source::open(spec, &options)?, spec == "demo")),
        specs => Ok((Box::new(Chain::open(specs, &options)?), false)),
    }
}

/// The window, unless it is unwanted or there is no display.
#[cfg(feature = "window")]
fn open_screen(args: &Args, title: &str) -> Option<Box<dyn Screen>> {
    if args.headless {
        return None;
    }
    let folder = args.save.clone().unwrap_or_else(|| PathBuf::from("."));
    match super::preview::Preview::open(title, overlay(args), folder) {
        Ok(preview) => Some(Box::new(preview)),
        Err(error) => {
            log::info!("{error}; going on without a window");
            None
        }
    }
}

#[cfg(not(feature = "window"))]
fn open_screen(args: &Args, _: &str) -> Option<Box<dyn Screen>> {
    if !args.headless {
        log::info!("this build has no window support; going on without a window");
    }
    None
}

fn open_sinks(args: &Args, pace: Pace, windowed: bool) -> anyhow::Result<Vec<Box<dyn Sink>>> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    let out = BufWriter::new(io::stdout());
    if args.json {
        sinks.push(Box::new(EventLines::of_stream(out, STDOUT)));
    } else if pace == Pace::Stills {
        sinks.push(Box::new(TextLines::of_stills(out, STDOUT)));
    } else if !windowed {
        sinks.push(Box::new(TextLines::of_stream(out, STDOUT)));
    }
    if let Some(folder) = &args.save {
        let (file, name) = event_file(folder)?;
        sinks.push(Box::new(EventLines::of_stream(file, name)));
        if !windowed && pace == Pace::Stills {
            sinks.push(Box::new(Album::of_stills(folder, overlay(args))?));
        } else if !windowed {
            sinks.push(Box::new(Album::of_stream(folder, overlay(args))?));
        }
    }
    #[cfg(target_os = "linux")]
    if let Some(service) = Service::of_environment() {
        sinks.push(Box::new(service));
    }
    Ok(sinks)
}

fn overlay(args: &Args) -> Overlay {
    let mut overlay = Overlay::new();
    overlay.landmarks = args.landmarks;
    overlay
}

/// `640x480`
fn size(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    match sides {
        Some((w @ 1..=16384, h @ 1..=16384)) => Ok((w, h)),
        _ => Err("give width and height in pixels, such as 640x480".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("640x480"), Ok((640, 480)));
        for wrong in ["640", "640x", "0x480", "axb", "640x480x2", "99999x1"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
