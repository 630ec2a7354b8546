//! ONNX file → weights to train on from, where the checkpoint is lost or the network is YuNet ([`yunet`]).
//!
//! Export folds each batch norm into its convolution, scales channels against each other ([`super::equalize`]; never
//! those that a ReLU6 clips) and moves biases by the mean rounding error. What is in the file is taken as it is, and
//! the network is made trainable again without changing what it computes:
//!
//! - Channels are scaled against each other once more, so that each varies by 1 where a ReLU or nothing follows, and a
//!   convolution's weights are as large as fresh ones: an optimiser's steps suit them all alike.
//! - Each convolution gets a batch norm with the mean and variance that its product has on training pictures, and the
//!   scale and shift that cancel them.

mod file;
mod layers;
#[cfg(test)]
mod tests;
mod yunet;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use log::info;
use tch::{Kind as Element, Tensor, no_grad};

use self::{
    file::File,
    layers::{After, Kind, Layer},
};
use super::{
    classifier, detector, draw,
    equalize::rescale,
    graph::{Activation, Graph, Op, Parameters},
    lower::Variables,
};
use crate::{
    checkpoint,
    classifier::{config::Config, labels::read_all, split},
    detector::{Split, read_marks, read_scenes},
};

/// Height and width of the detector's pictures where the file does not say.
const DETECTOR_SIZE: [i64; 2] = [320; 2];

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A file that `mien-train export` wrote, int8 or f32, or YuNet's of OpenCV's model zoo
    file: PathBuf,
    /// The folder that holds the data packs
    #[arg(long)]
    data: PathBuf,
    /// The weights to write: `classifier --pretrained` or `detector --warm-start` starts from them
    #[arg(long)]
    out: PathBuf,
    /// Training pictures on which the batch norms' statistics are measured
    #[arg(long, default_value_t = 512)]
    pictures: usize,
    /// The seed of the run that is to go on from here, which says what pictures are kept from training
    /// [default: what that run has unasked]
    #[arg(long)]
    seed: Option<u64>,
    /// CPU threads of libtorch
    #[arg(long, default_value_t = 1)]
    threads: i32,
}

/// Writes the weights of an exported network under the names of a training run.
pub fn recover(options: &Options) -> Result<()> {
    tch::set_num_threads(options.threads);
    tch::manual_seed(0);
    let named = || format!("reading the network {}", options.file.display());
    let bytes = std::fs::read(&options.file).with_context(named)?;
    let proto = file::graph(&bytes).with_context(named)?;
    let (kind, weights) = no_grad(|| -> Result<_> {
        if yunet::is_yunet(&proto) {
            let (kind, size) = (Kind::Detector, DETECTOR_SIZE);
            let batches = pictures(options, kind, size)?;
            return Ok((kind, weights(yunet::graph(&proto, size)?, kind, &batches)?));
        }
        let file = File::parse(proto)?;
        let kind = Kind::of(&file.name)?;
        let batches = pictures(options, kind, file.size)?;
        Ok((kind, weights(file.graph(kind)?, kind, &batches)?))
    })
    .with_context(named)?;
    checkpoint::write(&options.out, &weights)?;
    info!("{}: {} tensors of the {kind:?}", options.out.display(), weights.len());
    Ok(())
}

/// Training pictures as the network sees them, normalised, in batches.
fn pictures(options: &Options, kind: Kind, size: [i64; 2]) -> Result<Vec<Tensor>> {
    let Options { data, pictures, seed, .. } = options;
    let batches = match kind {
        Kind::Classifier => {
            let config = Config { sizes: vec![size[0]], ..Config::default() };
            let faces = read_all(data)?;
            let split = split::Split::by_hash(&faces, seed.unwrap_or(config.seed), config.holdout);
            let (_, training) = split.partition(faces);
            classifier::batches(data, &config, draw(training, *pictures))?
        }
        Kind::Detector => {
            let marks = read_marks(data)?;
            let split = Split::of(marks.keys().map(String::as_str), seed.unwrap_or_default());
            detector::batches(&read_scenes(data, &draw(split.train, *pictures), &marks)?)
        }
    };
    ensure!(!batches.is_empty(), "--pictures {pictures}: statistics need some");
    Ok(batches)
}

