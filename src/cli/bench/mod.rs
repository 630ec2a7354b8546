//! `mien bench`

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use mien::{
    classify::{self, Classifier},
    detect::{self, Detector},
    engine::{EngineKind, InputShape, Network, Output, kernels::InstructionSet},
    models::Model,
};
use serde::Serialize;

use super::Outcome;

mod frames;

use frames::Frames;

/// Time the networks on this machine, with every engine that it can run
///
/// One thread. Engines take turns, so that a busy moment hits all of them alike. Plain tract is the reference: an
/// engine whose results stray from it by more than the networks' own rounding is marked as wrong and never picked.
#[derive(clap::Args)]
pub struct Args {
    /// Folder with face.json, face.onnx, attributes.json and attributes.onnx [default: the built-in ones]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Timed runs of each engine
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Height and width of the detector's input, multiples of 32
    #[arg(long, value_name = "HxW", default_value = "256x320", value_parser = super::model::size)]
    detect_input: [usize; 2],
    /// Time only this engine, with the kernels that it chooses by itself
    #[arg(long, value_enum, conflicts_with = "pick")]
    engine: Option<EngineKind>,
    /// Time only the work whose name begins so
    #[arg(long, value_name = "NAME", conflicts_with = "pick")]
    work: Option<String>,
    /// Time each step of whole frames as well, of a recording as mien run takes it, on one thread
    #[arg(long, value_name = "SOURCE", conflicts_with = "pick")]
    frames: Option<String>,
    /// Only print the name of the fastest engine that is right: what `--engine` should be here
    #[arg(long)]
    pick: bool,
    /// Write a JSON object to standard output
    #[arg(long, conflicts_with = "pick")]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let report = Report::new(&args)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.pick {
        writeln!(out, "{}", report.pick.unwrap_or_default())?;
    } else if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        report.write(&mut out)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    cpu: String,
    work: Vec<Work>,
    frames: Option<Frames>,
    /// The engine to choose with `--engine`, if there was a choice.
    pick: Option<EngineKind>,
}

/// One network at one input shape, run by every engine.
#[derive(Serialize)]
struct Work {
    name: String,
    input: InputShape,
    engines: Vec<Timing>,
}

#[derive(Serialize)]
struct Timing {
    engine: EngineKind,
    kernels: Option<&'static str>,
    /// Per picture.
    median_ms: f64,
    p95_ms: f64,
    /// Largest difference from plain tract's outputs, if that ran as well.
    difference: Option<f32>,
    right: bool,
}

/// Timed frames of a recording.
const FRAMES: usize = 300;

/// The networks' outputs are logits and offsets of a few units; rounding in int8 moves them by less than this.
const TOLERANCE: f32 = 1.5;

impl Report {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let (face, attributes) =
            (Model::face(args.models.as_deref())?, Model::attributes(args.models.as_deref())?);
        let side = attributes.card.settings.input_size as usize;
        let [h, w] = args.detect_input.map(|length| length.next_multiple_of(32));
        let classifier = (attributes.onnx.as_slice(), [classify::OUTPUT].as_slice());
        let detector = (face.onnx.as_slice(), detect::OUTPUTS.as_slice());
        let work = [
            ("classifier, one face", classifier, [1, side, side]),
            ("classifier, eight faces", classifier, [8, side, side]),
            ("detector", detector, [1, h, w]),
        ];
        let wanted = |name: &str| args.work.as_ref().is_none_or(|prefix| name.starts_with(prefix.as_str()));
        let work = work
            .into_iter()
            .filter(|(name, ..)| wanted(name))
            .map(|(name, network, input)| Work::new(name, network, input, args))
            .collect::<Result<Vec<_>, _>>()?;
        let frames = args.frames.as_deref().map(|source| {
            let engine = args.engine.unwrap_or_default();
            let detector = Detector::new(&face, engine, h.max(w) as u32, None)?;
            let classifier = Classifier::new(&attributes, engine)?;
            Frames::new(source, FRAMES, detector, classifier)
        });
        let frames = frames.transpose()?;
        let total = |engine: EngineKind| -> Option<f64> {
            work.iter()
                .map(|work| {
                    let mine = work.engines.iter().filter(|timing| timing.engine == engine && timing.right);
                    mine.map(|timing| timing.median_ms).min_by(f64::total_cmp)
                })
                .sum()
        };
        let faster = total(EngineKind::Int8).zip(total(EngineKind::Tract)).is_some_and(|(a, b)| a <= b);
        let fastest = if faster { EngineKind::Int8 } else { EngineKind::Tract };
        let pick = (args.engine.is_none() && args.work.is_none()).then_some(fastest);
        Ok(Self { schema: 1, cpu: cpu(), work, frames, pick })
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}; one thread; milliseconds for each picture", self.cpu)?;
        for work in &self.work {
            let [n, h, w] = work.input;
            writeln!(out, "\n{} ({n}×{h}×{w}×3)", work.name)?;
            writeln!(out, "  {:<20} {:>8} {:>8} {:>10}", "engine", "median", "p95", "difference")?;
            for timing in &work.engines {
                let name = match timing.kernels {
                    Some(kernels) => format!("{} ({kernels})", timing.engine),
                    None => timing.engine.to_string(),
                };
                let wrong = if timing.right { "" } else { "  WRONG" };
                let difference =
                    timing.difference.map_or("-".into(), |difference| format!("{difference:.3}"));
                writeln!(
                    out,
                    "  {name:<20} {:>8.3} {:>8.3} {difference:>10}{wrong}",
                    timing.median_ms, timing.p95_ms
                )?;
            }
        }
        if let Some(frames) = &self.frames {
            frames.write(out)?;
        }
        writeln!(out)?;
        match self.pick {
            None => Ok(()),
            Some(EngineKind::Int8) => writeln!(out, "fastest: int8, which is the default"),
            Some(EngineKind::Tract) => writeln!(
                out,
                "int8 is slower than plain tract on this machine: use --engine tract (and tell us about it)"
            ),
        }
    }
}

