//! The files against onnxruntime, tract and the networks they were made of.

use tch::{Device, Kind, Tensor, nn};
use tract_onnx::prelude::*;

use super::{
    equalize::equalize,
    graph::Graph,
    learnt::Learnt,
    lower,
    onnx::encode,
    quantize::{Quantized, partial, quantize},
};
use crate::{
    detector::network::{Network, normalise},
    network::{self, Architecture, Regularisation},
    optimizer::{AdamW, Optimizer},
    python::python,
};

/// Input sides small enough for a test; the detector's is not square.
const CLASSIFIER: i64 = 64;
const DETECTOR: [i64; 2] = [96, 160];

/// uint8 `[n, 3, h, w]`: smooth, so that no tensor is mere noise.
pub fn pictures(n: i64, [height, width]: [i64; 2]) -> Tensor {
    let coarse = Tensor::rand([n, 3, height / 16, width / 16], (Kind::Float, Device::Cpu)) * 255.0;
    coarse.upsample_bilinear2d([height, width], false, None, None).to_kind(Kind::Uint8)
}

/// Gives every batch norm statistics and parameters of its own.
fn unsettle(store: &nn::VarStore, forward: impl Fn(&Tensor), size: [i64; 2]) {
    tch::no_grad(|| {
        for (name, mut tensor) in store.variables() {
            if tensor.dim() == 1 && !name.contains("running") {
                let noise = tensor.rand_like() - 0.5;
                let _ = tensor.g_add_(&(noise * 0.4));
            }
        }
        for _ in 0..4 {
            forward(&normalise(&pictures(4, size)));
        }
    });
}

pub type Forward = Box<dyn Fn(&Tensor) -> Vec<Tensor>>;

/// A classifier of random weights: its graph and its own forward pass.
pub fn classifier() -> (Graph, Forward) {
    classifier_of("tf_efficientnet_lite0")
}

fn classifier_of(network: &str) -> (Graph, Forward) {
    tch::manual_seed(1);
    let store = nn::VarStore::new(Device::Cpu);
    let architecture = Architecture::by_name(network, mien::attributes::LOGITS as i64).unwrap();
    let net = network::Network::new(&store.root(), &architecture, Regularisation::default());
    unsettle(&store, |x| drop(net.forward(x, true)), [CLASSIFIER; 2]);
    let graph = lower::classifier(&store.variables(), &architecture, CLASSIFIER).unwrap();
    (graph, Box::new(move |x| vec![net.forward(x, false)]))
}

/// A detector of random weights: its graph and its own forward pass.
pub fn detector() -> (Graph, Forward) {
    tch::manual_seed(2);
    let store = nn::VarStore::new(Device::Cpu);
    let net = Network::new(&store.root());
    unsettle(&store, |x| drop(net.forward(x, true)), DETECTOR);
    let graph = lower::detector(&store.variables(), DETECTOR).unwrap();
    (graph, Box::new(move |x| net.forward(x, false).into()))
}

/// All outputs, one after the other.
pub fn flat(outputs: &[Tensor]) -> Tensor {
    Tensor::cat(&outputs.iter().map(|output| output.flatten(0, -1)).collect::<Vec<_>>(), 0)
}

/// uint8 pixels as the files take them.
fn nhwc(pictures: &Tensor) -> Vec<u8> {
    let pictures = pictures.permute([0, 2, 3, 1]).contiguous();
    let mut bytes = vec![0; pictures.numel()];
    pictures.copy_data_u8(&mut bytes, pictures.numel());
    bytes
}

