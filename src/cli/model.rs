//! `mien model`

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use clap::Subcommand;
use mien::{
    classify, detect,
    engine::{self, EngineKind, InputShape, Network, TractRoutine, int8::Fate, kernels::InstructionSet},
    models::Model,
};
use serde::Serialize;

use super::Outcome;

/// Look into a model file, or at what runs it
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Explain(Explain),
    Kernels(Kernels),
}

/// List the kernels that this build holds, those that this processor can run, and the one that is chosen
#[derive(clap::Args)]
struct Kernels {
    /// Write a JSON object to standard output
    #[arg(long)]
    json: bool,
}

/// Show which layers the int8 engine runs, how long each takes, and what stays in plain tract and why
#[derive(clap::Args)]
struct Explain {
    /// An ONNX file of a detector or classifier [default: the built-in classifier]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Height and width of the input [default: the model's own]
    #[arg(long, value_name = "HxW", value_parser = size)]
    size: Option<[usize; 2]>,
    /// Timed runs; the median of each layer is shown
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Write a JSON object to standard output
    #[arg(long)]
    json: bool,
}

pub fn size(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once('x').and_then(|(h, w)| Some([h.parse().ok()?, w.parse().ok()?]));
    sides
        .filter(|sides| sides.iter().all(|side| (1..=4096).contains(side)))
        .ok_or_else(|| "give height x width in pixels, such as 240x320".to_owned())
}

pub fn run(args: Args) -> anyhow::Result<Outcome> {
    match args.command {
        Command::Explain(args) => explain(args),
        Command::Kernels(args) => kernels(args),
    }
}

fn explain(explain: Explain) -> anyhow::Result<Outcome> {
    let (onnx, origin) = match &explain.file {
        Some(file) => {
            let onnx = std::fs::read(file).with_context(|| format!("model file {}", file.display()))?;
            (onnx, file.display().to_string())
        }
        None => {
            let model = Model::attributes(None)?;
            (model.onnx, model.origin)
        }
    };
    // A detector has three outputs, a classifier one.
    let network =
        load(&onnx, &origin, &[classify::OUTPUT]).or_else(|_| load(&onnx, &origin, &detect::OUTPUTS))?;
    let declared = network.input().map(|[_, h, w]| [h, w]);
    let [h, w] =
        explain.size.or(declared).with_context(|| format!("{origin} names no input size: give --size"))?;
    let explanation = Explanation::new(&network, [1, h, w], explain.runs)?;
    let mut out = BufWriter::new(io::stdout().lock());
    match explain.json {
        true => writeln!(out, "{}", serde_json::to_string(&explanation)?)?,
        false => explanation.write(&mut out)?,
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn kernels(args: Kernels) -> anyhow::Result<Outcome> {
    let held = Held {
        schema: 1,
        arch: std::env::consts::ARCH,
        built: InstructionSet::built().map(InstructionSet::name).collect(),
        supported: InstructionSet::supported().map(InstructionSet::name).collect(),
        chosen: InstructionSet::chosen()?.name(),
        tract: engine::tract_routines(),
    };
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&held)?)?,
        false => held.write(&mut out)?,
    }
    Ok(Outcome::Done)
}

/// What can run a network here.
#[derive(Serialize)]
struct Held {
    schema: u32,
    arch: &'static str,
    built: Vec<&'static str>,
    supported: Vec<&'static str>,
    chosen: &'static str,
    /// Plain tract's routines for whole numbers in this build.
    tract: Vec<TractRoutine>,
}

impl Held {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "int8 kernels in this build for {}:", self.arch)?;
        for name in &self.built {
            let state = match name {
                name if *name == self.chosen => "chosen",
                name if self.supported.contains(name) => "this processor can run them",
                _ => "this processor lacks the instructions",
            };
            writeln!(out, "  {name:<12} {state}")?;
        }
        writeln!(out, "plain tract's routines for whole numbers in this build:")?;
        self.tract.iter().try_for_each(|routine| {
            let state = if routine.runs_here { "runs here" } else { "not here" };
            writeln!(out, "  {:<32} {state}", routine.name)
        })
    }
}

fn load(onnx: &[u8], origin: &str, outputs: &[&str]) -> anyhow::Result<Network> {
    Ok(Network::load(onnx, origin, outputs, EngineKind::Int8)?)
}

#[derive(Serialize)]
struct Explanation {
    schema: u32,
    model: String,
    input: InputShape,
    kernels: &'static str,
    layers: Vec<LayerLine>,
    /// Of all layers.
    microseconds: f64,
    plain: Vec<Plain>,
}

#[derive(Serialize)]
struct LayerLine {
    name: String,
    operator: &'static str,
    channels: [usize; 2],
    microseconds: f64,
}

/// A node that plain tract runs.
#[derive(Serialize)]
struct Plain {
    name: String,
    operator: String,
    reason: String,
}

impl Explanation {
    fn new(network: &Network, input: InputShape, runs: u32) -> anyhow::Result<Self> {
        let pixels: Vec<u8> = (0..input.iter().product::<usize>() * 3).map(|n| (n * 7) as u8).collect();
        let profiles = (0..runs).map(|_| network.profile(&pixels, input)).collect::<Result<Vec<_>, _>>()?;
        let median = |layer: usize| {
            let mut times: Vec<Duration> = profiles.iter().map(|times| times[layer]).collect();
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64() * 1e6
        };
        let layers = network.program().map_or_else(Vec::new, |program| {
            let line = |(index, layer): (usize, &mien::engine::int8::Layer)| LayerLine {
                name: layer.name.clone(),
                operator: layer.operation.kind(),
                channels: [program.channels[layer.inputs[0]], program.channels[layer.output]],
                microseconds: median(index),
            };
            program.layers.iter().enumerate().map(line).collect()
        });
        let plain = |(name, operator, fate): &(String, String, Fate)| match fate {
            Fate::Plain(reason) => {
                Some(Plain { name: name.clone(), operator: operator.clone(), reason: reason.clone() })
            }
            _ => None,
        };
        Ok(Self {
            schema: 1,
            model: network.origin().to_owned(),
            input,
            kernels: network.program().map_or("none", |program| program.set.name()),
            microseconds: layers.iter().map(|layer| layer.microseconds).sum(),
            layers,
            plain: network.fates().iter().filter_map(plain).collect(),
        })
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let [n, h, w] = self.input;
        writeln!(out, "{}, input {n}×{h}×{w}×3, {} kernels", self.model, self.kernels)?;
        writeln!(out, "{:>9}  {:>5}  {:<16} {:>11}  layer", "µs", "%", "operator", "channels")?;
        for layer in &self.layers {
            let [from, to] = layer.channels;
            let part = 100.0 * layer.microseconds / self.microseconds;
            let channels = format!("{from} → {to}");
            writeln!(
                out,
                "{:>9.1}  {part:>5.1}  {:<16} {channels:>11}  {}",
                layer.microseconds, layer.operator, layer.name
            )?;
        }
        writeln!(out, "{:>9.1}  all int8 layers", self.microseconds)?;
        if self.plain.is_empty() {
            return writeln!(out, "nothing stays in plain tract");
        }
        writeln!(out, "in plain tract:")?;
        self.plain
            .iter()
            .try_for_each(|node| writeln!(out, "  {} {}: {}", node.operator, node.name, node.reason))
    }
}