impl Work {
    fn new(
        name: &str,
        (onnx, outputs): (&[u8], &[&str]),
        input: InputShape,
        args: &Args,
    ) -> anyhow::Result<Self> {
        let engines = match args.engine {
            Some(engine) => vec![(engine, InstructionSet::chosen()?)],
            None => {
                let sets = InstructionSet::supported().map(|set| (EngineKind::Int8, set));
                std::iter::once((EngineKind::Tract, InstructionSet::Portable)).chain(sets).collect()
            }
        };
        let mut networks = engines
            .iter()
            .map(|&(kind, set)| Network::load_for(onnx, name, outputs, kind, set))
            .collect::<Result<Vec<_>, _>>()?;

        let pixels = picture(input);
        let mut results = Vec::new();
        for network in &mut networks {
            network.run(&pixels, input)?;
            results.push(network.run(&pixels, input)?);
        }
        let mut times = vec![Vec::with_capacity(args.runs as usize); networks.len()];
        for _ in 0..args.runs {
            for (network, times) in networks.iter_mut().zip(&mut times) {
                let started = Instant::now();
                network.run(&pixels, input)?;
                times.push(started.elapsed());
            }
        }
        let timing = |(&(engine, set), mut times, result): (
            &(EngineKind, InstructionSet),
            Vec<Duration>,
            &Vec<Output>,
        )| {
            times.sort_unstable();
            let per_picture = |time: Duration| time.as_secs_f64() * 1e3 / input[0] as f64;
            let difference = args.engine.is_none().then(|| difference(result, &results[0]));
            Timing {
                engine,
                kernels: (engine == EngineKind::Int8).then(|| InstructionSet::name(set)),
                median_ms: per_picture(times[times.len() / 2]),
                p95_ms: per_picture(times[times.len() * 19 / 20]),
                difference,
                right: difference.is_none_or(|difference| difference <= TOLERANCE),
            }
        };
        let engines = engines
            .iter()
            .zip(times)
            .zip(&results)
            .map(|((engine, times), result)| timing((engine, times, result)))
            .collect();
        Ok(Self { name: name.into(), input, engines })
    }
}

/// Pictures with edges and gradients in them.
fn picture([n, h, w]: InputShape) -> Vec<u8> {
    let value = |at: usize| {
        let (channel, x, y) = (at % 3, at / 3 % w, at / 3 / w % h);
        ((x * 3 + y * (2 + channel)) as u8) ^ if (x / 16 + y / 16) % 2 == 0 { 0 } else { 0x60 }
    };
    (0..n * h * w * 3).map(value).collect()
}

fn difference(a: &[Output], b: &[Output]) -> f32 {
    let pairs = a.iter().zip(b).flat_map(|(a, b)| a.values.iter().zip(&b.values));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// What the system calls the CPU.
pub fn cpu() -> String {
    let known = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |key: &str| {
        let of = known.lines().find(|line| line.starts_with(key))?;
        Some(of.split_once(':')?.1.trim().to_owned())
    };
    line("model name").or_else(|| line("Model")).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