/// The outputs in onnxruntime, after ONNX's own checker; `None`, said aloud, where Python lacks them.
fn onnxruntime(onnx: &[u8], picture: &Tensor) -> Option<Tensor> {
    let mut python = python("numpy, onnx, onnxruntime")?;
    let folder = tempfile::tempdir().unwrap();
    let [model, input, output] = ["model.onnx", "input", "output"].map(|name| folder.path().join(name));
    std::fs::write(&model, onnx).unwrap();
    std::fs::write(&input, nhwc(picture)).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/run_onnx.py");
    let ran = python.arg(script).args([&model, &input, &output]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let bytes = std::fs::read(&output).unwrap();
    Some(Tensor::from_data_size(&bytes, &[bytes.len() as i64 / 4], Kind::Float))
}

/// The outputs in tract, the input's fact overridden by the pictures' shape.
fn tract(onnx: &[u8], pictures: &Tensor) -> Tensor {
    let size = pictures.size();
    let shape = [size[0], size[2], size[3], 3].map(|d| d as usize);
    let plan = tract_onnx::onnx()
        .model_for_read(&mut &onnx[..])
        .unwrap()
        .with_input_fact(0, u8::fact(shape).into())
        .unwrap()
        .into_optimized()
        .unwrap()
        .into_runnable()
        .unwrap();
    let input = tract_onnx::prelude::Tensor::from_shape(&shape, &nhwc(pictures)).unwrap();
    let outputs = plan.run(tvec!(input.into())).unwrap();
    let values =
        |output: &TValue| Tensor::from_slice(output.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap());
    flat(&outputs.iter().map(values).collect::<Vec<_>>())
}

/// The largest difference over the largest value.
pub fn largest_difference(exact: &Tensor, found: &Tensor) -> f64 {
    assert_eq!(exact.size(), found.size());
    ((exact - found).abs().max() / exact.abs().max()).double_value(&[])
}

/// The part of the signal's power that is error.
pub fn noise(exact: &Tensor, found: &Tensor) -> f64 {
    assert_eq!(exact.size(), found.size());
    ((exact - found).square().sum(None) / exact.square().sum(None)).double_value(&[])
}

fn float_file_is_the_network(graph: &Graph, forward: &Forward, other_size: [i64; 2]) {
    let onnx = encode(graph, None);
    let picture = pictures(1, graph.size);
    let exact = flat(&forward(&normalise(&picture)));
    assert!(largest_difference(&exact, &tract(&onnx, &picture)) < 1e-4);
    if let Some(found) = onnxruntime(&onnx, &picture) {
        assert!(largest_difference(&exact, &found) < 1e-4);
    }
    let others = pictures(2, other_size);
    assert!(largest_difference(&flat(&forward(&normalise(&others))), &tract(&onnx, &others)) < 1e-4);
}

#[test]
fn float_classifier_is_the_network() {
    for network in ["tf_efficientnet_lite0", "tf_efficientnet_lite0_075", "efficientnet_lite1"] {
        let (graph, forward) = classifier_of(network);
        tch::no_grad(|| float_file_is_the_network(&graph, &forward, graph.size));
    }
}

#[test]
fn networks_that_the_camera_does_not_run_are_refused() {
    let store = nn::VarStore::new(Device::Cpu);
    let architecture = Architecture::by_name("efficientnet_b0", 3).unwrap();
    drop(network::Network::new(&store.root(), &architecture, Regularisation::default()));
    let error = lower::classifier(&store.variables(), &architecture, CLASSIFIER).unwrap_err().to_string();
    assert!(error.contains("Silu"), "{error}");
}

#[test]
fn float_detector_is_the_network_at_any_size() {
    let (graph, forward) = detector();
    tch::no_grad(|| float_file_is_the_network(&graph, &forward, [128, 64]));
}

/// Programs may round a value that lies between two integers either way, and what follows then differs a little.
const ROUNDING: f64 = 2e-3;

fn int8_file_is_the_rounded_network(mut graph: Graph) {
    let batches = [(); 3].map(|()| normalise(&pictures(4, graph.size)));
    let quantized = quantize(&mut graph, &batches).unwrap();
    file_is(&graph, &quantized);
    fine_tuning_mends_and_the_file_follows(&graph, quantized);
}

/// A network whose biases are off learns to say what the float network says.
fn fine_tuning_mends_and_the_file_follows(graph: &Graph, mut quantized: Quantized) {
    for (integers, affine) in quantized.parameters.iter_mut().zip(&quantized.values[1..]) {
        if let (Some(integers), Some(affine)) = (integers, affine) {
            let off = &integers.bias_scale.reciprocal() * (f64::from(affine.scale) * 255.0 * 0.02);
            integers.bias = (&integers.bias + off.round()).to_kind(Kind::Int);
        }
    }
    let shown = normalise(&pictures(4, graph.size));
    let exact = flat(&graph.run(&shown));
    let learnt = Learnt::new(graph, &quantized, Device::Cpu).unwrap();
    let run = |shown: &Tensor| flat(&learnt.run(shown).unwrap());
    let before = noise(&exact, &run(&shown));
    let found = noise(&exact, &flat(&quantized.run(graph, &shown)));
    assert!(
        (0.8..1.25).contains(&(found / before)),
        "it starts at {before}, where calibration ended at {found}"
    );
    tch::with_grad(|| {
        let mut optimizer = AdamW::new(learnt.variables(), 0.0);
        for _ in 0..16 {
            optimizer.step(&(run(&shown) - &exact).square().mean(None), 1e-3);
        }
    });
    let after = noise(&exact, &run(&shown));
    assert!(after < 0.5 * before, "{after}, and {before} before");
    let tuned = learnt.quantized(quantized).unwrap();
    assert!(
        run(&shown).equal(&flat(&tuned.run(graph, &shown))),
        "the integers compute what was learnt, to the bit"
    );
    file_is(graph, &tuned);
}

/// The file of a quantised network computes what the network does.
fn file_is(graph: &Graph, quantized: &Quantized) {
    let onnx = encode(graph, Some(quantized));
    let rounded = |pictures: &Tensor| flat(&quantized.run(graph, &normalise(pictures)));

    let (one, two) = (pictures(1, graph.size), pictures(2, graph.size));
    let from_float = noise(&flat(&graph.run(&normalise(&two))), &rounded(&two));
    assert!(from_float < 0.05, "{from_float}");
    for pictures in [&one, &two] {
        let in_tract = noise(&rounded(pictures), &tract(&onnx, pictures));
        assert!(in_tract < ROUNDING, "{in_tract}");
    }
    if let Some(found) = onnxruntime(&onnx, &one) {
        let in_onnxruntime = noise(&rounded(&one), &found);
        assert!(in_onnxruntime < ROUNDING, "{in_onnxruntime}");
    }
}

#[test]
fn int8_classifier_is_the_rounded_network() {
    tch::no_grad(|| int8_file_is_the_rounded_network(classifier().0));
}

#[test]
fn int8_detector_is_the_rounded_network() {
    tch::no_grad(|| int8_file_is_the_rounded_network(detector().0));
}

#[test]
fn partial_steps_lead_to_the_file() {
    tch::no_grad(|| {
        let (unequal, _) = detector();
        let mut graph = unequal.clone();
        let batches = [(); 3].map(|()| normalise(&pictures(4, graph.size)));
        let whole = quantize(&mut graph, &batches).unwrap();
        let steps = partial(&unequal, &batches, whole.range).unwrap();
        let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names[..4], ["full range", "percentile", "least squared error", "entropy"]);
        assert!(names[4].ends_with("channels equalised"), "{names:?}");
        let exact = flat(&unequal.run(&batches[2]));
        for step in &steps {
            assert!(
                noise(&exact, &flat(&step.quantized.run(&step.graph, &batches[2]))) < 0.2,
                "{}",
                step.name
            );
        }
        // All that is left to do are the biases.
        let weights = |of: &Quantized| {
            of.parameters.iter().flatten().map(|p| p.weight.shallow_clone()).collect::<Vec<_>>()
        };
        let biases = |of: &Quantized| {
            of.parameters.iter().flatten().map(|p| p.bias.shallow_clone()).collect::<Vec<_>>()
        };
        let last = &steps[4].quantized;
        assert!(weights(last).iter().zip(weights(&whole)).all(|(a, b)| a.equal(&b)));
        assert!(!biases(last).iter().zip(biases(&whole)).all(|(a, b)| a.equal(&b)));
    });
}

#[test]
fn equalising_keeps_the_function_and_evens_the_channels() {
    tch::no_grad(|| {
        let (mut graph, _) = detector();
        let image = normalise(&pictures(4, graph.size));
        let inner = 1 + graph.layers.iter().position(|layer| layer.name == "down8.1.pointwise").unwrap();
        let unevenness = |value: &Tensor| {
            let range = value.abs().amax([0, 2, 3].as_slice(), false);
            (range.max() / range.median()).double_value(&[])
        };
        let before = graph.values(&image);
        equalize(&mut graph, &image);
        let after = graph.values(&image);
        let outputs = |values: &[Tensor]| flat(&graph.outputs_of(values));
        assert!(largest_difference(&outputs(&before), &outputs(&after)) < 1e-4);
        assert!(unevenness(&after[inner]) < 0.9 * unevenness(&before[inner]));
    });
}