/// The tensors of a network that computes what `graph` does; `batches` are normalised pictures.
fn weights(mut graph: Graph, kind: Kind, batches: &[Tensor]) -> Result<Vec<(String, Tensor)>> {
    let fresh = kind.fresh();
    let layers = kind.layers();
    let moments = moments(&graph, batches);
    condition(&mut graph, &moments, &layers, &fresh)?;
    // Scaled channels have other moments.
    let moments = self::moments(&graph, batches);

    let mut tensors = Vec::new();
    for layer in &layers {
        let index = index_of(&graph, &layer.name)?;
        let Some(Parameters { weight, bias }) = graph.layers[index].op.parameters() else {
            bail!("the layer {} has no weights", layer.name)
        };
        match &layer.after {
            After::Bias(name) => {
                tensors.push((layer.weight.clone(), weight.shallow_clone()));
                tensors.push((name.clone(), bias.shallow_clone()));
            }
            After::Norm { name, epsilon } => {
                let size = row_norms(weight) / fresh_norm(&fresh, layer)?;
                let size = size.clamp_min(1e-6);
                let mean = &moments[index].mean / &size;
                let variance = &moments[index].variance / size.square();
                tensors.push((layer.weight.clone(), weight / per_row(&size, weight.dim())));
                let norm = [
                    ("weight", (&variance + *epsilon).sqrt() * &size),
                    ("bias", &moments[index].mean + bias),
                    ("running_mean", mean),
                    ("running_var", variance),
                ];
                tensors.extend(norm.map(|(part, tensor)| (format!("{name}.{part}"), tensor)));
            }
        }
    }
    for (name, tensor) in &tensors {
        let wanted = fresh.get(name).map(Tensor::size);
        ensure!(
            wanted.as_ref() == Some(&tensor.size()),
            "{name} is {:?} in the file, {wanted:?} in the network",
            tensor.size()
        );
    }
    ensure!(
        tensors.len() == fresh.len(),
        "the network has {} tensors, the file {}",
        fresh.len(),
        tensors.len()
    );
    Ok(tensors)
}

fn index_of(graph: &Graph, name: &str) -> Result<usize> {
    let found = graph.layers.iter().position(|layer| layer.name == name);
    found.with_context(|| format!("the graph has no layer {name}"))
}

/// Of what a layer's weights make, without its bias, over all pictures and pixels; `[channels]` each.
struct Moments {
    mean: Tensor,
    variance: Tensor,
}

fn moments(graph: &Graph, batches: &[Tensor]) -> Vec<Moments> {
    let zero = || Tensor::from(0f64);
    let mut sums: Vec<(f64, Tensor, Tensor)> = graph.layers.iter().map(|_| (0.0, zero(), zero())).collect();
    for batch in batches {
        let mut values = vec![batch.shallow_clone()];
        for (layer, (count, sum, squares)) in graph.layers.iter().zip(&mut sums) {
            let made = layer.forward(&values, None);
            if let Op::Conv(own, ..) = &layer.op {
                // By channel; in f64, since a mean may be large beside its deviation.
                let raw =
                    made.transpose(0, 1).flatten(1, -1).to_kind(Element::Double) - own.bias.view([-1, 1]);
                *count += raw.size()[1] as f64;
                *sum = &*sum + raw.sum_dim_intlist([1].as_slice(), false, None);
                *squares = &*squares + raw.square().sum_dim_intlist([1].as_slice(), false, None);
            }
            values.push(layer.op.activation().apply(made));
        }
    }
    let moments = sums.into_iter().map(|(count, sum, squares)| {
        let mean = sum / count.max(1.0);
        let variance = (squares / count.max(1.0) - mean.square()).clamp_min(0.0);
        Moments { mean: mean.to_kind(Element::Float), variance: variance.to_kind(Element::Float) }
    });
    moments.collect()
}

/// Scales channels against each other: those in front of a batch norm to a deviation of 1, the others' weights to the
/// size of fresh ones.
fn condition(graph: &mut Graph, moments: &[Moments], layers: &[Layer], fresh: &Variables) -> Result<()> {
    for layer in layers {
        let producer = index_of(graph, &layer.name)?;
        let Op::Conv(own, _, Activation::None | Activation::Relu) = &graph.layers[producer].op else {
            continue;
        };
        let factor = match layer.after {
            After::Norm { .. } => moments[producer].variance.sqrt(),
            After::Bias(_) => row_norms(&own.weight) / fresh_norm(fresh, layer)?,
        };
        // A channel that does not vary is left alone.
        let factor = factor.where_self(&factor.gt(1e-4), &factor.ones_like());
        rescale(graph, producer, &factor);
    }
    Ok(())
}

/// The Euclidean norm of each output channel's weights.
fn row_norms(weight: &Tensor) -> Tensor {
    weight.flatten(1, -1).square().sum_dim_intlist([1].as_slice(), false, None).sqrt()
}

/// That of a layer's fresh weights, on average.
fn fresh_norm(fresh: &Variables, layer: &Layer) -> Result<f64> {
    let weight = fresh.get(&layer.weight).with_context(|| format!("the network has no {}", layer.weight))?;
    Ok(row_norms(weight).square().mean(None).sqrt().double_value(&[]))
}

/// A vector of the output channels, shaped to go with a weight.
fn per_row(vector: &Tensor, dims: usize) -> Tensor {
    let mut shape = vec![1; dims];
    shape[0] = -1;
    vector.view(shape.as_slice())
}
