//! `mien still`

use std::{
    io::{self, BufRead, BufReader, BufWriter, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::bail;
use mien::{
    overlay::Overlay,
    pipeline,
    sink::{Sink, events::EventLines, text::TextLines},
    source::still::{self, Stills},
};

use super::{
    AnalyserArgs, Interrupt, Outcome, STDOUT,
    save::{Album, event_file},
};

/// Look for faces in pictures, each for itself
#[derive(clap::Args)]
pub struct Args {
    /// Pictures, folders of pictures, or quoted globs; `-` reads paths from standard input, one a line
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write one JSON object per picture to standard output (docs/events.md)
    #[arg(long)]
    json: bool,
    /// Save every picture with the faces drawn, and events.jsonl, in this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    #[command(flatten)]
    analyser: AnalyserArgs,
}

pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let mut analyser = args.analyser.load()?;
    if args.paths.iter().any(|path| is_stdin(path)) && io::stdin().is_terminal() {
        bail!(
            "`-` reads paths from standard input, which is a terminal; \
             pipe a list in, such as find DIR -name '*.jpg' | mien still -"
        );
    }
    let stills = Stills::new("pictures", args.paths.into_iter().flat_map(pictures));

    let out = BufWriter::new(io::stdout());
    let mut sinks: Vec<Box<dyn Sink>> = match args.json {
        true => vec![Box::new(EventLines::of_stills(out, STDOUT))],
        false => vec![Box::new(TextLines::of_stills(out, STDOUT))],
    };
    if let Some(folder) = &args.save {
        let (file, name) = event_file(folder)?;
        sinks.push(Box::new(EventLines::of_stills(file, name)));
        sinks.push(Box::new(Album::of_stills(folder, Overlay::new())?));
    }

    let interrupt = Interrupt::listen()?;
    let report = pipeline::run(Box::new(stills), &mut analyser, &mut sinks, None, None, &interrupt.stop);
    if let Some(error) = report.error {
        return Err(error.into());
    }
    if interrupt.happened() {
        log::info!("stopped; {} pictures were processed", report.stats.processed);
    } else if report.stats.processed == 0 {
        return Ok(Outcome::NothingProcessed);
    }
    Ok(Outcome::Done)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// The pictures that an argument stands for. One that stands for none is kept, to be reported in its place.
fn pictures(argument: PathBuf) -> Box<dyn Iterator<Item = PathBuf> + Send> {
    if is_stdin(&argument) {
        let lines = BufReader::new(io::stdin()).split(b'\n').map_while(Result::ok);
        let paths = lines.map(|line| String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
        return Box::new(paths.filter(|path| !path.is_empty()).map(PathBuf::from));
    }
    let found = still::expand(&argument).unwrap_or_else(|_| vec![argument]);
    Box::new(found.into_iter())
}
